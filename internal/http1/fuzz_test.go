package http1_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"portico/internal/http1"
)

// seen is a request as far as it matters who reads it.
type seen struct{ method, host, path, query, body string }

// FuzzRequests: what is accepted is read by net/http as the same requests. The other way round net/http accepts more (a lone
// LF, folded lines, lengths beside codings, ...), which is why it does not read for us. Of what both know as a request three
// things are left to others here: a path with a broken escape, which net/http refuses and the gateway does when it cleans the
// path; the characters of a host, which net/http's server checks and its reader does not; and CONNECT, which is refused.
func FuzzRequests(f *testing.F) {
	for _, c := range attacks() {
		if len(c.bytes) < 4096 {
			f.Add([]byte(c.bytes), uint16(3))
		}
	}
	var accepted []seen
	over := make(chan struct{})
	server := http1.NewServer(handler(func(_ context.Context, r *http1.Request) {
		body, err := everything(r)
		if err != nil {
			r.Begin(400, nil, 0, true)
			return
		}
		accepted = append(accepted, seen{r.Method, r.Host, r.Path, r.Query, string(body)})
		reply(r, 200, "")
	}), http1.Config{
		Log: slog.New(slog.DiscardHandler), Refusal: func(int, string) (string, []byte) { return "text/plain", nil },
		Connection: func(n int) {
			if n < 0 {
				over <- struct{}{}
			}
		},
	})
	l := &scripts{conns: make(chan net.Conn), closed: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l, nil) }()
	f.Cleanup(func() {
		if err := errors.Join(server.Drain(context.Background()), <-served); err != nil {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, data []byte, piece uint16) {
		accepted = nil
		l.conns <- &script{data: data, piece: int(piece) + 1}
		<-over
		reference := bufio.NewReader(bytes.NewReader(data))
		for i, a := range accepted {
			want, err := read(reference)
			if err != nil && strings.Contains(err.Error(), "invalid URL escape") {
				return
			}
			if err != nil {
				t.Fatalf("request %d of %q: net/http refuses it: %v", i, data, err)
			}
			if a != want {
				t.Fatalf("request %d of %q:\nwe read %+v\nothers  %+v", i, data, a, want)
			}
		}
	})
}

// read lets net/http read a request.
func read(r *bufio.Reader) (seen, error) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return seen{}, err
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return seen{}, err
	}
	s := seen{req.Method, req.Host, "", req.URL.RawQuery, string(body)}
	// The path as it was received: net/http would escape anew what should have been.
	target := req.RequestURI
	if u, err := url.Parse(target); err == nil && u.Scheme != "" {
		_, target, _ = strings.Cut(target, "://")
		if cut := strings.IndexAny(target, "/?"); cut >= 0 {
			target = target[cut:]
		} else {
			target = "/"
		}
	}
	if s.path, _, _ = strings.Cut(target, "?"); s.path == "" {
		s.path = "/"
	}
	return s, nil
}

// scripts is a listener of connections that are made up.
type scripts struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (s *scripts) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *scripts) Addr() net.Addr { return nil }

func (s *scripts) Close() error {
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return nil
}

// script is a connection on which data comes in pieces, and that takes everything.
type script struct {
	net.Conn
	data  []byte
	piece int
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.data[:min(len(s.data), s.piece)])
	s.data = s.data[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error)      { return len(p), nil }
func (s *script) Close() error                     { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
