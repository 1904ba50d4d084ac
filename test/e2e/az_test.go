package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shell is a shell of a user whose az is Portico's.
type shell struct {
	*server
	home, bin, dir string
	env            []string
}

func newShell(s *server) *shell {
	s.t.Helper()
	sh := &shell{server: s, home: s.t.TempDir(), bin: filepath.Join(s.t.TempDir(), "bin"), dir: s.t.TempDir()}
	s.must("shim", "install", sh.bin)
	sh.env = append(os.Environ(), "PORTICO_DATA_DIR="+s.dir, "HOME="+sh.home,
		"XDG_CONFIG_HOME="+filepath.Join(sh.home, ".config"),
		"PATH="+sh.bin+string(os.PathListSeparator)+os.Getenv("PATH"), "NO_COLOR=1")
	return sh
}

// sh runs a script with bash.
func (s *shell) sh(script string, env ...string) result {
	return s.run("bash", []string{"-c", script}, env...)
}

func (s *shell) run(name string, args []string, env ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = s.dir, append(append([]string{}, s.env...), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%s: %v", name, err)
	}
	return result{out: out.String(), err: errs.String(), code: cmd.ProcessState.ExitCode()}
}

// az runs a line of az that has to succeed and gives its output without the line's end.
func (s *shell) az(line string) string {
	s.t.Helper()
	r := s.sh("az " + line)
	if r.code != 0 {
		s.t.Fatalf("az %s: exit %d\n%s%s", line, r.code, r.err, r.out)
	}
	return strings.TrimSuffix(r.out, "\n")
}

// TestAzSafeRollout runs the example as its reader would: in the environment of `portico run`, so that its plain curl
// trusts the server. The script checks every step itself and ends at the first that is wrong.
func TestAzSafeRollout(t *testing.T) {
	need(t, "bash")
	need(t, "curl")
	s := newShell(shared(t))
	script, err := filepath.Abs("../../examples/az/safe-rollout.sh")
	if err != nil {
		t.Fatal(err)
	}
	r := s.run(binary, []string{"run", "--", "bash", script}, "ENDPOINT_NAME=rollout-test")
	if r.code != 0 || !strings.HasSuffix(r.out, "== done\n") {
		t.Fatalf("exit %d\n%s\n%s", r.code, r.out, r.err)
	}
	s.eventually("the endpoint is gone", func() bool {
		return s.api("GET", workspace+"/onlineEndpoints/rollout-test?api-version=2024-04-01",
			nil).status == http.StatusNotFound
	})
	if strings.Contains(r.err, "WARNING") || strings.Contains(r.err, "ERROR") {
		t.Errorf("a clean run says: %s", r.err)
	}
}

// TestAzExitCodes holds az's codes and where it writes what.
func TestAzExitCodes(t *testing.T) {
	need(t, "bash")
	s := newShell(shared(t))
	s.az("ml online-endpoint create -n codes")
	for _, row := range []struct {
		line string
		want int
	}{
		{"ml online-endpoint show -n codes -o none", 0},
		{"ml online-endpoint show --name=codes --quer name -o tsv", 0},
		{"ml online-endpoint show -n nobody", 3},
		{"ml online-endpoint get-credentials -n nobody", 1},
		{"ml online-endpoint update -n codes --traffic blue=100", 1},
		{"ml online-endpoint show -n codes --output xml", 2},
		{"ml online-endpoint show -n codes --query 'a['", 2},
		{"ml online-endpoint show -n codes --colour", 2},
		{"ml online-endpoint show -n codes extra", 2},
		{"ml online-endpoint show -n", 2},
		{"ml online-endpoint delete", 2},
		{"ml online-endpoint create -n codes --local", 2},
		{"ml online-endpoint create -n codes --local false -o none", 0},
		{"ml job create -f job.yml", 2},
		{"vm list", 2},
		{"ml online-endpoint delete -n codes --yes --no-wait", 0},
		{"--version", 0},
		{"", 0},
		{"ml --help", 0},
		{"ml online-endpoint invoke -h", 0},
	} {
		line, want := row.line, row.want
		r := s.sh("az " + line)
		if r.code != want {
			t.Errorf("az %s: exit %d, not %d\n%s%s", line, r.code, want, r.err, r.out)
		}
		if want != 0 && (!strings.HasPrefix(r.err, "ERROR: ") || r.out != "") {
			t.Errorf("az %s: writes %q and to standard error %q", line, r.out, r.err)
		}
		if strings.Contains(line, "delete") && want == 0 && r.out+r.err != "" {
			t.Errorf("az %s says %q %q", line, r.out, r.err)
		}
	}
	if r := s.sh("az ml job create -f job.yml"); !strings.Contains(r.err, "ml job create") {
		t.Errorf("what is not there is not named: %s", r.err)
	}
}

