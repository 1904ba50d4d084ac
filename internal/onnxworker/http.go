package onnxworker

import (
	"bytes"
	"fmt"

	"portico/internal/onnxserve"
)

// Bounds of a request.
const (
	headMax   = 64 << 10 // bytes of a head
	bodyMax   = 1 << 30  // bytes of a body; the front door allows far less
	fieldsMax = 128
	idMax     = 100 // characters of a request id
)

// refused is a request that is not served: the status and message of the answer, after which the connection closes.
type refused struct {
	status  int
	message string
}

func (r *refused) Error() string { return r.message }

func refusef(status int, format string, args ...any) error {
	return &refused{status, fmt.Sprintf(format, args...)}
}

// head is a parsed request head. Its slices lie in the buffer that was parsed.
type head struct {
	method, path, query      []byte
	length                   int
	number                   uint64
	numbered                 bool
	late                     bool // its deadline has passed
	close                    bool
	id, legacyID, clientID   []byte
	trace, jsonLength        []byte
	encoding                 []byte // of the body
	joined                   []byte // the sizes of the requests in the body; nil: it is one itself
	origin, asksFor          []byte // of a browser's page: where it comes from, the fields that it wants to send
	preflight                bool   // the browser asks for the page whether it may
	haveLength, haveDeadline bool
}

// parseHead parses a request head, whose last line end is its end.
func parseHead(b []byte) (head, error) {
	var h head
	eol := bytes.IndexByte(b, '\n')
	if eol < 1 || b[eol-1] != '\r' || !h.requestLine(b[:eol-1]) {
		return h, refusef(400, "malformed request line")
	}
	fields := 0
	for rest := b[eol+1:]; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n')
		if end < 1 || rest[end-1] != '\r' {
			return h, refusef(400, "malformed header field")
		}
		line := rest[:end-1]
		rest = rest[end+1:]
		colon := bytes.IndexByte(line, ':')
		if fields++; colon < 1 || fields > fieldsMax || !isToken(line[:colon]) {
			return h, refusef(400, "malformed or too many header fields")
		}
		value := bytes.Trim(line[colon+1:], " \t")
		if !isValue(value) {
			return h, refusef(400, "malformed header field")
		}
		if err := h.field(line[:colon], value); err != nil {
			return h, err
		}
	}
	return h, nil
}

func (h *head) requestLine(line []byte) bool {
	method, rest, ok := bytes.Cut(line, []byte{' '})
	target, version, more := bytes.Cut(rest, []byte{' '})
	if !ok || !more || string(version) != "HTTP/1.1" || !isToken(method) || len(target) == 0 || target[0] != '/' {
		return false
	}
	for _, c := range target {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	h.method = method
	h.path, h.query, _ = bytes.Cut(target, []byte{'?'})
	return true
}

// field takes note of a field that means something here. The length of its name tells most of them apart.
func (h *head) field(name, value []byte) error {
	switch len(name) {
	case len("Origin"):
		if equalFold(name, "origin") {
			h.origin = value
		}
	case len("TraceId"):
		if equalFold(name, "traceid") {
			h.trace = value
		}
	case len("Connection"):
		if equalFold(name, "connection") && equalFold(value, "close") {
			h.close = true
		}
	case len("x-request-id"):
		if equalFold(name, "x-request-id") {
			h.id = value
		}
	case len("content-length"):
		if equalFold(name, "content-length") {
			n, ok := decimal(value)
			if !ok || h.haveLength {
				return refusef(400, "malformed content-length")
			}
			if n > bodyMax {
				return refusef(413, "the body is larger than %d bytes", bodyMax)
			}
			h.length, h.haveLength = int(n), true
		}
	case len("x-ms-request-id"): // and of x-portico-batch
		if equalFold(name, "x-ms-request-id") {
			h.legacyID = value
		} else if equalFold(name, "x-portico-batch") {
			h.joined = value
		}
	case len("x-portico-number"): // and of content-encoding
		if equalFold(name, "content-encoding") {
			h.encoding = value
		} else if equalFold(name, "x-portico-number") {
			n, ok := decimal(value)
			if !ok || n == 0 || n >= runs || h.numbered {
				return refusef(400, "x-portico-number is not a number")
			}
			h.number, h.numbered = n, true
		}
	case len("transfer-encoding"):
		if equalFold(name, "transfer-encoding") {
			return refusef(501, "a worker takes no transfer-encoding; send content-length")
		}
	case len("x-portico-deadline-ms"):
		if equalFold(name, "x-portico-deadline-ms") {
			if h.haveDeadline {
				return refusef(400, "more than one x-portico-deadline-ms field")
			}
			h.haveDeadline, h.late = true, string(value) == "0"
		}
	case len("x-ms-client-request-id"):
		if equalFold(name, "x-ms-client-request-id") {
			h.clientID = value
		}
	case len("access-control-request-method"):
		h.preflight = h.preflight || equalFold(name, "access-control-request-method")
	case len("access-control-request-headers"):
		if equalFold(name, "access-control-request-headers") {
			h.asksFor = value
		}
	case len("inference-header-content-length"):
		if equalFold(name, "inference-header-content-length") {
			h.jsonLength = value
		}
	}
	return nil
}

// request is what the head and this body ask.
func (h *head) request(body []byte) onnxserve.Request {
	return onnxserve.Request{
		Method: h.method, Path: h.path, Query: h.query, JSONLength: h.jsonLength, Encoding: h.encoding, Body: body,
	}
}

// equalFold compares with a text in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// decimal reads a decimal number of at most nineteen digits.
func decimal(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	n := uint64(0)
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

var tokenByte = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] = true
	}
	return t
}()

func isToken(b []byte) bool {
	for _, c := range b {
		if !tokenByte[c] {
			return false
		}
	}
	return len(b) > 0
}

func isValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
