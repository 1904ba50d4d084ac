package compat

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"portico/test/harness"
)

var update = flag.Bool("update", false, "write the golden exchanges anew")

func TestWire(t *testing.T) {
	t.Parallel()
	onlyAll(t)
	for _, clients := range []string{"newest", "older"} {
		t.Run(clients, func(t *testing.T) { wire(t, clients) })
	}
}

// wire records what the SDK and the server say to each other and compares it with testdata/CLIENTS.golden. A difference is
// either a change of the server, to be looked at, or a new version of the client (-update).
func wire(t *testing.T, clients string) {
	s := start(t, "--location", "eastus")
	env := s.environment(intercepted)
	tp := startTap(t, s, env["REQUESTS_CA_BUNDLE"])
	for _, name := range []string{"HTTPS_PROXY", "https_proxy"} {
		env[name] = tp.url()
	}
	for _, name := range []string{"REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"} {
		env[name] = tp.caFile
	}
	o := s.run(client{name: "the SDK", dir: t.TempDir(), env: env, reach: []string{tp.listener.Addr().String()},
		argv: []string{harness.Python(t, clients), filepath.Join(root, "test/compat/python/wire.py")}})
	if o.code != 0 {
		t.Fatalf("exit %d\n%s\n%s", o.code, o.out, o.err)
	}
	quiet(t, o)
	got := transcript(tp.taken())
	file := filepath.Join("testdata", clients+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the exchanges differ from %s:\n%s", file, firstDifference(string(want), got))
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	const context = 6
	for i := range max(len(w), len(g)) {
		if i < len(w) && i < len(g) && w[i] == g[i] {
			continue
		}
		from := max(0, i-context)
		return fmt.Sprintf("line %d\nwant:\n%s\ngot:\n%s", i+1, strings.Join(w[min(from, len(w)):min(i+context, len(w))], "\n"),
			strings.Join(g[min(from, len(g)):min(i+context, len(g))], "\n"))
	}
	return ""
}

// transcript writes exchanges down in the order of their requests, with what differs from run to run replaced. Of the
// polls of one operation only the last stands.
func transcript(all []exchange) string {
	slices.SortFunc(all, func(a, b exchange) int { return a.order - b.order })
	last := map[string]int{}
	for i, e := range all {
		if polled(e) {
			last[e.url] = i
		}
	}
	var b strings.Builder
	n := namer{}
	for i, e := range all {
		if polled(e) && last[e.url] != i {
			continue
		}
		fmt.Fprintf(&b, "=== %s %s\n", e.method, n.replace(e.url))
		writeHeader(&b, &n, e.header, "Authorization", "Content-Type", "If-None-Match", "Azureml-Model-Deployment", "X-Ms-Blob-Type",
			"X-Ms-Meta-*")
		writeBody(&b, &n, e.body)
		fmt.Fprintf(&b, "--- %d\n", e.status)
		writeHeader(&b, &n, e.answerHeader, "Azure-Asyncoperation", "Azureml-Model-Deployment", "Content-Type", "Etag",
			"Last-Modified", "Location", "Retry-After", "X-Ms-Error-Code", "X-Ms-Meta-*", "X-Ms-Run-Function-Failed")
		writeBody(&b, &n, e.answer)
		b.WriteByte('\n')
	}
	return b.String()
}

func polled(e exchange) bool {
	return strings.Contains(e.url, "/mfeOperationsStatus/") || strings.Contains(e.url, "/mfeOperationResults/")
}

func writeHeader(b *strings.Builder, n *namer, header map[string][]string, names ...string) {
	for _, name := range slices.Sorted(maps.Keys(header)) {
		wanted := slices.ContainsFunc(names, func(w string) bool {
			start, any := strings.CutSuffix(w, "*")
			return w == name || any && strings.HasPrefix(name, start)
		})
		if !wanted {
			continue
		}
		value := n.replace(strings.Join(header[name], ", "))
		switch name {
		case "Authorization":
			scheme, _, _ := strings.Cut(value, " ")
			value = scheme + " <credential>"
		case "Etag":
			value = "<etag>"
		case "Last-Modified":
			value = "<time>"
		}
		fmt.Fprintf(b, "%s: %s\n", name, value)
	}
}

// writeBody writes JSON with its members in order, anything else as it is.
func writeBody(b *strings.Builder, n *namer, body string) {
	if body == "" {
		return
	}
	var doc any
	dec := json.NewDecoder(strings.NewReader(body))
	dec.UseNumber()
	if dec.Decode(&doc) != nil {
		fmt.Fprintf(b, "%s\n", n.replace(strings.TrimSpace(body)))
		return
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(settled(doc)); err != nil {
		fmt.Fprintf(b, "cannot be written: %v\n", err)
		return
	}
	b.WriteString(n.replace(out.String()))
}

// secretMembers have values that no record should hold; samples are values of measurements.
var (
	secretMembers = []string{"primaryKey", "secondaryKey", "keyValue", "accessToken", "access_token", "sasToken", "key"}
	samples       = []string{"etag", "data", "rows", "timespan", "content", "expiryTimeUtc", "refreshAfterTimeUtc", "expires_on",
		"expires_in", "ext_expires_in"}
)

// settled replaces the values of members that differ from run to run.
func settled(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			_, text := member.(string)
			switch {
			case slices.Contains(secretMembers, name) && text:
				v[name] = "<secret>"
			case slices.Contains(samples, name) && member != nil:
				v[name] = "<" + name + ">"
			default:
				v[name] = settled(member)
			}
		}
	case []any:
		for i := range v {
			v[i] = settled(v[i])
		}
	}
	return v
}

var (
	signature = regexp.MustCompile(`\b(sig|se|st|skoid|sktid|o)=[^&"\s]+`)
	moment    = regexp.MustCompile(`20\d\d-\d\d-\d\dT\d\d(:|%3A)\d\d(:|%3A)\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?`)
	guid      = regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`)
	instance  = regexp.MustCompile(`(-g\d+)-[a-z0-9]{8}\b`)
	pending   = regexp.MustCompile(`\bpu-([0-9a-f]{12})-[0-9a-f]{32}\b`)
)

// namer replaces ids by names in the order in which they are seen, so that it shows which are the same.
type namer struct{ seen []string }

func (n *namer) replace(text string) string {
	if u, err := url.QueryUnescape(text); err == nil && strings.HasPrefix(text, "https://") {
		text = u
	}
	text = signature.ReplaceAllString(text, "$1=<signature>")
	text = moment.ReplaceAllString(text, "<time>")
	text = instance.ReplaceAllString(text, "$1-<instance>")
	text = pending.ReplaceAllString(text, "pu-$1-<upload>")
	return guid.ReplaceAllStringFunc(text, func(id string) string {
		if strings.HasPrefix(id, "00000000-") {
			return id // the server's own, the same everywhere
		}
		i := slices.Index(n.seen, id)
		if i < 0 {
			i = len(n.seen)
			n.seen = append(n.seen, id)
		}
		return fmt.Sprintf("<id %d>", i+1)
	})
}
