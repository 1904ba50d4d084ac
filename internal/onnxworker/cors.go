package onnxworker

import (
	"fmt"
	"regexp"
	"strings"
)

// origins are those whose pages a browser lets read the answers, as the Python worker has them: names, patterns, or *
// for all.
type origins struct {
	all      bool
	exact    map[string]bool // in lower case
	patterns []*regexp.Regexp
}

// readOrigins reads a list with commas; nil: there are none.
func readOrigins(text string) (*origins, error) {
	if text == "" {
		return nil, nil
	}
	o := &origins{exact: map[string]bool{}}
	for one := range strings.SplitSeq(text, ",") {
		switch one = strings.TrimSpace(one); {
		case one == "":
		case one == "*":
			o.all = true
		case strings.ContainsAny(one, `*\[]?$^()`):
			pattern, err := regexp.Compile("(?i)^(?:" + one + ")")
			if err != nil {
				return nil, fmt.Errorf("the setting %s holds %.80q, which is no pattern", varOrigins, one)
			}
			o.patterns = append(o.patterns, pattern)
		default:
			o.exact[strings.ToLower(one)] = true
		}
	}
	return o, nil
}

// appendFields appends the fields of an answer that say what the page may do with it.
func (o *origins) appendFields(b []byte, h *head) []byte {
	const vary = "Vary: Origin\r\n"
	switch {
	case o.all:
		b = append(b, "Access-Control-Allow-Origin: *\r\n"...)
	case o.allows(h.origin):
		b = appendField(b, "Access-Control-Allow-Origin", h.origin)
	default:
		return append(b, vary...)
	}
	if !o.all || len(o.patterns) > 0 {
		b = append(b, vary...)
	}
	if string(h.method) == "OPTIONS" && h.preflight {
		b = append(b, "Access-Control-Allow-Methods: GET, POST\r\n"...)
		if len(h.asksFor) > 0 {
			b = appendField(b, "Access-Control-Allow-Headers", h.asksFor)
		}
	}
	return b
}

func (o *origins) allows(origin []byte) bool {
	if len(origin) == 0 {
		return false
	}
	if o.exact[strings.ToLower(string(origin))] {
		return true
	}
	for _, pattern := range o.patterns {
		if pattern.Match(origin) {
			return true
		}
	}
	return false
}
