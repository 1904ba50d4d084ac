package gateway_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"portico/internal/access"
	"portico/internal/gateway"
	"portico/internal/inference"
	"portico/internal/online"
	"portico/internal/route"
	"portico/internal/telemetry"
)

// newIssuer makes an issuer with a clock of its own.
func newIssuer(t testing.TB, now func() time.Time) *access.Issuer {
	t.Helper()
	key, err := access.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	i, err := access.NewIssuer(access.IssuerConfig{URL: "https://host/t/v2.0", Tenant: "t",
		Keys: []online.Secret{key}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestAuthModes presents every kind of credential to an endpoint of every mode: each opens one.
func TestAuthModes(t *testing.T) {
	now := time.Now()
	issuer := newIssuer(t, func() time.Time { return now })
	stranger := newIssuer(t, func() time.Time { return now })
	s := newSite(t, gateway.Config{Tokens: issuer}, gateway.ServerConfig{})
	s.instance("i1", func(_ context.Context, call *inference.Call) (*inference.Answer, error) {
		for _, f := range call.Header {
			if strings.EqualFold(f.Name, "authorization") {
				t.Error("a credential reaches an instance")
			}
		}
		return answer(200, `"ok"`), nil
	})
	var all []route.Endpoint
	for _, mode := range []online.AuthMode{online.AuthKey, online.AuthAMLToken, online.AuthAADToken, "Password"} {
		d := blue("i1")
		d.UID = "uid-" + string(mode)
		// The table has more than the mode needs: the gateway must not take it.
		all = append(all, route.Endpoint{Name: "e-" + string(mode), UID: "u-" + string(mode), AuthMode: mode,
			Keys: [][32]byte{access.Digest(primaryKey)}, Callers: []string{"o-1"}, Deployments: []route.Deployment{d},
			Traffic: online.Traffic{"blue": 100}})
	}
	s.gateway.SetTable(route.Build(1, all))

	text := func(token access.Token, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return token.Text.Reveal()
	}
	caller := access.Subject{ObjectID: "o-1", AppID: "o-1"}
	scoring := func(i *access.Issuer, endpoint, uid string) string {
		return text(i.IssueScoring(access.ScoringGrant{Subject: access.Subject{ObjectID: "o-7"}, Endpoint: endpoint,
			UID: uid}))
	}
	presented := map[string]string{
		"key":                       primaryKey,
		"scoring token":             scoring(issuer, "e-AMLToken", "u-AMLToken"),
		"scoring token of another":  scoring(issuer, "e-other", "u-other"),
		"scoring token of the past": scoring(issuer, "e-AMLToken", "u-before"),
		"scoring token for keys":    scoring(issuer, "e-Key", "u-Key"),
		"scoring token for AAD":     scoring(issuer, "e-AADToken", "u-AADToken"),
		"scoring token of others":   scoring(stranger, "e-AMLToken", "u-AMLToken"),
		"principal":                 text(issuer.Issue(caller, "https://ml.azure.com")),
		"principal with slash":      text(issuer.Issue(caller, "https://ml.azure.com/")),
		"principal for management":  text(issuer.Issue(caller, "https://management.azure.com")),
		"principal of others":       text(stranger.Issue(caller, "https://ml.azure.com")),
		"stranger":                  text(issuer.Issue(access.Subject{ObjectID: "o-2"}, "https://ml.azure.com")),
		"managed identity": text(issuer.Issue(access.Subject{ObjectID: "o-1", Resource: "/x"},
			"https://ml.azure.com")),
		"assertion": text(issuer.IssueAssertion(caller, "c")),
		"alg none":  "eyJhbGciOiJub25lIn0.eyJpc3MiOiJhenVyZW1sIn0.",
		"nothing":   "x",
	}
	opens := map[string]string{"key": "e-Key", "scoring token": "e-AMLToken", "principal": "e-AADToken",
		"principal with slash": "e-AADToken"}
	n := 0
	for what, credential := range presented {
		for _, e := range all {
			r := s.do("POST", "/endpoints/"+e.Name+"/score", "{}", "Authorization", "Bearer "+credential)
			n++
			rec := s.records.wait(t, n)
			want := 401
			if opens[what] == e.Name {
				want = 200
			}
			if r.status != want {
				t.Errorf("%s at %s: %d %s", what, e.Name, r.status, r.body)
				continue
			}
			if rec.AuthMode != string(e.AuthMode) {
				t.Errorf("%s at %s: recorded as %s", what, e.Name, rec.AuthMode)
			}
			if want == 401 && (rec.Reason != telemetry.ReasonAccessDenied || rec.Caller+rec.CallerID != "" ||
				r.header.Get("WWW-Authenticate") == "" ||
				strings.Contains(r.body, credential) && credential != "x") {
				t.Errorf("%s at %s: %+v %s", what, e.Name, rec, r.body)
			}
			if got, expect := rec.Caller+"|"+rec.CallerID, map[string]string{"key": "primary|",
				"scoring token": "|o-7"}[what]; want == 200 {
				if expect == "" {
					expect = "|o-1"
				}
				if got != expect {
					t.Errorf("%s at %s: caller %s, want %s", what, e.Name, got, expect)
				}
			}
		}
	}
	for _, mode := range []online.AuthMode{online.AuthAMLToken, online.AuthAADToken} {
		for _, fields := range [][]string{{"Authorization", "Basic eDp5"}, {"Authorization", "Bearer"}} {
			r := s.do("POST", "/endpoints/e-"+string(mode)+"/score", "{}", fields...)
			n++
			if rec := s.records.wait(t, n); r.status != 401 || rec.Reason != telemetry.ReasonBadHeader {
				t.Errorf("%s, %v: %d %s", mode, fields, r.status, rec.Reason)
			}
		}
	}
}

// TestNoIssuerLetsNobodyIn: a gateway that cannot verify tokens refuses them.
func TestNoIssuerLetsNobodyIn(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	s.gateway.SetTable(route.Build(1, []route.Endpoint{{Name: "my-endpoint", UID: "u", AuthMode: online.AuthAMLToken,
		Deployments: []route.Deployment{blue()}, Traffic: online.Traffic{"blue": 100}}}))
	if r := s.do("POST", "/endpoints/my-endpoint/score", "{}", "Authorization", "Bearer a.b.c"); r.status != 401 {
		t.Errorf("%d %s", r.status, r.body)
	}
}
