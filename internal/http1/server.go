package http1

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Bounds of connections, where Config leaves them at zero.
const (
	DefaultHeaderTimeout  = 10 * time.Second // TLS handshake and header of a request
	DefaultIdleTimeout    = 2 * time.Minute  // between two requests of a connection
	DefaultBodyTimeout    = 10 * time.Minute // of a body that its reader does not bound
	DefaultWriteTimeout   = 2 * time.Minute  // for a caller to take an answer, or a part of one
	DefaultMaxHeaderBytes = 64 << 10         // request line and header; 431 beyond it
	DefaultMaxFields      = 256              // header fields of a request; 431 beyond it
	DefaultMaxConnections = 10000            // open at one time; more wait in the listening socket
)

// Bounds that nobody needs to change.
const (
	maxMethod     = 32                     // characters of a method
	maxChunkLine  = 4 << 10                // bytes of the line before a chunk, and of a trailer's
	maxExcess     = 16 << 10               // bytes of lines before chunks beyond chunkLine and twice their data
	chunkLine     = 16                     // bytes of such a line that are usual
	maxUnread     = 256 << 10              // bytes of a body that are read for the sake of the next request
	unreadTimeout = 5 * time.Second        // for them to arrive
	maxLinger     = 2 << 20                // bytes that are taken from a caller who sends on after the last answer
	lingerTimeout = 500 * time.Millisecond // for how long
	firstBuffer   = 4 << 10                // bytes of a connection's buffer
	keptBuffer    = 16 << 10               // bytes of a buffer that is kept for the next request
	joined        = 16 << 10               // bytes that are sent together rather than one after the other
	acceptPause   = 5 * time.Millisecond   // first wait after the system had no descriptor or memory left; doubles
	acceptMax     = time.Second
	freshTimeout  = time.Second // for the first request of a connection that was opened before Drain
)

// Config of a Server.
type Config struct {
	HeaderTimeout  time.Duration
	IdleTimeout    time.Duration
	BodyTimeout    time.Duration
	WriteTimeout   time.Duration
	MaxHeaderBytes int
	MaxFields      int
	MaxConnections int // half of the process's descriptors where those are fewer

	// Refusal gives the type and the body of an answer to what is no acceptable request.
	Refusal func(status int, message string) (contentType string, body []byte)
	// Connection is told of every connection that opens (+1) and closes (-1); nil: nobody is.
	Connection func(delta int)
	Log        *slog.Logger
}

func (c *Config) fill() {
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&c.HeaderTimeout, DefaultHeaderTimeout}, {&c.IdleTimeout, DefaultIdleTimeout},
		{&c.BodyTimeout, DefaultBodyTimeout}, {&c.WriteTimeout, DefaultWriteTimeout},
	} {
		if *d.value <= 0 {
			*d.value = d.fallback
		}
	}
	for _, n := range []struct {
		value    *int
		fallback int
	}{
		{&c.MaxHeaderBytes, DefaultMaxHeaderBytes}, {&c.MaxFields, DefaultMaxFields},
		{&c.MaxConnections, DefaultMaxConnections},
	} {
		if *n.value <= 0 {
			*n.value = n.fallback
		}
	}
	c.MaxConnections = max(1, min(c.MaxConnections, Descriptors()/2))
	if c.Connection == nil {
		c.Connection = func(int) {}
	}
}

// Descriptors is how many descriptors the process may have. Connections get half of them: whoever holds some open and asks
// nothing must leave enough for what requests need.
func Descriptors() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return math.MaxInt32
	}
	return int(limit.Cur)
}

// Handler answers requests.
type Handler interface {
	// Serve answers one request. ctx ends when the caller hangs up, and with the request. Nothing of r is used afterwards but
	// its strings.
	Serve(ctx context.Context, r *Request)
}

// Server serves connections of any number of listeners.
type Server struct {
	cfg     Config
	handler Handler
	places  chan struct{} // one for each open connection
	date    date

	draining atomic.Bool
	stopped  chan struct{} // closed by Drain
	running  sync.WaitGroup

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
}

// NewServer makes a server.
func NewServer(h Handler, cfg Config) *Server {
	cfg.fill()
	return &Server{
		cfg: cfg, handler: h, places: make(chan struct{}, cfg.MaxConnections), stopped: make(chan struct{}),
		listeners: map[net.Listener]struct{}{}, conns: map[*conn]struct{}{},
	}
}

// Serve takes connections from l until Drain; then it returns nil. With a TLS configuration it speaks TLS. It may be called
// for several listeners at the same time, and closes l.
func (s *Server) Serve(l net.Listener, tlsConfig *tls.Config) error {
	if tlsConfig != nil {
		tlsConfig = tlsConfig.Clone()
		tlsConfig.NextProtos = []string{"http/1.1"}
	}
	if !s.listen(l) {
		return nil
	}
	defer l.Close()
	pause := acceptPause
	for {
		select {
		case s.places <- struct{}{}:
		case <-s.stopped:
			return nil
		}
		accepted, err := l.Accept()
		if err == nil {
			pause = acceptPause
			if tlsConfig != nil {
				accepted = tls.Server(accepted, tlsConfig) // shakes hands with the first Read
			}
			s.open(accepted)
			continue
		}
		<-s.places
		if s.draining.Load() {
			return nil
		}
		if !passes(err) {
			return fmt.Errorf("accept connections: %w", err)
		}
		s.cfg.Log.Warn("cannot accept a connection now", "error", err)
		select {
		case <-time.After(pause):
		case <-s.stopped:
			return nil
		}
		pause = min(2*pause, acceptMax)
	}
}

// passes says whether accepting may succeed later.
func passes(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.ECONNRESET} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// listen notes a listener for Drain to close; false when that has begun.
func (s *Server) listen(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Load() {
		l.Close()
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) open(accepted net.Conn) {
	c := &conn{server: s, net: accepted}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Load() { // and Drain waits already
		accepted.Close()
		<-s.places
		return
	}
	s.conns[c] = struct{}{}
	s.cfg.Connection(+1)
	s.running.Go(c.serve)
}

func (s *Server) closed(c *conn) {
	c.net.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	<-s.places
	s.cfg.Connection(-1)
}

// Drain stops taking connections, closes those that wait for a request, and waits until every request has ended. When ctx
// ends first the rest is cut off, and the error says so.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	if !s.draining.Swap(true) {
		close(s.stopped)
	}
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		c.wake()
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		s.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	cut := len(s.conns)
	for c := range s.conns {
		c.cut()
	}
	s.mu.Unlock()
	<-ended
	if cut == 0 {
		return nil
	}
	return ctx.Err()
}

// date is the Date field of the current second.
type date struct{ last atomic.Pointer[stamp] }

type stamp struct {
	second int64
	text   string
}

func (d *date) append(b []byte, now time.Time) []byte {
	s := d.last.Load()
	if second := now.Unix(); s == nil || s.second != second {
		s = &stamp{second, now.UTC().Format(time.RFC1123[:len(time.RFC1123)-3] + "GMT")}
		d.last.Store(s)
	}
	return append(b, s.text...)
}
