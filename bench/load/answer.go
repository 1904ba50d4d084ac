package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"golang.org/x/sys/unix"
)

// answer is an HTTP answer while it comes. It understands what the servers under test send: a Content-Length, chunks, or
// the end of the connection.
type answer struct {
	buf     []byte
	n       int // bytes of buf that were read
	head    int // length of the head with its empty line; 0 while it is not whole
	status  int
	length  int // of the body; -1: to the end of the connection
	chunked bool
	text    []byte // the body that was in chunks
	last    bool   // the server closes the connection
}

var errEnd = errors.New("the connection ended before the answer")

func (a *answer) reset() {
	*a = answer{buf: a.buf, text: a.text[:0], length: -1}
	if a.buf == nil {
		a.buf = make([]byte, 16<<10)
	}
}

func (a *answer) body() []byte {
	switch {
	case a.chunked:
		return a.text
	case a.length >= 0:
		return a.buf[a.head : a.head+a.length]
	}
	return a.buf[a.head:a.n]
}

// read takes what the socket has. True: the answer is whole.
func (a *answer) read(fd int) (bool, error) {
	for {
		if a.n == len(a.buf) {
			a.buf = append(a.buf, make([]byte, len(a.buf))...)
		}
		n, err := unix.Read(fd, a.buf[a.n:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false, nil
		case err != nil:
			return false, err
		case n == 0 && a.head > 0 && a.length < 0 && !a.chunked:
			a.last = true
			return true, nil
		case n == 0:
			return false, errEnd
		}
		full := n == len(a.buf)-a.n
		a.n += n
		if whole, err := a.parse(); whole || err != nil || !full {
			return whole, err
		}
	}
}

// parse looks at all that was read. True: the answer is whole.
func (a *answer) parse() (bool, error) {
	if a.head == 0 {
		end := bytes.Index(a.buf[:a.n], []byte("\r\n\r\n"))
		if end < 0 {
			return false, nil
		}
		a.head = end + 4
		if err := a.parseHead(a.buf[:end+2]); err != nil {
			return false, err
		}
	}
	switch {
	case a.chunked:
		return a.join()
	case a.length < 0:
		return false, nil
	case a.n > a.head+a.length:
		return false, errors.New("bytes after the answer")
	}
	return a.n == a.head+a.length, nil
}

func (a *answer) parseHead(head []byte) error {
	if len(head) < 12 || !bytes.HasPrefix(head, []byte("HTTP/1.")) {
		return fmt.Errorf("status line %.100q", head)
	}
	a.status = int(head[9]-'0')*100 + int(head[10]-'0')*10 + int(head[11]-'0')
	_, rest, _ := bytes.Cut(head, []byte("\r\n"))
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		// Nearly every line is of no interest, and its first letter says so.
		switch line[0] | 0x20 {
		case 'c', 't':
		default:
			continue
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			length, err := strconv.Atoi(string(value))
			if err != nil || length < 0 {
				return fmt.Errorf("content-length %.20q", value)
			}
			a.length = length
		case bytes.EqualFold(name, []byte("connection")):
			a.last = bytes.EqualFold(value, []byte("close"))
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			a.chunked = true
		}
	}
	return nil
}

// join puts the chunks together once the last has come. True: it has.
func (a *answer) join() (bool, error) {
	a.text = a.text[:0]
	rest := a.buf[a.head:a.n]
	for {
		line, more, ok := bytes.Cut(rest, []byte("\r\n"))
		if !ok {
			return false, nil
		}
		size, err := strconv.ParseUint(string(line), 16, 31)
		if err != nil {
			return false, fmt.Errorf("chunk %.20q: %w", line, err)
		}
		if len(more) < int(size)+2 {
			return false, nil
		}
		a.text = append(a.text, more[:size]...)
		rest = more[size+2:]
		if size == 0 {
			if len(rest) > 0 {
				return false, fmt.Errorf("%w: bytes after the answer", io.ErrUnexpectedEOF)
			}
			return true, nil
		}
	}
}
