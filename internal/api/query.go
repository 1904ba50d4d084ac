package api

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	"portico/internal/arm"
	"portico/internal/control"
	"portico/internal/online"
)

// listQuery reads the parameters of a listing; Azure spells them differently from one resource to the next.
func (c *call) listQuery() (control.ListQuery, error) {
	v := c.r.URL.Query()
	q := control.ListQuery{Name: first(v, "name", "version"), Compute: v.Get("computeType"),
		Skip: first(v, "$skip", "$skipToken"),
		Tags: pairs(v.Get("tags")), Properties: pairs(v.Get("properties"))}
	var err error
	if q.OrderBy, err = control.ParseOrder(first(v, "$orderBy", "orderBy", "$orderby", "orderby")); err != nil {
		return q, err
	}
	if q.Archived, err = control.ParseView(v.Get("listViewType")); err != nil {
		return q, err
	}
	for _, name := range []string{"description", "offset", "feed", "$filter"} {
		if v.Get(name) != "" {
			return q, online.Errorf(online.CodeNotImplemented, name,
				"the query parameter %s is not implemented yet; leave it out", name)
		}
	}
	if text := first(v, "$top", "count"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 {
			return q, online.Errorf(online.CodeBadArgument, "$top", "%.40q is not a number of entries", text)
		}
		q.Limit = min(q.Limit, control.MaxPage)
	}
	return q, nil
}

func first(v url.Values, names ...string) string {
	for _, n := range names {
		if s := v.Get(n); s != "" {
			return s
		}
	}
	return ""
}

// pairs reads "a,b=c": names that must be there, some with a value.
func pairs(s string) map[string]string {
	if s == "" {
		return nil
	}
	out := map[string]string{}
	for _, p := range strings.Split(s, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if name != "" {
			out[name] = value
		}
	}
	return out
}

// nextLink is the absolute URL of the page that begins at a token; empty at the end.
func (c *call) nextLink(token string) string {
	if token == "" {
		return ""
	}
	v := c.r.URL.Query()
	v.Del("$skipToken")
	v.Set("$skip", token)
	return c.base() + c.r.URL.EscapedPath() + "?" + v.Encode()
}

// page answers a listing.
func page[T, W any](c *call, l control.Listing[T], render func(T) W) error {
	items := make([]W, 0, len(l.Items))
	for _, item := range l.Items {
		items = append(items, render(item))
	}
	return c.json(200, arm.NewPage(items, c.nextLink(l.Next)))
}

// moment reads a time: RFC 3339, or a duration before now such as PT1H. Absent is the zero time.
func (c *call) moment(name string) (time.Time, error) {
	text := c.r.URL.Query().Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := arm.ParseDuration(text); err == nil && d >= 0 {
		return c.api.Control.Now().Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, online.Errorf(online.CodeBadArgument, name,
			"%.40q is neither a time (RFC 3339) nor a duration such as PT1H", text)
	}
	return t, nil
}
