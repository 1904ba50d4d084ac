package onnxserve

import (
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"
)

// maxDepth bounds nesting, so that a hostile document cannot exhaust the stack.
const maxDepth = 64

// fault is a request that cannot be answered, and the status of what is answered in its place.
type fault struct {
	status  int
	message string
}

func (f *fault) Error() string { return f.message }

func badf(format string, args ...any) error { return &fault{400, fmt.Sprintf(format, args...)} }

// scanner reads JSON (RFC 8259), and beyond it the words NaN, Infinity and -Infinity that Python writes.
type scanner struct {
	b []byte
	i int
}

// next is the first byte of what comes next, which is not consumed; 0 at the end.
func (s *scanner) next() byte {
	for s.i < len(s.b) {
		c := s.b[s.i]
		if c > ' ' || c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c
		}
		s.i++
	}
	return 0
}

// take consumes c when it comes next.
func (s *scanner) take(c byte) bool {
	if s.next() != c {
		return false
	}
	s.i++
	return true
}

func (s *scanner) wrong(expected string) error {
	if c := s.next(); c != 0 {
		return badf("The body is not valid JSON: expected %s at byte %d, got %q.", expected, s.i, rune(c))
	}
	return badf("The body is not valid JSON: it ends where %s is expected.", expected)
}

// members goes through an object whose '{' was read: it gives the name of each member and stands at its value, which the
// loop must read before the next. An error is the last that it gives. A name is valid until the next one.
func (s *scanner) members(scratch []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for first := true; ; first = false {
			name, ok, err := s.member(first, scratch[:0])
			if err != nil {
				yield(nil, err)
				return
			}
			if !ok || !yield(name, nil) {
				return
			}
		}
	}
}

// member reads the name of the next member of an object, up to its value. first says that nothing of the object was read
// yet. ok is false at its end.
func (s *scanner) member(first bool, scratch []byte) (name []byte, ok bool, err error) {
	if s.take('}') {
		return nil, false, nil
	}
	if !first {
		if !s.take(',') {
			return nil, false, s.wrong("',' or '}'")
		}
	}
	if s.next() != '"' {
		return nil, false, s.wrong("a name")
	}
	if name, err = s.text(scratch[:0]); err != nil {
		return nil, false, err
	}
	if !s.take(':') {
		return nil, false, s.wrong("':'")
	}
	return name, true, nil
}

// end sees that nothing follows.
func (s *scanner) end() error {
	if c := s.next(); c != 0 || s.i < len(s.b) {
		return s.wrong("the end")
	}
	return nil
}

// skip passes over a value.
func (s *scanner) skip(depth int) error {
	if depth > maxDepth {
		return badf("The body is nested more than %d deep.", maxDepth)
	}
	switch c := s.next(); c {
	case '{':
		s.i++
		var name [64]byte // would not stay on the stack if it were given to members
		for first := true; ; first = false {
			_, ok, err := s.member(first, name[:0])
			if err != nil || !ok {
				return err
			}
			if err := s.skip(depth + 1); err != nil {
				return err
			}
		}
	case '[':
		s.i++
		if s.take(']') {
			return nil
		}
		for {
			if err := s.skip(depth + 1); err != nil {
				return err
			}
			if s.take(']') {
				return nil
			}
			if !s.take(',') {
				return s.wrong("',' or ']'")
			}
		}
	case '"':
		return s.skipText()
	case 't', 'f', 'n':
		_, err := s.word()
		return err
	default:
		_, err := s.number()
		return err
	}
}

// skipText passes over a string.
func (s *scanner) skipText() error {
	for j := s.i + 1; j < len(s.b); j++ {
		switch c := s.b[j]; {
		case c == '"':
			s.i = j + 1
			return nil
		case c == '\\' || c < ' ':
			_, err := s.text(nil)
			return err
		}
	}
	return s.unended()
}

func (s *scanner) unended() error {
	s.i = len(s.b)
	return badf("The body is not valid JSON: a text has no end.")
}

// word reads true, false or null, and gives its first letter.
func (s *scanner) word() (byte, error) {
	for _, w := range [...]string{"true", "false", "null"} {
		if len(s.b)-s.i >= len(w) && string(s.b[s.i:s.i+len(w)]) == w {
			s.i += len(w)
			return w[0], nil
		}
	}
	return 0, s.wrong("a value")
}

// text reads a string and appends it to dst.
func (s *scanner) text(dst []byte) ([]byte, error) {
	from := s.i + 1
	for j := from; j < len(s.b); j++ {
		switch c := s.b[j]; {
		case c == '"':
			s.i = j + 1
			dst = append(dst, s.b[from:j]...)
			return dst, nil
		case c < ' ':
			s.i = j
			return nil, s.wrong("no control character in a text")
		case c == '\\':
			dst = append(dst, s.b[from:j]...)
			s.i = j
			var err error
			if dst, err = s.escape(dst); err != nil {
				return nil, err
			}
			from = s.i
			j = s.i - 1
		}
	}
	return nil, s.unended()
}

