package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"portico/test/harness"
)

// shellEnv is a user's shell: what this test runs in, without what would lead past the server.
func (s *server) shellEnv(more ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(e string) bool {
		name, _, _ := strings.Cut(strings.ToUpper(e), "=")
		return strings.HasSuffix(name, "_PROXY") || strings.HasPrefix(name, "AZURE") || strings.HasPrefix(name, "PORTICO_")
	})
	return append(append(env, "PORTICO_DATA_DIR="+s.dir, "HOME="+s.t.TempDir()), more...)
}

// inShell runs `portico ARGS` as a person's shell would.
func (s *server) inShell(args ...string) result {
	s.t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = s.shellEnv()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("portico %s: %v", strings.Join(args, " "), err)
	}
	return result{out: out.String(), err: errs.String(), code: cmd.ProcessState.ExitCode()}
}

// curl runs curl in the environment of clients and gives the head and the body of the answer.
func (s *server) curl(args ...string) (head, body string) {
	s.t.Helper()
	all := append([]string{"run", "--intercept", "--", "curl", "--disable", "-sS", "-i", "--max-time", "60"}, args...)
	r := s.inShell(all...)
	if r.code != 0 {
		s.t.Fatalf("curl %s: exit %d: %s", strings.Join(args, " "), r.code, r.err)
	}
	_, rest, _ := strings.Cut(r.out, "\r\n\r\n") // the proxy's answer
	head, body, _ = strings.Cut(rest, "\r\n\r\n")
	return head, body
}

func need(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Skipf("%s is not on this machine", tool)
	}
}

// TestInterceptedFlow: a user of curl knows nothing but Azure's names, from the workspace to a prediction.
func TestInterceptedFlow(t *testing.T) {
	need(t, "curl")
	s := start(t, "--intercept", "127.0.0.1:0")
	s.deploy("iris", "blue", echoScript, "")
	arm := "https://management.azure.com" + workspace
	auth := []string{"-H", "Authorization: Bearer " + s.token, "-H", "Content-Type: application/json"}

	head, body := s.curl(append(auth, arm+"/onlineEndpoints/iris?api-version=2024-04-01")...)
	var endpoint struct {
		Location   string
		Properties struct {
			ScoringURI, SwaggerURI string
			Properties             map[string]string
		}
	}
	if err := json.Unmarshal([]byte(body), &endpoint); err != nil {
		t.Fatalf("%v: %s%s", err, head, body)
	}
	const scoring = "https://iris.local.inference.ml.azure.com/score"
	if endpoint.Properties.ScoringURI != scoring ||
		!strings.HasPrefix(endpoint.Properties.Properties["AzureAsyncOperationUri"], "https://management.azure.com/") {
		t.Errorf("%s", body)
	}
	_, body = s.curl(append(auth, "-X", "POST", "-d", "", arm+"/onlineEndpoints/iris/listKeys?api-version=2024-04-01")...)
	var keys map[string]string
	if err := json.Unmarshal([]byte(body), &keys); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	head, body = s.curl("-H", "Authorization: Bearer "+keys["primaryKey"], "-H", "Content-Type: application/json", "-d",
		`"ping"`, scoring)
	if !strings.HasPrefix(head, "HTTP/1.1 200") || !strings.Contains(body, "ping") {
		t.Errorf("%s\n%s", head, body)
	}
	head, _ = s.curl(append(auth, "-X", "PUT", "-d", `{"location":"local","properties":{"authMode":"Key"}}`,
		arm+"/onlineEndpoints/second?api-version=2024-04-01")...)
	if !strings.HasPrefix(head, "HTTP/1.1 201") || !strings.Contains(head,
		"Azure-Asyncoperation: https://management.azure.com/") || !strings.Contains(head,
		"Location: https://management.azure.com/") {
		t.Errorf("%s", head)
	}
	// The same endpoint by the server's own name has the server's own URLs.
	if a := s.api("GET", workspace+"/onlineEndpoints/iris?api-version=2024-04-01", nil); !strings.Contains(string(a.body),
		s.ready.ScoringURL+"/endpoints/iris/score") {
		t.Errorf("%s", a.body)
	}
	if r := s.inShell("run", "--intercept", "--", "curl", "--disable", "-sS", "https://pypi.org/"); r.code == 0 ||
		!strings.Contains(r.err, "403") {
		t.Errorf("another name: exit %d, %s", r.code, r.err)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("serve ends with %d", code)
	}
}

