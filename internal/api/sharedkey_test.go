package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	datastorePath = wsPath + "/datastores/workspaceblobstore"
	// second makes a request that of the other principal.
	second = "Bearer " + token2
)

// signed are the headers of a request that a client signs with an account key, by the documentation of the Blob
// service: header is name, value ...; the last two are x-ms-date and Authorization.
func (s *site) signed(key, method, account, path, query, body string, header ...string) []string {
	s.t.Helper()
	date := s.Now().Format(http.TimeFormat)
	header = append(slices.Clone(header), "x-ms-date", date)
	plain, own := map[string]string{}, []string{}
	for i := 0; i < len(header); i += 2 {
		if name := strings.ToLower(header[i]); strings.HasPrefix(name, "x-ms-") {
			own = append(own, name+":"+header[i+1])
		} else {
			plain[name] = header[i+1]
		}
	}
	slices.Sort(own)
	length := ""
	if body != "" {
		length = fmt.Sprint(len(body))
	}
	text := strings.Join([]string{method, "", "", length, plain["content-md5"], plain["content-type"], "", "",
		plain["if-match"], plain["if-none-match"], "", plain["range"]}, "\n") + "\n" + strings.Join(own, "\n") +
		"\n/" + account + path
	values, err := url.ParseQuery(query)
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		text += "\n" + name + ":" + values.Get(name)
	}
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		s.t.Fatal(err)
	}
	h := hmac.New(sha256.New, raw)
	h.Write([]byte(text))
	return append(header, "Authorization", "SharedKey "+account+":"+base64.StdEncoding.EncodeToString(h.Sum(nil)))
}

// container is the container of the workspace's datastore.
func (s *site) container() string {
	s.t.Helper()
	name, _ := s.do("GET", datastorePath, "").want(200).get("properties.containerName").(string)
	return name
}

// accountKey is what clients that know no expirable secrets get.
func (s *site) accountKey(header ...string) string {
	s.t.Helper()
	a := s.do("POST", datastorePath+"/listSecrets", "", header...).want(200)
	if a.get("secretsType") != "AccountKey" {
		s.t.Fatal(a.body)
	}
	key, _ := a.get("key").(string)
	return key
}

// sasToken is the credential of a principal for the datastore.
func (s *site) sasToken(header ...string) string {
	s.t.Helper()
	q, _ := s.do("POST", datastorePath+"/listSecrets", `{"expirableSecret":true,"expireAfterHours":1}`,
		header...).want(200).get("sasToken").(string)
	return q
}

