package route_test

import (
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"portico/internal/route"
)

func TestClean(t *testing.T) {
	for path, want := range map[string]string{
		"/score":                    "/score",
		"/v2/models/m/infer":        "/v2/models/m/infer",
		"/%76%32/models":            "/v2/models",
		"/v1/models/half%3apredict": "/v1/models/half:predict",
		"/models/a%2fb/infer":       "/models/a%2Fb/infer",
		"/a%20b/%c3%a9":             "/a%20b/%C3%A9",
		"/100%25/%252e%252e":        "/100%25/%252e%252e", // decoded once: what is left is text
		"/...":                      "/...",
		"/.well-known/x..y/..z/.":   "",
		"/.hidden/a..b/c.":          "/.hidden/a..b/c.",
		"//":                        "//",
		"":                          "",
		"/..":                       "",
		"/.":                        "",
		"/a/../b":                   "",
		"/a/./b":                    "",
		"/a/%2e%2E/b":               "",
		"/a/.%2e":                   "",
		"/a/x%2f..%2fb":             "",
		"/a/..%2fb":                 "",
		"/a/..%5cb":                 "",
		"/a/..;x=1/b":               "",
		"/a/;x=../b":                "/a/;x=../b",
		"/a%00":                     "",
		"/a%0d%0aHost:%20x":         "",
		"/a%7f":                     "",
		"/a%":                       "",
		"/a%2":                      "",
		"/a%zz":                     "",
		"/a b":                      "",
		"/é":                        "",
		"/a\x00":                    "",
		"/a\\b":                     "",
		"/!$&'()*+,;=:@[]~_-":       "/!$&'()*+,;=:@[]~_-",
		"*":                         "*",
	} {
		got, ok := route.Clean(path)
		if got != want || ok != (want != "" || path == "") {
			t.Errorf("Clean(%q) = %q, %v; want %q", path, got, ok, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { route.Clean("/endpoints/my-endpoint/score") }); n != 0 {
		t.Errorf("Clean allocates %v times", n)
	}
}

// TestCleanMeansTheSame: what is accepted still names the same thing, is its own clean form, and has no part that a
// server could take for a step upwards.
func TestCleanMeansTheSame(t *testing.T) {
	piece := rapid.SampledFrom([]string{"a", "Z", "9", ".", "..", "/", "%2e", "%2F", "%5c", "%41", "%25", "%", ";", "%3B", "%00", "%c3%a9", ":"})
	rapid.Check(t, func(t *rapid.T) {
		path := "/" + strings.Join(rapid.SliceOfN(piece, 0, 8).Draw(t, "pieces"), "")
		clean, ok := route.Clean(path)
		if !ok {
			return
		}
		before, err1 := url.PathUnescape(path)
		after, err2 := url.PathUnescape(clean)
		if err1 != nil || err2 != nil || before != after {
			t.Fatalf("%q became %q", path, clean)
		}
		if again, ok := route.Clean(clean); !ok || again != clean {
			t.Fatalf("%q is not the clean form of itself but %q", clean, again)
		}
		parts := strings.FieldsFunc(after, func(r rune) bool { return r == '/' || r == '\\' })
		for _, part := range parts {
			if part, _, _ = strings.Cut(part, ";"); part == "." || part == ".." {
				t.Fatalf("%q was accepted", path)
			}
		}
	})
}

func TestAdmit(t *testing.T) {
	script := route.Deployment{}
	mixed := route.Deployment{Paths: append([]route.Path{{Path: "/v2", Methods: route.Read}, {Path: "/v2/", Methods: route.ReadOrWrite},
		{Path: "/invocations", Methods: route.Write}}, route.ScriptPaths...)}
	all := route.Deployment{Paths: []route.Path{{Path: "/"}}, ScoringPath: "/"}
	one := route.Deployment{Paths: []route.Path{{Path: "/v1/models/half:predict"}}, ScoringPath: "/v1/models/half:predict"}
	below := route.Deployment{Paths: []route.Path{{Path: "/v1/"}}, ScoringPath: "/v1/"}
	for _, c := range []struct {
		of           *route.Deployment
		method, path string
		at           string // "" when it is not served
		allow        string
	}{
		{&script, "POST", "/score", "/score", ""},
		{&script, "GET", "/score", "/score", ""},
		{&script, "GET", "/swagger.json", "/swagger.json", ""},
		{&script, "POST", "/swagger.json", "", "GET"},
		{&script, "HEAD", "/score", "", "GET POST"},
		{&script, "POST", "/score/", "", ""},
		{&script, "POST", "/", "", ""},
		{&script, "POST", "", "", ""},
		{&mixed, "GET", "/v2", "/v2", ""},
		{&mixed, "POST", "/v2", "", "GET"},
		{&mixed, "POST", "/v2/models/m/infer", "/v2/models/m/infer", ""},
		{&mixed, "DELETE", "/v2/models/m/infer", "", "GET POST"},
		{&mixed, "GET", "/v22", "", ""},
		{&mixed, "POST", "/invocations", "/invocations", ""},
		{&mixed, "POST", "/invocations/x", "", ""},
		{&mixed, "POST", "/score", "/score", ""},
		{&all, "PATCH", "/v1/chat/completions", "/v1/chat/completions", ""},
		{&all, "POST", "/", "/", ""},
		{&all, "POST", "/score", "/score", ""},
		{&all, "POST", "", "", ""},
		{&all, "OPTIONS", "*", "", ""},
		{&all, "TRACE", "/", "", "GET HEAD POST PUT PATCH DELETE OPTIONS"},
		{&all, "CONNECT", "/x", "", "GET HEAD POST PUT PATCH DELETE OPTIONS"},
		{&one, "POST", "/v1/models/half:predict", "/v1/models/half:predict", ""},
		{&one, "POST", "/score", "/v1/models/half:predict", ""},
		{&one, "POST", "/v1/models/half", "", ""},
		{&one, "POST", "/v1/models/half:predict/x", "", ""},
		{&below, "GET", "/v1/models", "/v1/models", ""},
		{&below, "POST", "/score", "/v1/", ""},
		{&below, "POST", "/v2/", "", ""},
	} {
		at, allow, ok := c.of.Admit(c.method, c.path)
		if at != c.at || ok != (c.at != "") || strings.Join(allow, " ") != c.allow {
			t.Errorf("%s %s: got %q %v %v, want %q %q", c.method, c.path, at, allow, ok, c.at, c.allow)
		}
	}
	if n := testing.AllocsPerRun(100, func() { script.Admit("POST", "/score"); one.Admit("POST", "/score") }); n != 0 {
		t.Errorf("Admit allocates %v times", n)
	}
}