// escape reads one escape sequence, or the two of a surrogate pair.
func (s *scanner) escape(dst []byte) ([]byte, error) {
	if s.i+1 >= len(s.b) {
		return nil, s.unended()
	}
	c := s.b[s.i+1]
	s.i += 2
	switch c {
	case '"', '\\', '/':
		return append(dst, c), nil
	case 'b':
		return append(dst, '\b'), nil
	case 'f':
		return append(dst, '\f'), nil
	case 'n':
		return append(dst, '\n'), nil
	case 'r':
		return append(dst, '\r'), nil
	case 't':
		return append(dst, '\t'), nil
	case 'u':
		r, ok := s.hex()
		if !ok {
			return nil, badf("The body is not valid JSON: malformed \\u at byte %d.", s.i)
		}
		if utf16.IsSurrogate(r) {
			second, ok := rune(0), false
			if s.i+1 < len(s.b) && s.b[s.i] == '\\' && s.b[s.i+1] == 'u' {
				s.i += 2
				second, ok = s.hex()
			}
			if r = utf16.DecodeRune(r, second); !ok || r == utf8.RuneError {
				return nil, badf("The body is not valid JSON: half a character at byte %d.", s.i)
			}
		}
		return utf8.AppendRune(dst, r), nil
	}
	return nil, badf("The body is not valid JSON: unknown escape at byte %d.", s.i-1)
}

func (s *scanner) hex() (rune, bool) {
	if s.i+4 > len(s.b) {
		return 0, false
	}
	r := rune(0)
	for _, c := range s.b[s.i : s.i+4] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	s.i += 4
	return r, true
}

// number is a number as it was written: mantissa x 10^exponent, if it is exact.
type number struct {
	mantissa uint64
	exponent int
	negative bool
	exact    bool // the mantissa holds every digit
	special  float64
	literal  []byte
}

// mantissaDigits is how many digits always fit into the mantissa.
const mantissaDigits = 19

// number reads a number.
func (s *scanner) number() (number, error) {
	b, i := s.b, s.i
	n := number{exact: true}
	if i < len(b) && b[i] == '-' {
		n.negative = true
		i++
	}
	from := i
	for i < len(b) && b[i]-'0' < 10 {
		n.mantissa = n.mantissa*10 + uint64(b[i]-'0')
		i++
	}
	digits := i - from
	if digits == 0 {
		return s.special(n.negative, i)
	}
	if digits > 1 && b[from] == '0' {
		s.i = from
		return n, s.wrong("a number without leading zeros")
	}
	if i < len(b) && b[i] == '.' {
		i++
		fraction := i
		for i < len(b) && b[i]-'0' < 10 {
			n.mantissa = n.mantissa*10 + uint64(b[i]-'0')
			i++
		}
		if i == fraction {
			s.i = i
			return n, s.wrong("a digit")
		}
		digits += i - fraction
		n.exponent = fraction - i
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		sign := 1
		if i < len(b) && (b[i] == '-' || b[i] == '+') {
			if b[i] == '-' {
				sign = -1
			}
			i++
		}
		first, e := i, 0
		for i < len(b) && b[i]-'0' < 10 {
			e = min(e*10+int(b[i]-'0'), 1<<20)
			i++
		}
		if i == first {
			s.i = i
			return n, s.wrong("a digit")
		}
		n.exponent += sign * e
	}
	n.exact = digits <= mantissaDigits
	n.literal = b[s.i:i]
	s.i = i
	return n, nil
}

// special reads what Python writes for floating-point values that JSON has no form for.
func (s *scanner) special(negative bool, i int) (number, error) {
	for _, w := range [...]struct {
		text  string
		value float64
	}{{"NaN", math.NaN()}, {"Infinity", math.Inf(1)}} {
		if len(s.b)-i >= len(w.text) && string(s.b[i:i+len(w.text)]) == w.text {
			n := number{special: w.value, literal: s.b[s.i : i+len(w.text)]}
			if negative {
				n.special = -n.special
			}
			s.i = i + len(w.text)
			return n, nil
		}
	}
	return number{}, s.wrong("a value")
}

var powers = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17,
	1e18, 1e19, 1e20, 1e21, 1e22}

// float is the nearest floating-point number.
func (n *number) float() float64 {
	if n.special != 0 {
		return n.special
	}
	// Both factors are exact, so one operation rounds once.
	if n.exact && n.mantissa < 1<<53 && n.exponent > -len(powers) && n.exponent < len(powers) {
		f := float64(n.mantissa)
		if n.exponent < 0 {
			f /= powers[-n.exponent]
		} else {
			f *= powers[n.exponent]
		}
		if n.negative {
			return -f
		}
		return f
	}
	f, _ := strconv.ParseFloat(unsafe.String(unsafe.SliceData(n.literal), len(n.literal)), 64)
	return f // too large is infinity, as everywhere
}

// magnitude is the number without its sign as a whole number. False: it is none, or too large.
func (n *number) magnitude() (uint64, bool) {
	if n.special != 0 {
		return 0, false
	}
	if !n.exact { // twenty digits can still be one of 64 bits
		m, err := strconv.ParseUint(strings.TrimPrefix(string(n.literal), "-"), 10, 64)
		return m, err == nil
	}
	m := n.mantissa
	for e := n.exponent; e < 0 && m != 0; e++ {
		if m%10 != 0 {
			return 0, false
		}
		m /= 10
	}
	for e := n.exponent; e > 0 && m != 0; e-- {
		if m > math.MaxUint64/10 {
			return 0, false
		}
		m *= 10
	}
	return m, true
}
