package gateway_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	mrand "math/rand"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"portico/internal/gateway"
	"portico/internal/inference"
	"portico/internal/testkit"
)

// TestAttacks sends raw bytes. Each case says which answers come before the connection closes. What is acceptable HTTP/1.1 is
// http1's to decide and to prove; here is what becomes of it: the scoring error's shape, credentials, and bodies that fail
// while the gateway reads them.
func TestAttacks(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{MaxHeaderBytes: 16 << 10})
	s.instance("i1", func(ctx context.Context, call *inference.Call) (*inference.Answer, error) {
		if string(call.Body) != "abc" && string(call.Body) != "abcde" && len(call.Body) > 0 {
			t.Errorf("an instance got %q", call.Body)
		}
		return echo(ctx, call)
	})
	s.set(blue("i1"))
	auth := "Host: x\r\nAuthorization: Bearer " + primaryKey + "\r\n"
	post := "POST " + score + " HTTP/1.1\r\n" + auth
	good := post + "Content-Length: 3\r\n\r\nabc"
	chunked := post + "Transfer-Encoding: chunked\r\n\r\n"
	smuggled := "GET /endpoints/other/score HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, c := range map[string]struct {
		bytes string
		want  []int
	}{
		"good":                     {good, []int{200}},
		"two in a row":             {good + good, []int{200, 200}},
		"chunked":                  {chunked + "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n" + good, []int{200, 200}},
		"chunked with trailer":     {chunked + "3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n" + good, []int{200, 200}},
		"get without body":         {"GET " + score + " HTTP/1.1\r\n" + auth + "\r\n" + good, []int{200, 200}},
		"length and chunked":       {post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, []int{400}},
		"good, then attack":        {good + post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []int{200, 400}},
		"two credentials":          {"POST " + score + " HTTP/1.1\r\n" + auth + "Authorization: Bearer other\r\nContent-Length: 0\r\n\r\n", []int{401}},
		"chunk size missing":       {chunked + "\r\nabc\r\n0\r\n\r\n", []int{400}},
		"chunk longer than said":   {chunked + "3\r\nabcd\r\n0\r\n\r\n" + good, []int{400}},
		"trailer without colon":    {chunked + "3\r\nabc\r\n0\r\nGET / HTTP/1.1\r\n\r\n", []int{400}},
		"huge field":               {post + "X-A: " + strings.Repeat("a", 40<<10) + "\r\n\r\n", []int{431}},
		"unknown expectation":      {post + "Expect: the-unexpected\r\nContent-Length: 3\r\n\r\nabc", []int{417}},
		"body that ends too early": {post + "Content-Length: 10\r\n\r\nabc", nil},
	} {
		for _, piece := range []int{1 << 30, 7, 1} {
			if len(c.bytes) > 10000 && piece < 1000 {
				continue
			}
			var got []int
			for _, a := range testkit.Talk(t, s.addr, c.bytes, piece) {
				got = append(got, a.Status)
				if a.Status >= 400 {
					if _, message := (reply{a.Status, a.Header, a.Body}).errorCode(t); message == "" || a.Close == (a.Status == 401) { // which is no doubt about where it ends
						t.Errorf("%s: %+v", name, a)
					}
				}
			}
			if !accepted(got, c.want, piece < 1000) {
				t.Errorf("%s in pieces of %d: answers %v, want %v", name, piece, got, c.want)
			}
		}
	}
	if r := s.do("POST", score, "abc"); r.status != 200 || r.body != "abc" {
		t.Errorf("after the attacks: %d %q", r.status, r.body)
	}
	testkit.Until(t, "connections closed", func() bool {
		s.client.CloseIdleConnections()
		s.records.mu.Lock()
		defer s.records.mu.Unlock()
		return s.records.open == 0
	})
}

// accepted compares answers. A final error may be missing where bytes that are still on their way reset the connection (lossy).
func accepted(got, want []int, lossy bool) bool {
	if n := len(want); lossy && n > 0 && want[n-1] >= 400 && len(got) == n-1 {
		want = want[:n-1]
	}
	return slices.Equal(got, want)
}

// TestGarbage throws 10 MB of random bytes at a plain and at a TLS listener.
func TestGarbage(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	s.instance("i1", echo)
	s.set(blue("i1"))
	config, pool := certificate(t)
	secure := testkit.Serve(t, gateway.NewServer(s.gateway, gateway.ServerConfig{}, slog.New(slog.DiscardHandler)), config)
	random := mrand.New(mrand.NewSource(1))
	garbage := make([]byte, 10<<20)
	random.Read(garbage)
	for _, addr := range []string{s.addr, secure} {
		for at := 0; at < len(garbage); at += 1 << 20 {
			conn := testkit.Dial(t, addr)
			conn.Write(garbage[at : at+1<<20]) // it fails when the server closes, which is right
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	for range 2 {
		req, err := http.NewRequest(http.MethodPost, "https://"+secure+score, strings.NewReader("over TLS"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+primaryKey)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || string(body) != "over TLS" || resp.ProtoMajor != 1 {
			t.Errorf("%d %q %s %v", resp.StatusCode, body, resp.Proto, err)
		}
	}
}

// certificate makes a server certificate for the loopback address.
func certificate(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
}

// TestServerConfig: the bounds of connections are those of the configuration. What they bound is http1's to prove.
func TestServerConfig(t *testing.T) {
	const short = 50 * time.Millisecond
	request := "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, cfg := range map[string]gateway.ServerConfig{"": {HeaderTimeout: short}, request: {IdleTimeout: short}} {
		s := newSite(t, gateway.Config{}, cfg)
		s.set()
		conn := testkit.Dial(t, s.addr)
		io.WriteString(conn, name)
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("after %q: %v", name, err)
		}
	}
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{MaxConnections: 2})
	s.set()
	one, two, three := testkit.Dial(t, s.addr), testkit.Dial(t, s.addr), testkit.Dial(t, s.addr)
	for _, c := range []net.Conn{one, two} {
		io.WriteString(c, request)
		if a := testkit.ReadAnswer(bufio.NewReader(c), "GET"); a.Status != 200 {
			t.Fatalf("got %+v", a)
		}
	}
	io.WriteString(three, request)
	three.SetReadDeadline(time.Now().Add(short))
	if n, err := three.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Fatal("a third connection was served")
	}
	one.Close()
	three.SetReadDeadline(time.Now().Add(testkit.Limit))
	if a := testkit.ReadAnswer(bufio.NewReader(three), "GET"); a.Status != 200 {
		t.Errorf("got %+v", a)
	}
}

// TestUnreadBody: a request that is refused for the size of its body is answered before that comes, and hung up on.
func TestUnreadBody(t *testing.T) {
	s := newSite(t, gateway.Config{MaxRequestBytes: 1000}, gateway.ServerConfig{})
	s.instance("i1", echo)
	s.set(blue("i1"))
	conn := testkit.Dial(t, s.addr)
	io.WriteString(conn, "POST "+score+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+primaryKey+"\r\nContent-Length: 2000\r\n\r\n")
	r := bufio.NewReader(conn)
	if a := testkit.ReadAnswer(r, "POST"); a.Status != 413 || !a.Close {
		t.Errorf("got %+v", a)
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is still open: %v", err)
	}
}
