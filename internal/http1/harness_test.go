package http1_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"portico/internal/http1"
)

const waitLimit = 90 * time.Second // for anything that must happen; only reached by a failure

// handler is a Handler made of a function.
type handler func(ctx context.Context, r *http1.Request)

func (h handler) Serve(ctx context.Context, r *http1.Request) { h(ctx, r) }

// everything reads the whole body of a request.
func everything(r *http1.Request) ([]byte, error) {
	var all []byte
	for part := make([]byte, 100); ; {
		n, err := r.ReadBody(part)
		all = append(all, part[:n]...)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

// reply answers with a text.
func reply(r *http1.Request, status int, text string, fields ...http1.Field) {
	r.Begin(status, fields, int64(len(text)), false)
	r.Write([]byte(text)) // a caller that hung up learns nothing
}

// echo answers with the body, or with 400 when that is not acceptable.
func echo(_ context.Context, r *http1.Request) {
	body, err := everything(r)
	if err != nil {
		r.Begin(400, nil, 0, true)
		return
	}
	reply(r, 200, string(body))
}

// site is a server behind a real listener.
type site struct {
	server *http1.Server
	addr   string
}

func newSite(t *testing.T, h handler, cfg http1.Config) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	cfg.Refusal = func(_ int, message string) (string, []byte) { return "text/plain", []byte(message) }
	s := &site{server: http1.NewServer(h, cfg), addr: l.Addr().String()}
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(l, nil) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
		defer cancel()
		if err := s.server.Drain(ctx); err != nil {
			t.Errorf("drain: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

// dial opens a raw connection that a test cannot hang on.
func (s *site) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(waitLimit))
	return conn
}

// answered is an answer that was read whole.
type answered struct {
	status int
	header http.Header
	body   string
	close  bool
}

// next reads an answer; status 0: the connection was closed without one.
func next(r *bufio.Reader, method string) answered {
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return answered{}
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return answered{status: -1}
	}
	return answered{resp.StatusCode, resp.Header, string(body), resp.Close}
}

// talk sends bytes in pieces, ends its side, and gives all answers.
func (s *site) talk(t *testing.T, text string, piece int) []answered {
	t.Helper()
	conn := s.dial(t).(*net.TCPConn)
	defer conn.Close()
	go func() {
		for len(text) > 0 {
			n := min(piece, len(text))
			if _, err := conn.Write([]byte(text[:n])); err != nil {
				return // the server has closed: its answer is what counts
			}
			text = text[n:]
		}
		conn.CloseWrite()
	}()
	var all []answered
	for r := bufio.NewReader(conn); ; {
		a := next(r, "GET")
		if a.status == 0 {
			return all
		}
		all = append(all, a)
	}
}

// until polls for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(waitLimit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

func get(path string, fields ...string) string {
	return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n", path, strings.Join(append(fields, ""), "\r\n"))
}

func post(body string, fields ...string) string {
	return fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s", len(body), strings.Join(append(fields, ""), "\r\n"), body)
}
