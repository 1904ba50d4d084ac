package control

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"portico/internal/arm"
	"portico/internal/cost"
	"portico/internal/online"
	"portico/internal/store"
)

// Bounds of a query for costs.
const (
	MaxCostSpan    = 366 * 24 * time.Hour
	MaxCostColumns = 5 // aggregations, and groupings
)

// Tags that every line of cost has beside those that people set. Azure's own are the first two; the third is what
// documentation and scripts write for the first.
const (
	TagEndpoint      = "azuremlendpoint"
	TagDeployment    = "azuremldeployment"
	TagEndpointAlias = "endpoint"
)

// Dimensions are what costs can be grouped and filtered by, besides tags.
var Dimensions = []string{"SubscriptionId", "ResourceGroup", "ResourceGroupName", "ResourceId", "ResourceType",
	"ResourceLocation", "Meter"}

// What can be summed.
const (
	Cost          = "Cost"
	PreTaxCost    = "PreTaxCost" // the same: there is no tax here
	UsageQuantity = "UsageQuantity"
)

// Quantities lists what can be summed.
var Quantities = []string{PreTaxCost, Cost, UsageQuantity}

// CostQuery asks what the instances of a scope cost.
type CostQuery struct {
	// Scope is a subscription, with more of its parts a resource group, a workspace, or one resource of it: an
	// endpoint or a deployment.
	Scope    CostScope
	Span     cost.Span
	By       cost.Granularity
	Sums     []string // of Quantities
	Group    []CostKey
	Filter   *CostFilter
	OrderBy  string // a column; empty: by time, then by groups
	Backward bool
}

// CostScope is the part of the server whose costs are asked. Empty parts at the end mean everything below.
type CostScope struct {
	Workspace online.WorkspaceID
	Resource  online.ID // an endpoint or a deployment; the zero value: everything in Workspace
}

// CostKey names a dimension or a tag.
type CostKey struct {
	Tag  bool
	Name string
}

// CostFilter is a tree: And and Or join parts, a leaf compares one key with values.
type CostFilter struct {
	And, Or []*CostFilter
	Key     CostKey
	Values  []string // one of them, in any case; none: the key only has to be there
}

// CostLine is one row of the answer.
type CostLine struct {
	Begin time.Time // of the day or month; the zero time without granularity
	Sums  []float64 // in the order of CostQuery.Sums; UsageQuantity is in hours
	Keys  []string  // in the order of CostQuery.Group; empty where the resource has no such tag
}

// CostReport answers a query for costs.
type CostReport struct {
	Lines    []CostLine
	Currency string
	Unpriced []string // instance types that were used and have no price; they are counted as 0
}

