package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"portico/internal/arm"
)

// Bounds of `az monitor activity-log list`, which are az's own.
const (
	azActivityMost   = 50
	azActivityOffset = 6 * time.Hour
	azMetricsOffset  = time.Hour
)

func azMonitor() []azCommand {
	window := []azArg{azOne("--start-time"), azOne("--end-time"), azOne("--offset")}
	resource := []azArg{azOne("--resource").must(), azOne("--namespace", "--metrics-namespace"), azGroupArg,
		azOne("--resource-type").refuse("name the resource by its id"),
		azOne("--resource-parent").refuse("name the resource by its id"),
		azOne("--resource-namespace").refuse("name the resource by its id")}
	metrics := append([]azArg{azMany("--metrics", "--metric"), azMany("--aggregation"), azOne("--interval"),
		azOne("--filter"),
		azMany("--dimension"), azOne("--top"), azOne("--orderby"),
		azSwitch("--metadata").refuse("give --dimension, and read timeseries[].metadatavalues")}, resource...)
	return []azCommand{
		{words: "monitor metrics list", short: "Show metrics of an endpoint or deployment", run: azMetricsList,
			args: append(metrics, window...)},
		{words: "monitor metrics list-definitions", short: "Show which metrics a resource has", run: azMetricDefinitions,
			args: resource},
		{words: "monitor activity-log list", short: "Show who changed what", run: azActivityLog, args: append([]azArg{
			azGroupArg, azOne("--resource-id"), azOne("--namespace", "--resource-provider"), azOne("--correlation-id"),
			azOne("--caller"), azOne("--status"), azOne("--max-events"), azMany("--select")}, window...)},
	}
}

// azOffsetText is the form of az's offsets, such as 1d6h30m.
var azOffsetText = regexp.MustCompile(`^(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$`)

// parseAzOffset reads 1h, 30m, 1d12h.
func parseAzOffset(text string) (time.Duration, error) {
	parts := azOffsetText.FindStringSubmatch(strings.ToLower(text))
	if text == "" || parts == nil {
		return 0, usagef("'%s' is not a duration; write 1d, 6h, 30m or 1d6h30m", text)
	}
	var total time.Duration
	for i, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second} {
		if parts[i+1] == "" {
			continue
		}
		n, err := strconv.Atoi(parts[i+1])
		if err != nil || n > int(1<<62/unit) {
			return 0, usagef("'%s' is longer than can be counted", text)
		}
		total += time.Duration(n) * unit
	}
	return total, nil
}

// azTimes are the forms of a time that az takes, beside those with a zone; without one it is UTC.
var azTimes = []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05",
	"2006-01-02 15:04",
	"2006-01-02"}

