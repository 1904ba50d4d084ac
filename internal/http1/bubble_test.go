package http1_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"portico/internal/http1"
	"portico/internal/testkit"
)

// bubble is a server in a bubble of testing/synctest: its connections are in memory, its clock stands still while anybody has
// something to do, and who waits for what never comes is found out at once.
type bubble struct {
	t       *testing.T
	server  *http1.Server
	l       *door
	goOn    chan struct{} // what requests wait for whose path says so
	served  chan error
	begun   time.Time // of drain
	drained chan error
}

// paced are bounds of which none is another one.
var paced = http1.Config{
	HeaderTimeout: 10 * time.Second, IdleTimeout: 100 * time.Second, BodyTimeout: 20 * time.Second, WriteTimeout: 30 * time.Second,
}

// Bounds that no Config changes, as docs/limits.md gives them.
const (
	freshTimeout  = time.Second
	lingerTimeout = 500 * time.Millisecond
	unreadTimeout = 5 * time.Second
)

// inBubble runs f with a server, which it drains afterwards.
func inBubble(t *testing.T, cfg http1.Config, f func(b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg.Log = slog.New(slog.DiscardHandler)
		cfg.Refusal = func(_ int, message string) (string, []byte) { return "text/plain", []byte(message) }
		b := &bubble{
			t: t, goOn: make(chan struct{}), served: make(chan error, 1), drained: make(chan error, 1),
			l: &door{scripts: scripts{conns: make(chan net.Conn), closed: make(chan struct{})}, fails: make(chan error, 3)},
		}
		b.server = http1.NewServer(handler(b.serve), cfg)
		go func() { b.served <- b.server.Serve(b.l, nil); close(b.served) }()
		f(b)
		if err := errors.Join(b.server.Drain(context.Background()), <-b.served); err != nil {
			t.Error(err)
		}
	})
}

// serve answers as the path says.
func (b *bubble) serve(ctx context.Context, r *http1.Request) {
	switch r.Path {
	case "/wait": // as requests do in the gateway
		done := ctx.Done()
		body, _ := everything(r)
		select {
		case <-b.goOn:
			reply(r, 200, string(body))
		case <-done:
			reply(r, 499, "")
		}
	case "/slow": // to end
		<-ctx.Done()
		time.Sleep(time.Second)
	case "/begin": // and end later
		r.Begin(200, nil, 5, false)
		r.Write([]byte("ab"))
		r.Flush()
		select {
		case <-b.goOn:
			r.Write([]byte("cde"))
		case <-ctx.Done():
		}
	case "/unread":
		reply(r, 401, "no")
	case "/last":
		r.Begin(401, nil, 2, true)
		r.Write([]byte("no"))
	case "/bounded":
		r.SetReadDeadline(time.Now().Add(time.Second))
		r.SetWriteDeadline(time.Now().Add(2 * time.Second))
		echo(ctx, r)
	case "/patient":
		r.SetReadDeadline(time.Now().Add(time.Hour))
		r.SetWriteDeadline(time.Now().Add(time.Hour))
		echo(ctx, r)
	case "/long":
		reply(r, 200, strings.Repeat("l", 100<<10))
	default:
		echo(ctx, r)
	}
}

// drain begins to drain, and returns when everybody waits again.
func (b *bubble) drain() {
	b.begun = time.Now()
	go func() { b.drained <- b.server.Drain(context.Background()) }()
	synctest.Wait()
}

// end waits for the end of drain, which must be after this time, with nothing cut off.
func (b *bubble) end(after time.Duration) {
	b.t.Helper()
	err := <-b.drained
	if d := time.Since(b.begun); err != nil || d != after {
		b.t.Errorf("drained after %v, want %v: %v", d, after, err)
	}
}

// caller is the far end of a connection.
type caller struct {
	t    *testing.T
	side *side
	to   net.Conn
	out  net.Conn
	from *bufio.Reader
}

// dial opens a connection; the server waits for a request on it when dial returns.
func (b *bubble) dial() *caller {
	c := b.pipe()
	b.l.conns <- c.side
	synctest.Wait()
	return c
}

