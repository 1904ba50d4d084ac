package api

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"portico/internal/arm"
	"portico/internal/control"
	"portico/internal/cost"
	"portico/internal/online"
)

const costPath = "/providers/Microsoft.CostManagement/query"

func (a *API) routeCost() {
	for _, scope := range []string{subscriptionPath, groupPath, workspacePath, endpointPath, deploymentPath} {
		a.route(scope+costPath, methods{"POST": queryCosts})
	}
}

func queryCosts(c *call) error {
	body, err := c.body()
	if err != nil {
		return err
	}
	var in arm.CostQuery
	unknown, err := arm.Decode(body, &in)
	if len(unknown) > 0 {
		c.note("unknown fields were ignored: " + strings.Join(unknown, ", "))
	}
	if err != nil {
		return err
	}
	q, err := c.costQuery(&in)
	if err != nil {
		return err
	}
	report, err := c.api.Control.Costs(c.r.Context(), c.caller, q)
	if err != nil {
		return err
	}
	if len(report.Unpriced) > 0 {
		c.note("no price is configured for " + strings.Join(report.Unpriced, ", ") +
			": counted as 0; set prices in the configuration")
	}
	scope := strings.TrimSuffix(c.r.URL.Path, costPath)
	// The same question has the same name.
	name := uuid.NewSHA1(uuid.NameSpaceURL, append([]byte(strings.ToLower(scope)+"\n"), body...)).String()
	out := arm.CostResult{ID: strings.TrimPrefix(scope+costPath+"/"+name, "/"), Name: name, Type: arm.CostResultType}
	out.Properties.Columns, out.Properties.Rows = renderCosts(q, report)
	return c.json(http.StatusOK, out)
}

// Columns of time, beside those that a query names.
const (
	columnDay      = "UsageDate"
	columnMonth    = "BillingMonth"
	columnCurrency = "Currency"
)

func renderCosts(q control.CostQuery, report control.CostReport) ([]arm.CostColumn, [][]any) {
	var columns []arm.CostColumn
	add := func(name, kind string) { columns = append(columns, arm.CostColumn{Name: name, Type: kind}) }
	for _, name := range q.Sums {
		add(name, "Number")
	}
	switch q.By {
	case cost.Daily:
		add(columnDay, "Number")
	case cost.Monthly:
		add(columnMonth, "Datetime")
	}
	for _, k := range q.Group {
		add(k.Name, "String")
	}
	add(columnCurrency, "String")
	rows := [][]any{}
	for _, l := range report.Lines {
		var row []any
		for _, v := range l.Sums {
			row = append(row, v)
		}
		switch q.By {
		case cost.Daily:
			row = append(row, l.Begin.Year()*10000+int(l.Begin.Month())*100+l.Begin.Day())
		case cost.Monthly:
			row = append(row, l.Begin.Format("2006-01-02T15:04:05"))
		}
		for _, k := range l.Keys {
			row = append(row, k)
		}
		rows = append(rows, append(row, report.Currency))
	}
	return columns, rows
}

// costTypes are the kinds of cost. There is one here: nothing is amortized, and use is what is paid.
var costTypes = []string{"Usage", "ActualCost", "AmortizedCost"}

func (c *call) costQuery(in *arm.CostQuery) (control.CostQuery, error) {
	q := control.CostQuery{Scope: control.CostScope{Workspace: c.workspace()}}
	if endpoint, _ := c.names(); endpoint != "" {
		q.Scope.Resource = c.measured()
	}
	if _, ok := oneOf(in.Type, costTypes); !ok {
		return q, notOneOf("type", in.Type, costTypes)
	}
	var err error
	if q.Span, err = costSpan(in, c.api.Control.Now()); err != nil {
		return q, err
	}
	d := in.Dataset
	if d == nil {
		return q, online.Errorf(online.CodeBadArgument, "dataset", "dataset is missing")
	}
	if d.Configuration != nil && bool(d.Configuration.Columns) {
		return q, online.Errorf(online.CodeNotImplemented, "dataset.configuration.columns",
			"dataset.configuration.columns is not implemented yet; leave it out")
	}
	granularity, ok := oneOf(d.Granularity, []string{"None", "Daily", "Monthly", ""})
	if !ok {
		return q, notOneOf("dataset.granularity", d.Granularity, []string{"None", "Daily", "Monthly"})
	}
	q.By = map[string]cost.Granularity{"Daily": cost.Daily, "Monthly": cost.Monthly}[granularity]
	if err := costSums(&q, d); err != nil {
		return q, err
	}
	for _, g := range d.Grouping {
		kind, ok := oneOf(g.Type, []string{"Dimension", "Tag", "TagKey"})
		if !ok {
			return q, notOneOf("dataset.grouping", g.Type, []string{"Dimension", "Tag"})
		}
		q.Group = append(q.Group, control.CostKey{Tag: kind != "Dimension", Name: g.Name})
	}
	if q.Filter, err = costFilter(d.Filter); err != nil {
		return q, err
	}
	return q, costOrder(&q, d.Sorting)
}

