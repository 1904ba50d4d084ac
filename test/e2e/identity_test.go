package e2e

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// identityScript asks for a token as Azure's own sample does (score_managedidentity.py), by either protocol.
const identityScript = `import json, os, urllib.error, urllib.parse, urllib.request

def init():
    print("init with an identity:", "MSI_ENDPOINT" in os.environ)

def ask(endpoint, field, secret, resource, client):
    query = {"resource": resource}
    if client:
        query["clientid"] = client
    url = endpoint + "?" + urllib.parse.urlencode(query)
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={field: secret}), timeout=30) as r:
            return {"status": r.status, "answer": json.load(r)}
    except urllib.error.HTTPError as e:
        return {"status": e.code, "answer": json.load(e)}

def run(raw_data):
    d = json.loads(raw_data)
    if d.get("variables"):
        return {n: os.environ.get(n) for n in ("MSI_ENDPOINT", "MSI_SECRET", "IDENTITY_ENDPOINT", "IDENTITY_HEADER")}
    if d.get("appservice"):
        return ask(os.environ["IDENTITY_ENDPOINT"], "X-IDENTITY-HEADER", os.environ["IDENTITY_HEADER"], d["resource"], "")
    return ask(os.environ["MSI_ENDPOINT"], "secret", d.get("secret", os.environ["MSI_SECRET"]), d["resource"], d.get("client", ""))
`

// verified checks a token with nothing but what its issuer publishes, and gives its claims.
func (s *server) verified(token string) map[string]any {
	s.t.Helper()
	part := strings.Split(token, ".")
	if len(part) != 3 {
		s.t.Fatalf("not a token: %.60q", token)
	}
	var header struct{ Alg, Kid string }
	var claims map[string]any
	raw := make([][]byte, 3)
	for i, into := range []any{&header, &claims, nil} {
		var err error
		if raw[i], err = base64.RawURLEncoding.DecodeString(part[i]); err == nil && into != nil {
			err = json.Unmarshal(raw[i], into)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	read := func(from string, into any) {
		s.t.Helper()
		resp, err := s.http.Get(from)
		if err != nil {
			s.t.Fatal(err)
		}
		defer resp.Body.Close()
		doc, err := io.ReadAll(resp.Body)
		if err != nil || json.Unmarshal(doc, into) != nil {
			s.t.Fatalf("%s: %v %.200s", from, err, doc)
		}
	}
	var discovery struct {
		Issuer string
		Keys   string `json:"jwks_uri"`
	}
	issuer, _ := claims["iss"].(string)
	read(issuer+"/.well-known/openid-configuration", &discovery)
	var set struct{ Keys []struct{ Kid, N, E string } }
	read(discovery.Keys, &set)
	for _, k := range set.Keys {
		if k.Kid != header.Kid {
			continue
		}
		n, _ := base64.RawURLEncoding.DecodeString(k.N)
		e, _ := base64.RawURLEncoding.DecodeString(k.E)
		public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
		sum := sha256.Sum256([]byte(part[0] + "." + part[1]))
		if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], raw[2]); err != nil || header.Alg != "RS256" ||
			discovery.Issuer != issuer {
			s.t.Fatalf("the token does not verify: %v, %+v, issuer %s of %s", err, header, issuer, discovery.Issuer)
		}
		return claims
	}
	s.t.Fatalf("the key %s is not published", header.Kid)
	return nil
}