// TestAzAccount signs in as a service principal: commands then act as it, and stop when its credential ends.
func TestAzAccount(t *testing.T) {
	need(t, "bash")
	s := newShell(start(t))
	if got := s.az("account show --query user.name -o tsv"); got != "administrator" {
		t.Errorf("whoever owns the server is %q", got)
	}
	if got := s.az("login --identity --query '[0].state' -o tsv"); got != "Enabled" {
		t.Errorf("login --identity: %q", got)
	}
	if got := s.az("account get-access-token --resource https://ml.azure.com --query tokenType -o tsv"); got != "Bearer" {
		t.Errorf("get-access-token: %q", got)
	}
	var made struct{ ClientID, ClientSecret, TenantID string }
	if err := json.Unmarshal([]byte(s.must("identity", "create", "pipeline", "-o", "json")), &made); err != nil {
		t.Fatal(err)
	}
	login := "login --service-principal -u " + made.ClientID + " --tenant " + made.TenantID + " -p "
	if r := s.sh("az " + login + "wrong"); r.code != 1 || !strings.Contains(r.err, "AADSTS7000215") {
		t.Errorf("a wrong secret: exit %d %s", r.code, r.err)
	}
	if got := s.az("account show --query user.name -o tsv"); got != "administrator" {
		t.Errorf("a failed login changed who is signed in: %q", got)
	}
	s.az(login + made.ClientSecret + " -o none")
	if got := s.az("account show --query '[user.name, user.type]' -o tsv"); got != made.ClientID+"\nservicePrincipal" {
		t.Errorf("account show: %q", got)
	}
	s.az("ml online-endpoint create -n theirs -o none")
	if got := s.az("ml online-endpoint show -n theirs --query creation_context.created_by -o tsv"); got != "pipeline" {
		t.Errorf("the endpoint was created by %q", got)
	}
	// Who signed in needs the server's address only, no token in the environment.
	far := []string{"PORTICO_DATA_DIR=", "PORTICO_URL=" + s.ready.ManagementURL, "PORTICO_CA_FILE=" + s.ready.CAFile}
	if r := s.sh("az ml online-endpoint list --query '[].name' -o tsv", far...); r.code != 0 || r.out != "theirs\n" {
		t.Errorf("by address alone: exit %d %s%s", r.code, r.err, r.out)
	}
	activities := s.az("monitor activity-log list --query \"[?caller=='pipeline'] | length(@)\" -o tsv")
	if activities == "0" || activities == "" {
		t.Errorf("the activity log has %q entries of the principal", activities)
	}
	file := filepath.Join(s.home, ".config", "portico", "az.json")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v %v", file, info, err)
	}
	s.must("identity", "delete", "pipeline", "--yes")
	if r := s.sh("az ml online-endpoint list"); r.code != 1 || !strings.HasPrefix(r.err, "ERROR: ") {
		t.Errorf("a deleted principal: exit %d %s", r.code, r.err)
	}
	s.az("logout")
	if got := s.az("account show --query user.name -o tsv"); got != "administrator" {
		t.Errorf("after logout: %q", got)
	}
	// In the environment of `portico run` the identity is the one that the environment names.
	line := "az login --identity -o none && az account show --query user.name -o tsv && az logout"
	if r := s.run(binary, []string{"run", "--", "bash", "-c", line}); r.code != 0 || r.out != "administrator\n" {
		t.Errorf("by the environment's identity: exit %d %s%s", r.code, r.err, r.out)
	}
	if doc, err := os.ReadFile(file); err != nil || strings.Contains(string(doc), made.ClientSecret) {
		t.Errorf("after logout the secret is still in %s (%v)", file, err)
	}
}

