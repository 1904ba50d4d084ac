package intercept

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"portico/internal/vault"
)

const waitTimeout = 90 * time.Second // of every wait; reached only by a fault

// site is a proxy with a server behind each door, which answers with its door and what it was asked.
type site struct {
	t     *testing.T
	proxy *Proxy
	url   *url.URL
	roots *x509.CertPool
	ca    string

	servers []*http.Server
	running sync.WaitGroup
	once    sync.Once
}

func newSite(t *testing.T, change func(*Config)) *site {
	t.Helper()
	dir := t.TempDir()
	v, err := vault.OpenOrCreate(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	names, err := NewNames("portico", "local")
	if err != nil {
		t.Fatal(err)
	}
	authority, err := vault.OpenInterceptor(filepath.Join(dir, "pki"), v, names.Certified(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Names: names, Logger: slog.New(slog.DiscardHandler),
		Certificate: func(host string) (*tls.Certificate, error) { return authority.Certificate(host, time.Now()) }}
	if change != nil {
		change(&cfg)
	}
	s := &site{t: t, proxy: New(cfg), roots: x509.NewCertPool(), ca: authority.CAFile()}
	text, err := os.ReadFile(s.ca)
	if err != nil {
		t.Fatal(err)
	}
	s.roots.AppendCertsFromPEM(text)
	for door, name := range map[Door]string{Management: "management", Scoring: "scoring"} {
		srv := &http.Server{ConnContext: ConnContext, ReadHeaderTimeout: time.Minute, Handler: OneHost(answering(name)),
			ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
		s.servers = append(s.servers, srv)
		s.start(func() error { return srv.Serve(tls.NewListener(s.proxy.Listener(door), s.proxy.TLS())) })
	}
	l := listen(t)
	s.url = &url.URL{Scheme: "http", Host: l.Addr().String()}
	s.start(func() error { return s.proxy.Serve(l) })
	t.Cleanup(s.end)
	return s
}

func (s *site) start(serve func() error) {
	s.running.Go(func() {
		if err := serve(); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.t.Errorf("serve: %v", err)
		}
	})
}

// end stops everything and waits for it.
func (s *site) end() {
	s.once.Do(func() {
		if err := s.proxy.Close(); err != nil {
			s.t.Errorf("close: %v", err)
		}
		for _, srv := range s.servers {
			if err := srv.Close(); err != nil {
				s.t.Errorf("close: %v", err)
			}
		}
		s.running.Wait()
	})
}

func answering(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client is gone
		}
		fmt.Fprintf(w, "%s %s %s%s %d", name, r.Method, r.Host, r.URL.Path, len(body))
	})
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// client is a Go program's client with HTTPS_PROXY set.
func (s *site) client() *http.Client {
	transport := &http.Transport{Proxy: http.ProxyURL(s.url), TLSClientConfig: &tls.Config{RootCAs: s.roots}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: waitTimeout}
}

// dial opens a connection to the proxy.
func (s *site) dial() net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.url.Host)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// connect sends a CONNECT and gives the answer with the connection after it.
func (s *site) connect(authority string) (net.Conn, *bufio.Reader, *http.Response) {
	s.t.Helper()
	c := s.dial()
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		s.t.Fatalf("CONNECT %s: %v", authority, err)
	}
	return c, r, resp
}

func get(t *testing.T, c *http.Client, target string) (int, string) {
	t.Helper()
	resp, err := c.Get(target)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	return resp.StatusCode, string(text)
}