// TestInterceptionSurvivesAKill: a shell that was set up goes on working after the server was killed and started again.
func TestInterceptionSurvivesAKill(t *testing.T) {
	need(t, "curl")
	need(t, "sh")
	s := start(t, "--intercept", "127.0.0.1:0")
	shell := s.inShell("env", "--intercept").out
	ask := func() string {
		cmd := exec.Command("sh", "-c", shell+"curl --disable -sS --max-time 60 https://management.azure.com/healthz")
		cmd.Env = s.shellEnv()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if got := ask(); got != "ok\n" {
		t.Fatalf("%q", got)
	}
	s.kill()
	s.up()
	if got := ask(); got != "ok\n" {
		t.Fatalf("after a kill: %q", got)
	}
}

// TestEnvInAShell: a shell evaluates what env prints, its programs reach the server, and unset takes it all back.
func TestEnvInAShell(t *testing.T) {
	need(t, "sh")
	need(t, "python3")
	s := shared(t)
	script := `set -e
env | sort | grep -v '^_=' > before
eval "$(` + binary + ` env --config-file)"
python3 - <<'END'
import json, os, ssl, urllib.request
cloud = json.load(urllib.request.urlopen(os.environ["ARM_CLOUD_METADATA_URL"]))[0]
assert cloud["resourceManager"] in os.environ["ARM_CLOUD_METADATA_URL"] and cloud["name"] == os.environ["AZUREML_CURRENT_CLOUD"]
ask = urllib.request.Request(os.environ["IDENTITY_ENDPOINT"] + "?api-version=2019-08-01&resource=" + cloud["resourceManager"],
                             headers={"X-IDENTITY-HEADER": os.environ["IDENTITY_HEADER"], "Metadata": "true"})
token = json.load(urllib.request.urlopen(ask))["access_token"]
c = json.load(open("config.json"))
url = (cloud["resourceManager"] + "/subscriptions/" + c["subscription_id"] + "/resourceGroups/" + c["resource_group"]
       + "/providers/Microsoft.MachineLearningServices/workspaces/" + c["workspace_name"] + "?api-version=2024-04-01")
print(json.load(urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": "Bearer " + token})))["name"])
END
eval "$(` + binary + ` env --unset)"
env | sort | grep -v '^_=' > after
cmp before after
`
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = t.TempDir()
	cmd.Env = s.shellEnv("AZURE_CLIENT_ID=mine", "AZURE_CLIENT_SECRET=it's $mine", "PWD="+cmd.Dir)
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "default\n" {
		t.Errorf("%v: %s", err, out)
	}
	if r := s.inShell("env", "--intercept"); r.code != 2 || !strings.Contains(r.err, "portico serve --intercept") {
		t.Errorf("a server that does not intercept: exit %d, %s", r.code, r.err)
	}
}

// TestEnvCheck: each client that is here is seen to reach the server, in both modes.
func TestEnvCheck(t *testing.T) {
	need(t, "python3")
	need(t, "curl")
	s := start(t, "--intercept", "127.0.0.1:0")
	for _, mode := range []string{"--no-intercept", "--intercept"} {
		r := s.inShell("env", mode, "--check", "--format", "json")
		var all []struct{ Client, Version, State, Detail string }
		if err := json.Unmarshal([]byte(r.out), &all); err != nil || r.code != 0 {
			t.Fatalf("%s: exit %d, %v: %s%s", mode, r.code, err, r.out, r.err)
		}
		seen := map[string]string{}
		for _, c := range all {
			seen[c.Client] = c.State
		}
		for _, name := range []string{"curl", "go", "python"} {
			if seen[name] != "reached" {
				t.Errorf("%s: %s %s", mode, name, r.out)
			}
		}
		for _, name := range []string{"requests", "azure-identity", "azure-ai-ml"} {
			if seen[name] != "reached" && seen[name] != "missing" {
				t.Errorf("%s: %s %s", mode, name, r.out)
			}
		}
	}
	// A check that cannot fail proves nothing: with an answer from elsewhere it does.
	cmd := exec.Command(binary, "env", "--check", "--keep-credentials")
	cmd.Env = s.shellEnv("IDENTITY_ENDPOINT="+s.ready.ManagementURL+"/healthz", "IDENTITY_HEADER=x")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "failed") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestRunIsItsCommand: signals and exit codes of the command are those of `portico run`.
func TestRunIsItsCommand(t *testing.T) {
	need(t, "sh")
	s := shared(t)
	if r := s.inShell("run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"); r.code != 7 || r.out != "out\n" ||
		r.err != "err\n" {
		t.Errorf("%+v", r)
	}
	if r := s.inShell("run", "sh", "-c", `test -n "$IDENTITY_HEADER" && echo "$1"`, "sh", "--format"); r.code != 0 ||
		r.out != "--format\n" {
		t.Errorf("%+v", r)
	}
	if r := s.inShell("run", "--", "no-such-command-anywhere"); r.code != 127 {
		t.Errorf("%+v", r)
	}
	mark := filepath.Join(t.TempDir(), "up")
	cmd := exec.Command(binary, "run", "--", "sh", "-c",
		`trap 'exit 9' TERM; echo $$ > "$0.new"; mv "$0.new" "$0"; while :; do sleep 0.05; done`, mark)
	cmd.Env = s.shellEnv()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	s.eventually("the command runs", func() bool { _, err := os.Stat(mark); return err == nil })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(harness.WaitTimeout):
		t.Fatal("the command does not end")
	}
	if code := cmd.ProcessState.ExitCode(); code != 9 {
		t.Errorf("exit %d", code)
	}
}

