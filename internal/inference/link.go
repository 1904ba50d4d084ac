package inference

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// link is one HTTP/1.1 connection to a worker or to an instance, with at most one request on it.
type link struct {
	conn net.Conn
	in   []byte // in[r:w] was read and not yet used
	r, w int
	out  []byte

	watch   *hangup
	foreign bool // the other side is no program of ours
}

// hangup interrupts reads and writes on a connection when a caller goes away.
type hangup struct {
	stop  func() bool
	fired chan struct{}
}

var longAgo = time.Unix(1, 0)

func newLink(conn net.Conn) *link { return &link{conn: conn, in: make([]byte, firstBuffer)} }

// begin writes the request line and everything that the instance needs to know of the call into out.
func (l *link) begin(call *Call, host string, number uint64, left time.Duration) error {
	b := l.out[:0]
	if !isToken(call.Method) || !isTarget(call.Path) || !isTarget(call.Query) || call.Path == "" {
		return errField
	}
	b = append(b, call.Method...)
	b = append(b, ' ')
	b = append(b, call.Path...)
	if call.Query != "" {
		b = append(b, '?')
		b = append(b, call.Query...)
	}
	b = append(b, " HTTP/1.1\r\n"...)
	if host != "" {
		b = append(b, "host: "...)
		b = append(b, host...)
		b = append(b, "\r\n"...)
	}
	if number != 0 {
		b = append(b, "x-portico-number: "...)
		b = strconv.AppendUint(b, number, 10)
		b = append(b, "\r\n"...)
	}
	if call.joined != "" {
		b = appendField(b, Field{Name: batchField, Value: call.joined})
	}
	if !l.foreign {
		b = append(b, "x-portico-deadline-ms: "...)
		b = strconv.AppendInt(b, max(1, left.Milliseconds()), 10)
		b = append(b, "\r\n"...)
	}
	for _, own := range [...]Field{{Name: "x-request-id", Value: call.ID}, {Name: "x-ms-client-request-id", Value: call.ClientID}} {
		if own.Value == "" {
			continue
		}
		if !isValue(own.Value) {
			return errField
		}
		b = appendField(b, own)
	}
	for _, f := range call.Header {
		if isOwn(f.Name) {
			continue
		}
		if !isToken(f.Name) || !isValue(f.Value) {
			return errField
		}
		b = appendField(b, f)
	}
	if host == "" && call.Host != "" {
		if !isValue(call.Host) {
			return errField
		}
		b = appendField(b, Field{Name: "host", Value: call.Host})
	}
	b = append(b, "content-length: "...)
	b = strconv.AppendInt(b, int64(len(call.Body)), 10)
	l.out = append(b, "\r\n\r\n"...)
	return nil
}

// send writes what begin prepared and the body. What is too large for any socket to take at once is bounded by the
// call's deadline and its caller's patience.
func (l *link) send(ctx context.Context, call *Call) error {
	if len(l.out)+len(call.Body) <= boundedWrite {
		l.out = append(l.out, call.Body...)
		_, err := l.conn.Write(l.out)
		return err
	}
	_ = l.conn.SetWriteDeadline(call.Deadline) // fails only on a closed connection, which the write tells
	l.watchCaller(ctx)
	var err error
	if ctx.Err() != nil {
		return os.ErrDeadlineExceeded
	}
	if len(call.Body) <= joinedBody {
		l.out = append(l.out, call.Body...)
		_, err = l.conn.Write(l.out)
	} else {
		parts := net.Buffers{l.out, call.Body}
		_, err = parts.WriteTo(l.conn)
	}
	if err == nil {
		err = l.conn.SetWriteDeadline(time.Time{})
	}
	return err
}

func appendField(b []byte, f Field) []byte {
	b = append(b, f.Name...)
	b = append(b, ": "...)
	b = append(b, f.Value...)
	return append(b, "\r\n"...)
}

// fill reads more into in; at least one byte on success.
func (l *link) fill(limit int) error {
	if l.r > 0 {
		l.w = copy(l.in, l.in[l.r:l.w])
		l.r = 0
	}
	if l.w == len(l.in) {
		if len(l.in) >= limit {
			return &protocolError{"an answer's head is too large"}
		}
		bigger := make([]byte, min(limit, 2*len(l.in)))
		copy(bigger, l.in[:l.w])
		l.in = bigger
	}
	n, err := l.conn.Read(l.in[l.w:])
	l.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// readHead reads up to the end of an answer's head. After a timeout it may be called again.
func (l *link) readHead(method string) (head, error) {
	for interim := 0; ; {
		if end := bytes.Index(l.in[l.r:l.w], []byte("\r\n\r\n")); end >= 0 {
			h, err := parseHead(l.in[l.r:l.r+end+2], method, l.foreign)
			l.r += end + 4
			if err == nil && h.status < 200 {
				if interim++; interim > maxInterim {
					return h, &protocolError{"too many interim answers"}
				}
				continue
			}
			return h, err
		}
		if err := l.fill(maxAnswerHead); err != nil {
			return head{}, err
		}
	}
}

// read gives bytes of the body: what is here already, else what the connection has.
func (l *link) read(p []byte) (int, error) {
	if l.r < l.w {
		n := copy(p, l.in[l.r:l.w])
		l.r += n
		return n, nil
	}
	return l.conn.Read(p)
}

// line reads one line without its end, valid until the next read.
func (l *link) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(l.in[l.r:l.w], '\n'); i >= 0 {
			line := l.in[l.r : l.r+i]
			l.r += i + 1
			if i == 0 || line[i-1] != '\r' {
				return nil, &protocolError{"a line without its end"}
			}
			return line[:i-1], nil
		}
		if l.w-l.r > maxChunkLine {
			return nil, &protocolError{"a line is too long"}
		}
		if err := l.fill(maxAnswerHead); err != nil {
			return nil, err
		}
	}
}

