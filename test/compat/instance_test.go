package compat

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// identityScript asks for tokens as code that runs in Azure does, with Azure's own library.
const identityScript = `import json

from azure.identity import DefaultAzureCredential, ManagedIdentityCredential


def init():
    pass


def run(raw_data):
    request = json.loads(raw_data)
    client = request.get("client")
    if request.get("default"):
        credential = DefaultAzureCredential(managed_identity_client_id=client)
    else:
        credential = ManagedIdentityCredential(client_id=client)
    token = credential.get_token(request["resource"] + "/.default")
    return {"token": token.token, "expires": token.expires_on}
`

// TestIdentityInAScript runs ManagedIdentityCredential and DefaultAzureCredential inside a deployment, for the
// endpoint's own identity and for a user-assigned one.
func TestIdentityInAScript(t *testing.T) {
	t.Parallel()
	onlyAll(t)
	s := start(t)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"endpoint.yml": "name: who\nauth_mode: key\nidentity:\n  type: system_assigned,user_assigned\n  user_assigned_identities:\n" +
			"    - /subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/reader\n",
		"deployment.yml": "name: blue\nendpoint_name: who\ncode_configuration:\n  code: src\n  scoring_script: score.py\n" +
			"environment:\n  conda_file: conda.yml\ninstance_type: Standard_DS3_v2\ninstance_count: 1\n",
		"conda.yml":    "name: identity\ndependencies:\n  - python\n  - pip\n  - pip:\n    - azure-identity\n",
		"src/score.py": identityScript,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var e struct {
		Identity struct {
			PrincipalID string `json:"principal_id"`
		}
	}
	made := s.cli("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "json")
	if err := json.Unmarshal([]byte(made), &e); err != nil || e.Identity.PrincipalID == "" {
		t.Fatalf("%v: %s", err, made)
	}
	s.cli("ml", "online-deployment", "create", "-f", filepath.Join(dir, "deployment.yml"), "--all-traffic", "-o", "none")
	var all []struct{ Name, ClientID, ObjectID string }
	if err := json.Unmarshal([]byte(s.cli("identity", "list", "-o", "json")), &all); err != nil {
		t.Fatal(err)
	}
	reader := all[len(all)-1]
	if reader.Name != "reader" {
		t.Fatalf("%+v", all)
	}
	for _, c := range []struct {
		request string
		oid     string
	}{
		{`{"resource": "https://vault.azure.net"}`, e.Identity.PrincipalID},
		{`{"resource": "https://vault.azure.net", "default": true}`, e.Identity.PrincipalID},
		{`{"resource": "https://vault.azure.net", "client": "` + reader.ClientID + `"}`, reader.ObjectID},
		{`{"resource": "https://vault.azure.net", "default": true, "client": "` + reader.ClientID + `"}`, reader.ObjectID},
	} {
		var got struct{ Token string }
		answer := s.cli("ml", "online-endpoint", "invoke", "-n", "who", "--input", c.request)
		if err := json.Unmarshal([]byte(answer), &got); err != nil {
			t.Errorf("%s: %v: %s", c.request, err, answer)
			continue
		}
		if oid, aud := claimsOf(t, got.Token); oid != c.oid || aud != "https://vault.azure.net" {
			t.Errorf("%s: oid %s, aud %s, want %s", c.request, oid, aud, c.oid)
		}
	}
}

// claimsOf reads whom a token speaks for, and to whom. Its signature is another test's business.
func claimsOf(t *testing.T, token string) (oid, aud string) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("not a token: %.60q", token)
	}
	doc, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var c struct{ Oid, Aud string }
	if err := json.Unmarshal(doc, &c); err != nil {
		t.Fatal(err)
	}
	return c.Oid, c.Aud
}
