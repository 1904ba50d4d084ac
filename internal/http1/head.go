package http1

import (
	"strings"
)

// Field is one header field. Names are compared without regard to case and sent as given.
type Field struct{ Name, Value string }

// fault says why the bytes of a request are not acceptable: the status of the answer, and what is wrong.
type fault struct {
	status  int
	message string
}

func (f *fault) Error() string { return f.message }

// The faults of a request's head.
var (
	faultLine       = &fault{400, "A line of the request does not end with CRLF, or holds a lone CR."}
	faultRequest    = &fault{400, "The request line is not METHOD TARGET HTTP/1.1."}
	faultTarget     = &fault{400, "The request target is neither a path nor an absolute URL."}
	faultField      = &fault{400, "A header field is malformed, or folded over several lines."}
	faultHost       = &fault{400, "The request must have exactly one valid Host field."}
	faultLength     = &fault{400, "Content-Length must be one decimal number."}
	faultCoding     = &fault{400, "The only Transfer-Encoding is one \"chunked\", in HTTP/1.1 and without Content-Length."}
	faultExpect     = &fault{417, "The only expectation that can be met is 100-continue."}
	faultHeaderSize = &fault{431, "The request line and the header are too large."}
	faultManyFields = &fault{431, "The request has too many header fields."}
)

// head is a parsed request head. Its strings share one piece of memory.
type head struct {
	method, host, path, query string
	fields                    []Field
	length                    int64 // of the body; -1: chunked
	old                       bool  // HTTP/1.0
	close                     bool  // the caller wants no further request on this connection
	keep                      bool  // the caller asks for one, which HTTP/1.0 has to
	expects                   bool  // the body comes once the caller was told to go on

	hosts, lengths, codings int
}

// parse reads a head whose every line ends with CRLF, without the empty line behind it. The fields are appended to those
// given.
func (h *head) parse(text string, fields []Field, most int) *fault {
	*h = head{fields: fields}
	line, rest, _ := strings.Cut(text, "\r\n")
	if f := h.requestLine(line); f != nil {
		return f
	}
	for rest != "" {
		line, rest, _ = strings.Cut(rest, "\r\n")
		if len(h.fields) == most {
			return faultManyFields
		}
		name, value, ok := splitField(line)
		if !ok {
			return faultField
		}
		h.fields = append(h.fields, Field{name, value})
		if f := h.take(name, value); f != nil {
			return f
		}
	}
	switch {
	case h.hosts > 1, h.hosts == 0 && !h.old:
		return faultHost
	case h.codings > 0 && (h.lengths > 0 || h.old):
		return faultCoding
	}
	h.expects = h.expects && h.length != 0 && !h.old
	return nil
}

// splitField takes a field's line apart. False: it is none, such as a folded line.
func splitField(line string) (name, value string, ok bool) {
	n := 0
	for n < len(line) && tokenByte[line[n]] {
		n++
	}
	if n == 0 || n == len(line) || line[n] != ':' {
		return "", "", false
	}
	value = strings.Trim(line[n+1:], " \t")
	return line[:n], value, isValue(value)
}

// take notes what a field says about the message or the connection.
func (h *head) take(name, value string) *fault {
	switch len(name) {
	case len("host"):
		if !EqualFold(name, "host") {
			return nil
		}
		h.hosts++
		if !isHost(value) {
			return faultHost
		}
		if h.host == "" { // an absolute target has named it already
			h.host = value
		}
	case len("expect"):
		if !EqualFold(name, "expect") {
			return nil
		}
		if !EqualFold(value, "100-continue") {
			return faultExpect
		}
		h.expects = true
	case len("connection"):
		if EqualFold(name, "connection") {
			h.connection(value)
		}
	case len("content-length"):
		if !EqualFold(name, "content-length") {
			return nil
		}
		h.lengths++
		size, ok := decimal(value)
		if !ok || h.lengths > 1 {
			return faultLength
		}
		if h.codings == 0 {
			h.length = size
		}
	case len("transfer-encoding"):
		if !EqualFold(name, "transfer-encoding") {
			return nil
		}
		h.codings++
		if h.codings > 1 || !EqualFold(value, "chunked") {
			return faultCoding
		}
		h.length = -1
	}
	return nil
}

func (h *head) connection(value string) {
	for value != "" {
		var option string
		option, value, _ = strings.Cut(value, ",")
		option = strings.Trim(option, " \t")
		h.close = h.close || EqualFold(option, "close")
		h.keep = h.keep || EqualFold(option, "keep-alive")
	}
}

// requestLine reads "METHOD TARGET HTTP/1.1".
func (h *head) requestLine(line string) *fault {
	method, rest, _ := strings.Cut(line, " ")
	target, version, _ := strings.Cut(rest, " ")
	switch version {
	case "HTTP/1.1":
	case "HTTP/1.0":
		h.old = true
	default:
		return faultRequest
	}
	if !isToken(method) || len(method) > maxMethod {
		return faultRequest
	}
	h.method = method
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return faultTarget
		}
	}
	switch {
	case target == "":
		return faultTarget
	case target[0] == '/':
	case target == "*" && method == "OPTIONS":
	default:
		var ok bool
		if h.host, target, ok = absolute(target); !ok {
			return faultTarget
		}
	}
	h.path, h.query, _ = strings.Cut(target, "?")
	return nil
}

// absolute takes an absolute URL apart, which stands in requests to proxies. It names the host in place of the Host field
// (RFC 9112 section 3.2.2).
func absolute(target string) (host, rest string, ok bool) {
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || !EqualFold(scheme, "http") && !EqualFold(scheme, "https") {
		return "", "", false
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	host, rest = rest[:end], rest[end:]
	if rest == "" || rest[0] == '?' {
		rest = "/" + rest
	}
	return host, rest, host != "" && isHost(host)
}

// decimal reads digits only, as many as surely fit.
func decimal(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	n := int64(0)
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// EqualFold compares a name with one in lower case, without regard to ASCII case and to no other.
func EqualFold(s, lower string) bool {
	if len(s) != len(lower) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// tokenByte are the characters of methods and field names; hostByte those of a host with its port.
var tokenByte, hostByte = func() (token, host [256]bool) {
	const alphanumeric = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	for _, c := range []byte("!#$%&'*+-.^_`|~" + alphanumeric) {
		token[c] = true
	}
	for _, c := range []byte("!$%&'()*+,-.:;=[]_~" + alphanumeric) {
		host[c] = true
	}
	return token, host
}()

func isToken(s string) bool {
	for i := range len(s) {
		if !tokenByte[s[i]] {
			return false
		}
	}
	return s != ""
}

func isHost(s string) bool {
	for i := range len(s) {
		if !hostByte[s[i]] {
			return false
		}
	}
	return true
}

// isValue says whether s may be a field's value: anything but control characters other than a tab.
func isValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
