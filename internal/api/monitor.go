package api

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"portico/internal/arm"
	"portico/internal/control"
	"portico/internal/online"
)

// insights is the resource provider of metrics and of the activity log.
const insights = "/providers/Microsoft.Insights"

func (a *API) routeMonitor() {
	for _, resource := range []string{endpointPath, deploymentPath} {
		a.route(resource+insights+"/metrics", methods{"GET": queryMetrics})
		a.route(resource+insights+"/metricDefinitions", methods{"GET": listMetricDefinitions})
		a.route(resource+insights+"/metricNamespaces", methods{"GET": listMetricNamespaces})
	}
	a.route(subscriptionPath+insights+"/eventtypes/{events}/values", methods{"GET": listEvents})
}

// measured is the endpoint or deployment that the path names.
func (c *call) measured() online.ID {
	endpoint, deployment := c.names()
	if deployment != "" {
		return c.workspace().Deployment(endpoint, deployment)
	}
	return c.workspace().Endpoint(endpoint)
}

// grains are the intervals of Azure Monitor. FULL makes one point of the whole timespan.
var grains = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 6 * time.Hour,
	12 * time.Hour, 24 * time.Hour}

const fullInterval = "FULL"

// metricsRequest is what a query's parameters say.
type metricsRequest struct {
	query        control.MonitorQuery
	interval     string
	aggregations []string // empty: each metric's primary one
	metadata     bool     // dimensions only, no points
}

func queryMetrics(c *call) error {
	req, err := c.metricsRequest()
	if err != nil {
		return err
	}
	results, err := c.api.Control.Monitor(c.r.Context(), c.caller, req.query)
	if err != nil {
		return err
	}
	q := req.query
	out := arm.MetricsAnswer{Timespan: stamp(q.Since) + "/" + stamp(q.Until), Interval: req.interval,
		Namespace: arm.TypeOf(q.Resource), ResourceRegion: c.location(), Value: []arm.MetricValues{},
		// Azure counts the minutes that a query looks at.
		Cost: len(results) * int((q.Until.Sub(q.Since)+control.MetricGrain-1)/control.MetricGrain)}
	for _, r := range results {
		out.Value = append(out.Value, renderMetric(q.Resource, r, req))
	}
	return c.json(http.StatusOK, out)
}

func renderMetric(id online.ID, r control.MetricResult, req metricsRequest) arm.MetricValues {
	m := r.Metric
	out := arm.MetricValues{ID: arm.FormatID(id) + "/providers/" + arm.MetricType + "/" + m.Name, Type: arm.MetricType,
		Name: arm.LocalizedName{Value: m.Name, LocalizedValue: m.Title}, DisplayDescription: m.Help, Unit: m.Unit,
		ErrorCode: "Success", Timeseries: []arm.MetricSeries{}}
	aggregations := req.aggregations
	if len(aggregations) == 0 {
		aggregations = []string{control.Average}
	}
	for _, s := range r.Series {
		one := arm.MetricSeries{MetadataValues: []arm.MetricDimension{}}
		for _, d := range s.Dimensions {
			one.MetadataValues = append(one.MetadataValues, arm.MetricDimension{Name: arm.SameName(d.Name), Value: d.Value})
		}
		if !req.metadata {
			one.Data = make([]arm.MetricPoint, 0, len(s.Points))
			for _, p := range s.Points {
				one.Data = append(one.Data, renderPoint(p, aggregations))
			}
		}
		out.Timeseries = append(out.Timeseries, one)
	}
	return out
}

func renderPoint(p control.MetricPoint, aggregations []string) arm.MetricPoint {
	out := arm.MetricPoint{TimeStamp: stamp(p.At)}
	if !p.Known {
		return out
	}
	average := p.Average()
	for name, set := range map[string]struct {
		to    **float64
		value *float64
	}{
		control.Average: {&out.Average, &average}, control.Minimum: {&out.Minimum, &p.Min},
		control.Maximum: {&out.Maximum, &p.Max}, control.Total: {&out.Total, &p.Sum}, control.Count: {&out.Count, &p.Count},
	} {
		if slices.Contains(aggregations, name) {
			*set.to = set.value
		}
	}
	return out
}

// stamp prints an instant as Azure Monitor does.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

