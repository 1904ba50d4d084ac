package control

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"portico/internal/arm"
	"portico/internal/online"
	"portico/internal/store"
	"portico/internal/telemetry"
)

// Bounds of a query for metrics.
const (
	MaxMetricNames   = 20
	MaxMetricPoints  = 2880 // of one time series: two days of minutes
	DefaultMetricTop = 10   // time series of a metric that is split (Azure's)
	MaxMetricTop     = 1000
	MetricGrain      = time.Minute
)

// The aggregations of Azure Monitor, in the order in which they are documented.
const (
	Average = "Average"
	Minimum = "Minimum"
	Maximum = "Maximum"
	Total   = "Total"
	Count   = "Count"
)

// Aggregations lists the aggregations.
var Aggregations = []string{Average, Minimum, Maximum, Total, Count}

// Metric is one metric that an endpoint or a deployment has.
type Metric struct {
	Name       string
	Title      string
	Help       string
	Unit       string // Count, MilliSeconds, BytesPerSecond, CountPerSecond, Percent, Joules
	Dimensions []string

	observe func(*observed) []observation      // nil: nothing measures it
	combine func([]observation) (sample, bool) // what the observations of one minute say together
}

// Measured says whether there is anything that measures the metric. What is not has no time series.
func (m *Metric) Measured() bool { return m.observe != nil }

// MetricsOf lists the metrics of a kind of resource, in the order in which they are documented.
func MetricsOf(kind online.Kind) []Metric {
	switch kind {
	case online.KindEndpoint:
		return endpointMetrics
	case online.KindDeployment:
		return deploymentMetrics
	}
	return nil
}

// MonitorQuery asks for metrics of one endpoint or deployment.
type MonitorQuery struct {
	Resource     online.ID
	Names        []string // in any case
	Since, Until time.Time
	Interval     time.Duration // of a point; 0: the whole span is one
	Filter       *arm.Filter   // dimensions that it names split the answer
	Top          int           // time series of a split metric; 0: DefaultMetricTop
	OrderBy      string        // aggregation that says which series come first; empty: by their dimensions
	Descending   bool
}

// MetricResult is what is known of one metric.
type MetricResult struct {
	Metric *Metric
	Series []MetricSeries
}

// MetricSeries is the course of a metric for one combination of the dimensions that the filter names.
type MetricSeries struct {
	Dimensions []Dimension
	Points     []MetricPoint
}

// Dimension is one dimension with its value.
type Dimension struct{ Name, Value string }

// MetricPoint sums up the minutes of one interval.
type MetricPoint struct {
	At    time.Time
	Known bool // false: nothing was observed
	Sum   float64
	Count float64 // of what Sum adds up
	Min   float64
	Max   float64
}

// Average is the mean of what was observed.
func (p *MetricPoint) Average() float64 { return p.Sum / p.Count }

// value gives an aggregation; 0 when nothing was observed.
func (p *MetricPoint) value(aggregation string) float64 {
	switch {
	case !p.Known:
		return 0
	case aggregation == Minimum:
		return p.Min
	case aggregation == Maximum:
		return p.Max
	case aggregation == Total:
		return p.Sum
	case aggregation == Count:
		return p.Count
	}
	return p.Average()
}

func (p *MetricPoint) add(s sample) {
	if !p.Known {
		p.Known, p.Min, p.Max = true, s.min, s.max
	}
	p.Sum, p.Count = p.Sum+s.sum, p.Count+s.count
	p.Min, p.Max = min(p.Min, s.min), max(p.Max, s.max)
}

// Monitor answers a query for metrics. Each metric is first brought together minute by minute, then interval by
// interval.
func (s *Service) Monitor(ctx context.Context, c Caller, q MonitorQuery) ([]MetricResult, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	metrics, err := q.metrics()
	if err != nil {
		return nil, err
	}
	o, err := s.observed(ctx, c, q)
	if err != nil {
		return nil, err
	}
	out := make([]MetricResult, 0, len(metrics))
	for _, m := range metrics {
		out = append(out, MetricResult{Metric: m, Series: q.series(m, o)})
	}
	return out, nil
}