// pipe makes a connection that the server does not know yet.
func (b *bubble) pipe() *caller {
	to, in := net.Pipe()
	from, out := net.Pipe()
	return &caller{b.t, &side{Conn: in, out: out}, to, from, bufio.NewReader(from)}
}

// write returns when all has been read.
func (c *caller) write(text string) {
	c.t.Helper()
	if text == "" {
		return // to a pipe that would be something
	}
	if _, err := io.WriteString(c.to, text); err != nil {
		c.t.Errorf("send %.40q: %v", text, err)
	}
}

// send writes, and returns when everybody waits again.
func (c *caller) send(text string) {
	c.t.Helper()
	c.write(text)
	synctest.Wait()
}

// answer reads one that must come at once, with this status and body.
func (c *caller) answer(status int, body string, last bool) {
	c.t.Helper()
	begun := time.Now()
	if a := testkit.ReadAnswer(c.from, "GET"); a.Status != status || a.Body != body || a.Close != last {
		c.t.Errorf("got %d %q, the last one: %v; want %d %q, %v", a.Status, a.Body, a.Close, status, body, last)
	}
	if d := time.Since(begun); d != 0 {
		c.t.Errorf("the answer came after %v", d)
	}
	synctest.Wait()
}

// refused reads an answer to what is no request.
func (c *caller) refused(status int) {
	c.t.Helper()
	if a := testkit.ReadAnswer(c.from, "GET"); a.Status != status || !a.Close {
		c.t.Errorf("got %+v, want the last answer, %d", a, status)
	}
}

// quiet lets time pass, during which nothing may come.
func (c *caller) quiet(d time.Duration) {
	c.t.Helper()
	said := c.side.said.Load()
	time.Sleep(d - time.Nanosecond)
	synctest.Wait()
	if c.side.said.Load() > said {
		c.t.Errorf("something was said within %v", d)
	}
	time.Sleep(time.Nanosecond)
}

// gone waits until the server has nothing more to say, which must be after this time.
func (c *caller) gone(after time.Duration) {
	c.t.Helper()
	begun := time.Now()
	rest, err := io.ReadAll(c.from)
	if d := time.Since(begun); err != nil || len(rest) > 0 || d != after {
		c.t.Errorf("%.100q came, and the end after %v, want %v: %v", rest, d, after, err)
	}
}

// closed waits until the server has let go of the connection, taken or not what it said, which must be after this time.
func (c *caller) closed(after time.Duration) {
	c.t.Helper()
	begun := time.Now()
	_, err := c.to.Read(make([]byte, 1)) // nothing comes this way but the end
	if d := time.Since(begun); !errors.Is(err, io.EOF) || d != after {
		c.t.Errorf("closed after %v, want %v: %v", d, after, err)
	}
}

// door is a listener that tells when it was passed.
type door struct {
	scripts
	passed func()     // called once, with a connection that the server has not yet seen
	fails  chan error // of the next Accepts
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case err := <-d.fails:
		return nil, err
	default:
	}
	c, err := d.scripts.Accept()
	if err == nil {
		call(&d.passed)
	}
	return c, err
}

// side is the server's end of a connection: one pipe to read from and one to write to.
type side struct {
	net.Conn
	out      net.Conn
	said     atomic.Int64 // how often the server wrote, or tried to
	arrived  func()       // called once, with bytes that the server has not yet seen
	bounding func()       // called once, before a deadline of reads is set
}

func (s *side) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if n > 0 {
		call(&s.arrived)
	}
	return n, err
}

func (s *side) SetReadDeadline(t time.Time) error {
	call(&s.bounding)
	return s.Conn.SetReadDeadline(t)
}

func (s *side) Write(p []byte) (int, error) {
	s.said.Add(1)
	return s.out.Write(p)
}

func (s *side) SetWriteDeadline(t time.Time) error { return s.out.SetWriteDeadline(t) }
func (s *side) CloseWrite() error                  { return s.out.Close() }
func (s *side) Close() error                       { return errors.Join(s.Conn.Close(), s.out.Close()) }

func call(once *func()) {
	if f := *once; f != nil {
		*once = nil
		f()
	}
}