func (c *call) metricsRequest() (metricsRequest, error) {
	v := lowerNames(c.r.URL.Query())
	req := metricsRequest{query: control.MonitorQuery{Resource: c.measured()}}
	q := &req.query
	for name, harmless := range map[string]string{"rollupby": "", "validatedimensions": "true"} {
		if text := v.Get(name); text != "" && !strings.EqualFold(text, harmless) {
			return req, online.Errorf(online.CodeNotImplemented, name, "the parameter %s=%.40s is not implemented yet; leave it out",
				name, text)
		}
	}
	if ns := v.Get("metricnamespace"); ns != "" && !strings.EqualFold(ns, arm.TypeOf(q.Resource)) {
		return req, online.Errorf(online.CodeBadArgument, "metricnamespace", "the metric namespace of this resource is %s",
			arm.TypeOf(q.Resource))
	}
	for name := range strings.SplitSeq(v.Get("metricnames"), ",") {
		if name = strings.TrimSpace(name); name != "" {
			// The Python SDK writes a comma inside a name as these two characters.
			q.Names = append(q.Names, strings.ReplaceAll(name, "%2", ","))
		}
	}
	var err error
	if q.Since, q.Until, err = parseTimespan(v.Get("timespan"), c.api.Control.Now()); err != nil {
		return req, err
	}
	adjust := strings.EqualFold(v.Get("autoadjusttimegrain"), "true")
	if req.interval, q.Interval, err = parseInterval(v.Get("interval"), adjust); err != nil {
		return req, err
	}
	if req.aggregations, err = parseAggregations(v.Get("aggregation")); err != nil {
		return req, err
	}
	if q.Filter, err = arm.ParseFilter(v.Get("$filter")); err != nil {
		return req, err
	}
	for _, cmp := range q.Filter.Comparisons() {
		if cmp.Op != "eq" && cmp.Op != "ne" && cmp.Op != "sw" {
			return req, online.Errorf(online.CodeBadArgument, "$filter", "a dimension is compared with eq, ne or sw, not %s", cmp.Op)
		}
	}
	if text := v.Get("top"); text != "" {
		if q.Top, err = strconv.Atoi(text); err != nil || q.Top < 1 {
			return req, online.Errorf(online.CodeBadArgument, "top", "%.40q is not a number of time series", text)
		}
	}
	if q.OrderBy, q.Descending, err = parseMetricOrder(v.Get("orderby")); err != nil {
		return req, err
	}
	switch strings.ToLower(v.Get("resulttype")) {
	case "", "data":
	case "metadata":
		req.metadata = true
	default:
		return req, online.Errorf(online.CodeBadArgument, "resultType", "resultType %.40q is not one of Data, Metadata",
			v.Get("resulttype"))
	}
	return req, nil
}

// lowerNames makes the names of parameters comparable: Azure does not regard their case.
func lowerNames(v url.Values) url.Values {
	out := url.Values{}
	for name, values := range v {
		out[strings.ToLower(name)] = values
	}
	return out
}

// parseTimespan reads DURATION (until now), START/DURATION, DURATION/END or START/END. Absent is the last hour.
func parseTimespan(text string, now time.Time) (since, until time.Time, err error) {
	bad := online.Errorf(online.CodeBadArgument, "timespan",
		"the timespan %.120q is not a duration such as PT1H, nor START/END, START/DURATION or DURATION/END", text)
	if text == "" {
		return now.Add(-control.DefaultSpan), now, nil
	}
	first, second, pair := strings.Cut(text, "/")
	d1, err1 := arm.ParseDuration(first)
	d2, err2 := arm.ParseDuration(second)
	t1, isTime1 := parseMoment(first)
	t2, isTime2 := parseMoment(second)
	switch {
	case !pair && err1 == nil:
		since, until = now.Add(-d1), now
	case !pair:
		return since, until, bad
	case isTime1 && isTime2:
		since, until = t1, t2
	case isTime1 && err2 == nil:
		since, until = t1, t1.Add(d2)
	case err1 == nil && isTime2:
		since, until = t2.Add(-d1), t2
	default:
		return since, until, bad
	}
	return since.UTC(), until.UTC(), nil
}