func (q *MonitorQuery) check() error {
	if !q.Since.Before(q.Until) {
		return online.Errorf(online.CodeBadArgument, "timespan", "the timespan must be more than nothing")
	}
	if q.Interval > 0 && q.bins() > MaxMetricPoints {
		return online.Errorf(online.CodeBadArgument, "interval",
			"the timespan has more than %d intervals; ask for a shorter timespan or a longer interval", MaxMetricPoints)
	}
	if q.Top < 0 || q.Top > MaxMetricTop {
		return online.Errorf(online.CodeBadArgument, "top", "top must be 1 to %d time series", MaxMetricTop)
	}
	return nil
}

// metrics finds the metrics by name and checks that each has the dimensions that the filter names.
func (q *MonitorQuery) metrics() ([]*Metric, error) {
	all := MetricsOf(q.Resource.Kind)
	if len(q.Names) == 0 || len(q.Names) > MaxMetricNames {
		return nil, online.Errorf(online.CodeBadArgument, "metricnames", "name 1 to %d metrics; there are %s", MaxMetricNames,
			metricNames(all))
	}
	var out []*Metric
	for _, name := range q.Names {
		at := slices.IndexFunc(all, func(m Metric) bool { return strings.EqualFold(m.Name, name) })
		if at < 0 {
			return nil, online.Errorf(online.CodeBadArgument, "metricnames", "the metric %.80q does not exist here; there are %s",
				name, metricNames(all))
		}
		m := &all[at]
		for _, cmp := range q.Filter.Comparisons() {
			if !slices.ContainsFunc(m.Dimensions, func(d string) bool { return strings.EqualFold(d, cmp.Name) }) {
				return nil, online.Errorf(online.CodeBadArgument, "$filter", "the metric %s has no dimension %.80q; it has %s", m.Name,
					cmp.Name, listOr(m.Dimensions, "none"))
			}
		}
		out = append(out, m)
	}
	return out, nil
}

func metricNames(all []Metric) string {
	names := make([]string, 0, len(all))
	for i := range all {
		names = append(names, all[i].Name)
	}
	return strings.Join(names, ", ")
}

func listOr(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, ", ")
}

// start is the beginning of the first interval: the minute in which the timespan begins.
func (q *MonitorQuery) start() time.Time { return q.Since.UTC().Truncate(MetricGrain) }

func (q *MonitorQuery) bins() int {
	if q.Interval == 0 {
		return 1
	}
	return int((q.Until.Sub(q.start()) + q.Interval - 1) / q.Interval)
}

// series brings the observations of one metric together.
func (q *MonitorQuery) series(m *Metric, o *observed) []MetricSeries {
	if m.observe == nil {
		return nil
	}
	var split []int // dimensions that the filter names
	for i, d := range m.Dimensions {
		if slices.ContainsFunc(q.Filter.Comparisons(), func(c *arm.Comparison) bool { return strings.EqualFold(c.Name, d) }) {
			split = append(split, i)
		}
	}
	type minute struct {
		key string
		at  int64
	}
	minutes := map[minute][]observation{}
	for _, ob := range m.observe(o) {
		if !q.Filter.Holds(func(c *arm.Comparison) bool {
			at := slices.IndexFunc(m.Dimensions, func(d string) bool { return strings.EqualFold(d, c.Name) })
			return c.Of(ob.dimensions[at])
		}) {
			continue
		}
		var key []string
		for _, i := range split {
			key = append(key, ob.dimensions[i])
		}
		k := minute{strings.Join(key, "\x00"), ob.at.Unix()}
		minutes[k] = append(minutes[k], ob)
	}
	groups := map[string]*MetricSeries{}
	if len(split) == 0 {
		groups[""] = q.empty(m, nil, nil)
	}
	for k, obs := range minutes {
		g := groups[k.key]
		if g == nil {
			g = q.empty(m, split, strings.Split(k.key, "\x00"))
			groups[k.key] = g
		}
		if smp, ok := m.combine(obs); ok {
			g.Points[q.bin(time.Unix(k.at, 0))].add(smp)
		}
	}
	return q.order(groups, len(split) > 0)
}

