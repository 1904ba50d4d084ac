package api

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"portico/internal/control"
)

// maxSkew is how far the time of a request that a client signed may be from the server's.
const maxSkew = 15 * time.Minute

const sharedKeyScheme = "SharedKey "

// sharedKey verifies a request that a client signed with an account key: Authorization: SharedKey ACCOUNT:SIGNATURE.
func (b *blobCall) sharedKey(container string) (control.Grant, error) {
	refused := func(why string) (control.Grant, error) {
		return control.Grant{}, &blobError{http.StatusForbidden, "AuthenticationFailed", why}
	}
	account, text, ok := strings.Cut(strings.TrimPrefix(b.r.Header.Get("Authorization"), sharedKeyScheme), ":")
	signature, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil {
		return refused("Authorization is not SharedKey ACCOUNT:SIGNATURE")
	}
	date := b.r.Header.Get("x-ms-date")
	if date == "" {
		date = b.r.Header.Get("Date")
	}
	at, err := http.ParseTime(date)
	if err != nil {
		return refused("x-ms-date is not a time")
	}
	if d := b.api.Control.Now().Sub(at); d > maxSkew || d < -maxSkew {
		return refused("x-ms-date is more than 15 minutes from the server's time " +
			b.api.Control.Now().UTC().Format(http.TimeFormat))
	}
	return b.api.Control.VerifyAccountKey(container, signedTexts(b.r, b.sentPath, account), signature)
}

// signedTexts are the texts that a client may have signed: "Authorize with Shared Key" of the Blob service's
// documentation, version 2015-02-21 and later. There the x-ms- headers are sorted as text; the Python SDK sorts them
// as words, in which a hyphen counts for nothing, and only where that makes a difference there are two texts.
func signedTexts(r *http.Request, path, account string) []string {
	length := ""
	if r.ContentLength > 0 {
		length = strconv.FormatInt(r.ContentLength, 10)
	}
	var head strings.Builder
	head.WriteString(r.Method + "\n")
	for _, name := range []string{"Content-Encoding", "Content-Language", "", "Content-MD5", "Content-Type", "Date",
		"If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range"} {
		if name == "" {
			head.WriteString(length)
		} else {
			head.WriteString(r.Header.Get(name))
		}
		head.WriteByte('\n')
	}
	resource := "/" + account + path + signedQuery(r.URL.RawQuery)
	var names []string
	for name := range r.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-ms-") {
			names = append(names, lower)
		}
	}
	slices.Sort(names)
	texts := []string{head.String() + signedHeaders(r, names) + resource}
	slices.SortStableFunc(names, func(a, b string) int {
		return strings.Compare(strings.ReplaceAll(a, "-", ""), strings.ReplaceAll(b, "-", ""))
	})
	if other := head.String() + signedHeaders(r, names) + resource; other != texts[0] {
		texts = append(texts, other)
	}
	return texts
}

func signedHeaders(r *http.Request, names []string) string {
	var text strings.Builder
	for _, name := range names {
		text.WriteString(name + ":" + strings.Join(r.Header.Values(name), ",") + "\n")
	}
	return text.String()
}

// signedQuery renders the parameters of a query by name: "\nname:value", several values of one name with commas.
func signedQuery(query string) string {
	values := map[string][]string{}
	for _, pair := range strings.Split(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if plain, err := url.PathUnescape(value); err == nil { // '+' is no blank here
			value = plain
		}
		if name != "" {
			values[strings.ToLower(name)] = append(values[strings.ToLower(name)], value)
		}
	}
	var names []string
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	var text strings.Builder
	for _, name := range names {
		slices.Sort(values[name])
		text.WriteString("\n" + name + ":" + strings.Join(values[name], ","))
	}
	return text.String()
}