func parseAzTime(text string) (time.Time, error) {
	for _, form := range azTimes {
		if t, err := time.Parse(form, strings.TrimSuffix(text, " UTC")); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, usagef("'%s' is not a time; write 2026-01-31T12:00:00Z", text)
}

// window reads --start-time, --end-time and --offset as az does: what is missing follows from the rest and from now.
func (c *azCall) window(now time.Time, offset time.Duration) (start, end time.Time, err error) {
	if text := c.one("offset"); text != "" {
		if offset, err = parseAzOffset(text); err != nil {
			return start, end, err
		}
	}
	from, to := c.one("start-time"), c.one("end-time")
	if from != "" {
		if start, err = parseAzTime(from); err != nil {
			return start, end, err
		}
	}
	if to != "" {
		if end, err = parseAzTime(to); err != nil {
			return start, end, err
		}
	}
	switch {
	case from == "" && to == "":
		start, end = now.Add(-offset), now
	case from == "":
		start = end.Add(-offset)
	case to == "" && c.one("offset") != "":
		end = start.Add(offset)
	case to == "":
		end = now
	}
	if !start.Before(end) {
		return start, end, usagef("--start-time must be before --end-time")
	}
	return start, end, nil
}

// monitorPath is a path of Azure Monitor below the resource that the command names.
func (c *azCall) monitorPath(what string) (string, error) {
	id := strings.TrimRight(c.one("resource"), "/")
	if !strings.HasPrefix(strings.ToLower(id), "/subscriptions/") {
		return "", usagef("--resource: '%s' is not a resource id; `az ml online-endpoint show --query id -o tsv` gives one",
			id)
	}
	return id + "/providers/Microsoft.Insights/" + what, nil
}

func azMetricsList(ctx context.Context, c *azCall) error {
	start, end, err := c.window(time.Now().UTC(), azMetricsOffset)
	if err != nil {
		return err
	}
	query := url.Values{"api-version": {"2024-02-01"}, "timespan": {arm.FormatTime(start) + "/" + arm.FormatTime(end)}}
	for key, value := range map[string]string{"metricnames": strings.Join(c.values["metrics"], ","),
		"$filter":     c.metricFilter(),
		"aggregation": strings.Join(c.values["aggregation"], ","), "top": c.one("top"), "orderby": c.one("orderby"),
		"metricnamespace": c.one("namespace")} {
		if value != "" {
			query.Set(key, value)
		}
	}
	if text := c.one("interval"); text != "" {
		if !strings.HasPrefix(strings.ToUpper(text), "P") && !strings.EqualFold(text, "full") {
			grain, err := parseAzOffset(text)
			if err != nil {
				return err
			}
			text = arm.FormatDuration(grain)
		}
		query.Set("interval", text)
	}
	path, err := c.monitorPath("metrics")
	if err != nil {
		return err
	}
	return c.showJSON(ctx, path, query)
}

// metricFilter is --filter, or one that splits by each --dimension.
func (c *azCall) metricFilter() string {
	var parts []string
	for _, d := range c.values["dimension"] {
		parts = append(parts, d+" eq '*'")
	}
	return orDefault(c.one("filter"), strings.Join(parts, " and "))
}

// showJSON prints what the server answers to a GET.
func (c *azCall) showJSON(ctx context.Context, path string, query url.Values) error {
	s, err := c.session()
	if err != nil {
		return err
	}
	var doc json.RawMessage
	if _, err := s.client.get(ctx, path, query, &doc); err != nil {
		return err
	}
	return c.print(doc)
}

func azMetricDefinitions(ctx context.Context, c *azCall) error {
	path, err := c.monitorPath("metricDefinitions")
	if err != nil {
		return err
	}
	query := url.Values{"api-version": {"2024-02-01"}}
	if n := c.one("namespace"); n != "" {
		query.Set("metricnamespace", n)
	}
	s, err := c.session()
	if err != nil {
		return err
	}
	found, err := list[json.RawMessage](ctx, s.client, path, query)
	if err != nil {
		return err
	}
	return c.print(found)
}

// azEvent is as much of an activity as is looked at here.
type azEvent struct {
	Caller string `json:"caller"`
	Status struct {
		Value string `json:"value"`
	} `json:"status"`
}

func azActivityLog(ctx context.Context, c *azCall) error {
	start, end, err := c.window(time.Now().UTC(), azActivityOffset)
	if err != nil {
		return err
	}
	most := azActivityMost
	if text := c.one("max-events"); text != "" {
		if most, err = strconv.Atoi(text); err != nil || most < 1 {
			return usagef("argument --max-events: invalid int value: '%s'", text)
		}
	}
	filter := fmt.Sprintf("eventTimestamp ge '%s' and eventTimestamp le '%s'", arm.FormatTime(start), arm.FormatTime(end))
	for _, part := range [][2]string{{"resourceGroupName", c.one("resource-group")}, {"resourceUri", c.one("resource-id")},
		{"resourceProvider", c.one("namespace")}, {"correlationId", c.one("correlation-id")}} {
		if part[1] != "" {
			filter += fmt.Sprintf(" and %s eq '%s'", part[0], strings.ReplaceAll(part[1], "'", "''"))
		}
	}
	query := url.Values{"api-version": {"2015-04-01"}, "$filter": {filter}}
	if fields := c.values["select"]; len(fields) > 0 {
		query.Set("$select", strings.Join(fields, ","))
	}
	s, err := c.session()
	if err != nil {
		return err
	}
	all, err := list[json.RawMessage](ctx, s.client, "/subscriptions/"+url.PathEscape(s.scope.Subscription)+
		"/providers/Microsoft.Insights/eventtypes/management/values", query)
	if err != nil {
		return err
	}
	out := []json.RawMessage{}
	for _, doc := range all {
		var e azEvent
		if err := json.Unmarshal(doc, &e); err != nil {
			return fmt.Errorf("read the server's answer: %w", err)
		}
		// As az, which asks the service for neither.
		matches := (c.one("caller") == "" || strings.EqualFold(e.Caller, c.one("caller"))) &&
			(c.one("status") == "" || strings.EqualFold(e.Status.Value, c.one("status")))
		if matches && len(out) < most {
			out = append(out, doc)
		}
	}
	return c.print(out)
}