// TestIdentityInsideAnInstance: a scoring script gets tokens that speak for its endpoint, also after the server was
// killed, until its deployment is gone.
func TestIdentityInsideAnInstance(t *testing.T) {
	s := start(t)
	ids := "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/reader"
	a := s.api("PUT", workspace+"/onlineEndpoints/who", map[string]any{"location": "local",
		"properties": map[string]any{"authMode": "Key"},
		"identity": map[string]any{"type": "SystemAssigned,UserAssigned",
			"userAssignedIdentities": map[string]any{ids: map[string]any{}}}})
	if a.status != http.StatusCreated {
		t.Fatalf("%d %s", a.status, a.body)
	}
	s.deploy("who", "blue", identityScript, "")
	var shown struct {
		Identity struct {
			PrincipalID, TenantID  string
			UserAssignedIdentities map[string]struct{ PrincipalID, ClientID string }
		}
	}
	if err := json.Unmarshal(s.api("GET", workspace+"/onlineEndpoints/who", nil).body, &shown); err != nil {
		t.Fatal(err)
	}
	user := shown.Identity.UserAssignedIdentities[ids]
	key := s.key("who")
	ask := func(request map[string]any) (int, map[string]any) {
		t.Helper()
		doc, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		got := s.score("who", key, string(doc))
		if got.status != http.StatusOK {
			t.Fatalf("%d %s", got.status, got.body)
		}
		out := got.json(t)
		status, _ := out["status"].(float64)
		answer, _ := out["answer"].(map[string]any)
		return int(status), answer
	}
	check := func(request map[string]any, oid, aud string) string {
		t.Helper()
		status, answer := ask(request)
		token, _ := answer["access_token"].(string)
		if status != http.StatusOK {
			t.Fatalf("%v: %d %v", request, status, answer)
		}
		claims := s.verified(token)
		if claims["oid"] != oid || claims["aud"] != aud || claims["tid"] != shown.Identity.TenantID || oid == "" {
			t.Errorf("%v: %v, want oid %s", request, claims, oid)
		}
		return token
	}
	vault := "https://vault.azure.net"
	token := check(map[string]any{"resource": vault}, shown.Identity.PrincipalID, vault)
	check(map[string]any{"resource": vault, "appservice": true}, shown.Identity.PrincipalID, vault)
	check(map[string]any{"resource": vault, "client": user.ClientID}, user.PrincipalID, vault)
	for _, bad := range []map[string]any{
		{"resource": vault, "secret": "wrong"}, {"resource": vault, "client": "00000000-0000-0000-0000-000000000000"},
		{"resource": "azureml"},
	} {
		if status, answer := ask(bad); status < 400 || answer["access_token"] != nil {
			t.Errorf("%v: %d %v", bad, status, answer)
		}
	}
	// An instance has no rights on the server that it runs on.
	management := check(map[string]any{"resource": s.ready.ManagementURL}, shown.Identity.PrincipalID,
		s.ready.ManagementURL)
	if got := s.api("GET", workspace, nil, "Authorization",
		"Bearer "+management); got.status != http.StatusForbidden {
		t.Errorf("the token of an instance is answered %d: %s", got.status, got.body)
	}

	variables := s.score("who", key, `{"variables": true}`).json(t)
	secret, _ := variables["MSI_SECRET"].(string)
	if secret == "" || variables["IDENTITY_HEADER"] != secret ||
		variables["IDENTITY_ENDPOINT"] != variables["MSI_ENDPOINT"] {
		t.Fatalf("variables %v", variables)
	}
	s.kill()
	s.up()
	check(map[string]any{"resource": vault}, shown.Identity.PrincipalID, vault)
	if after := s.score("who", key,
		`{"variables": true}`).json(t); after["MSI_ENDPOINT"] != variables["MSI_ENDPOINT"] {
		t.Errorf("the instance was restarted, or its endpoint moved: %v, %v", variables["MSI_ENDPOINT"],
			after["MSI_ENDPOINT"])
	}

	s.must("ml", "online-endpoint", "update", "-n", "who", "--traffic", "blue=0", "-o", "none")
	s.must("ml", "online-deployment", "delete", "-e", "who", "-n", "blue", "--yes", "-o", "none")
	req, err := http.NewRequest(http.MethodGet,
		variables["MSI_ENDPOINT"].(string)+"?resource="+url.QueryEscape(vault), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Secret", secret)
	if got := s.do(req); got.status != http.StatusUnauthorized {
		t.Errorf("the secret of a deployment that is gone: %d %s", got.status, got.body)
	}
	s.stop()
	s.nothingLeaks(secret, token, management)
}

// nothingLeaks looks for secrets in everything that the server wrote.
func (s *server) nothingLeaks(secrets ...string) {
	s.t.Helper()
	look := func(where, text string) {
		for i, secret := range secrets {
			if strings.Contains(text, secret) {
				s.t.Errorf("secret %d lies clear in %s", i, where)
			}
		}
	}
	look("the log", s.log.String())
	err := filepath.WalkDir(s.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Base(path) == "admin.token" {
			return err
		}
		doc, err := os.ReadFile(path)
		look(path, string(doc))
		return err
	})
	if err != nil {
		s.t.Error(err)
	}
}

