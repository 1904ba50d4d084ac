package inference

import (
	"bytes"
	"errors"
	"strconv"
)

// Bounds of what an instance may answer, and of what is copied.
const (
	maxAnswerHead   = 64 << 10 // bytes of an answer's head
	maxAnswerFields = 128      // header fields of an answer
	maxChunkLine    = 256      // bytes of the line before a chunk
	maxInterim      = 8        // interim answers (1xx) before an answer
	eagerBody       = 1 << 20  // bodies up to this many bytes are read at once, so that a slow caller holds no worker
	joinedBody      = 16 << 10 // request bodies up to this many bytes are copied behind the head, for one write
	boundedWrite    = 4 << 10  // requests above this many bytes may block in the socket and get a write deadline
	firstBuffer     = 4 << 10
	keptBuffer      = 128 << 10 // buffers that grew above this many bytes are not kept
)

// protocolError: the other side does not speak the protocol. The connection is of no use any more.
type protocolError struct{ what string }

func (e *protocolError) Error() string { return "protocol: " + e.what }

// errField: the call holds a field that cannot be sent as HTTP/1.1. Nothing of it was sent.
var errField = errors.New("the request holds a field that cannot be sent")

// head is a parsed answer head.
type head struct {
	status int
	length int64 // -1: chunked
	close  bool  // the other side closes the connection after this answer
	// untilEnd: the body ends with the connection.
	untilEnd bool
	excess   bool   // a body is announced where the status or the method has none
	refused  []byte // why the request was not started; nil when it was
	lost     string // what became of the worker that executed it
	raw      []byte // the fields, valid until the next read
	lines    int
}

// streams says whether the body is handed on while it comes instead of being read at once.
func (h *head) streams() bool { return h.length < 0 || h.length > eagerBody }

// parseHead parses the status line and the fields that decide about the body; b ends with a line end. foreign: the other
// side is no program of ours and may use more of HTTP: version 1.0, interim answers, bodies that end with the connection.
func parseHead(b []byte, method string, foreign bool) (head, error) {
	h := head{length: -1}
	eol := bytes.IndexByte(b, '\n')
	if err := h.parseStatus(b[:eol], foreign); err != nil {
		return h, err
	}
	h.raw = b[eol+1:]
	haveLength, chunked := false, false
	for rest := h.raw; len(rest) > 0; {
		name, value, more, ok := nextField(rest)
		if !ok {
			return h, &protocolError{"malformed header field"}
		}
		rest = more
		if h.lines++; h.lines > maxAnswerFields {
			return h, &protocolError{"too many header fields"}
		}
		switch len(name) {
		case len("content-length"): // and of lostCause
			if equalFold(name, "content-length") {
				n, ok := parseLength(value)
				if !ok || haveLength {
					return h, &protocolError{"malformed content-length"}
				}
				h.length, haveLength = n, true
			} else if equalFold(name, lostCause) {
				h.lost = string(value)
			}
		case len("transfer-encoding"):
			if equalFold(name, "transfer-encoding") {
				if chunked || !equalFold(value, "chunked") {
					return h, &protocolError{"a transfer-encoding other than chunked"}
				}
				chunked = true
			}
		case len("connection"):
			if equalFold(name, "connection") && (equalFold(value, "close") || foreign && hasToken(value, "close")) {
				h.close = true
			}
		case len("x-portico-not-started"):
			if equalFold(name, notStarted) {
				h.refused = value
			}
		}
	}
	switch {
	case haveLength && chunked:
		return h, &protocolError{"both content-length and transfer-encoding"}
	case h.status < 200 || h.status == 204 || h.status == 304 || method == "HEAD":
		h.excess = h.length > 0 || chunked
		h.length = 0
	case !haveLength && !chunked && foreign:
		h.untilEnd, h.close = true, true
	case !haveLength && !chunked:
		return h, &protocolError{"neither content-length nor transfer-encoding"}
	}
	return h, nil
}

// parseStatus parses the status line.
func (h *head) parseStatus(line []byte, foreign bool) error {
	old := foreign && bytes.HasPrefix(line, []byte("HTTP/1.0 "))
	if len(line) < 13 || !old && string(line[:9]) != "HTTP/1.1 " || line[len(line)-1] != '\r' ||
		line[12] != ' ' && line[12] != '\r' {
		return &protocolError{"malformed status line"}
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return &protocolError{"malformed status"}
		}
		h.status = 10*h.status + int(c-'0')
	}
	interim := foreign && h.status >= 100 && h.status != 101 // 101 takes the connection over, which nobody asked for
	if h.status < 200 && !interim || h.status > 599 {
		return &protocolError{"status " + strconv.Itoa(h.status)}
	}
	if !isValue(line[12 : len(line)-1]) {
		return &protocolError{"malformed status line"}
	}
	h.close = old
	return nil
}

// hasToken says whether a list with commas holds a word.
func hasToken(list []byte, word string) bool {
	for item := range bytes.SplitSeq(list, []byte{','}) {
		if equalFold(trim(item), word) {
			return true
		}
	}
	return false
}

// Fields by which an instance says more than a status can.
const (
	// notStarted: the request was not begun, and why: withdrawn, deadline, busy or closed. After "deadline" it may
	// have been begun, but nobody waits for it any more.
	notStarted = "x-portico-not-started"
	// lostCause: the worker died over the request; the value is LostError.Cause.
	lostCause = "x-portico-lost"
)

// nextField splits off one field line.
func nextField(b []byte) (name, value, rest []byte, ok bool) {
	eol := bytes.IndexByte(b, '\n')
	if eol < 1 || b[eol-1] != '\r' {
		return nil, nil, nil, false
	}
	line, rest := b[:eol-1], b[eol+1:]
	colon := bytes.IndexByte(line, ':')
	if colon < 1 || !isToken(line[:colon]) {
		return nil, nil, nil, false
	}
	value = trim(line[colon+1:])
	if !isValue(value) {
		return nil, nil, nil, false
	}
	return line[:colon], value, rest, true
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

func parseLength(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	n := int64(0)
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, true
}

var tokenByte = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] = true
	}
	return t
}()

func isToken[T text](s T) bool {
	for i := range len(s) {
		if !tokenByte[s[i]] {
			return false
		}
	}
	return len(s) > 0
}

func isValue[T text](s T) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func isTarget(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// ownPrefix begins the names that are spoken between a pool and what it calls; none is passed on.
const ownPrefix = "x-portico-"

// isOwn says whether a call's field is the connection's or this package's business and must not be passed on.
func isOwn(name string) bool {
	if isHop(name) {
		return true
	}
	switch len(name) {
	case len("host"):
		return equalFold(name, "host")
	case len("expect"):
		return equalFold(name, "expect")
	case len("x-request-id"):
		return equalFold(name, "x-request-id")
	case len("x-ms-client-request-id"):
		return equalFold(name, "x-ms-client-request-id")
	}
	return false
}

// isHop says whether a field ends at this connection.
func isHop(name string) bool {
	switch len(name) {
	case len("te"):
		return equalFold(name, "te")
	case len("upgrade"):
		return equalFold(name, "upgrade") || equalFold(name, "trailer")
	case len("connection"):
		return equalFold(name, "connection") || equalFold(name, "keep-alive")
	case len("content-length"):
		if equalFold(name, "content-length") {
			return true
		}
	case len("proxy-connection"):
		if equalFold(name, "proxy-connection") {
			return true
		}
	case len("transfer-encoding"):
		if equalFold(name, "transfer-encoding") {
			return true
		}
	}
	return len(name) > len(ownPrefix) && equalFold(name[:len(ownPrefix)], ownPrefix)
}
