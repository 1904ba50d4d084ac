package cli

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"portico/internal/arm"
)

// principals makes a fake server answer for principals and tokens.
func (f *fakeServer) principals() {
	ci := arm.Principal{ID: "/portico/v1/identities/ci", Name: "ci", Kind: "ServicePrincipal", ObjectID: "o-1",
		ClientID: "o-1", TenantID: "t-1"}
	made := ci
	made.ClientSecret = "s-1"
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		switch r.Method + " " + strings.TrimPrefix(r.URL.Path, wsPath) {
		case "PUT /portico/v1/identities/ci", "POST /portico/v1/identities/ci/resetCredential":
			f.answer(w, 201, made)
		case "GET /portico/v1/identities":
			f.answer(w, 200, arm.NewPage([]arm.Principal{ci}, ""))
		case "DELETE /portico/v1/identities/ci", "POST /portico/v1/rotateSigningKey":
			w.WriteHeader(http.StatusNoContent)
		case "POST /portico/v1/identities/ci/federatedToken":
			f.answer(w, 200, arm.FederatedToken{Token: "a.b.c", ExpiresOn: "2026-12-23T00:00:00Z"})
		case "POST /onlineEndpoints/aml/token":
			f.answer(w, 200, arm.EndpointToken{AccessToken: "aml.token.x", ExpiryTimeUTC: 20, RefreshAfterTimeUTC: 10,
				TokenType: "Bearer"})
		case "GET /msi/token":
			if r.Header.Get("X-Identity-Header") != fakeToken ||
				r.URL.Query().Get("resource") != "https://ml.azure.com" {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			f.answer(w, 200, map[string]string{"access_token": "aad.token.x", "expires_on": "30",
				"token_type": "Bearer"})
		default:
			return false
		}
		return true
	}
}

func TestIdentityCommands(t *testing.T) {
	f := newFakeServer(t)
	f.principals()
	if o := f.must("identity", "create", "ci", "--query", "[clientId, clientSecret, tenantId]", "-o",
		"tsv"); strings.Join(strings.Fields(o.out), " ") != "o-1 s-1 t-1" {
		t.Errorf("create: %q", o.out)
	}
	if o := f.must("identity", "reset-credential", "ci", "-o", "table"); !strings.Contains(o.out, "s-1") {
		t.Errorf("reset: %s", o.out)
	}
	if o := f.must("identity", "list"); !strings.Contains(o.out, `"kind": "ServicePrincipal"`) ||
		strings.Contains(o.out, "clientSecret") {
		t.Errorf("list: %s", o.out)
	}
	if o := f.must("identity", "federated-token", "ci", "--query", "token", "-o", "tsv"); o.out != "a.b.c\n" {
		t.Errorf("token: %q", o.out)
	}
	file := filepath.Join(t.TempDir(), "token")
	o := f.must("identity", "federated-token", "ci", "--file", file)
	text, err := os.ReadFile(file)
	info, statErr := os.Stat(file)
	if err != nil || statErr != nil || string(text) != "a.b.c" || info.Mode().Perm() != 0o600 ||
		strings.Contains(o.out, "a.b.c") {
		t.Errorf("%q, %v, %v: %s", text, err, statErr, o.out)
	}
	f.must("identity", "rotate-signing-key")
	if o := f.portico("identity", "delete", "ci"); o.code != ExitUsage || !strings.Contains(o.err, "--yes") {
		t.Errorf("without --yes: %+v", o)
	}
	f.must("identity", "delete", "ci", "--yes")
	f.find("DELETE /portico/v1/identities/ci")
	if o := f.portico("identity", "create"); o.code != ExitUsage {
		t.Errorf("without a name: %+v", o)
	}
}

// TestScoringCredentials: what is printed, and what is sent, follows the endpoint's authMode.
func TestScoringCredentials(t *testing.T) {
	f := newFakeServer(t)
	f.principals()
	for name, mode := range map[string]string{"aml": "AMLToken", "aad": "AADToken", "keyed": "Key"} {
		f.put("/onlineEndpoints/"+name, map[string]any{"authMode": mode, "scoringUri": f.url + "/endpoints/" + name +
			"/score"})
	}
	for name, want := range map[string]string{
		"aml":   `{"accessToken":"aml.token.x","expiryTimeUtc":20,"refreshAfterTimeUtc":10,"tokenType":"Bearer"}`,
		"aad":   `{"accessToken":"aad.token.x","expiryTimeUtc":30,"refreshAfterTimeUtc":0,"tokenType":"Bearer"}`,
		"keyed": `{"primaryKey":"primary","secondaryKey":"secondary"}`,
	} {
		o := f.must("ml", "online-endpoint", "get-credentials", "-n", name, "-o", "json")
		if got := strings.NewReplacer(" ", "", "\n", "").Replace(o.out); got != want {
			t.Errorf("%s: %s", name, got)
		}
		f.portico("ml", "online-endpoint", "invoke", "-n", name, "--input", "{}")
		sent := f.find("POST /endpoints/" + name + "/score").header.Get("Authorization")
		expect := map[string]string{"aml": "aml.token.x", "aad": "aad.token.x", "keyed": "primary"}[name]
		if sent != "Bearer "+expect {
			t.Errorf("%s: sent %q", name, fmt.Sprint(sent))
		}
	}
}
