package testkit

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// Server is what Serve needs of one.
type Server interface {
	Serve(l net.Listener, tlsConfig *tls.Config) error
	Drain(ctx context.Context) error
}

// Serve puts a server behind a listener of its own until the test ends, and gives the address.
func Serve(t testing.TB, s Server, tlsConfig *tls.Config) (addr string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l, tlsConfig) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Limit)
		defer cancel()
		if err := s.Drain(ctx); err != nil {
			t.Errorf("drain: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

// Dial opens a raw connection that a test cannot hang on, until the test ends.
func Dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(Limit)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// Answer is one that was read whole.
type Answer struct {
	Status int // 0: the connection was closed without an answer; -1: the answer was not whole
	Header http.Header
	Body   string
	Close  bool // it says that the connection ends
}

// ReadAnswer reads the answer to a request with this method.
func ReadAnswer(r *bufio.Reader, method string) Answer {
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return Answer{}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return Answer{Status: -1}
	}
	return Answer{resp.StatusCode, resp.Header, string(body), resp.Close}
}

// Talk sends bytes in pieces, ends its side, and gives all answers.
func Talk(t testing.TB, addr, text string, piece int) []Answer {
	t.Helper()
	conn := Dial(t, addr)
	defer func() { _ = conn.Close() }()
	go func() {
		for len(text) > 0 {
			n := min(piece, len(text))
			if _, err := conn.Write([]byte(text[:n])); err != nil {
				return // the server has closed: its answer is what counts
			}
			text = text[n:]
		}
		_ = conn.CloseWrite() // likewise
	}()
	var all []Answer
	for r := bufio.NewReader(conn); ; {
		a := ReadAnswer(r, http.MethodGet)
		if a.Status == 0 {
			return all
		}
		all = append(all, a)
	}
}