// TestWorkersInheritNothing: whatever shell a server is started from, its workers see nothing of it.
func TestWorkersInheritNothing(t *testing.T) {
	const canary = "from-the-shell"
	ours := []string{"ARM_CLOUD_METADATA_URL", "AZUREML_CURRENT_CLOUD", "REGISTRY_DISCOVERY_ENDPOINT_URL",
		"AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME", "AZURE_CLIENT_SECRET",
		"PORTICO_ENV", "PORTICO_ENV_PREVIOUS", "PORTICO_TOKEN"}
	for _, name := range ours {
		t.Setenv(name, canary)
	}
	// Building the environment may need these, so they keep values that work. They must not show either.
	t.Setenv("NO_PROXY", canary+",localhost")
	ours = append(ours, "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
		"SSL_CERT_FILE", "PORTICO_DATA_DIR")
	s := startAlone(t, "--intercept", "127.0.0.1:0")
	s.deploy("look", "blue", "import os\n\ndef init():\n    pass\n\ndef run(raw_data):\n    return dict(os.environ)\n", "")
	a := s.score("look", s.key("look"), `{}`)
	if a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	seen := a.json(t)
	if len(seen) == 0 {
		t.Fatal("the script sees no variables at all")
	}
	for _, name := range ours {
		if v, ok := seen[name]; ok {
			t.Errorf("a worker sees %s=%v", name, v)
		}
	}
	for name, v := range seen {
		if text, _ := v.(string); strings.Contains(text, canary) || strings.Contains(text, s.token) {
			t.Errorf("a worker sees something of the shell in %s", name)
		}
	}
}

// TestPassthroughIsAsked: other names pass only where the operator said so.
func TestPassthroughIsAsked(t *testing.T) {
	need(t, "curl")
	s := start(t, "--intercept", "127.0.0.1:0", "--intercept-passthrough")
	// The server's own scoring listener stands for a host on the outside: its certificate is not the proxy's.
	r := s.inShell("run", "--intercept", "--passthrough", "--", "curl", "--disable", "-sS", "--max-time", "60",
		"--noproxy", "", s.ready.ScoringURL+"/")
	if r.code != 0 || !strings.Contains(r.out, "ok") {
		t.Errorf("exit %d, %s%s", r.code, r.out, r.err)
	}
	strict := startAlone(t, "--intercept", "127.0.0.1:0")
	if r := strict.inShell("run", "--intercept", "--passthrough", "--", "true"); r.code != 2 || !strings.Contains(r.err,
		"--intercept-passthrough") {
		t.Errorf("exit %d, %s", r.code, r.err)
	}
}

// TestInterceptIsRefusedAtStart: what cannot be intercepted is said before anything is served.
func TestInterceptIsRefusedAtStart(t *testing.T) {
	for name, c := range map[string]struct {
		flags []string
		text  string
	}{
		"an address for everybody":      {[]string{"--intercept", "0.0.0.0:0"}, "not a loopback address"},
		"a location that is no label":   {[]string{"--intercept", "127.0.0.1:0", "--location", "a.b"}, "cannot be part of a host name"},
		"an address that is none":       {[]string{"--intercept", "8442"}, "missing port"},
		"a passthrough that is no flag": {[]string{"--intercept", "127.0.0.1:0", "--intercept-passthrough=maybe"}, "maybe"},
	} {
		args := append([]string{"serve", "--data-dir", filepath.Join(t.TempDir(), "data"),
			"--management", "127.0.0.1:0", "--scoring", "127.0.0.1:0"}, c.flags...)
		out, err := exec.Command(binary, args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.text) {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}
