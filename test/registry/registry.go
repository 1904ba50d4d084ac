package registry

import (
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"portico/internal/testkit"
	"portico/test/harness"
)

// The account of a registry that asks for one.
const (
	User     = "portico"
	Password = "s3cret-Of-The-Registry"
	// passwordLine is the account as htpasswd writes it.
	passwordLine = User + ":$2b$04$EQBG22MaaEmiPitzXOeP1OQuD41j0feVl27Ft2qLtFm.PQoXsdGsG\n"
)

// program is the registry, as Debian's package docker-registry installs it.
const program = "docker-registry"

// Fault answers a request, itself or by next, which is the registry.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Registry is one that runs.
type Registry struct {
	Address string // host:port, where it speaks plain HTTP

	next  http.Handler
	mu    sync.Mutex
	fault Fault
	asked []string
}

// Start starts a registry, which ends with the test. It skips where the program is not. One that is closed asks for User and
// Password.
func Start(t *testing.T, closed bool) *Registry {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skip("docker-registry is not installed")
	}
	// The path of a socket is short.
	dir, err := os.MkdirTemp("", "portico-registry-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "socket")
	config := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %s/content}}
http: {net: unix, addr: %s, relativeurls: true, secret: of-this-test}
`, dir, socket)
	if closed {
		config += "auth: {htpasswd: {realm: portico, path: " + dir + "/passwords}}\n"
	}
	files := map[string]string{"passwords": passwordLine, "config.yml": config}
	harness.Files(t, dir, files)

	var log testkit.Buffer
	cmd := exec.Command(path, "serve", filepath.Join(dir, "config.yml")) //nolint:noctx // the cleanup ends it
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	for deadline := time.Now().Add(harness.WaitTimeout); ; time.Sleep(5 * time.Millisecond) {
		conn, err := dial(t.Context(), "", "")
		if err == nil {
			conn.Close()
			break
		}
		select {
		case <-ended:
			t.Fatalf("the registry ended\n%s", &log)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the registry does not listen: %v\n%s", err, &log)
		}
	}
	transport := &http.Transport{DialContext: dial}
	t.Cleanup(transport.CloseIdleConnections)
	r := &Registry{next: &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", "registry", p.In.Host
		},
	}}
	front := httptest.NewServer(r)
	t.Cleanup(front.Close)
	r.Address = front.Listener.Addr().String()
	return r
}

// TLS gives another address of the registry, where it speaks TLS, and the certificate that it shows there.
func (r *Registry) TLS(t *testing.T) (address string, certificate []byte) {
	t.Helper()
	front := httptest.NewTLSServer(r)
	t.Cleanup(front.Close)
	return front.Listener.Addr().String(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
}

// Interfere lets a fault answer from now on; nil: the registry itself.
func (r *Registry) Interfere(fault Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = fault
}

// Asked gives the requests since the last call that begin with a prefix, such as "GET /v2/words/blobs/", and forgets all.
func (r *Registry) Asked(prefix string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, a := range r.asked {
		if strings.HasPrefix(a, prefix) {
			out = append(out, a)
		}
	}
	r.asked = nil
	return out
}

// ServeHTTP is the registry as its clients see it.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.asked = append(r.asked, req.Method+" "+req.URL.Path)
	fault := r.fault
	r.mu.Unlock()
	if fault == nil {
		r.next.ServeHTTP(w, req)
		return
	}
	fault(w, req, r.next)
}

// Trusted writes a registries.conf by which podman speaks plain HTTP to some addresses, and gives its path.
func Trusted(t *testing.T, addresses ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "registries.conf")
	var text strings.Builder
	for _, a := range addresses {
		fmt.Fprintf(&text, "[[registry]]\nlocation = %q\ninsecure = true\n", a)
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
