package control

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"portico/internal/arm"
	"portico/internal/online"
	"portico/internal/store"
)

// Sizes of a page of a listing.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// ListQuery selects, orders and pages a listing. The zero value lists everything in order of name.
type ListQuery struct {
	Name       string            // substring-free: the exact name, without regard to case
	Tags       map[string]string // each must be there; an empty value means that the tag exists
	Properties map[string]string
	Compute    string
	Archived   string // ActiveOnly (also when empty), ArchivedOnly or All; for assets
	OrderBy    Order
	Limit      int    // 0: DefaultPage
	Skip       string // the token of the page before
}

// Order of a listing.
type Order string

// The orders. The zero value orders by name.
const (
	ByName        Order = ""
	ByCreatedAsc  Order = "CreatedAtAsc"
	ByCreatedDesc Order = "CreatedAtDesc"
	ByUpdatedAsc  Order = "UpdatedAtAsc"
	ByUpdatedDesc Order = "UpdatedAtDesc"
)

// ParseOrder reads an orderBy: Azure's words, and the form "createdtime desc" that the Python SDK sends.
func ParseOrder(s string) (Order, error) {
	switch strings.ToLower(strings.Join(strings.Fields(s), " ")) {
	case "":
		return ByName, nil
	case "createdatasc", "createdtime", "createdtime asc", "createdat asc":
		return ByCreatedAsc, nil
	case "createdatdesc", "createdtime desc", "createdat desc":
		return ByCreatedDesc, nil
	case "updatedatasc", "modifiedtime", "modifiedtime asc", "updatedat asc":
		return ByUpdatedAsc, nil
	case "updatedatdesc", "modifiedtime desc", "updatedat desc":
		return ByUpdatedDesc, nil
	}
	return ByName, online.Errorf(online.CodeBadArgument, "orderBy",
		"orderBy %.40q is not one of CreatedAtAsc, CreatedAtDesc, UpdatedAtAsc, UpdatedAtDesc", s)
}

// Listing is one page. Next is the token of the page after it; empty at the end.
type Listing[T any] struct {
	Items []T
	Next  string
}

// described is what a listing selects and orders by.
type described struct {
	meta       arm.Meta
	tags       map[string]string
	properties map[string]string
	compute    string
	archived   bool
}

// cursor is the place after which a page begins. It holds the ordering value and the key of the last item, so a
// page goes on at the right place although items came and went.
type cursor struct {
	Order Order     `json:"o"`
	At    time.Time `json:"t,omitzero"`
	Key   string    `json:"k"`
}

func (c cursor) token() string {
	doc, _ := json.Marshal(c) // plain data
	return base64.RawURLEncoding.EncodeToString(doc)
}

func parseCursor(token string, order Order) (*cursor, error) {
	if token == "" {
		return nil, nil
	}
	var c cursor
	doc, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || json.Unmarshal(doc, &c) != nil || c.Key == "" || c.Order != order {
		return nil, online.Errorf(online.CodeBadArgument, "$skip",
			"the page token is not one that this listing gave; begin without $skip, or follow nextLink as it is")
	}
	return &c, nil
}

func (o Order) value(m arm.Meta) time.Time {
	switch o {
	case ByCreatedAsc, ByCreatedDesc:
		return m.CreatedAt
	case ByUpdatedAsc, ByUpdatedDesc:
		return m.UpdatedAt
	}
	return time.Time{}
}

func (o Order) compare(a, b cursor) int {
	n := a.At.Compare(b.At)
	if o == ByCreatedDesc || o == ByUpdatedDesc {
		n = -n
	}
	return cmp.Or(n, strings.Compare(a.Key, b.Key))
}

// listing reads, selects, orders and cuts the records of one listing.
func listing[T any](recs []*store.Record, q ListQuery, read func(*store.Record) (T, error),
	describe func(*T) described) (Listing[T], error) {
	var out Listing[T]
	after, err := parseCursor(q.Skip, q.OrderBy)
	if err != nil {
		return out, err
	}
	limit := q.Limit
	if limit == 0 {
		limit = DefaultPage
	}
	if limit < 1 || limit > MaxPage {
		return out, online.Errorf(online.CodeBadArgument, "$top", "a page must have 1 to %d entries", MaxPage)
	}
	type entry struct {
		at   cursor
		item T
	}
	var entries []entry
	for _, rec := range recs {
		item, err := read(rec)
		if err != nil {
			return out, err
		}
		d := describe(&item)
		at := cursor{Order: q.OrderBy, At: q.OrderBy.value(d.meta), Key: rec.ID.Key()}
		if q.selects(d) && (after == nil || q.OrderBy.compare(at, *after) > 0) {
			entries = append(entries, entry{at, item})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return q.OrderBy.compare(a.at, b.at) })
	for i, e := range entries {
		if i == limit {
			out.Next = entries[i-1].at.token()
			break
		}
		out.Items = append(out.Items, e.item)
	}
	return out, nil
}

func (q ListQuery) selects(d described) bool {
	switch {
	case q.Name != "" && !strings.EqualFold(q.Name, d.meta.ID.Name):
		return false
	case q.Compute != "" && !strings.EqualFold(q.Compute, d.compute):
		return false
	case q.Archived == ArchivedOnly && !d.archived, (q.Archived == "" || q.Archived == ActiveOnly) && d.archived:
		return false
	}
	return has(d.tags, q.Tags) && has(d.properties, q.Properties)
}

func has(all, wanted map[string]string) bool {
	for name, value := range wanted {
		v, ok := all[name]
		if !ok || value != "" && v != value {
			return false
		}
	}
	return true
}

// Which assets a listing shows (listViewType).
const (
	ActiveOnly   = "ActiveOnly"
	ArchivedOnly = "ArchivedOnly"
	All          = "All"
)

// ParseView reads a listViewType.
func ParseView(s string) (string, error) {
	for _, v := range []string{ActiveOnly, ArchivedOnly, All} {
		if strings.EqualFold(s, v) {
			return v, nil
		}
	}
	if s == "" {
		return ActiveOnly, nil
	}
	return "", online.Errorf(online.CodeBadArgument, "listViewType",
		"listViewType %.40q is not one of ActiveOnly, ArchivedOnly, All", s)
}
