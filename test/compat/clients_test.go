package compat

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"portico/test/harness"
)

// script runs a program of test/compat/python, which must succeed and say nothing.
func (s *server) script(clients string, m mode, name string, args ...string) {
	s.t.Helper()
	o := s.run(client{name: name, dir: s.t.TempDir(), env: s.environment(m),
		argv: append([]string{harness.Python(s.t, clients), filepath.Join(root, "test/compat/python", name)}, args...)})
	if o.code != 0 {
		s.t.Fatalf("exit %d\n%s\n%s", o.code, o.out, o.err)
	}
	quiet(s.t, o)
}

// TestManagementClients drives the clients that only interception can lead here.
func TestManagementClients(t *testing.T) {
	t.Parallel()
	onlyAll(t)
	for _, clients := range []string{"newest", "older"} {
		t.Run(clients, func(t *testing.T) {
			start(t, "--location", "eastus").script(clients, intercepted, "management.py")
		})
	}
}

// TestInstanceIdentity has azure-identity inside a scoring script, which its environment brings.
func TestInstanceIdentity(t *testing.T) {
	t.Parallel()
	onlyAll(t)
	s := start(t, "--location", "eastus")
	s.script("newest", redirected, "instance.py", s.ready.ManagementURL)
}

// TestMLflowTab deploys a folder that MLflow saved, as the page's first tab does.
func TestMLflowTab(t *testing.T) {
	t.Parallel()
	onlyAll(t)
	trainer := exec.Command("make", "-s", "-C", root, ".build/venv/.done")
	if out, err := trainer.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	models := t.TempDir()
	train := exec.Command(filepath.Join(root, ".build/venv/bin/python"),
		filepath.Join(root, "test/e2e/testdata/mlflow/train.py"), models, "sklearn")
	train.Dir = models
	train.Env = append(cleanEnvironment(), "MLFLOW_DISABLE_TELEMETRY=true", "MLFLOW_TRACKING_URI=file://"+models)
	if out, err := train.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	start(t, "--location", "eastus").script("newest", redirected, "mlflow_tab.py",
		filepath.Join(root, "docs/compatibility.md"), filepath.Join(models, "sklearn"))
}

// TestCustomServer deploys a server with its routes in the environment and its command in the deployment's properties.
func TestCustomServer(t *testing.T) {
	t.Parallel()
	onlyAll(t)
	start(t, "--location", "eastus").script("newest", redirected, "custom.py", filepath.Join(root, "examples/custom/src"))
}

// TestPassthrough downloads a package in a shell that is set up for interception, from whatever index this machine has.
func TestPassthrough(t *testing.T) {
	t.Parallel()
	onlyAll(t)
	argv := func(exe string) []string {
		return []string{exe, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--no-cache-dir", "six==1.17.0"}
	}
	exe := harness.Python(t, "newest")
	direct := exec.Command(argv(exe)[0], argv(exe)[1:]...)
	direct.Dir = t.TempDir()
	if out, err := direct.CombinedOutput(); err != nil {
		t.Skipf("no package index can be reached from here: %v %.300s", err, out)
	}
	s := start(t, "--location", "eastus", "--intercept-passthrough")
	env := s.environment(intercepted, "--passthrough")
	env["PIP_CERT"] = env["REQUESTS_CA_BUNDLE"] // what stands in this machine's own settings would go before the bundle
	dir := t.TempDir()
	// In the sandbox nothing but the proxy leads to the index.
	o := s.run(client{name: "pip", dir: dir, env: env, argv: argv(exe)})
	if found, err := filepath.Glob(filepath.Join(dir, "six-*")); o.code != 0 || err != nil || len(found) != 1 {
		t.Errorf("exit %d, %v %v\n%s\n%s", o.code, found, err, o.out, o.err)
	}
	// Without passthrough the same is refused, and says by whom.
	s = start(t, "--location", "eastus")
	env = s.environment(intercepted)
	o = s.run(client{name: "pip", dir: t.TempDir(), env: env, argv: append(argv(exe), "--retries", "1")})
	if o.code == 0 || !strings.Contains(o.out+o.err, "403") {
		t.Errorf("exit %d\n%s", o.code, o.err)
	}
}