func (q *MonitorQuery) bin(at time.Time) int {
	if q.Interval == 0 {
		return 0
	}
	return int(at.Sub(q.start()) / q.Interval)
}

func (q *MonitorQuery) empty(m *Metric, split []int, values []string) *MetricSeries {
	s := &MetricSeries{Points: make([]MetricPoint, q.bins())}
	for i := range s.Points {
		s.Points[i].At = q.start().Add(time.Duration(i) * q.Interval)
	}
	for i, d := range split {
		s.Dimensions = append(s.Dimensions, Dimension{m.Dimensions[d], values[i]})
	}
	return s
}

// order sorts the series and cuts them at the asked number.
func (q *MonitorQuery) order(groups map[string]*MetricSeries, split bool) []MetricSeries {
	type ranked struct {
		key   string
		value float64
		s     *MetricSeries
	}
	all := make([]ranked, 0, len(groups))
	for key, s := range groups {
		var whole MetricPoint
		for _, p := range s.Points {
			if p.Known {
				whole.add(sample{p.Sum, p.Count, p.Min, p.Max})
			}
		}
		all = append(all, ranked{key, whole.value(q.OrderBy), s})
	}
	slices.SortFunc(all, func(a, b ranked) int {
		if q.OrderBy != "" && a.value != b.value {
			if a.value < b.value == q.Descending {
				return 1
			}
			return -1
		}
		return strings.Compare(a.key, b.key)
	})
	top := q.Top
	if top == 0 {
		top = DefaultMetricTop
	}
	out := make([]MetricSeries, 0, len(all))
	for i, r := range all {
		if split && i == top {
			break
		}
		out = append(out, *r.s)
	}
	return out
}

// observed is everything that was seen of a resource in the span of a query.
type observed struct {
	series      []telemetry.Series
	connections []telemetry.ConnectionMinute
	collected   []telemetry.CollectedMinute
	intervals   []online.Interval
	from, to    time.Time // whole minutes
	now         time.Time
}

// observed reads what the query needs, as far back as anything is kept. The resource must exist.
func (s *Service) observed(ctx context.Context, c Caller, q MonitorQuery) (*observed, error) {
	o := &observed{now: s.now(), from: q.start(), to: q.Until.Add(MetricGrain - 1).UTC().Truncate(MetricGrain)}
	if kept := o.now.Add(-MaxSpan).Truncate(MetricGrain); o.from.Before(kept) {
		o.from = kept
	}
	name := q.Resource.Name
	if q.Resource.Kind == online.KindDeployment {
		name = q.Resource.Parent
	}
	err := s.view(ctx, c, func(r store.Reader) error {
		rec, err := must(r, q.Resource)
		if err != nil || q.Resource.Kind != online.KindDeployment {
			return err
		}
		all, err := r.Intervals(q.Resource.Key(), o.from, o.to)
		if err != nil {
			return fmt.Errorf("read the intervals of instances: %w", err)
		}
		o.intervals = nil
		for _, iv := range all {
			if iv.UID == rec.UID {
				o.intervals = append(o.intervals, iv)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	o.series = s.Metrics.Minutes(name, o.from, o.to)
	o.collected = s.Metrics.CollectedMinutes(name, o.from, o.to)
	if q.Resource.Kind == online.KindDeployment {
		o.collected = slices.DeleteFunc(o.collected, func(x telemetry.CollectedMinute) bool {
			return !strings.EqualFold(x.Deployment, q.Resource.Name)
		})
		o.series = slices.DeleteFunc(o.series, func(x telemetry.Series) bool {
			return !strings.EqualFold(x.Deployment, q.Resource.Name)
		})
		return o, nil
	}
	// Copies for a shadow are no requests of the endpoint's callers. They show in the metrics of the deployment.
	o.series = slices.DeleteFunc(o.series, func(x telemetry.Series) bool { return x.Mirror })
	o.connections = s.Metrics.Connections(o.from, o.to)
	return o, nil
}

// sample is what one minute says: the sum of count values, the least and the greatest.
type sample struct{ sum, count, min, max float64 }

func one(v float64) (sample, bool) { return sample{v, 1, v, v}, !math.IsNaN(v) }
