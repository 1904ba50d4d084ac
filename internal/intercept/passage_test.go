package intercept

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func passing(c *Config) { c.Passthrough = true }

// far is a TLS server with an authority of its own, which the proxy knows nothing of.
func far(t *testing.T) *httptest.Server {
	t.Helper()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client is gone
		}
		fmt.Fprintf(w, "far %s %x", r.Host, sha256.Sum256(body))
	}))
	t.Cleanup(srv.Close)
	return srv
}

// through is a client of srv that goes through the proxy.
func (s *site) through(srv *httptest.Server) *http.Client {
	transport := srv.Client().Transport.(*http.Transport).Clone()
	transport.Proxy = http.ProxyURL(s.url)
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: waitTimeout}
}

// TestPassthrough: another name's own certificate arrives at the client, so nothing was opened on the way, and our
// names are still ours.
func TestPassthrough(t *testing.T) {
	s, srv := newSite(t, passing), far(t)
	c := s.through(srv)
	body := bytes.Repeat([]byte("0123456789"), 1<<18)
	resp, err := c.Post(srv.URL+"/x", "text/plain", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if want := fmt.Sprintf("far %s %x", srv.Listener.Addr(), sha256.Sum256(body)); err != nil || string(text) != want {
		t.Errorf("%q, %v", text, err)
	}
	if !resp.TLS.PeerCertificates[0].Equal(srv.Certificate()) {
		t.Error("the certificate is not the far server's own")
	}
	if status, text := get(t, s.client(), "https://management.azure.com/x"); status != 200 || !strings.HasPrefix(text,
		"management") {
		t.Errorf("%d %s", status, text)
	}
	for authority, want := range map[string]string{"management.azure.com:8443": "403",
		"127.0.0.1:1": "502 cannot reach 127.0.0.1:1"} {
		if _, _, resp := s.connect(authority); !strings.HasPrefix(resp.Status, want) {
			t.Errorf("%s: %s", authority, resp.Status)
		}
	}
}

// TestHalfClose: the end of one direction is passed on, and the other goes on.
func TestHalfClose(t *testing.T) {
	s, l := newSite(t, passing), listen(t)
	t.Cleanup(func() { _ = l.Close() })
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		text, err := io.ReadAll(c) // until the client has ended its side
		if err == nil {
			_, err = fmt.Fprintf(c, "got %s", text)
		}
		_ = c.Close()
		served <- err
	}()
	c, r, resp := s.connect(l.Addr().String())
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	fmt.Fprint(c, "all of it")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(r); err != nil || string(text) != "got all of it" {
		t.Errorf("%q, %v", text, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestIdlePassageEnds: a tunnel on which nothing moves is closed on both sides.
func TestIdlePassageEnds(t *testing.T) {
	near, nearEnd := net.Pipe()
	far, farEnd := net.Pipe()
	p := &passage{near: nearEnd, far: farEnd, early: [2]io.Reader{nearEnd, farEnd}, idle: 20 * time.Millisecond}
	done := make(chan struct{})
	go func() { p.carry(); close(done) }()
	select {
	case <-done:
	case <-time.After(waitTimeout):
		t.Fatal("an idle tunnel stays")
	}
	for _, c := range []net.Conn{near, far} {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a side is still open")
		}
	}
}

// TestTrafficOneWayKeepsBothOpen: while the far side sends, the near side may be silent for longer than the bound.
func TestTrafficOneWayKeepsBothOpen(t *testing.T) {
	near, nearEnd := net.Pipe()
	far, farEnd := net.Pipe()
	const idle = 400 * time.Millisecond
	p := &passage{near: nearEnd, far: farEnd, early: [2]io.Reader{nearEnd, farEnd}, idle: idle}
	done := make(chan struct{})
	go func() { p.carry(); close(done) }()
	for begin := time.Now(); time.Since(begin) < 2*idle; time.Sleep(idle / 20) {
		go func() { _, _ = far.Write([]byte("x")) }() // the read below sees whether it arrived
		if _, err := io.ReadFull(near, make([]byte, 1)); err != nil {
			t.Fatalf("after %s: %v", time.Since(begin), err)
		}
	}
	_ = near.Close()
	<-done
}

// TestCloseCutsPassages: closing the proxy does not wait for tunnels of others.
func TestCloseCutsPassages(t *testing.T) {
	s, l := newSite(t, passing), listen(t)
	t.Cleanup(func() { _ = l.Close() })
	go func() { // takes connections and says nothing
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	c, r, resp := s.connect(l.Addr().String())
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	s.end()
	if _, err := r.ReadByte(); err == nil {
		t.Error("the tunnel is still open")
	}
	_ = c.Close()
	if n := len(s.proxy.places); n != 0 {
		t.Errorf("%d tunnels are counted as open", n)
	}
}

// proxyBefore is a proxy of somebody else that leads to the outside, as companies have them.
func proxyBefore(t *testing.T, answer func(r *http.Request) int) (*url.URL, *atomic.Int64) {
	t.Helper()
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if status := answer(r); status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
		far, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer far.Close()
		near, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer near.Close()
		_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(far, rw) }()
		_, _ = io.Copy(near, far)
	}))
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u, &asked
}

