package compat

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// exchange is one request of a client with its answer.
type exchange struct {
	method, url   string
	header        http.Header
	body          string
	status        int
	answerHeader  http.Header
	answer        string
	order, closed int // when the request came and when its answer was whole
}

// tap is a proxy between a client and the server's own interception: it opens the client's TLS with an authority of its
// own, passes every request on as it came, and keeps a copy.
type tap struct {
	t        *testing.T
	listener net.Listener
	caFile   string // the tap's authority and nothing else
	ca       *x509.Certificate
	key      *ecdsa.PrivateKey
	forward  http.Handler

	mu        sync.Mutex
	leaves    map[string]*tls.Certificate
	exchanges []*exchange
	clock     int
	conns     map[net.Conn]bool
	wg        sync.WaitGroup
}

// startTap starts a tap in front of the server's interception.
func startTap(t *testing.T, s *server, bundle string) *tap {
	t.Helper()
	tp := &tap{t: t, leaves: map[string]*tls.Certificate{}, conns: map[net.Conn]bool{}}
	var err error
	if tp.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tap"}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: []byte{1}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &tp.key.PublicKey, tp.key)
	if err != nil {
		t.Fatal(err)
	}
	if tp.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	tp.caFile = filepath.Join(t.TempDir(), "tap.pem")
	doc := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(tp.caFile, doc, 0o600); err != nil {
		t.Fatal(err)
	}
	roots, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	proxy, err := url.Parse(s.ready.InterceptURL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: pool},
		DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	tp.forward = &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "https", r.In.Host
	}}
	if tp.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	tp.wg.Add(1)
	go tp.accept()
	t.Cleanup(tp.close)
	return tp
}

func (tp *tap) url() string { return "http://" + tp.listener.Addr().String() }

func (tp *tap) close() {
	tp.listener.Close()
	tp.mu.Lock()
	for c := range tp.conns {
		c.Close()
	}
	tp.mu.Unlock()
	tp.wg.Wait()
}

func (tp *tap) accept() {
	defer tp.wg.Done()
	for {
		c, err := tp.listener.Accept()
		if err != nil {
			return
		}
		tp.mu.Lock()
		tp.conns[c] = true
		tp.mu.Unlock()
		tp.wg.Add(1)
		go func() {
			defer tp.wg.Done()
			tp.serve(c)
			c.Close()
			tp.mu.Lock()
			delete(tp.conns, c)
			tp.mu.Unlock()
		}()
	}
}

// serve answers CONNECT and then the requests inside.
func (tp *tap) serve(c net.Conn) {
	head := make([]byte, 0, 512)
	for one := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, one[0]) {
		if _, err := c.Read(one); err != nil || len(head) > 8<<10 {
			return
		}
	}
	words := strings.Fields(string(head))
	if len(words) < 2 || words[0] != http.MethodConnect {
		fmt.Fprint(c, "HTTP/1.1 405 Method Not Allowed\r\n\r\n")
		return
	}
	host, _, err := net.SplitHostPort(words[1])
	if err != nil {
		return
	}
	fmt.Fprint(c, "HTTP/1.1 200 Connection Established\r\n\r\n")
	secure := tls.Server(c, &tls.Config{NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return tp.leaf(host) }})
	one := &oneConn{conn: secure, done: make(chan struct{})}
	_ = (&http.Server{Handler: http.HandlerFunc(tp.record)}).Serve(one) // it ends with its only connection
}

// oneConn is a listener of one connection; Accept fails after that connection was closed.
type oneConn struct {
	conn net.Conn
	once sync.Once
	done chan struct{}
}

type endingConn struct {
	net.Conn
	end func()
}

func (c endingConn) Close() error { defer c.end(); return c.Conn.Close() }

func (l *oneConn) Accept() (c net.Conn, err error) {
	if c, l.conn = l.conn, nil; c != nil {
		return endingConn{c, func() { l.once.Do(func() { close(l.done) }) }}, nil
	}
	<-l.done
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// leaf makes the certificate of a host.
func (tp *tap) leaf(host string) (*tls.Certificate, error) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if c := tp.leaves[host]; c != nil {
		return c, nil
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(int64(len(tp.leaves) + 2)), DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, tp.ca, &tp.key.PublicKey, tp.key)
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{Certificate: [][]byte{der, tp.ca.Raw}, PrivateKey: tp.key}
	tp.leaves[host] = c
	return c, nil
}

// record passes a request on and keeps both sides of it.
func (tp *tap) record(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client is gone
	}
	e := &exchange{method: r.Method, url: "https://" + r.Host + r.URL.RequestURI(), header: r.Header.Clone(),
		body: string(body)}
	tp.mu.Lock()
	tp.clock++
	e.order = tp.clock
	tp.exchanges = append(tp.exchanges, e)
	tp.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := &copying{ResponseWriter: w}
	tp.forward.ServeHTTP(answer, r)
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.clock++
	e.closed, e.status, e.answerHeader, e.answer = tp.clock, answer.status, w.Header().Clone(), answer.body.String()
}

// copying keeps what is answered.
type copying struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (c *copying) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *copying) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	c.body.Write(p)
	return c.ResponseWriter.Write(p)
}

// taken gives what was recorded so far.
func (tp *tap) taken() []exchange {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	var out []exchange
	for _, e := range tp.exchanges {
		out = append(out, *e)
	}
	return out
}
