package intercept

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestNames(t *testing.T) {
	n, err := NewNames("portico", "East US")
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]Door{
		"management.azure.com": Management, "login.microsoftonline.com": Management,
		"portico.blob.core.windows.net":      Management,
		"iris.eastus.inference.ml.azure.com": Scoring,
	} {
		if d, ok := n.Find(host); !ok || d != want {
			t.Errorf("%s: door %v, %v", host, d, ok)
		}
	}
	for _, host := range []string{
		"", "azure.com", "x.management.azure.com", "other.blob.core.windows.net", "blob.core.windows.net",
		"portico.queue.core.windows.net",
		"eastus.inference.ml.azure.com", ".eastus.inference.ml.azure.com", "a.b.eastus.inference.ml.azure.com",
		"iris.westus.inference.ml.azure.com", "management.azure.com.evil.example", "graph.microsoft.com",
	} {
		if _, ok := n.Find(host); ok {
			t.Errorf("%s is taken for ours", host)
		}
	}
	for _, bad := range [][2]string{{"Portico", "local"}, {"po", "local"}, {"portico", ""}, {"portico", "a.b"},
		{"portico", "ö"}, {"portico", "-x"}} {
		if _, err := NewNames(bad[0], bad[1]); err == nil {
			t.Errorf("account %q and location %q are accepted", bad[0], bad[1])
		}
	}
}