// TestAzStorage moves files through the workspace's container, and makes a model of one.
func TestAzStorage(t *testing.T) {
	need(t, "bash")
	s := newShell(shared(t))
	dir := files(t, map[string]string{"one.txt": "first", "sub/two.txt": "second", "sub/three.bin": "third"})
	if err := os.WriteFile(filepath.Join(dir, "large"), bytes.Repeat([]byte("0123456789abcdef"), 1<<20),
		0o600); err != nil {
		t.Fatal(err)
	}
	container := s.az("ml datastore show -n workspaceblobstore --query container_name -o tsv")
	account := s.az("ml datastore show -n workspaceblobstore --query account_name -o tsv")
	blob := func(line string) string {
		return s.az("storage blob " + line + " --auth-mode login --account-name " + account)
	}

	blob("upload -c " + container + " -f " + filepath.Join(dir, "large") + " -n in/large -o none")
	if got := blob("show -c " + container + " -n in/large --query properties.contentLength -o tsv"); got != "16777216" {
		t.Errorf("the large blob has %s bytes", got)
	}
	again := "az storage blob upload -c " + container + " -n in/large -f " + filepath.Join(dir, "one.txt")
	if r := s.sh(again); r.code != 1 || !strings.Contains(r.err, "BlobAlreadyExists") {
		t.Errorf("an upload without --overwrite: exit %d %s", r.code, r.err)
	}
	if r := s.sh(again + " --overwrite"); r.code != 0 {
		t.Errorf("an upload with --overwrite: %s", r.err)
	}
	blob("upload-batch -s " + dir + " -d " + container + "/batch --pattern '*.txt' -o none")
	if got := blob("list -c " + container + " --prefix batch/ --query '[].name' -o tsv"); got != "batch/one.txt\nbatch/sub/two.txt" {
		t.Errorf("the batch is %q", got)
	}
	out := filepath.Join(s.dir, "copy")
	blob("download -c " + container + " -n batch/sub/two.txt -f " + out + " -o none")
	if doc, err := os.ReadFile(out); err != nil || string(doc) != "second" {
		t.Errorf("downloaded %q (%v)", doc, err)
	}
	if got := blob("exists -c " + container + " -n nothing --query exists -o tsv"); got != "false" {
		t.Errorf("a blob that was never there: %q", got)
	}
	if r := s.sh("az storage blob list -c elsewhere"); r.code != 1 || !strings.Contains(r.err, "ContainerNotFound") {
		t.Errorf("another container: exit %d %s", r.code, r.err)
	}
	if r := s.sh("az storage blob list --account-name elsewhere -c " + container); r.code != 1 ||
		!strings.Contains(r.err, "elsewhere") {
		t.Errorf("another account: exit %d %s", r.code, r.err)
	}
}

// TestAzPlane holds the commands around ml: groups, defaults, rest, metrics and the activity log.
func TestAzPlane(t *testing.T) {
	need(t, "bash")
	s := newShell(shared(t))
	s.deploy("plane", "blue", echoScript, "")
	key := s.key("plane")
	for range 3 {
		if a := s.score("plane", key, `{}`); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	id := s.az("ml online-endpoint show -n plane --query id -o tsv")
	count := "monitor metrics list --resource " + id + " --metric RequestsPerMinute --aggregation Total --interval PT1M " +
		"--query 'sum(value[0].timeseries[].data[].total || `[0]`)' -o tsv"
	s.eventually("the metrics tell of three requests", func() bool { return strings.TrimSuffix(s.az(count), ".0") == "3" })
	if got := s.az("monitor metrics list-definitions --resource " + id +
		" --query \"[?name.value=='RequestLatency'].unit\" -o tsv"); got == "" {
		t.Error("RequestLatency has no definition")
	}
	if got := s.az("rest --method get --url https://management.azure.com" + id +
		"?api-version=2024-04-01 --query properties.authMode -o tsv"); got != "Key" {
		t.Errorf("az rest: %q", got)
	}
	if got := s.az("rest -m post --uri '/subscriptions/{subscriptionId}/resourceGroups/portico/providers/Microsoft.MachineLearningServices/" +
		"workspaces/default/onlineEndpoints/plane/listKeys?api-version=2024-04-01' --query primaryKey -o tsv"); got != key {
		t.Error("az rest POST listKeys gives another key")
	}
	uri := s.az("ml online-endpoint show -n plane --query scoring_uri -o tsv")
	if r := s.sh("az rest -m post --url " + uri + " --headers Authorization='Bearer " + key +
		`' Content-Type=application/json --body '{"a": 5}' --query version -o tsv`); r.code != 0 {
		t.Errorf("az rest to a scoring URL: %s", r.err)
	}
	if r := s.sh("az rest -m post --url " + uri + " --body '{}'"); r.code != 1 ||
		!strings.Contains(r.err, "Unauthorized") {
		t.Errorf("the management token opened a scoring URL: exit %d %s %s", r.code, r.out, r.err)
	}
	if r := s.sh("az rest --url https://example.com/"); r.code != 2 {
		t.Errorf("az rest to somebody else: exit %d %s", r.code, r.err)
	}
	for line, want := range map[string]string{
		"group exists -n portico": "true", "group exists -n nobody": "false",
		"group show -n portico --query properties.provisioningState -o tsv": "Succeeded",
		"resource show --ids " + id + " --query name -o tsv":                "plane",
		"extension show -n ml --query name -o tsv":                          "ml",
		"version --query 'extensions.ml != null' -o tsv":                    "true",
	} {
		if got := s.az(line); got != want {
			t.Errorf("az %s: %q, not %q", line, got, want)
		}
	}
	s.az("group create -n team --location eastus -o none")
	s.az("configure --defaults group=team workspace=second location=eastus")
	if got := s.az("ml workspace create -n second --query location -o tsv"); got != "eastus" {
		t.Errorf("the default location is not taken: %q", got)
	}
	if got := s.az("ml online-endpoint list --query 'length(@)' -o tsv"); got != "0" {
		t.Errorf("the defaults are not taken: %q endpoints", got)
	}
	s.az("config set core.output=tsv")
	if got := s.az("config get defaults.group --query value"); got != "team" {
		t.Errorf("config: %q", got)
	}
}