// Costs answers a query for costs from the intervals in which instances existed.
func (s *Service) Costs(ctx context.Context, c Caller, q CostQuery) (CostReport, error) {
	if err := q.check(); err != nil {
		return CostReport{}, err
	}
	var uses []cost.Use
	labels := map[string]*costLabels{}
	now := s.now()
	err := s.view(ctx, c, func(r store.Reader) error {
		intervals, err := q.Scope.intervals(r, q.Span)
		if err != nil {
			return err
		}
		uses = cost.Meter(intervals, s.Prices, q.Span.From, q.Span.To, now, q.By)
		for _, u := range uses {
			if labels[u.UID] == nil {
				if labels[u.UID], err = labelsOf(r, u); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return CostReport{}, err
	}
	out := CostReport{Currency: cmp.Or(s.Prices.Currency, cost.DefaultCurrency)}
	for _, u := range uses {
		key := labels[u.UID].key(u)
		if !q.Filter.holds(key) {
			continue
		}
		if _, known := s.Prices.Of(u.InstanceType); !known && !slices.Contains(out.Unpriced, u.InstanceType) {
			out.Unpriced = append(out.Unpriced, u.InstanceType)
		}
		out.Lines = q.add(out.Lines, u, key)
	}
	slices.Sort(out.Unpriced)
	q.order(out.Lines)
	return out, nil
}

func (q *CostQuery) check() error {
	if !q.Span.From.Before(q.Span.To) || q.Span.To.Sub(q.Span.From) > MaxCostSpan {
		return online.Errorf(online.CodeBadArgument, "timePeriod", "the period must be more than nothing and at most %d days",
			int(MaxCostSpan/(24*time.Hour)))
	}
	if len(q.Sums) == 0 || len(q.Sums) > MaxCostColumns || len(q.Group) > MaxCostColumns {
		return online.Errorf(online.CodeBadArgument, "dataset", "a query has 1 to %d aggregations and up to %d groupings",
			MaxCostColumns, MaxCostColumns)
	}
	for _, k := range q.Group {
		if err := k.check("dataset.grouping"); err != nil {
			return err
		}
	}
	return q.Filter.check()
}

func (k CostKey) check(target string) error {
	if k.Name == "" {
		return online.Errorf(online.CodeBadArgument, target, "a name is missing")
	}
	if k.Tag || slices.ContainsFunc(Dimensions, func(d string) bool { return strings.EqualFold(d, k.Name) }) {
		return nil
	}
	return online.Errorf(online.CodeBadArgument, target, "the dimension %.80q does not exist here; there are %s", k.Name,
		strings.Join(Dimensions, ", "))
}

func (f *CostFilter) check() error {
	if f == nil {
		return nil
	}
	if parts := append(slices.Clone(f.And), f.Or...); len(parts) > 0 {
		for _, p := range parts {
			if err := p.check(); err != nil {
				return err
			}
		}
		return nil
	}
	return f.Key.check("dataset.filter")
}

func (f *CostFilter) holds(key func(CostKey) (string, bool)) bool {
	switch {
	case f == nil:
		return true
	case len(f.And) > 0:
		return !slices.ContainsFunc(f.And, func(p *CostFilter) bool { return !p.holds(key) })
	case len(f.Or) > 0:
		return slices.ContainsFunc(f.Or, func(p *CostFilter) bool { return p.holds(key) })
	}
	value, ok := key(f.Key)
	same := func(v string) bool { return strings.EqualFold(v, value) }
	return ok && (len(f.Values) == 0 || slices.ContainsFunc(f.Values, same))
}

// intervals reads the intervals of the scope.
func (s CostScope) intervals(r store.Reader, span cost.Span) ([]online.Interval, error) {
	prefix := kindPrefix(online.KindDeployment)
	for _, part := range []string{s.Workspace.Subscription, s.Workspace.ResourceGroup, s.Workspace.Name} {
		if part != "" {
			prefix += strings.ToLower(part) + "/"
		}
	}
	switch s.Resource.Kind {
	case online.KindEndpoint:
		prefix = s.Workspace.Deployment(s.Resource.Name, "").Prefix()
	case online.KindDeployment:
		prefix = s.Resource.Key()
	}
	all, err := r.Intervals(prefix, span.From, span.To)
	if err != nil {
		return nil, fmt.Errorf("read the intervals of instances: %w", err)
	}
	if s.Resource.Kind == online.KindDeployment { // a key is also the beginning of longer names
		all = slices.DeleteFunc(all, func(iv online.Interval) bool { return !iv.Deployment.Same(s.Resource) })
	}
	return all, nil
}

// add sums a use into the line that it belongs to.
func (q *CostQuery) add(lines []CostLine, u cost.Use, key func(CostKey) (string, bool)) []CostLine {
	keys := make([]string, len(q.Group))
	for i, k := range q.Group {
		keys[i], _ = key(k)
	}
	at := slices.IndexFunc(lines, func(l CostLine) bool { return l.Begin.Equal(u.Begin) && slices.Equal(l.Keys, keys) })
	if at < 0 {
		at = len(lines)
		lines = append(lines, CostLine{Begin: u.Begin, Keys: keys, Sums: make([]float64, len(q.Sums))})
	}
	for i, name := range q.Sums {
		if name == UsageQuantity {
			lines[at].Sums[i] += u.Duration.Hours()
		} else {
			lines[at].Sums[i] += u.Cost()
		}
	}
	return lines
}

// order sorts the lines by the asked column, then by time and groups.
func (q *CostQuery) order(lines []CostLine) {
	sum := slices.Index(q.Sums, q.OrderBy)
	group := slices.IndexFunc(q.Group, func(k CostKey) bool { return strings.EqualFold(k.Name, q.OrderBy) })
	slices.SortFunc(lines, func(a, b CostLine) int {
		n := 0
		switch {
		case sum >= 0:
			n = cmp.Compare(a.Sums[sum], b.Sums[sum])
		case group >= 0:
			n = cmp.Compare(a.Keys[group], b.Keys[group])
		case q.OrderBy != "":
			n = a.Begin.Compare(b.Begin)
		}
		if q.Backward {
			n = -n
		}
		return cmp.Or(n, a.Begin.Compare(b.Begin), slices.Compare(a.Keys, b.Keys))
	})
}

// costLabels are what a deployment's lines of cost can be told apart by.
type costLabels struct {
	tags     map[string]string // by lower-case name
	location string
}

// key gives the value of a dimension or tag of a use.
func (l *costLabels) key(u cost.Use) func(CostKey) (string, bool) {
	return func(k CostKey) (string, bool) {
		name := strings.ToLower(k.Name)
		if k.Tag {
			v, ok := l.tags[name]
			return v, ok
		}
		switch name {
		case "subscriptionid":
			return u.Deployment.Workspace.Subscription, true
		case "resourcegroup", "resourcegroupname":
			return u.Deployment.Workspace.ResourceGroup, true
		case "resourceid":
			return strings.ToLower(arm.FormatID(u.Deployment)), true
		case "resourcetype":
			return strings.ToLower(arm.TypeOf(u.Deployment)), true
		case "resourcelocation":
			return l.location, true
		}
		return u.InstanceType, true // Meter
	}
}

// labelled is what of a spec labels its costs.
type labelled struct {
	Location string            `json:"location"`
	Tags     map[string]string `json:"tags"`
}

// labelsOf reads the tags of a deployment and of its endpoint: those in force, or the last when it is gone.
func labelsOf(r store.Reader, u cost.Use) (*costLabels, error) {
	own, last, err := lastSpec(r, u.Deployment, func(rev store.Revision) bool { return rev.UID == u.UID })
	if err != nil {
		return nil, err
	}
	// The endpoint as it was when the deployment was last there: a later one may have taken its name.
	endpoint, _, err := lastSpec(r, u.Deployment.Workspace.Endpoint(u.Deployment.Parent),
		func(rev store.Revision) bool { return last.IsZero() || !rev.At.After(last) })
	if err != nil {
		return nil, err
	}
	l := &costLabels{tags: map[string]string{TagEndpointAlias: u.Deployment.Parent}, location: own.Location}
	for _, tags := range []map[string]string{endpoint.Tags, own.Tags} {
		for name, value := range tags {
			l.tags[strings.ToLower(name)] = value
		}
	}
	l.tags[TagEndpoint], l.tags[TagDeployment] = u.Deployment.Parent, u.Deployment.Name
	return l, nil
}

// lastSpec reads the newest spec of a name that is meant. gone is when it was deleted; the zero time when it was not.
func lastSpec(r store.Reader, id online.ID, meant func(store.Revision) bool) (spec labelled, gone time.Time, err error) {
	all, err := r.Revisions(id)
	if err != nil {
		return spec, gone, fmt.Errorf("read the revisions of %s: %w", id.Key(), err)
	}
	at := slices.IndexFunc(all, meant)
	if at < 0 {
		return spec, gone, nil
	}
	if err := json.Unmarshal(all[at].Spec, &spec); err != nil {
		return spec, gone, fmt.Errorf("decode a revision of %s: %w", id.Key(), err)
	}
	if all[at].Why == store.WhyDelete {
		gone = all[at].At
	}
	return spec, gone, nil
}
