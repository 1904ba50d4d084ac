package http1

import (
	"bytes"
	"errors"
	"io"
	"time"
)

// errBody: the body's framing is not acceptable. What follows on the connection cannot be read.
var errBody = errors.New("the body of the request is not valid HTTP/1.1")

// body is what is still to come of a request's body.
type body struct {
	left    int64 // of the body or the chunk
	chunked bool
	within  bool // a chunk has begun, so its end comes first
	ended   bool // nothing more comes
	waits   bool // the caller sends it once it was told to go on
	excess  int  // bytes of chunk lines beyond what is reasonable for the data they carried
}

func (b *body) begin(h *head) {
	*b = body{left: max(h.length, 0), chunked: h.length < 0, ended: h.length == 0, waits: h.expects}
}

// ReadBody reads the next bytes of the body; io.EOF with or after the last.
func (r *Request) ReadBody(p []byte) (int, error) {
	c, b := r.conn, &r.body
	if b.ended {
		return 0, io.EOF
	}
	if b.waits {
		b.waits = false
		if err := c.goOn(); err != nil {
			return 0, err
		}
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.chunked && b.left == 0 {
		if err := c.nextChunk(b); err != nil {
			return 0, c.failed(err)
		}
		if b.ended {
			r.watch.bodyEnded()
			return 0, io.EOF
		}
	}
	p = p[:min(int64(len(p)), b.left)]
	n := copy(p, c.in[c.r:c.w])
	if c.r += n; n == 0 {
		var err error
		if n, err = c.read(p, r.readBy); n == 0 {
			return 0, c.failed(err)
		}
	}
	if b.left -= int64(n); b.left == 0 && !b.chunked {
		b.ended = true
		r.watch.bodyEnded()
		return n, io.EOF
	}
	return n, nil
}

// SetReadDeadline bounds ReadBody. The zero time leaves it to the bound that bodies have anyway.
func (r *Request) SetReadDeadline(t time.Time) error {
	r.readBy = t
	return nil
}

// failed gives the error of a read that failed, and notes when it was the caller's end.
func (c *conn) failed(err error) error {
	if errors.Is(err, errBody) || isTimeout(err) {
		return err
	}
	c.request.watch.end()
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// nextChunk reads up to the data of the next chunk, or to the end of the body.
func (c *conn) nextChunk(b *body) error {
	if b.within {
		line, err := c.line()
		if err != nil {
			return err
		}
		if len(line) != 0 {
			return errBody
		}
	}
	line, err := c.line()
	if err != nil {
		return err
	}
	size, ok := chunkSize(line)
	if !ok {
		return errBody
	}
	// Chunks of a few bytes with long extensions would make us read far more than anybody counts.
	if b.excess = max(0, b.excess+len(line)-chunkLine-2*int(min(size, maxExcess))); b.excess > maxExcess {
		return errBody
	}
	b.left, b.within = size, true
	if size > 0 {
		return nil
	}
	return c.trailer(b)
}

// trailer reads the fields behind the last chunk. They must be fields, and nobody gets them.
func (c *conn) trailer(b *body) error {
	for total := 0; ; {
		line, err := c.line()
		if err != nil {
			return err
		}
		if len(line) == 0 {
			b.ended = true
			return nil
		}
		if _, _, ok := splitField(string(line)); !ok {
			return errBody
		}
		if total += len(line); total > c.server.cfg.MaxHeaderBytes {
			return errBody
		}
	}
}

// line reads one line and gives it without its end, valid until the next read.
func (c *conn) line() ([]byte, error) {
	for from := 0; ; {
		have := c.in[c.r:c.w]
		if i := bytes.IndexByte(have[from:], '\n'); i >= 0 {
			i += from
			if i == 0 || have[i-1] != '\r' {
				return nil, errBody
			}
			c.r += i + 1
			return have[:i-1], nil
		}
		if from = len(have); from > maxChunkLine {
			return nil, errBody
		}
		if err := c.fill(c.request.readBy); err != nil {
			return nil, err
		}
	}
}

// chunkSize reads hexadecimal digits, and lets extensions pass that hold no control characters.
func chunkSize(line []byte) (int64, bool) {
	digits, extension, _ := bytes.Cut(line, []byte{';'})
	if len(digits) == 0 || len(digits) > 15 {
		return 0, false
	}
	size := int64(0)
	for _, c := range digits {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		size = size<<4 | int64(c)
	}
	return size, isValue(string(extension))
}

// unread reads what is left of the body after the answer, so that the connection can carry another request. False: it is
// too long, or does not come.
func (r *Request) unread() bool {
	if r.body.ended {
		return true
	}
	if r.body.waits || r.body.left > maxUnread {
		return false
	}
	r.readBy = time.Now().Add(unreadTimeout)
	for read := 0; read <= maxUnread; {
		n, err := r.ReadBody(r.conn.spare())
		if read += n; err != nil {
			return errors.Is(err, io.EOF)
		}
	}
	return false
}
