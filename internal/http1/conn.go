package http1

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

// Request is one request and the way to answer it. Its methods are for one goroutine, and not for after Serve has returned.
type Request struct {
	Method   string
	Host     string
	Path     string // escaped as it was received
	Query    string // raw, without '?'
	Protocol string
	Header   []Field   // as received
	Length   int64     // of the body; -1 unknown
	Arrival  time.Time // when the header had been read

	conn   *conn
	watch  *watch
	head   head
	body   body
	answer answer
	readBy time.Time // bound of reading the body; zero: none of its own
}

// conn is one connection. All but busy and woken belongs to its goroutine.
type conn struct {
	server  *Server
	net     net.Conn
	request Request

	in     []byte // in[r:w] was read and not yet used
	r, w   int
	out    []byte
	readBy time.Time // deadline of reads that is in force
	sentBy time.Time // likewise of writes
	sendBy time.Time // bound of writes that the request asked for; zero: the usual one

	mu    sync.Mutex
	busy  bool // a request is under way
	fresh bool // it would be the first one
	woken bool // the deadline of reads was moved by wake
}

// serve reads and answers requests until the connection ends.
func (c *conn) serve() {
	defer func() {
		if v := recover(); v != nil {
			c.server.cfg.Log.Error("a request failed inside the server", "panic", v, "stack", string(debug.Stack()))
		}
		if c.request.watch != nil {
			c.request.watch.close()
		}
		c.server.closed(c)
	}()
	first := true
	for {
		text, err := c.readHead(first)
		if err != nil {
			c.refuse(err)
			return
		}
		if err := c.begin(text); err != nil {
			c.refuse(err)
			return
		}
		r := &c.request
		c.server.handler.Serve(r.watch, r)
		here, whole := r.watch.close(), r.finish()
		switch {
		case !here || !r.answer.begun || r.answer.aborted:
			return
		case !whole || !r.unread():
			if !r.body.ended || c.w > c.r {
				c.linger()
			}
			return
		}
		first = false
	}
}

// begin makes a request of a head.
func (c *conn) begin(text string) error {
	fields := c.request.Header[:0]
	r := c.renew()
	h := &r.head
	if f := h.parse(text, fields, c.server.cfg.MaxFields); f != nil {
		r.Header = h.fields
		return f
	}
	r.Method, r.Host, r.Path, r.Query, r.Header, r.Length = h.method, h.host, h.path, h.query, h.fields, h.length
	r.Protocol = "HTTP/1.1"
	if h.old {
		r.Protocol = "HTTP/1.0"
	}
	r.body.begin(h)
	r.watch = &watch{conn: c, ready: r.body.ended}
	r.Arrival = time.Now()
	return nil
}

// renew forgets the last request, and what it asked of the connection.
func (c *conn) renew() *Request {
	c.request = Request{conn: c}
	c.out, c.sendBy = c.out[:0], time.Time{}
	return &c.request
}

// errDone: the connection ended where it may.
var errDone = errors.New("the connection has ended")

// readHead waits for a request and reads its head, whose lines must end with CRLF.
func (c *conn) readHead(first bool) (string, error) {
	by := time.Now().Add(c.server.cfg.IdleTimeout)
	if first {
		by = time.Now().Add(c.server.cfg.HeaderTimeout)
	}
	lines, line, searched := 0, 0, 0 // whole lines of in[r:w], where the next one begins, how far its end was looked for
	for begun := first; ; {
		for {
			have := c.in[c.r:c.w]
			end := bytes.IndexByte(have[searched:], '\n')
			if end < 0 {
				searched = len(have)
				break
			}
			if end += searched; end == line || have[end-1] != '\r' {
				return "", faultLine
			}
			size := end + 1 - line
			line, searched = end+1, end+1
			if size > len("\r\n") {
				lines++
				continue
			}
			if lines == 0 {
				return "", faultRequest
			}
			if line > c.server.cfg.MaxHeaderBytes {
				return "", faultHeaderSize
			}
			return c.take(line), nil
		}
		waiting := c.w == c.r
		if f := c.early(lines); f != nil {
			return "", f
		}
		if !waiting && !begun {
			by, begun = time.Now().Add(c.server.cfg.HeaderTimeout), true // from the first byte on
		}
		if err := c.await(by, waiting, first); err != nil {
			return "", err
		}
	}
}

// early judges a head that has not come whole, so that what is no HTTP is told so at once.
func (c *conn) early(lines int) *fault {
	have := c.in[c.r:c.w]
	if lines > 0 {
		line, _, _ := bytes.Cut(have, []byte("\r\n"))
		if f := new(head).requestLine(string(line)); f != nil {
			return f
		}
	}
	if len(have) > c.server.cfg.MaxHeaderBytes {
		return faultHeaderSize
	}
	return nil
}

// take gives the head of this size, without its last empty line, as text of its own.
func (c *conn) take(size int) string {
	text := string(c.in[c.r : c.r+size-len("\r\n\r\n")])
	c.r += size
	return text
}