// expect sets how long the first read may take: until patience is over, so that the many short calls need no
// watch on their caller, or until the deadline. An error: the caller is gone already.
func (l *link) expect(ctx context.Context, call *Call, now time.Time) error {
	if soon := now.Add(patience); l.watch == nil && soon.Before(call.Deadline) {
		return l.conn.SetReadDeadline(soon)
	}
	return l.limit(ctx, call)
}

// limit bounds reads by the call's deadline and its caller's patience. An error: the caller is gone already.
func (l *link) limit(ctx context.Context, call *Call) error {
	_ = l.conn.SetReadDeadline(call.Deadline) // fails only on a closed connection, which the read tells
	l.watchCaller(ctx)
	return ctx.Err() // looked at last: from here on the watch interrupts
}

// watchCaller interrupts the connection when ctx ends.
func (l *link) watchCaller(ctx context.Context) {
	if l.watch != nil || ctx.Done() == nil {
		return
	}
	conn, fired := l.conn, make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(longAgo) // fails only on a closed connection
		close(fired)
	})
	l.watch = &hangup{stop, fired}
}

// unwatch ends the watch; after it nothing touches the connection's deadlines but its user.
func (l *link) unwatch() {
	if l.watch == nil {
		return
	}
	if !l.watch.stop() {
		<-l.watch.fired
		_ = l.conn.SetDeadline(time.Time{}) // fails only on a closed connection
	}
	l.watch = nil
}

// reset makes the connection ready for the next request.
func (l *link) reset() {
	l.unwatch()
	l.r, l.w = 0, 0
	if len(l.in) > keptBuffer {
		l.in = make([]byte, firstBuffer)
	}
	if cap(l.out) > keptBuffer {
		l.out = nil
	}
}

func (l *link) close() {
	l.unwatch()
	_ = l.conn.Close() // nothing that was written is waited for
}

// readable says whether bytes are here, without waiting.
func (l *link) readable() bool {
	n, err := l.peek()
	return err == nil && n > 0
}

// stale says whether an idle connection is of no use: the other side closed it, or sent what nobody asked for.
func (l *link) stale() bool {
	_, err := l.peek()
	return err != unix.EAGAIN && err != unix.EWOULDBLOCK //nolint:errorlint // straight from the system call
}

// peek looks for bytes without waiting: how many are here, 0 when the other side has closed, EAGAIN for none.
func (l *link) peek() (int, error) {
	if l.w > l.r {
		return l.w - l.r, nil
	}
	sys, ok := l.conn.(syscall.Conn)
	if !ok {
		return 0, unix.ENOTSUP
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return 0, err
	}
	_ = l.conn.SetReadDeadline(time.Time{}) // a passed deadline would forbid the look
	n := 0
	var looked error
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		n, _, looked = unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return true
	})
	if err == nil {
		err = looked
	}
	return n, err
}

// readAnswer makes an answer of h and the body that follows it, which is read to its end.
func (l *link) readAnswer(ctx context.Context, call *Call, h head) (*Answer, error) {
	body := l.in[l.r:l.w]
	if int64(len(body)) > h.length {
		body = body[:h.length]
	}
	answer, rest := newAnswer(h, body)
	if here := len(body); int64(here) < h.length { // the whole body into memory of its own
		long := make([]byte, h.length)
		copy(long, body)
		l.r = l.w
		if err := l.limit(ctx, call); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(l.conn, long[here:]); err != nil {
			return nil, err
		}
		rest = unsafe.String(unsafe.SliceData(long), len(long)) // nobody writes it any more
	} else {
		l.r += here
	}
	answer.text.Reset(rest)
	answer.Body = answer
	return &answer.Answer, nil
}

// stream makes an answer of h whose body is read from the connection as the caller asks for it.
func (l *link) stream(h head, c carrier) *Answer {
	answer, _ := newAnswer(h, nil)
	s := &stream{link: l, carrier: c, left: max(0, h.length), chunked: h.length < 0 && !h.untilEnd, reuse: !h.close}
	if s.untilEnd = h.untilEnd; s.untilEnd {
		s.left = math.MaxInt64
	}
	answer.Body = s
	return &answer.Answer
}

// timeLeft says how long a call may still take, or that it may not any more.
func timeLeft(call *Call, now time.Time) (time.Duration, bool) {
	left := call.Deadline.Sub(now)
	return left, left > 0
}

func lost(instance, format string, args ...any) *LostError {
	return &LostError{Instance: instance, Cause: fmt.Sprintf(format, args...)}
}
