package route

import (
	"net/http"
	"slices"
	"strings"
)

// Path is what callers may ask for below an endpoint's URL, in the form that Clean gives.
type Path struct {
	Path    string   // begins with '/'. One that ends in '/' admits every path that begins with it, another only itself
	Methods []string // nil: all but CONNECT and TRACE
}

// PathScore is the path that every deployment answers: the last part of an endpoint's scoring URL.
const PathScore = "/score"

// PathSwagger is where scripts and models describe themselves. Asking for it is no scoring request: it is not mirrored.
const PathSwagger = "/swagger.json"

// Methods of paths.
var (
	Read        = []string{http.MethodGet}
	Write       = []string{http.MethodPost}
	ReadOrWrite = []string{http.MethodGet, http.MethodPost}
)

// ScriptPaths are those of a scoring script, and of every runtime that takes Azure's requests.
var ScriptPaths = []Path{{PathScore, ReadOrWrite}, {PathSwagger, Read}}

// admits says whether the rule is one for this path.
func (p *Path) admits(path string) bool {
	if strings.HasSuffix(p.Path, "/") {
		return strings.HasPrefix(path, p.Path)
	}
	return path == p.Path
}

func (p *Path) takes(method string) bool {
	if p.Methods == nil {
		// CONNECT makes a tunnel of the connection; TRACE shows what the front door adds to a request.
		return method != http.MethodConnect && method != http.MethodTrace
	}
	return slices.Contains(p.Methods, method)
}

// Admit finds what a request for a path below the endpoint's URL asks of the instance. path is as Clean gives it. When
// the deployment does not serve it ok is false; allow then lists the methods that it serves the path for, and is nil when
// it serves it for none. It does not allocate.
func (d *Deployment) Admit(method, path string) (at string, allow []string, ok bool) {
	paths := d.Paths
	if paths == nil {
		paths = ScriptPaths
	}
	if at, allow, ok = admit(paths, method, path); ok || allow != nil || path != PathScore || d.ScoringPath == "" {
		return at, allow, ok
	}
	return admit(paths, method, d.ScoringPath)
}

func admit(paths []Path, method, path string) (at string, allow []string, ok bool) {
	for i := range paths {
		if p := &paths[i]; p.admits(path) {
			if p.takes(method) {
				return path, nil, true
			}
			if allow = p.Methods; allow == nil {
				allow = anyMethod
			}
		}
	}
	return "", allow, false
}

// anyMethod is what a path without a list of methods tells those who used another one.
var anyMethod = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
	http.MethodDelete, http.MethodOptions}

// Clean gives a path of a URL, escaped as it was received, in the one form that paths are compared and passed on in:
// letters, digits and -._~:@ are not escaped, other escapes are in upper case. Everything is decoded once, and nothing is
// resolved: a path with a part '.' or '..' however written (escaped, behind an escaped slash or a backslash, before a
// parameter), with a control character or with a broken escape is not acceptable. A path without escapes costs no memory.
func Clean(path string) (string, bool) {
	var p part
	if strings.IndexByte(path, '%') < 0 {
		for i := range len(path) {
			if c := path[i]; !literal[c] || !p.next(c) {
				return "", false
			}
		}
		if !p.end() {
			return "", false
		}
		return path, true
	}
	made := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case c == '%':
			if i+2 >= len(path) {
				return "", false
			}
			high, low := unhex(path[i+1]), unhex(path[i+2])
			if high > 15 || low > 15 {
				return "", false
			}
			i += 2
			if c = high<<4 | low; bare[c] {
				made = append(made, c)
			} else {
				made = append(made, '%', digits[high], digits[low])
			}
		case !literal[c]:
			return "", false
		default:
			made = append(made, c)
		}
		if !p.next(c) {
			return "", false
		}
	}
	if !p.end() {
		return "", false
	}
	return string(made), true
}

// part follows the part of a path that is being read, decoded: 1 is '.', 2 is '..', 3 is anything else.
type part uint8

func (p *part) next(c byte) bool {
	switch {
	case c < ' ' || c == 0x7f:
		return false
	case c == '/', c == '\\', c == ';':
		good := p.end()
		if *p = 0; c == ';' {
			*p = 3 // a parameter
		}
		return good
	case c == '.' && *p < 3:
		*p++
	default:
		*p = 3
	}
	return true
}

func (p *part) end() bool { return *p != 1 && *p != 2 }

const digits = "0123456789ABCDEF"

// unhex gives the value of a hexadecimal digit, more than 15 for anything else.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return (c | 0x20) - 'a' + 10
	}
	return 16
}

// literal are the bytes that may stand in a path without an escape, bare those that have none after Clean.
var literal, bare = func() (literal, bare [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:@") {
		literal[c], bare[c] = true, true
	}
	for _, c := range []byte("/!$&'()*+,;=[]") {
		literal[c] = true
	}
	return literal, bare
}()
