package arm

import (
	"slices"
	"strings"

	"portico/internal/online"
)

// Bounds of a $filter.
const (
	MaxFilterLength = 4096 // bytes
	maxFilterDepth  = 16   // nested parentheses
)

// Filter is a $filter of Azure Monitor: comparisons joined by "and" and "or", with parentheses.
type Filter struct {
	// Comparison is set on leaves; the others join Parts.
	Comparison *Comparison
	Or         bool
	Parts      []*Filter
}

// Comparison is one "name operator 'value'".
type Comparison struct {
	Name  string // as it was written
	Op    string // eq, ne, sw, ge, gt, le or lt
	Value string
}

// ParseFilter reads a $filter; nil for an empty one. The error is a BadArgument with target "$filter".
func ParseFilter(text string) (*Filter, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	if len(text) > MaxFilterLength {
		return nil, badFilter("it is longer than %d bytes", MaxFilterLength)
	}
	tokens, err := filterTokens(text)
	if err != nil {
		return nil, err
	}
	p := filterParser{tokens: tokens}
	f, err := p.any(0)
	if err == nil && len(p.tokens) > 0 {
		err = badFilter("%.60q is one word too many", p.tokens[0].text)
	}
	return f, err
}

func badFilter(format string, args ...any) error {
	return online.Errorf(online.CodeBadArgument, "$filter", "the $filter cannot be read: "+format+
		"; it consists of NAME OPERATOR 'VALUE' joined by and, or", args...)
}

// Comparisons lists all comparisons from left to right.
func (f *Filter) Comparisons() []*Comparison {
	switch {
	case f == nil:
		return nil
	case f.Comparison != nil:
		return []*Comparison{f.Comparison}
	}
	var out []*Comparison
	for _, p := range f.Parts {
		out = append(out, p.Comparisons()...)
	}
	return out
}

// Demands says whether nothing satisfies the filter that does not satisfy this one of its comparisons.
func (f *Filter) Demands(c *Comparison) bool {
	if f.Comparison != nil {
		return f.Comparison == c
	}
	return !f.Or && slices.ContainsFunc(f.Parts, func(p *Filter) bool { return p.Demands(c) })
}

// Holds evaluates the filter, given what holds of each comparison. A nil filter always holds.
func (f *Filter) Holds(of func(*Comparison) bool) bool {
	switch {
	case f == nil:
		return true
	case f.Comparison != nil:
		return of(f.Comparison)
	}
	for _, p := range f.Parts {
		if p.Holds(of) == f.Or {
			return f.Or
		}
	}
	return !f.Or
}

// Of says whether a text value satisfies the comparison, without regard to case. The value '*' stands for every
// text with eq and for none with ne. Order is that of letters.
func (c *Comparison) Of(value string) bool {
	a, b := strings.ToLower(value), strings.ToLower(c.Value)
	switch c.Op {
	case "eq":
		return b == "*" || a == b
	case "ne":
		return b != "*" && a != b
	case "sw":
		return strings.HasPrefix(a, b)
	case "ge":
		return a >= b
	case "gt":
		return a > b
	case "le":
		return a <= b
	}
	return a < b
}

type filterToken struct {
	text   string
	quoted bool
}

// filterTokens cuts a filter into words, quoted texts and parentheses.
func filterTokens(s string) ([]filterToken, error) {
	var out []filterToken
	for {
		s = strings.TrimLeft(s, " \t\r\n")
		switch {
		case s == "":
			return out, nil
		case s[0] == '(' || s[0] == ')':
			out = append(out, filterToken{text: s[:1]})
			s = s[1:]
		case s[0] == '\'':
			text, rest, ok := quotedText(s[1:])
			if !ok {
				return nil, badFilter("a quoted value has no end")
			}
			out = append(out, filterToken{text, true})
			s = rest
		default:
			end := strings.IndexAny(s, " \t\r\n()'")
			if end < 0 {
				end = len(s)
			}
			out = append(out, filterToken{text: s[:end]})
			s = s[end:]
		}
	}
}

// quotedText reads up to the closing quote; two quotes stand for one.
func quotedText(s string) (text, rest string, ok bool) {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '\'')
		if i < 0 {
			return "", "", false
		}
		b.WriteString(s[:i])
		if s = s[i+1:]; !strings.HasPrefix(s, "'") {
			return b.String(), s, true
		}
		b.WriteByte('\'')
		s = s[1:]
	}
}

type filterParser struct{ tokens []filterToken }

// word takes the next token when it is this word.
func (p *filterParser) word(w string) bool {
	if len(p.tokens) == 0 || p.tokens[0].quoted || !strings.EqualFold(p.tokens[0].text, w) {
		return false
	}
	p.tokens = p.tokens[1:]
	return true
}

func (p *filterParser) any(depth int) (*Filter, error) {
	return p.joined("or", func() (*Filter, error) {
		return p.joined("and", func() (*Filter, error) { return p.one(depth) })
	})
}

func (p *filterParser) joined(by string, part func() (*Filter, error)) (*Filter, error) {
	f := &Filter{Or: by == "or"}
	for {
		next, err := part()
		if err != nil {
			return nil, err
		}
		f.Parts = append(f.Parts, next)
		if !p.word(by) {
			break
		}
	}
	if len(f.Parts) == 1 {
		return f.Parts[0], nil
	}
	return f, nil
}

func (p *filterParser) one(depth int) (*Filter, error) {
	if p.word("(") {
		if depth == maxFilterDepth {
			return nil, badFilter("it has more than %d nested parentheses", maxFilterDepth)
		}
		f, err := p.any(depth + 1)
		if err == nil && !p.word(")") {
			err = badFilter("a parenthesis is not closed")
		}
		return f, err
	}
	if len(p.tokens) < 3 || p.tokens[0].quoted || p.tokens[1].quoted {
		return nil, badFilter("a comparison is not complete")
	}
	c := &Comparison{Name: p.tokens[0].text, Op: strings.ToLower(p.tokens[1].text), Value: p.tokens[2].text}
	switch c.Op {
	case "eq", "ne", "sw", "ge", "gt", "le", "lt":
	default:
		return nil, badFilter("%.20q is not one of eq, ne, sw, ge, gt, le, lt", c.Op)
	}
	if value := p.tokens[2]; !value.quoted && (value.text == "(" || value.text == ")") || c.Name == ")" {
		return nil, badFilter("a comparison is not complete")
	}
	p.tokens = p.tokens[3:]
	return &Filter{Comparison: c}, nil
}
