package gateway

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"strconv"
	"sync"
)

// errFraming: the bytes of a connection can be read in more than one way. Nothing after it is read.
var errFraming = errors.New("request framing is not strict HTTP/1.1")

// framedListener accepts connections whose message framing is checked, within a bound on open connections.
type framedListener struct {
	net.Listener
	tls     *tls.Config // nil: plain
	places  chan struct{}
	maxLine int
	closed  chan struct{}
	once    sync.Once
}

func (l *framedListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	if l.tls != nil {
		conn = tls.Server(conn, l.tls) // shakes hands with the first Read, on the connection's own goroutine
	}
	return &framedConn{Conn: conn, framing: framing{maxLine: l.maxLine}, release: func() { <-l.places }}, nil
}

func (l *framedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// framedConn lets through only what framing accepts.
type framedConn struct {
	net.Conn
	framing framing
	bad     bool
	closing sync.Once
	release func()
}

// Read is called by one goroutine at a time.
func (c *framedConn) Read(p []byte) (int, error) {
	if c.bad {
		return 0, errFraming
	}
	n, err := c.Conn.Read(p)
	good := c.framing.check(p[:n])
	if good < n {
		c.bad = true
		// The messages before the bad one are answered; the part of the bad one is not seen by anybody.
		if good > 0 {
			return good, nil
		}
		return 0, errFraming
	}
	return n, err
}

func (c *framedConn) Close() error {
	c.closing.Do(c.release)
	return c.Conn.Close()
}

// CloseWrite lets net/http say goodbye before it closes, so that a caller that still sends gets the answer.
func (c *framedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// framing follows the boundaries of the requests on one connection and accepts only what can be read in one way:
// lines end with CRLF, there is no folding, a body has one Content-Length or exactly "chunked" and never both,
// chunk sizes are plain hexadecimal. net/http accepts more than that (a lone LF, folded lines, Transfer-Encoding
// beside Content-Length), and a proxy in front that reads the same bytes otherwise could be made to hide a request
// inside another.
type framing struct {
	maxLine int
	state   framingState
	partial []byte // a line that has not ended yet
	left    int64  // bytes of the body or chunk still to come

	first    bool // the request line has been read
	old      bool // HTTP/1.0
	length   int64
	hasSize  bool
	hasChunk bool
}

type framingState uint8

const (
	inHead framingState = iota
	inBody
	inChunkSize
	inChunk
	inChunkEnd
	inTrailer
)

// check follows p and gives the number of bytes that may be passed on: all of them, or those before the message
// that is not acceptable.
func (f *framing) check(p []byte) int {
	start := 0 // of the message that is being read
	for at := 0; at < len(p); {
		if f.state == inBody || f.state == inChunk {
			n := min(f.left, int64(len(p)-at))
			f.left -= n
			at += int(n)
			if f.left == 0 {
				if f.state == inChunk {
					f.state = inChunkEnd
				} else {
					f.state = inHead
					start = at
				}
			}
			continue
		}
		end := bytes.IndexByte(p[at:], '\n')
		if end < 0 {
			if len(f.partial)+len(p)-at > f.maxLine {
				return start
			}
			f.partial = append(f.partial, p[at:]...)
			return len(p)
		}
		line := p[at : at+end+1]
		if len(f.partial) > 0 {
			f.partial = append(f.partial, line...)
			line = f.partial
		}
		at += end + 1
		if !f.line(line) {
			return start
		}
		f.partial = f.partial[:0]
		if f.state == inHead && !f.first {
			start = at
		}
	}
	return len(p)
}

// line takes one line with its end.
func (f *framing) line(b []byte) bool {
	n := len(b) - 2
	if n < 0 || b[n] != '\r' {
		return false // a lone LF
	}
	b = b[:n]
	if bytes.IndexByte(b, '\r') >= 0 || bytes.IndexByte(b, 0) >= 0 {
		return false
	}
	switch f.state {
	case inHead:
		if !f.first {
			f.first = true
			return f.requestLine(b)
		}
		if n == 0 {
			return f.endOfHead()
		}
		return f.field(b)
	case inChunkSize:
		return f.chunkSize(b)
	case inChunkEnd:
		f.state = inChunkSize
		return n == 0
	case inTrailer:
		if n == 0 {
			f.restart()
			return true
		}
		return fieldName(b) > 0
	}
	return false
}

func (f *framing) restart() {
	*f = framing{maxLine: f.maxLine, partial: f.partial}
}

func (f *framing) requestLine(b []byte) bool {
	spaces := 0
	for _, c := range b {
		if c == ' ' {
			spaces++
		} else if c < ' ' || c == 0x7f {
			return false
		}
	}
	f.old = bytes.HasSuffix(b, []byte(" HTTP/1.0"))
	return spaces == 2 && (f.old || bytes.HasSuffix(b, []byte(" HTTP/1.1")))
}

// fieldName gives the length of a field's name, or 0 when the line is not a field (a folded line begins with a
// space, which is no character of a name).
func fieldName(b []byte) int {
	for i, c := range b {
		switch {
		case c == ':':
			return i
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		case bytes.IndexByte([]byte("!#$%&'*+.^`|~"), c) >= 0:
		default:
			return 0
		}
	}
	return 0
}

func (f *framing) field(b []byte) bool {
	n := fieldName(b)
	switch n {
	case 0:
		return false
	case len("content-length"):
		if !foldBytes(b[:n], "content-length") {
			return true
		}
		size, ok := decimal(bytes.Trim(b[n+1:], " \t"))
		if !ok || f.hasSize {
			return false
		}
		f.length, f.hasSize = size, true
	case len("transfer-encoding"):
		if !foldBytes(b[:n], "transfer-encoding") {
			return true
		}
		if f.hasChunk || f.old || !foldBytes(bytes.Trim(b[n+1:], " \t"), "chunked") {
			return false
		}
		f.hasChunk = true
	}
	return true
}

func (f *framing) endOfHead() bool {
	if f.hasChunk && f.hasSize {
		return false
	}
	chunked, length := f.hasChunk, f.length
	f.restart()
	switch {
	case chunked:
		f.state = inChunkSize
	case length > 0:
		f.state, f.left = inBody, length
	}
	return true
}

// chunkSize reads hexadecimal digits and lets extensions pass.
func (f *framing) chunkSize(b []byte) bool {
	digits, _, _ := bytes.Cut(b, []byte{';'})
	if len(digits) == 0 || len(digits) > 15 {
		return false
	}
	size, err := strconv.ParseUint(string(digits), 16, 63)
	if err != nil {
		return false
	}
	if size == 0 {
		f.state = inTrailer
		return true
	}
	f.state, f.left = inChunk, int64(size)
	return true
}

// decimal reads digits only, as many as surely fit.
func decimal(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	n := int64(0)
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

func foldBytes(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