func TestSharedKey(t *testing.T) {
	s := newSite(t)
	key, box := s.accountKey(), s.container()
	const account = "stor.blob.core.portico"
	at := func(name string) string { return "/" + account + "/" + box + "/" + name }
	send := func(method, name, query, body string, header ...string) answer {
		t.Helper()
		return s.do(method, at(name)+"?"+query, body, s.signed(key, method, account, at(name), query, body, header...)...)
	}
	send("PUT", "a/x%20y.bin", "", "text", "x-ms-blob-type", "BlockBlob", "If-None-Match", "*", "Content-Type", "text/plain",
		"x-ms-blob-content-type", "text/x").want(201)
	send("PUT", "a/x%20y.bin", "comp=metadata", "", "x-ms-meta-upload_status", "completed", "x-ms-meta-up", "1",
		"x-ms-client-request-id", "1").want(200)
	if a := send("GET", "a/x%20y.bin", "timeout=30", "", "Range", "bytes=1-2").want(206); a.body != "ex" {
		t.Error(a.body)
	}
	send("PUT", "b", "blockid=YQ%3D%3D&comp=block", "block").want(201)
	send("PUT", "b", "comp=blocklist", "<BlockList><Latest>YQ==</Latest></BlockList>").want(201)
	if a := s.do("GET", at("")+"?restype=container&comp=list&prefix=a%2F", "", s.signed(key, "GET", account, at(""),
		"comp=list&prefix=a%2F&restype=container", "")...).want(200); !strings.Contains(a.body, "<Name>a/x y.bin</Name>") {
		t.Error(a.body)
	}
	send("DELETE", "b", "", "").wantBlobError(403, "AuthorizationPermissionMismatch")

	good := s.signed(key, "GET", account, at("b"), "", "")
	s.do("GET", at("b"), "", good...).want(200)
	other := s.accountKey("Authorization", second)
	if other == key {
		t.Fatal("two principals have one key")
	}
	const put = "x-ms-blob-type"
	for what, try := range map[string]struct {
		method, path string
		header       []string
	}{
		"another blob":      {"GET", at("a/x%20y.bin"), good},
		"another method":    {"HEAD", at("b"), good},
		"another query":     {"GET", at("b") + "?comp=metadata", good},
		"another header":    {"GET", at("b"), append([]string{"x-ms-range", "bytes=0-1"}, good...)},
		"another container": {"GET", "/" + account + "/azureml-blobstore-000000000000/b", s.signed(key, "GET", account, "/"+account+"/azureml-blobstore-000000000000/b", "", "")},
		"another key":       {"GET", at("b"), s.signed(base64.StdEncoding.EncodeToString([]byte("x")), "GET", account, at("b"), "", "")},
		"no signature":      {"GET", at("b"), []string{"Authorization", "SharedKey " + account, "x-ms-date", good[1]}},
		"no date":           {"GET", at("b"), []string{"Authorization", good[3]}},
		"an old date":       {"GET", at("b"), []string{"Authorization", good[3], "x-ms-date", "Mon, 23 Nov 2026 11:00:00 GMT"}},
	} {
		t.Run(what, func(t *testing.T) {
			a := s.do(try.method, try.path, "", try.header...)
			if a.status != 403 || a.header.Get("x-ms-error-code") != "AuthenticationFailed" {
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	// The key of another principal writes as that one.
	s.do("PUT", at("b"), "other", s.signed(other, "PUT", account, at("b"), "", "other", put, "BlockBlob")...).want(201)
	if a := send("GET", "b", "", "").want(200); a.body != "block" {
		t.Errorf("his bytes were read as hers: %q", a.body)
	}
	s.Pass(time.Hour)
	send("GET", "b", "", "").wantBlobError(403, "AuthenticationFailed")
	if log := s.log.String(); strings.Contains(log, key) || strings.Contains(log, other) {
		t.Error("an account key is in the log")
	}
}

// TestSignedAsWords signs with the headers in the Python SDK's order, where a hyphen counts for nothing.
func TestSignedAsWords(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/c/b?comp=list", nil)
	r.Header.Set("x-ms-meta-a-z", "1")
	r.Header.Set("x-ms-meta-ab", "2")
	texts := signedTexts(r, "/c/b", "acc")
	if len(texts) != 2 || !strings.Contains(texts[0], "x-ms-meta-a-z:1\nx-ms-meta-ab:2\n/acc/c/b\ncomp:list") ||
		!strings.Contains(texts[1], "x-ms-meta-ab:2\nx-ms-meta-a-z:1\n/acc/c/b\ncomp:list") {
		t.Errorf("%q", texts)
	}
	r.Header.Del("x-ms-meta-a-z")
	if texts := signedTexts(r, "/c/b", "acc"); len(texts) != 1 {
		t.Errorf("%q", texts)
	}
}

// TestBlobAddresses reaches one blob under each name that clients know the blob service by.
func TestBlobAddresses(t *testing.T) {
	s := newSite(t)
	box, q := s.container(), s.sasToken()
	cfg := s.api.Config
	cfg.StorageAccount = "portico"
	named := httptest.NewTLSServer(New(cfg))
	t.Cleanup(named.Close)
	byName := func(method, host, path string) answer {
		t.Helper()
		req, err := http.NewRequest(method, named.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		req.Header.Set("Authorization", "Bearer "+token1)
		resp, err := named.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer{t, resp.StatusCode, resp.Header, string(text)}
	}
	s.blob("PUT", s.URL+"/stor.blob.core.portico/"+box+"/a/b", q, "text", "x-ms-blob-type", "BlockBlob").want(201)
	for _, path := range []string{"/blobs/", "/stor.blob.core.portico/", "/stor.blob.core.windows.net/"} {
		if a := s.blob("GET", s.URL+path+box+"/a/b", q, "").want(200); a.body != "text" {
			t.Errorf("%s: %q", path, a.body)
		}
	}
	if a := byName("GET", "portico.blob.core.windows.net", "/"+box+"/a/b?"+q).want(200); a.body != "text" {
		t.Errorf("by the account's name: %q", a.body)
	}
	if a := byName("GET", "portico.blob.core.windows.net", "/"+box+"/common/oauth2/v2.0/token?"+q); a.header.Get("x-ms-error-code") != "BlobNotFound" {
		t.Errorf("a blob named as a token request: %d %s", a.status, a.body)
	}
	for path, status := range map[string]int{"/": 400, "/" + box + "/a/%2e%2e/b": 400, "/" + box + "//a": 400} {
		if a := byName("GET", "portico.blob.core.windows.net", path); a.status != status || !strings.HasPrefix(a.body, "<?xml") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	d := byName("GET", "management.azure.com", datastorePath).want(200)
	if d.get("properties.accountName") != "portico" || d.get("properties.endpoint") != "core.windows.net" {
		t.Error(d.body)
	}
	up := byName("POST", "management.azure.com", wsPath+"/codes/c/versions/1/startPendingUpload").want(200)
	if uri, _ := up.get("blobReferenceForConsumption.blobUri").(string); !strings.HasPrefix(uri, "https://portico.blob.core.windows.net/pu-") {
		t.Error(uri)
	}
	// Each of the locations that clients make of these can be registered.
	for i, uri := range []string{s.URL + "/blobs/" + box, "https://portico.blob.core.windows.net/" + box,
		s.URL + "/stor.blob.core.portico/" + box, s.URL + "/" + box, "azureml://datastores/workspaceblobstore/paths",
		"azureml://subscriptions/sub/resourceGroups/group/workspaces/home/datastores/workspaceblobstore/paths"} {
		s.do("PUT", fmt.Sprintf("%s/models/m/versions/%d", wsPath, i+1), `{"properties":{"modelUri":"`+uri+`/a"}}`).want(201)
	}
}
