package http1_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"portico/internal/http1"
	"portico/internal/testkit"
)

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
	cfg.Log = slog.New(slog.DiscardHandler)
	cfg.Refusal = func(_ int, message string) (string, []byte) { return "text/plain", []byte(message) }
	s := &site{server: http1.NewServer(h, cfg)}
	s.addr = testkit.Serve(t, s.server, nil)
	return s
}

func get(path string, fields ...string) string {
	return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n", path, strings.Join(append(fields, ""), "\r\n"))
}

func post(body string, fields ...string) string {
	return fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s", len(body), strings.Join(append(fields, ""), "\r\n"), body)
}