// costSums reads what is summed; without any it is the cost.
func costSums(q *control.CostQuery, d *arm.CostDataset) error {
	var aliases []string
	for alias := range d.Aggregation {
		aliases = append(aliases, alias)
	}
	slices.Sort(aliases)
	for _, alias := range aliases {
		a := d.Aggregation[alias]
		name, ok := oneOf(a.Name, control.Quantities)
		if !ok {
			return notOneOf("dataset.aggregation."+alias+".name", a.Name, control.Quantities)
		}
		if !strings.EqualFold(a.Function, "Sum") {
			return notOneOf("dataset.aggregation."+alias+".function", a.Function, []string{"Sum"})
		}
		if !slices.Contains(q.Sums, name) {
			q.Sums = append(q.Sums, name)
		}
	}
	if len(q.Sums) == 0 {
		q.Sums = []string{control.PreTaxCost}
	}
	return nil
}

// costSpan gives the days that are asked for. Both days of a custom period belong to it.
func costSpan(in *arm.CostQuery, now time.Time) (cost.Span, error) {
	frame, ok := oneOf(in.Timeframe, cost.Timeframes)
	if !ok {
		return cost.Span{}, notOneOf("timeframe", in.Timeframe, cost.Timeframes)
	}
	if span, ok := cost.Frame(frame, now); ok {
		return span, nil
	}
	if in.TimePeriod == nil {
		return cost.Span{}, online.Errorf(online.CodeBadArgument, "timePeriod", "timeframe Custom needs a timePeriod")
	}
	from, ok := parseMoment(in.TimePeriod.From)
	if !ok {
		return cost.Span{}, badCostTime("timePeriod.from", in.TimePeriod.From)
	}
	to, ok := parseMoment(in.TimePeriod.To)
	if !ok {
		return cost.Span{}, badCostTime("timePeriod.to", in.TimePeriod.To)
	}
	const day = 24 * time.Hour
	return cost.Span{From: from.UTC().Truncate(day), To: to.UTC().Truncate(day).Add(day)}, nil
}

func badCostTime(target, text string) error {
	return online.Errorf(online.CodeBadArgument, target, "%.60q is not a time such as 2026-11-01T00:00:00Z", text)
}

func costFilter(in *arm.CostFilter) (*control.CostFilter, error) {
	const target = "dataset.filter"
	if in == nil {
		return nil, nil
	}
	if in.Not {
		return nil, online.Errorf(online.CodeNotImplemented, target+".not", "%s.not is not implemented yet; leave it out", target)
	}
	var out []*control.CostFilter
	for _, leaf := range []struct {
		tag bool
		cmp *arm.CostComparison
	}{{false, in.Dimensions}, {false, in.Dimension}, {true, in.Tags}, {true, in.Tag}} {
		if leaf.cmp == nil {
			continue
		}
		values := leaf.cmp.Values
		if leaf.cmp.Value != "" {
			values = append(values, leaf.cmp.Value)
		}
		if op := leaf.cmp.Operator; op != "" && !strings.EqualFold(op, "In") {
			return nil, online.Errorf(online.CodeNotImplemented, target, "the operator %.40q is not implemented yet; use In", op)
		}
		out = append(out, &control.CostFilter{Key: control.CostKey{Tag: leaf.tag, Name: leaf.cmp.Name}, Values: values})
	}
	for _, join := range []struct {
		parts []*arm.CostFilter
		or    bool
	}{{in.And, false}, {in.Or, true}} {
		var parts []*control.CostFilter
		for _, p := range join.parts {
			f, err := costFilter(p)
			if err != nil {
				return nil, err
			}
			if f != nil {
				parts = append(parts, f)
			}
		}
		if len(parts) == 0 {
			continue
		}
		if join.or {
			out = append(out, &control.CostFilter{Or: parts})
		} else {
			out = append(out, &control.CostFilter{And: parts})
		}
	}
	switch len(out) {
	case 0: // every member is optional, so that {} filters nothing
		return nil, nil
	case 1:
		return out[0], nil
	}
	return nil, online.Errorf(online.CodeBadArgument, target, "a filter has exactly one of and, or, dimensions, tags")
}

func costOrder(q *control.CostQuery, sorting []arm.CostSorting) error {
	if len(sorting) == 0 {
		return nil
	}
	const target = "dataset.sorting"
	if len(sorting) > 1 {
		return online.Errorf(online.CodeNotImplemented, target, "sorting by more than one column is not implemented yet")
	}
	names := slices.Clone(q.Sums)
	switch q.By {
	case cost.Daily:
		names = append(names, columnDay)
	case cost.Monthly:
		names = append(names, columnMonth)
	}
	for _, k := range q.Group {
		names = append(names, k.Name)
	}
	by, ok := oneOf(sorting[0].Name, names)
	if !ok {
		return notOneOf(target, sorting[0].Name, names)
	}
	direction, ok := oneOf(sorting[0].Direction, []string{"Ascending", "Descending", ""})
	if !ok {
		return notOneOf(target, sorting[0].Direction, []string{"Ascending", "Descending"})
	}
	q.OrderBy, q.Backward = by, direction == "Descending"
	return nil
}

// oneOf finds a word in a list without regard to case.
func oneOf(word string, allowed []string) (string, bool) {
	at := slices.IndexFunc(allowed, func(a string) bool { return strings.EqualFold(a, word) })
	if at < 0 {
		return "", false
	}
	return allowed[at], true
}

func notOneOf(target, word string, allowed []string) error {
	return online.Errorf(online.CodeBadArgument, target, "%.60q is not one of %s", word, strings.Join(allowed, ", "))
}