// TestNamesAreCertified: for each name that is found a certificate can be had, so no client that is let in is then
// shown a wrong one.
func TestNamesAreCertified(t *testing.T) {
	s := newSite(t, nil)
	rapid.Check(t, func(t *rapid.T) {
		host := rapid.OneOf(rapid.SampledFrom([]string{"management.azure.com", "login.microsoftonline.com",
			"portico.blob.core.windows.net", "x.y"}),
			rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?(\.local)?\.inference\.ml\.azure\.com`)).Draw(t, "host")
		_, found := s.proxy.cfg.Names.Find(host)
		if _, err := s.proxy.cfg.Certificate(host); found != (err == nil) {
			t.Fatalf("%s: found %v, certificate %v", host, found, err)
		}
	})
}

// TestGoClient: a client that knows only the names reaches what stands behind each, over one connection per name.
func TestGoClient(t *testing.T) {
	s := newSite(t, nil)
	c := s.client()
	for target, want := range map[string]string{
		"https://management.azure.com/subscriptions":           "management GET management.azure.com/subscriptions 0",
		"https://login.microsoftonline.com/t/token":            "management GET login.microsoftonline.com/t/token 0",
		"https://portico.blob.core.windows.net/c/b":            "management GET portico.blob.core.windows.net/c/b 0",
		"https://iris.local.inference.ml.azure.com/score":      "scoring GET iris.local.inference.ml.azure.com/score 0",
		"https://iris.local.inference.ml.azure.com:443/score2": "scoring GET iris.local.inference.ml.azure.com/score2 0",
	} {
		for range 2 {
			if status, text := get(t, c, target); status != http.StatusOK || text != want {
				t.Errorf("%s: %d %q", target, status, text)
			}
		}
	}
	big := bytes.Repeat([]byte("x"), 5<<20)
	resp, err := c.Post("https://portico.blob.core.windows.net/c/big", "application/octet-stream", bytes.NewReader(big))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || !strings.HasSuffix(string(text), fmt.Sprint(len(big))) {
		t.Errorf("%q, %v", text, err)
	}
}

// TestPythonClient uses the standard library, which tells of a refusal only its reason.
func TestPythonClient(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not on this machine")
	}
	s := newSite(t, nil)
	script := `import urllib.request
print(urllib.request.urlopen("https://management.azure.com/subscriptions", timeout=30).read().decode())
try:
    urllib.request.urlopen("https://pypi.org/simple/", timeout=30)
except OSError as e:
    print(e)
`
	cmd := exec.Command(python, "-c", script)
	cmd.Env = []string{"HTTPS_PROXY=" + s.url.String(), "SSL_CERT_FILE=" + s.ca, "PATH=/usr/bin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := "management GET management.azure.com/subscriptions 0\n<urlopen error Tunnel connection failed: 403 Portico does not answer for pypi.org"
	if !strings.HasPrefix(string(out), want) {
		t.Errorf("%s", out)
	}
}

func TestCurlClient(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not on this machine")
	}
	s := newSite(t, nil)
	run := func(target string) (string, error) {
		cmd := exec.Command(curl, "--disable", "-sS", "--max-time", "30", "-d", "data", target)
		cmd.Env = []string{"HTTPS_PROXY=" + s.url.String(), "CURL_CA_BUNDLE=" + s.ca}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("https://iris.local.inference.ml.azure.com/score"); err != nil ||
		out != "scoring POST iris.local.inference.ml.azure.com/score 4" {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := run("https://example.com/"); err == nil || !strings.Contains(out, "403") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestRefusals: the status and the reason of everything that is no tunnel.
func TestRefusals(t *testing.T) {
	s := newSite(t, nil)
	for authority, want := range map[string]string{
		"pypi.org:443":                     "403 Portico does not answer for pypi.org and passes nothing through",
		"graph.microsoft.com:443":          "403 Portico does not answer for graph.microsoft.com",
		"x.blob.core.windows.net:443":      "403 Portico does not answer for x.blob.core.windows.net",
		"management.azure.com:8443":        "403 management.azure.com is answered on port 443 only",
		"management.azure.com":             "400 CONNECT needs HOST:PORT",
		"management.azure.com:https":       "400 ",
		"man%61gement.azure.com:443":       "400 ",
		"-bad-.example:443":                "400 CONNECT needs HOST:PORT",
		strings.Repeat("a.", 200) + ":443": "400 CONNECT needs HOST:PORT",
		"127.0.0.1:22":                     "403 Portico does not answer for 127.0.0.1",
		"[::1]:443":                        "403 Portico does not answer for ::1",
	} {
		_, _, resp := s.connect(authority)
		if !strings.HasPrefix(resp.Status, want) {
			t.Errorf("%s: %q, want %q", authority, resp.Status, want)
		}
	}
	if status, text := get(t, http.DefaultClient, s.url.String()); status != http.StatusMethodNotAllowed ||
		!strings.Contains(text, "HTTPS_PROXY") {
		t.Errorf("GET: %d %s", status, text)
	}
	resp, err := (&http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(s.url)}}).Get("http://pypi.org/simple/")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("plain HTTP through the proxy: %d", resp.StatusCode)
	}
	for authority := range map[string]bool{"MANAGEMENT.Azure.com:443": true, "management.azure.com.:443": true} {
		if _, _, resp := s.connect(authority); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", authority, resp.Status)
		}
	}
}

func TestHugeHeaderIsRefused(t *testing.T) {
	s := newSite(t, nil)
	c := s.dial()
	fmt.Fprintf(c, "CONNECT management.azure.com:443 HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 64<<10))
	if text, _ := io.ReadAll(c); !bytes.HasPrefix(text, []byte("HTTP/1.1 431")) {
		t.Errorf("%.80q", text)
	}
}

// TestOneTunnelOneName: neither TLS nor Host may ask for another name than the CONNECT did.
func TestOneTunnelOneName(t *testing.T) {
	s := newSite(t, nil)
	secure := func(name string) (*tls.Conn, error) {
		raw, _, resp := s.connect("management.azure.com:443")
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
		c := tls.Client(raw, &tls.Config{RootCAs: s.roots, ServerName: name})
		return c, c.Handshake()
	}
	if _, err := secure("iris.local.inference.ml.azure.com"); err == nil {
		t.Error("TLS may ask for another of our names")
	}
	for host, want := range map[string]int{"management.azure.com": 200, "Management.azure.com:443": 200,
		"login.microsoftonline.com": 421, "127.0.0.1": 421, "management.azure.com:80": 421} {
		c, err := secure("management.azure.com")
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequest(http.MethodGet, "https://management.azure.com/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		if err := req.Write(c); err != nil {
			t.Fatal(err)
		}
		head := make([]byte, len("HTTP/1.1 200"))
		if _, err := io.ReadFull(c, head); err != nil || string(head) != fmt.Sprintf("HTTP/1.1 %d", want) {
			t.Errorf("Host %s: %q, %v", host, head, err)
		}
	}
}

// TestEarlyBytes: a client may begin TLS without waiting for the answer to its CONNECT.
func TestEarlyBytes(t *testing.T) {
	s := newSite(t, nil)
	c := s.dial()
	early := &eager{Conn: c,
		head: []byte("CONNECT management.azure.com:443 HTTP/1.1\r\nHost: management.azure.com:443\r\n\r\n")}
	secure := tls.Client(early, &tls.Config{RootCAs: s.roots, ServerName: "management.azure.com"})
	if err := secure.Handshake(); err != nil {
		t.Fatal(err)
	}
}

// eager sends the CONNECT and the first bytes of TLS in one piece, and drops the answer's head.
type eager struct {
	net.Conn
	head []byte
	read bool
}

func (e *eager) Write(p []byte) (int, error) {
	if e.head == nil {
		return e.Conn.Write(p)
	}
	text := append(e.head, p...)
	e.head = nil
	_, err := e.Conn.Write(text)
	return len(p), err
}

func (e *eager) Read(p []byte) (int, error) {
	for tail := ""; !e.read; e.read = tail == "\r\n\r\n" {
		one := make([]byte, 1)
		if _, err := io.ReadFull(e.Conn, one); err != nil {
			return 0, err
		}
		if tail += string(one); len(tail) > 4 {
			tail = tail[1:]
		}
	}
	return e.Conn.Read(p)
}

// TestBoundOfTunnels: beyond the bound a CONNECT is told so, and an ended tunnel gives its place back.
func TestBoundOfTunnels(t *testing.T) {
	s := newSite(t, nil)
	for range cap(s.proxy.places) - 1 {
		s.proxy.places <- struct{}{}
	}
	first, _, resp := s.connect("management.azure.com:443")
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	if _, _, resp := s.connect("management.azure.com:443"); resp.StatusCode != http.StatusServiceUnavailable ||
		resp.Header.Get("Retry-After") != "" {
		t.Errorf("%s", resp.Status)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(waitTimeout); ; time.Sleep(time.Millisecond) {
		if _, _, resp := s.connect("management.azure.com:443"); resp.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the place of an ended tunnel is not given back")
		}
	}
}

func TestOnlyLoopback(t *testing.T) {
	for address, good := range map[string]bool{"127.0.0.1:0": true, "[::1]:8442": true, "localhost:8442": true,
		"127.9.9.9:1":  true,
		"0.0.0.0:8442": false, ":8442": false, "[::]:8442": false, "192.0.2.1:8442": false, "example.com:1": false,
		"127.0.0.1": false} {
		if err := CheckAddress(address); good != (err == nil) {
			t.Errorf("%s: %v", address, err)
		}
	}
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := New(Config{Logger: newSite(t, nil).proxy.cfg.Logger}).Serve(l); err == nil {
		t.Error("served to everybody")
	}
	if _, err := l.Accept(); err == nil {
		t.Error("the listener is still open")
	}
}

// TestManyAtOnce drives all doors at the same time, and leaves nothing behind.
func TestManyAtOnce(t *testing.T) {
	before := runtime.NumGoroutine()
	s := newSite(t, nil)
	var all sync.WaitGroup
	for n := range 24 {
		all.Go(func() {
			c := s.client()
			for k := range 8 {
				host, door := fmt.Sprintf("e%d-%d.local.inference.ml.azure.com", n, k), "scoring"
				if k%2 == 0 {
					host, door = "management.azure.com", "management"
				}
				resp, err := c.Get("https://" + host + "/x")
				if err != nil {
					t.Errorf("%s: %v", host, err)
					return
				}
				text, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || string(text) != door+" GET "+host+"/x 0" {
					t.Errorf("%s: %q, %v", host, text, err)
				}
			}
			c.CloseIdleConnections()
		})
	}
	all.Wait()
	s.end()
	for deadline := time.Now().Add(waitTimeout); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
		}
	}
	if n := len(s.proxy.places); n != 0 {
		t.Errorf("%d tunnels are counted as open", n)
	}
}
