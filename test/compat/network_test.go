package compat

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
)

// TestSandbox proves the instrument that every other test here relies on: a client reaches the server's ports, and
// whatever else it looks for is counted.
func TestSandbox(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("hello")) }))
	defer web.Close()
	address := web.Listener.Addr().String()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, script string
		out          string
		counted      bool
	}{
		{"our own port", "curl -sS http://127.0.0.1:" + port, "hello", false},
		{"a public address", "curl -sS --max-time 5 https://203.0.113.7/ || true", "", true},
		{"a public IPv6 address", "curl -sS --max-time 5 -g 'https://[2001:db8::7]/' || true", "", true},
		{"a name", "curl -sS --max-time 5 https://management.azure.com/ || true", "", true},
	} {
		t.Run(c.what, func(t *testing.T) {
			cmd := exec.Command("bash", "-c", c.script)
			cmd.Env = cleanEnvironment()
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			report, ok := sandboxed(t, cmd, []string{address})
			if !ok {
				t.Skip("no network namespaces on this machine")
			}
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v: %s", err, errs.String())
			}
			r := report()
			if counted := r != (sandboxReport{}); counted != c.counted || strings.TrimSpace(out.String()) != c.out {
				t.Errorf("%+v, output %q %s", r, out.String(), errs.String())
			}
		})
	}
}
