package compat

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// goClient builds the tests of Azure's Go client, which are a module of their own.
func goClient(t *testing.T) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "client.test")
	cmd := exec.Command("go", "test", "-c", "-o", exe, ".")
	cmd.Dir = filepath.Join(root, "test/compat/go")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the Go client: %v\n%s", err, out)
	}
	return exe
}

func TestGoClient(t *testing.T) {
	t.Parallel()
	s := start(t, "--location", "eastus")
	o := s.run(client{name: "the Go client", dir: t.TempDir(), env: s.environment(intercepted),
		argv: []string{goClient(t), "-test.v", "-test.run", "^TestLifecycle$"}})
	if o.code != 0 {
		t.Errorf("exit %d\n%s\n%s", o.code, o.out, o.err)
	}
	quiet(t, o)
}
