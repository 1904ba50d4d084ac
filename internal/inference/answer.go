package inference

import (
	"bytes"
	"errors"
	"io"
	"strings"
)

// whole is an Answer and everything that belongs to it in one allocation.
type whole struct {
	Answer
	fields [12]Field
	text   strings.Reader
}

// newAnswer keeps the head; raw is copied together with body, so that an answer of usual size needs one string.
func newAnswer(h head, body []byte) (*whole, string) {
	w := &whole{}
	var b strings.Builder
	b.Grow(len(h.raw) + len(body))
	b.Write(h.raw)
	b.Write(body)
	joined := b.String()
	w.Status, w.ContentLength = h.status, h.length
	w.Header = w.fields[:0]
	raw := joined[:len(h.raw)]
	for len(raw) > 0 { // every line was checked by parseHead
		line, rest, _ := strings.Cut(raw, "\r\n")
		raw = rest
		name, value, _ := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); isHop(name) {
			continue
		}
		w.Header = append(w.Header, Field{Name: name, Value: strings.Trim(value, " \t")})
	}
	return w, joined[len(h.raw):]
}

// Read, WriteTo and Close make it the body of an answer that is here already.
func (m *whole) Read(p []byte) (int, error)         { return m.text.Read(p) }
func (m *whole) WriteTo(w io.Writer) (int64, error) { return m.text.WriteTo(w) }
func (m *whole) Close() error                       { m.text.Reset(""); return nil }

// carrier is what a streamed body gives its connection back to.
type carrier interface {
	// ended: the body was read to its end. reuse says whether the connection may carry another request.
	ended(reuse bool)
	// dropped: the reader went away before the end.
	dropped()
	// failed: reading failed, which ends the body. It gives the error that the reader sees.
	failed(err error) error
}

// stream is a body that is read from the connection as the caller asks for it.
type stream struct {
	link    *link
	carrier carrier
	left    int64 // of the body, or of the chunk
	chunked bool
	opened  bool // a first chunk was read
	reuse   bool
	// untilEnd: the body ends when the other side closes. That it is whole cannot be known then.
	untilEnd bool
	err      error // what Read answers from now on
}

// Read gives the next bytes.
func (s *stream) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if s.chunked && s.left == 0 {
		if err := s.nextChunk(); err != nil {
			return 0, s.fail(err)
		}
	}
	if s.left == 0 {
		s.err = io.EOF
		s.carrier.ended(s.reuse && s.link.r == s.link.w)
		return 0, s.err
	}
	n, err := s.link.read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	if n > 0 {
		return n, nil
	}
	if s.untilEnd && errors.Is(err, io.EOF) {
		s.err = io.EOF
		s.carrier.ended(false)
		return 0, s.err
	}
	return 0, s.fail(err)
}

func (s *stream) fail(err error) error {
	s.err = s.carrier.failed(err)
	return s.err
}

// Close gives the connection back, or gives it up.
func (s *stream) Close() error {
	if s.err == nil {
		s.err = errBodyClosed
		s.carrier.dropped()
	}
	return nil
}

var errBodyClosed = errors.New("read of a closed body")

// nextChunk reads up to the data of the next chunk; with left == 0 afterwards the body is at its end.
func (s *stream) nextChunk() error {
	if s.opened {
		if line, err := s.link.line(); err != nil {
			return err
		} else if len(line) != 0 {
			return &protocolError{"a chunk is longer than it said"}
		}
	}
	s.opened = true
	line, err := s.link.line()
	if err != nil {
		return err
	}
	if s.left, err = parseChunk(line); err != nil || s.left > 0 {
		return err
	}
	for range maxAnswerFields { // trailers, which nobody asked for
		if line, err := s.link.line(); err != nil || len(line) == 0 {
			return err
		}
	}
	return &protocolError{"too many trailers"}
}

// parseChunk reads the hexadecimal size before a chunk; extensions are ignored.
func parseChunk(line []byte) (int64, error) {
	if i := bytes.IndexByte(line, ';'); i >= 0 {
		line = trim(line[:i])
	}
	if len(line) == 0 || len(line) > 15 {
		return 0, &protocolError{"malformed chunk"}
	}
	size := int64(0)
	for _, c := range line {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, &protocolError{"malformed chunk"}
		}
		size = size<<4 | int64(c)
	}
	return size, nil
}