// TestProxyOfTheServer: where the server itself needs a proxy to reach the outside, tunnels go through that one, with
// its credential.
func TestProxyOfTheServer(t *testing.T) {
	via, asked := proxyBefore(t, func(r *http.Request) int {
		if user, password, _ := basic(r.Header.Get("Proxy-Authorization")); r.Method != http.MethodConnect || user != "me" ||
			password != "pass" {
			return http.StatusProxyAuthRequired
		}
		return http.StatusOK
	})
	via.User = url.UserPassword("me", "pass")
	srv := far(t)
	s := newSite(t, func(c *Config) { passing(c); c.Upstream = http.ProxyURL(via) })
	if status, text := get(t, s.through(srv), srv.URL); status != 200 || !strings.HasPrefix(text, "far") {
		t.Errorf("%d %s", status, text)
	}
	if asked.Load() != 1 {
		t.Errorf("the proxy was asked %d times", asked.Load())
	}
	via.User = url.UserPassword("me", "wrong")
	if _, _, resp := s.connect(srv.Listener.Addr().String()); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("refused by the proxy: %s", resp.Status)
	}
	if status, _ := get(t, s.client(), "https://management.azure.com/x"); status != 200 || asked.Load() != 2 {
		t.Errorf("our own name: %d, and the proxy was asked %d times", status, asked.Load())
	}
}

func basic(field string) (user, password string, ok bool) {
	return (&http.Request{Header: http.Header{"Authorization": {field}}}).BasicAuth()
}

// TestItIsNotItsOwnProxy: a server that was started in a shell whose proxy it is connects by itself.
func TestItIsNotItsOwnProxy(t *testing.T) {
	srv := far(t)
	var own atomic.Pointer[url.URL]
	s := newSite(t, func(c *Config) {
		passing(c)
		c.Upstream = func(*http.Request) (*url.URL, error) { return own.Load(), nil }
	})
	for _, host := range []string{s.url.Host, "localhost:" + s.url.Port()} {
		own.Store(&url.URL{Scheme: "http", Host: host})
		if status, text := get(t, s.through(srv), srv.URL); status != 200 || !strings.HasPrefix(text, "far") {
			t.Errorf("%d %s", status, text)
		}
	}
	own.Store(&url.URL{Scheme: "socks5", Host: "127.0.0.1:1"})
	if _, _, resp := s.connect("127.0.0.1:1"); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("a kind of proxy that is not supported: %s", resp.Status)
	}
}

// TestBytesAreUntouched: what is not TLS at all passes too, both ways.
func TestBytesAreUntouched(t *testing.T) {
	s, l := newSite(t, passing), listen(t)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(c, c)
		_ = c.Close()
	}()
	c, r, resp := s.connect(l.Addr().String())
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	text := bytes.Repeat([]byte{0, 1, 2, 0xff, '\r', '\n'}, 50_000)
	go func() { _, _ = c.Write(text) }() // the read below sees whether it arrived
	got := make([]byte, len(text))
	if _, err := io.ReadFull(bufio.NewReader(r), got); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%v, equal %v", err, bytes.Equal(got, text))
	}
	if _, err := tls.Dial("tcp", s.url.Host, &tls.Config{InsecureSkipVerify: true}); err == nil {
		t.Error("the proxy's own listener speaks TLS")
	}
}
