package http1

import (
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"
)

// answer is what is being sent for a request.
type answer struct {
	begun   bool
	bare    bool  // no body may follow: HEAD, 204, 304
	chunked bool  // its length is unknown
	open    bool  // likewise, for HTTP/1.0: the end of the connection is its end
	left    int64 // of a body of known length
	close   bool  // the connection ends after it
	aborted bool
}

var errLength = errors.New("the answer is longer than was announced")

// Begin writes the status and the header; length -1 announces a stream. hangUp closes the connection afterwards. Nothing
// leaves before Write or Flush, or the end of the request. Fields that frame the message are not the caller's to give.
func (r *Request) Begin(status int, header []Field, length int64, hangUp bool) {
	c, a := r.conn, &r.answer
	a.begun = true
	a.bare = r.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
	a.close = hangUp || r.head.close || r.head.old && !r.head.keep || c.server.draining.Load() ||
		!r.body.ended && (r.body.waits || r.body.left > maxUnread)
	b := append(c.out, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(status)...)
	b = append(b, "\r\n"...)
	dated := false
	for _, f := range header {
		switch len(f.Name) {
		case len("date"):
			dated = dated || EqualFold(f.Name, "date")
		case len("connection"):
			if EqualFold(f.Name, "connection") || EqualFold(f.Name, "keep-alive") {
				continue
			}
		case len("content-length"):
			if EqualFold(f.Name, "content-length") {
				continue
			}
		case len("transfer-encoding"):
			if EqualFold(f.Name, "transfer-encoding") {
				continue
			}
		}
		b = appendField(b, f)
	}
	if !dated {
		b = append(b, "Date: "...)
		b = c.server.date.append(b, time.Now())
		b = append(b, "\r\n"...)
	}
	switch {
	case a.bare:
		if length > 0 && status != http.StatusNoContent { // what a GET would be answered with
			b = appendLength(b, length)
		}
	case length >= 0:
		a.left = length
		b = appendLength(b, length)
	case r.head.old:
		a.open, a.close = true, true
	default:
		a.chunked = true
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	if a.close {
		b = append(b, "Connection: close\r\n"...)
	} else if r.head.old {
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	c.out = append(b, "\r\n"...)
}

func appendLength(b []byte, n int64) []byte {
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, n, 10)
	return append(b, "\r\n"...)
}

// appendField writes a field, in which control characters become spaces. What cannot be a name is left out.
func appendField(b []byte, f Field) []byte {
	if !isToken(f.Name) {
		return b
	}
	b = append(b, f.Name...)
	b = append(b, ": "...)
	at := len(b)
	b = append(b, f.Value...)
	if !isValue(f.Value) {
		for i, v := range b[at:] {
			if v < ' ' && v != '\t' || v == 0x7f {
				b[at+i] = ' '
			}
		}
	}
	return append(b, "\r\n"...)
}

// Write sends bytes of the body. Short ones leave with Flush or at the end of the request, so that a caller who has a short
// answer finds nothing of its request left behind.
func (r *Request) Write(p []byte) (int, error) {
	c, a := r.conn, &r.answer
	switch {
	case a.bare || len(p) == 0:
		return len(p), nil
	case a.chunked:
		c.out = strconv.AppendUint(c.out, uint64(len(p)), 16)
		c.out = append(c.out, "\r\n"...)
		if err := c.put(p); err != nil {
			return 0, err
		}
		c.out = append(c.out, "\r\n"...)
		return len(p), nil
	case a.open:
	case int64(len(p)) > a.left:
		a.aborted = true
		return 0, errLength
	default:
		a.left -= int64(len(p))
	}
	if err := c.put(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush makes what was written leave at once.
func (r *Request) Flush() error { return r.conn.flush() }

// SetWriteDeadline bounds Write and Flush. The zero time leaves it to the bound that answers have anyway.
func (r *Request) SetWriteDeadline(t time.Time) error {
	r.conn.sendBy = t
	return nil
}

// Abort breaks the connection off, so that the caller sees that the answer is not whole.
func (r *Request) Abort() { r.answer.aborted = true }

// finish sends what is left of the answer. False: the connection can carry no further request.
func (r *Request) finish() bool {
	c, a := r.conn, &r.answer
	if !a.begun || a.aborted || !a.bare && a.left > 0 {
		return false
	}
	if a.chunked && !a.bare {
		c.out = append(c.out, "0\r\n\r\n"...)
	}
	return c.flush() == nil && !a.close
}

// put adds to what is to be sent. Short parts are collected, long ones sent without being copied.
func (c *conn) put(p []byte) error {
	if len(c.out)+len(p) <= joined {
		c.out = append(c.out, p...)
		return nil
	}
	parts := net.Buffers{c.out, p}
	err := c.boundWrite()
	if err == nil {
		_, err = parts.WriteTo(c.net)
	}
	return c.sent(err)
}

func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	err := c.boundWrite()
	if err == nil {
		_, err = c.net.Write(c.out)
	}
	return c.sent(err)
}

// sent ends the sending of out. When it failed nothing may follow, whether or not the handler looked: it would be read as the
// rest of this answer.
func (c *conn) sent(err error) error {
	c.out = c.out[:0]
	if err != nil {
		c.request.answer.aborted = true
	}
	return err
}