func TestOwnVariablesWin(t *testing.T) {
	s := start(t)
	s.deploy("own", "blue", identityScript, "environment_variables:\n  MSI_ENDPOINT: http://mine.example/token\n")
	got := s.score("own", s.key("own"), `{"variables": true}`).json(t)
	if got["MSI_ENDPOINT"] != "http://mine.example/token" || got["MSI_SECRET"] != nil ||
		got["IDENTITY_HEADER"] == nil {
		t.Errorf("the server's secret beside a person's address: %v", got)
	}
	// Shells that were set up with the address of token requests, and instances, keep it through a restart.
	address := func() string {
		doc, err := os.ReadFile(filepath.Join(s.dir, "server.json"))
		var ready struct {
			URL string `json:"identity_url"`
		}
		if err != nil || json.Unmarshal(doc, &ready) != nil || !strings.HasPrefix(ready.URL, "http://127.0.0.1:") {
			t.Fatalf("%v: %s", err, doc)
		}
		return ready.URL
	}
	before := address()
	s.stop()
	s.up()
	if after := address(); after != before {
		t.Errorf("token requests moved from %s to %s", before, after)
	}
}

// TestTokenModes deploys behind endpoints of both token modes and calls them through the CLI and by hand.
func TestTokenModes(t *testing.T) {
	s := start(t)
	for mode, name := range map[string]string{"aml_token": "amltok", "aad_token": "aadtok"} {
		dir := files(t, map[string]string{"endpoint.yml": "name: " + name + "\nauth_mode: " + mode + "\n"})
		s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
		s.deploy(name, "blue", echoScript, "")
		if out := s.must("ml", "online-endpoint", "invoke", "-n", name, "--input", `{"a": 1}`); !strings.Contains(out,
			"echo") {
			t.Errorf("%s: %s", mode, out)
		}
	}
	tokenOf := func(name string) string {
		return strings.TrimSpace(s.must("ml", "online-endpoint", "get-credentials", "-n", name, "--query",
			"accessToken", "-o", "tsv"))
	}
	aml, aad := tokenOf("amltok"), tokenOf("aadtok")
	for _, c := range []struct {
		endpoint, token string
		want            int
	}{
		{"amltok", aml, 200}, {"aadtok", aad, 200}, {"amltok", aad, 401}, {"aadtok", aml, 401},
		{"amltok", aml[:len(aml)-6] + "AAAAAA", 401},
		{"amltok", s.token, 401}, {"aadtok", s.token, 401},
	} {
		if got := s.score(c.endpoint, c.token, `{}`); got.status != c.want {
			t.Errorf("%s with a token of %d characters: %d, want %d: %s", c.endpoint, len(c.token), got.status,
				c.want, got.body)
		}
	}
	// A principal of its own, through the OAuth token endpoint.
	var made struct{ ClientID, ClientSecret, ObjectID string }
	if err := json.Unmarshal([]byte(s.must("identity", "create", "caller")), &made); err != nil {
		t.Fatal(err)
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {made.ClientID},
		"client_secret": {made.ClientSecret},
		"scope":         {"https://ml.azure.com/.default"}}
	resp, err := s.http.PostForm(s.ready.ManagementURL+"/common/oauth2/v2.0/token", form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %v", resp.StatusCode, err)
	}
	s.eventually("the new principal may call", func() bool {
		return s.score("aadtok", got.Token,
			`{}`).status == http.StatusOK
	})
	s.must("identity", "delete", "caller", "--yes")
	s.eventually("a principal that is gone may not", func() bool {
		return s.score("aadtok", got.Token,
			`{}`).status == http.StatusUnauthorized
	})
	// The log is written behind the answers.
	for _, want := range []string{`"authType":"AMLToken","callerId":"00000000-0000-0000-0000-00000000ad01"`,
		`"authType":"AADToken","callerId":"` + made.ObjectID + `"`} {
		s.eventually("the access log has "+want, func() bool {
			doc, err := os.ReadFile(filepath.Join(s.dir, "logs", "access.log"))
			return err == nil && strings.Contains(string(doc), want)
		})
	}
	// A token survives a restart of the server, and not its endpoint.
	s.kill()
	s.up()
	if got := s.score("amltok", aml, `{}`); got.status != http.StatusOK {
		t.Errorf("after a restart: %d %s", got.status, got.body)
	}
	s.must("ml", "online-endpoint", "delete", "-n", "amltok", "--yes", "-o", "none")
	dir := files(t, map[string]string{"endpoint.yml": "name: amltok\nauth_mode: aml_token\n"})
	s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
	s.deploy("amltok", "blue", echoScript, "")
	if got := s.score("amltok", aml, `{}`); got.status != http.StatusUnauthorized {
		t.Errorf("a token of the endpoint that had this name before: %d %s", got.status, got.body)
	}
	s.stop()
	s.nothingLeaks(aml, aad, got.Token, made.ClientSecret)
}
