package api

import (
	"strconv"
	"strings"

	"portico/internal/control"
	"portico/internal/online"
)

// match reads If-Match and If-None-Match.
func (c *call) match() (control.Match, error) {
	var m control.Match
	switch v := strings.TrimSpace(c.r.Header.Get("If-None-Match")); v {
	case "":
	case "*":
		m.None = true
	default:
		return m, online.Errorf(online.CodeBadArgument, "If-None-Match", "If-None-Match can only be *")
	}
	v := strings.TrimSpace(c.r.Header.Get("If-Match"))
	switch v {
	case "":
		return m, nil
	case "*":
		m.Exists = true
		return m, nil
	}
	n, err := strconv.ParseInt(strings.Trim(v, `"`), 10, 64)
	if err != nil || n < 1 || v != strconv.Quote(strconv.FormatInt(n, 10)) {
		// Not one of ours, so it matches nothing that is in force.
		return m, online.Errorf(online.CodePrecondition, "If-Match",
			"If-Match %.80q is not an ETag that this server gave", v)
	}
	m.Revision = n
	return m, nil
}