// await reads more of a head. While none has begun the server may wake the connection to end it.
func (c *conn) await(by time.Time, waiting, first bool) error {
	c.mu.Lock()
	c.busy, c.fresh = !waiting, first
	c.mu.Unlock()
	if waiting {
		c.shrink()
	}
	if err := c.boundRead(by, waiting); err != nil {
		return errDone
	}
	if c.server.draining.Load() { // whose wake may have come too early for this deadline
		c.wake()
	}
	err := c.more()
	c.active()
	if err != nil {
		return errDone // the caller is gone, or too late
	}
	return nil
}

// active notes that a request is under way, so that wake leaves the connection alone.
func (c *conn) active() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = true
	if c.woken {
		c.woken, c.readBy = false, longAgo
	}
}

// wake ends the wait for a next request, and soon that for a first one: it may be on its way.
func (c *conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy {
		return
	}
	by := longAgo
	if c.fresh {
		by = time.Now().Add(freshTimeout)
	}
	c.woken = true
	_ = c.net.SetReadDeadline(by) // fails only on a connection that has ended
}

// cut ends the connection without the goodbye of TLS, for which a caller who takes nothing would be waited for.
func (c *conn) cut() {
	under := c.net
	if t, ok := c.net.(*tls.Conn); ok {
		under = t.NetConn()
	}
	_ = under.Close() // what is left to do is the same
}

// fill reads more into in, for who must read it by then.
func (c *conn) fill(by time.Time) error {
	if err := c.boundRead(c.bound(by), false); err != nil {
		return err
	}
	return c.more()
}

// read reads past in, which must be empty.
func (c *conn) read(p []byte, by time.Time) (int, error) {
	if err := c.boundRead(c.bound(by), false); err != nil {
		return 0, err
	}
	n, err := c.net.Read(p)
	if n == 0 && err == nil {
		err = io.ErrNoProgress
	}
	return n, err
}

// bound gives the time until which a body may be read.
func (c *conn) bound(by time.Time) time.Time {
	if by.IsZero() {
		by = c.request.Arrival.Add(c.server.cfg.BodyTimeout)
	}
	return by
}

// more reads at least one byte into in.
func (c *conn) more() error {
	n, err := c.net.Read(c.ahead())
	if c.w += n; n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// ahead gives room in the buffer behind what was read.
func (c *conn) ahead() []byte {
	if c.r > 0 {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	}
	if c.w == len(c.in) {
		bigger := make([]byte, max(firstBuffer, 2*len(c.in)))
		copy(bigger, c.in[:c.w])
		c.in = bigger
	}
	return c.in[c.w:]
}

// spare gives room for bytes that nobody wants.
func (c *conn) spare() []byte {
	if cap(c.out) < firstBuffer {
		c.out = make([]byte, 0, firstBuffer)
	}
	return c.out[:cap(c.out)]
}

// shrink gives memory back that a large request left behind.
func (c *conn) shrink() {
	if c.r, c.w = 0, 0; len(c.in) > keptBuffer {
		c.in = nil
	}
	if cap(c.out) > joined {
		c.out = nil
	}
}

// boundRead puts the deadline in force. Where a coarse one does, the one in force stays while it is at most an eighth of the
// idle time too early: moving a timer for every request costs more than reading it.
func (c *conn) boundRead(by time.Time, coarse bool) error {
	if early := by.Sub(c.readBy); early == 0 || coarse && early > 0 && early <= c.server.cfg.IdleTimeout/8 {
		return nil
	}
	c.readBy = by
	return c.net.SetReadDeadline(by)
}

// boundWrite does the same for what is about to be sent.
func (c *conn) boundWrite() error {
	by, coarse := c.sendBy, false
	if by.IsZero() {
		by, coarse = time.Now().Add(c.server.cfg.WriteTimeout), true
	}
	if early := by.Sub(c.sentBy); early == 0 || coarse && early > 0 && early <= c.server.cfg.WriteTimeout/8 {
		return nil
	}
	c.sentBy = by
	return c.net.SetWriteDeadline(by)
}

// goOn tells a caller that waits for it to send the body.
func (c *conn) goOn() error {
	if c.w > c.r || c.request.answer.begun {
		return nil // it comes already
	}
	c.out = append(c.out[:0], "HTTP/1.1 100 Continue\r\n\r\n"...)
	return c.flush()
}

// refuse answers what is no acceptable request, as far as there is anybody to answer.
func (c *conn) refuse(err error) {
	var f *fault
	if !errors.As(err, &f) {
		return
	}
	r := c.renew()
	r.body.ended = true
	kind, body := c.server.cfg.Refusal(f.status, f.message)
	r.Begin(f.status, []Field{{"Content-Type", kind}}, int64(len(body)), true)
	if _, err := r.Write(body); err == nil && c.flush() == nil {
		c.linger()
	}
}

// linger says goodbye before the connection is closed, and takes what is still on its way for a moment: closing at once would
// make the system throw the answer away.
func (c *conn) linger() {
	half, ok := c.net.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	_ = c.net.SetReadDeadline(time.Now().Add(lingerTimeout)) // fails only on a connection that has ended
	_, _ = io.CopyN(io.Discard, c.net, maxLinger)            // its end is what is waited for
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

var _ context.Context = (*watch)(nil)
