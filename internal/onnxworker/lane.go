package onnxworker

import (
	"bytes"
	"errors"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"portico/internal/onnxserve"
)

const (
	firstBuffer = 16 << 10
	keptBuffer  = 1 << 20 // a buffer that grew above this many bytes is not kept
	headRoom    = 1 << 10 // bytes before an answer's body, for its head
	// An answer of more than boundedWrite bytes may find the socket full; its reader has sendTimeout for it.
	boundedWrite = 4 << 10
	sendTimeout  = 30 * time.Second
)

// lane is one connection at a time, with at most one request on it.
type lane struct {
	index    int
	w        *worker
	executor *onnxserve.Executor
	number   atomic.Uint64 // of the request that runs; 0: none, or one without a number

	conn net.Conn
	in   []byte // in[:n] was read
	n    int
	head []byte // of the answer
}

var idTooLong = "a request id must not exceed " + strconv.Itoa(idMax) + " characters"

// errGone: the other side has closed the connection, or cannot be talked to.
var errGone = errors.New("the connection is gone")

// serve answers the requests of a connection until it ends.
func (l *lane) serve(conn net.Conn) {
	l.conn, l.n = conn, 0
	for l.exchange() {
		if len(l.in) > keptBuffer {
			l.in = nil
		}
	}
	_ = conn.Close() // nobody reads from it any more
	l.w.free <- l
}

// exchange reads a request and answers it. False: the connection is to be closed.
func (l *lane) exchange() bool {
	h, body, err := l.receive()
	if err != nil {
		var r *refused
		if errors.As(err, &r) {
			l.refuse(r.status, r.message)
		}
		return false
	}
	if !l.w.enter() {
		return false
	}
	defer l.w.leave()
	defer l.executor.Shrink() // after the answer was sent: an idle lane keeps little
	switch {
	case max(len(h.id), len(h.legacyID), len(h.clientID)) > idMax:
		return l.refuse(431, idTooLong) && !h.close
	case h.late:
		return l.send(notStarted("deadline"), nil) && !h.close
	case h.joined != nil:
		return l.answerJoint(&h, body) && !h.close
	}
	return l.answer(&h, body) && !h.close
}

// receive reads one request. Nothing may follow it, because one may be outstanding.
func (l *lane) receive() (head, []byte, error) {
	l.n = 0
	var end int
	for from := 0; ; {
		if err := l.fill(firstBuffer); err != nil {
			return head{}, nil, err
		}
		end = bytes.Index(l.in[from:l.n], []byte("\r\n\r\n"))
		if end += from; end > headMax || end < from && l.n > headMax {
			return head{}, nil, refusef(431, "the request head is too large")
		}
		if end >= from {
			break
		}
		from = max(l.n-3, 0)
	}
	h, err := parseHead(l.in[:end+2])
	if err != nil {
		return h, nil, err
	}
	body := end + 4
	if l.n > body+h.length {
		return h, nil, refusef(400, "bytes follow the request; one request may be outstanding")
	}
	if whole := body + h.length; whole > len(l.in) { // the head is parsed again where it lies then
		grown := make([]byte, whole)
		copy(grown, l.in[:l.n])
		l.in = grown
		if h, err = parseHead(l.in[:end+2]); err != nil {
			return h, nil, err
		}
	}
	for l.n < body+h.length {
		if err := l.fill(0); err != nil {
			return h, nil, err
		}
	}
	return h, l.in[body : body+h.length], nil
}

// fill reads what there is, at least one byte, with room for more of them made first.
func (l *lane) fill(room int) error {
	if l.n == len(l.in) {
		grown := make([]byte, max(2*len(l.in), room))
		copy(grown, l.in)
		l.in = grown
	}
	n, err := l.conn.Read(l.in[l.n:])
	if l.n += n; err != nil && n == 0 {
		return errGone
	}
	return nil
}

// answer serves a request. False: the connection broke.
func (l *lane) answer(h *head, body []byte) bool {
	request := h.request(body)
	if string(h.method) != "POST" {
		return l.write(h, l.executor.Handle(&request))
	}
	began := time.Now()
	if h.numbered && !l.w.page.start(l.index, h.number) {
		return l.send(notStarted("withdrawn"), nil)
	}
	l.number.Store(h.number)
	a := l.executor.Handle(&request)
	l.number.Store(0)
	if a.Terminated {
		l.w.log.Printf("canceled: the caller no longer waits for the answer; request %s", h.id)
	} else if a.Failed {
		l.w.log.Printf("the model failed; request %s: %s", h.id, a.Body)
	}
	// Sent before the page says that the request ended: who sees the end can read the answer.
	kept := l.write(h, a)
	l.w.page.finish(l.index, h.number, time.Since(began))
	return kept
}