// parseMoment reads a time with or without a zone (then UTC), or a day. A space is what a URL makes of a plus.
func parseMoment(s string) (time.Time, bool) {
	s = strings.Replace(s, " ", "+", 1)
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// parseInterval reads the length of a point; 0 is the whole timespan. With adjust one that Azure does not have becomes
// the next longer one.
func parseInterval(text string, adjust bool) (string, time.Duration, error) {
	switch {
	case text == "":
		return arm.FormatDuration(control.MetricGrain), control.MetricGrain, nil
	case strings.EqualFold(text, fullInterval):
		return fullInterval, 0, nil
	}
	d, err := arm.ParseDuration(text)
	if err == nil {
		for _, g := range grains {
			if d == g || adjust && d > 0 && d < g {
				return arm.FormatDuration(g), g, nil
			}
		}
	}
	return "", 0, online.Errorf(online.CodeBadArgument, "interval",
		"interval %.40q is not one of PT1M, PT5M, PT15M, PT30M, PT1H, PT6H, PT12H, P1D, FULL", text)
}

func parseAggregations(text string) ([]string, error) {
	var out []string
	for name := range strings.SplitSeq(text, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		a, ok := aggregation(name)
		if !ok {
			return nil, badAggregation("aggregation", name)
		}
		out = append(out, a)
	}
	return out, nil
}

func aggregation(name string) (string, bool) {
	if strings.EqualFold(name, "sum") { // how orderby calls it
		return control.Total, true
	}
	at := slices.IndexFunc(control.Aggregations, func(a string) bool { return strings.EqualFold(a, name) })
	if at < 0 {
		return "", false
	}
	return control.Aggregations[at], true
}

func badAggregation(target, name string) error {
	return online.Errorf(online.CodeBadArgument, target, "the aggregation %.40q is not one of %s", name,
		strings.Join(control.Aggregations, ", "))
}

// parseMetricOrder reads "average desc". Without a direction it is descending.
func parseMetricOrder(text string) (by string, descending bool, err error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return "", false, nil
	}
	by, ok := aggregation(words[0])
	if !ok {
		return "", false, badAggregation("orderby", words[0])
	}
	if len(words) == 1 || len(words) == 2 && strings.EqualFold(words[1], "desc") {
		return by, true, nil
	}
	if len(words) == 2 && strings.EqualFold(words[1], "asc") {
		return by, false, nil
	}
	return "", false, online.Errorf(online.CodeBadArgument, "orderby", "%.60q is not AGGREGATION asc or AGGREGATION desc", text)
}

// exists answers with an error unless the endpoint or deployment of the path exists.
func (c *call) exists(id online.ID) error {
	var err error
	if id.Kind == online.KindDeployment {
		_, err = c.api.Control.GetDeployment(c.r.Context(), c.caller, id.Workspace, id.Parent, id.Name)
	} else {
		_, err = c.api.Control.GetEndpoint(c.r.Context(), c.caller, id.Workspace, id.Name)
	}
	return err
}

func listMetricDefinitions(c *call) error {
	id := c.measured()
	if err := c.exists(id); err != nil {
		return err
	}
	retention := arm.FormatDuration(control.MaxSpan)
	out := []arm.MetricDefinition{}
	for _, m := range control.MetricsOf(id.Kind) {
		d := arm.MetricDefinition{ID: arm.FormatID(id) + "/providers/microsoft.insights/metricdefinitions/" + m.Name,
			ResourceID: arm.FormatID(id), Namespace: arm.TypeOf(id), Name: arm.LocalizedName{Value: m.Name, LocalizedValue: m.Title},
			DisplayDescription: m.Help, Unit: m.Unit, PrimaryAggregationType: control.Average,
			SupportedAggregationTypes: control.Aggregations}
		for _, g := range grains {
			d.MetricAvailabilities = append(d.MetricAvailabilities,
				arm.MetricAvailability{TimeGrain: arm.FormatDuration(g), Retention: retention})
		}
		for _, name := range m.Dimensions {
			d.Dimensions = append(d.Dimensions, arm.SameName(name))
		}
		out = append(out, d)
	}
	return c.json(http.StatusOK, arm.NewPage(out, ""))
}

func listMetricNamespaces(c *call) error {
	id := c.measured()
	if err := c.exists(id); err != nil {
		return err
	}
	name := arm.TypeOf(id)
	return c.json(http.StatusOK, arm.NewPage([]arm.MetricNamespace{{
		ID: arm.FormatID(id) + "/providers/" + arm.MetricNamespaceType + "/" + name, Type: arm.MetricNamespaceType, Name: name,
		Classification: "Platform", Properties: arm.MetricNamespaceProperties{MetricNamespaceName: name},
	}}, ""))
}
