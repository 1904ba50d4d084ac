package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"portico/internal/inference"
	"portico/internal/online"
)

// Bounds of connections, where ServerConfig leaves them at zero.
const (
	DefaultHeaderTimeout  = 10 * time.Second // TLS handshake and header of a request
	DefaultIdleTimeout    = 2 * time.Minute  // between two requests of a connection
	DefaultMaxHeaderBytes = 64 << 10         // request line and header; 431 beyond it
	DefaultMaxConnections = 10000            // open at one time; more wait in the listening socket
)

// writeTimeout ends a connection whose caller does not take a buffered answer. It begins with the request, so it
// is longer than any request may last.
const writeTimeout = online.MaxRequestTimeout + 30*time.Second

// ServerConfig of a Server.
type ServerConfig struct {
	HeaderTimeout  time.Duration
	IdleTimeout    time.Duration
	MaxHeaderBytes int
	MaxConnections int
}

func (c *ServerConfig) fill() {
	if c.HeaderTimeout <= 0 {
		c.HeaderTimeout = DefaultHeaderTimeout
	}
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = DefaultIdleTimeout
	}
	if c.MaxHeaderBytes <= 0 {
		c.MaxHeaderBytes = DefaultMaxHeaderBytes
	}
	if c.MaxConnections <= 0 {
		c.MaxConnections = DefaultMaxConnections
	}
}

// Server carries exchanges over HTTP/1.1 with net/http.
type Server struct {
	gateway *Gateway
	http    http.Server
	places  chan struct{} // one for each open connection
	maxLine int
	pool    sync.Pool // of *session
	active  sync.WaitGroup
}

// NewServer makes a server for g.
func NewServer(g *Gateway, cfg ServerConfig, log *slog.Logger) *Server {
	cfg.fill()
	s := &Server{gateway: g, places: make(chan struct{}, cfg.MaxConnections), maxLine: 2 * cfg.MaxHeaderBytes}
	s.pool.New = func() any { return new(session) }
	s.http = http.Server{
		Handler: s, ReadHeaderTimeout: cfg.HeaderTimeout, IdleTimeout: cfg.IdleTimeout, WriteTimeout: writeTimeout,
		MaxHeaderBytes: cfg.MaxHeaderBytes, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				g.recorder.Connection(+1)
			case http.StateClosed, http.StateHijacked:
				g.recorder.Connection(-1)
			}
		},
	}
	return s
}

// Serve takes connections from l until Drain; then it returns nil. With a TLS configuration it speaks TLS. It may
// be called for several listeners at the same time, and closes l.
func (s *Server) Serve(l net.Listener, tlsConfig *tls.Config) error {
	if tlsConfig != nil {
		tlsConfig = tlsConfig.Clone()
		tlsConfig.NextProtos = []string{"http/1.1"}
	}
	framed := &framedListener{Listener: l, tls: tlsConfig, places: s.places, maxLine: s.maxLine, closed: make(chan struct{})}
	if err := s.http.Serve(framed); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve scoring requests: %w", err)
	}
	return nil
}

// Drain stops taking connections, closes idle ones, and waits until every request has ended. When ctx ends first
// the rest is cut off, and the error says so. Copies for shadow deployments end with the last request: nobody waits
// for their answers.
func (s *Server) Drain(ctx context.Context) error {
	s.gateway.Drain()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("drain scoring requests: %w", err), s.http.Close())
	}
	s.active.Wait()
	s.gateway.stopMirrors()
	return err
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.active.Add(1)
	defer s.active.Done()
	e := s.pool.Get().(*session)
	e.w, e.body = w, r.Body
	x := &e.x
	x.Method, x.Host, x.Path, x.Query, x.Protocol = r.Method, r.Host, r.URL.EscapedPath(), r.URL.RawQuery, r.Proto
	x.Length, x.Arrival, x.Transport = r.ContentLength, time.Now(), e
	for name, values := range r.Header {
		for _, v := range values {
			x.Header = append(x.Header, inference.Field{Name: name, Value: v})
		}
	}
	s.gateway.Serve(r.Context(), x)
	aborted := e.aborted
	x.Reset()
	e.w, e.body, e.ended, e.aborted = nil, nil, false, false
	s.pool.Put(e)
	if aborted {
		panic(http.ErrAbortHandler) // net/http's way to close a connection without finishing the answer
	}
}

// session is the Transport of one request.
type session struct {
	x       Exchange
	w       http.ResponseWriter
	body    io.Reader
	ended   bool // the body has been read to its end
	aborted bool
}

func (e *session) ReadBody(p []byte) (int, error) {
	n, err := e.body.Read(p)
	e.ended = e.ended || err == io.EOF
	return n, err
}

func (e *session) SetReadDeadline(t time.Time) error {
	return http.NewResponseController(e.w).SetReadDeadline(t)
}

func (e *session) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(e.w).SetWriteDeadline(t)
}

// selfMeasured is the size of answer whose length net/http finds out by itself, without our formatting it.
const selfMeasured = 1024

func (e *session) Begin(status int, header []inference.Field, length int64, hangUp bool) {
	h := e.w.Header()
	values := make([]string, len(header)) // one allocation for all
	for i, f := range header {
		name := f.Name
		if fold(name, "content-type") {
			name = "Content-Type" // net/http guesses a type when this key is missing in exactly this form
		}
		if old, ok := h[name]; ok {
			h[name] = append(old, f.Value)
			continue
		}
		values[i] = f.Value
		h[name] = values[i : i+1 : i+1]
	}
	if length > selfMeasured {
		h["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // none was given, so none is guessed
	}
	if hangUp {
		h["Connection"] = []string{"close"}
	}
	if e.x.Length != 0 && !e.ended {
		e.boundUnread(hangUp)
	}
	e.w.WriteHeader(status)
}

// unreadTimeout is how long a refused request's body may take to arrive, so that its connection can be used again.
const unreadTimeout = 5 * time.Second

// boundUnread is needed because net/http reads what is left of a short body before it sends the answer, and would
// wait for ever for one that does not come.
func (e *session) boundUnread(hangUp bool) {
	until := time.Now()
	if !hangUp {
		until = until.Add(unreadTimeout)
	}
	if err := e.SetReadDeadline(until); err != nil {
		e.Abort() // without a bound the answer could hang: break off instead
	}
}

func (e *session) Write(p []byte) (int, error) { return e.w.Write(p) }

func (e *session) Flush() error { return http.NewResponseController(e.w).Flush() }

func (e *session) Abort() { e.aborted = true }