// cancel ends the request with this number if it runs here.
func (l *lane) cancel(number uint64) {
	if number == 0 || l.number.Load() != number {
		return
	}
	if err := l.executor.Terminate(); err != nil {
		l.w.log.Printf("a request cannot be canceled: %v", err)
	}
}

// write sends an answer with the fields that every answer has.
func (l *lane) write(h *head, a onnxserve.Answer) bool {
	b := l.appendHead(l.head[:0], h, a)
	l.head = b
	if string(h.method) == "HEAD" {
		return l.send(b, nil)
	}
	if whole := l.executor.Whole(); len(b) <= headRoom {
		start := headRoom - len(b)
		copy(whole[start:], b)
		return l.send(whole[start:], nil)
	}
	return l.send(b, a.Body)
}

// appendHead appends the head of an answer.
func (l *lane) appendHead(b []byte, h *head, a onnxserve.Answer) []byte {
	b = appendField(appendStatus(b, a.Status), "content-type", a.Kind)
	if a.Failed {
		b = append(b, "x-ms-run-function-failed: True\r\n"...)
	} else {
		b = append(b, "x-ms-run-function-failed: False\r\n"...)
	}
	b = l.appendIDs(b, h)
	if a.Ran > 0 {
		b = append(b, "x-ms-run-fn-exec-ms: "...)
		b = strconv.AppendFloat(b, float64(a.Ran)/float64(time.Millisecond), 'f', 3, 64)
		b = append(b, "\r\n"...)
	}
	if a.JSONLength > 0 {
		b = append(b, "inference-header-content-length: "...)
		b = append(strconv.AppendInt(b, int64(a.JSONLength), 10), "\r\n"...)
	}
	b = append(b, "content-length: "...)
	return append(strconv.AppendInt(b, int64(len(a.Body)), 10), "\r\n\r\n"...)
}

// appendIDs appends the request's ids, as the reference inference server does.
func (l *lane) appendIDs(b []byte, h *head) []byte {
	id, legacy, client := h.id, h.legacyID, h.clientID
	if len(id) == 0 {
		id = l.w.makeID()
	}
	if len(client) == 0 {
		client = legacy
	}
	if len(legacy) == 0 {
		if legacy = client; len(legacy) == 0 {
			legacy = id
		}
	}
	b = appendField(b, "x-request-id", id)
	b = appendField(b, "x-ms-request-id", legacy)
	if len(client) > 0 {
		b = appendField(b, "x-ms-client-request-id", client)
	}
	b = append(b, l.w.versionField...)
	if len(h.trace) > 0 {
		b = appendField(b, "TraceId", h.trace)
	}
	if l.w.origins != nil {
		b = l.w.origins.appendFields(b, h)
	}
	return b
}

func appendField[T string | []byte](b []byte, name string, value T) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}

var reasons = map[int]string{
	200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 413: "Content Too Large",
	415: "Unsupported Media Type", 431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable",
}

func appendStatus(b []byte, status int) []byte {
	if status == 200 {
		return append(b, "HTTP/1.1 200 OK\r\n"...)
	}
	b = strconv.AppendInt(append(b, "HTTP/1.1 "...), int64(status), 10)
	return append(append(append(b, ' '), reasons[status]...), "\r\n"...)
}

// refuse answers what is no request.
func (l *lane) refuse(status int, message string) bool { return l.send(refusal(status, message), nil) }

func refusal(status int, message string) []byte {
	body := `{"message": ` + strconv.Quote(message) + `}` // of texts without anything to escape
	b := appendField(appendStatus(nil, status), "content-type", "application/json")
	return append(append(appendField(b, "content-length", strconv.Itoa(len(body))), "\r\n"...), body...)
}

// notStarted is the answer to a request that is not begun.
func notStarted(why string) []byte {
	b := appendField(appendStatus(nil, 503), "x-portico-not-started", why)
	return append(b, "content-length: 0\r\n\r\n"...)
}

// send writes both parts. False: the reader is gone, or has not taken them within sendTimeout.
func (l *lane) send(first, second []byte) bool {
	if len(first)+len(second) > boundedWrite {
		// Both fail only on a closed connection, which the write tells.
		_ = l.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
		defer func() { _ = l.conn.SetWriteDeadline(time.Time{}) }()
	}
	for _, part := range [...][]byte{first, second} {
		if len(part) == 0 {
			continue
		}
		if _, err := l.conn.Write(part); err != nil {
			return false
		}
	}
	return true
}
