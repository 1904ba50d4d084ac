package compat

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"portico/test/harness"
)

const administratorID = "00000000-0000-0000-0000-00000000ad01"

// principal is what `portico identity create` prints.
type principal struct {
	ObjectID     string `json:"objectId"`
	ClientID     string `json:"clientId"`
	TenantID     string `json:"tenantId"`
	ClientSecret string `json:"clientSecret"`
}

// cli runs a command of Portico's own and gives its standard output.
func (s *server) cli(args ...string) string {
	s.t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = append(cleanEnvironment(), "PORTICO_DATA_DIR="+s.dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("portico %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// TestCredentials walks the mechanisms by which DefaultAzureCredential finds out who it is, with nothing but the
// environment, in Python and in Go.
func TestCredentials(t *testing.T) {
	t.Parallel()
	onlyAll(t)
	s := start(t, "--location", "eastus", "--imds-principal", "administrator")
	var p principal
	if err := json.Unmarshal([]byte(s.cli("identity", "create", "ci", "-o", "json")), &p); err != nil {
		t.Fatal(err)
	}
	assertion := filepath.Join(t.TempDir(), "assertion")
	text := strings.TrimSpace(s.cli("identity", "federated-token", "ci", "-o", "tsv", "--query", "token"))
	if err := os.WriteFile(assertion, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	header := s.environment(intercepted)["IDENTITY_HEADER"]
	gone := s.environment(intercepted)
	exe := goClient(t)
	for _, c := range []struct {
		name    string
		mode    mode
		env     map[string]string
		oid     string
		refused bool
		noGo    string // why Azure's Go library cannot be asked this way
	}{
		{name: "AppService", mode: redirected, oid: administratorID, noGo: "its clients have the public cloud built in",
			env: map[string]string{"IDENTITY_ENDPOINT": gone["IDENTITY_ENDPOINT"], "IDENTITY_HEADER": header}},
		{name: "AppServiceIntercepted", mode: intercepted, oid: administratorID,
			env: map[string]string{"IDENTITY_ENDPOINT": gone["IDENTITY_ENDPOINT"], "IDENTITY_HEADER": header}},
		{name: "AzureML", mode: intercepted, oid: administratorID,
			env: map[string]string{"MSI_ENDPOINT": gone["IDENTITY_ENDPOINT"], "MSI_SECRET": header}},
		{name: "IMDS", mode: intercepted, oid: administratorID, noGo: "it asks 169.254.169.254 whatever the variable says",
			env: map[string]string{"AZURE_POD_IDENTITY_AUTHORITY_HOST": s.ready.IdentityURL}},
		{name: "WorkloadIdentity", mode: redirected, oid: p.ObjectID, noGo: "its clients have the public cloud built in",
			env: map[string]string{"AZURE_TENANT_ID": p.TenantID, "AZURE_CLIENT_ID": p.ClientID,
				"AZURE_FEDERATED_TOKEN_FILE": assertion, "AZURE_AUTHORITY_HOST": s.ready.ManagementURL}},
		{name: "WorkloadIdentityIntercepted", mode: intercepted, oid: p.ObjectID,
			env: map[string]string{"AZURE_TENANT_ID": p.TenantID, "AZURE_CLIENT_ID": p.ClientID,
				"AZURE_FEDERATED_TOKEN_FILE": assertion,
				"AZURE_AUTHORITY_HOST":       "https://login.microsoftonline.com/"}},
		{name: "ClientSecretADFS", mode: redirected, oid: p.ObjectID, noGo: "its clients have the public cloud built in",
			env: map[string]string{"AZURE_TENANT_ID": "adfs", "AZURE_CLIENT_ID": p.ClientID,
				"AZURE_CLIENT_SECRET": p.ClientSecret, "AZURE_AUTHORITY_HOST": s.ready.ManagementURL}},
		{name: "ClientSecretIntercepted", mode: intercepted, oid: p.ObjectID,
			env: map[string]string{"AZURE_TENANT_ID": p.TenantID, "AZURE_CLIENT_ID": p.ClientID,
				"AZURE_CLIENT_SECRET": p.ClientSecret}},
		{name: "WrongSecret", mode: intercepted, oid: p.ObjectID, refused: true, noGo: "the refusal is the same",
			env: map[string]string{"AZURE_TENANT_ID": p.TenantID, "AZURE_CLIENT_ID": p.ClientID,
				"AZURE_CLIENT_SECRET": "not the secret", "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := s.environment(c.mode)
			for _, name := range []string{"IDENTITY_ENDPOINT", "IDENTITY_HEADER"} {
				delete(env, name)
			}
			maps.Copy(env, c.env)
			management := "https://management.azure.com"
			if c.mode == redirected {
				management = s.ready.ManagementURL
			}
			argv := []string{harness.Python(t, "newest"), filepath.Join(root, "test/compat/python/credentials.py"), management, c.oid}
			if c.refused {
				argv = append(argv, "refused")
			}
			sub := *s
			sub.t = t
			o := sub.run(client{name: "azure-identity", dir: t.TempDir(), env: env, argv: argv})
			if o.code != 0 {
				t.Errorf("exit %d\n%s\n%s", o.code, o.out, o.err)
			} else if !c.refused { // a refusal is told on standard error, too
				quiet(t, o)
			}
			if c.noGo != "" {
				return
			}
			o = sub.run(client{name: "azidentity", dir: t.TempDir(), env: env, extra: []string{"EXPECT_OBJECT_ID=" + c.oid},
				argv: []string{exe, "-test.run", "^TestCredential$"}})
			if o.code != 0 {
				t.Errorf("exit %d\n%s\n%s", o.code, o.out, o.err)
			}
			quiet(t, o)
		})
	}
}
