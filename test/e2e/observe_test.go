package e2e

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// metric sums an aggregation of a metric over a time span.
func (s *server) metric(resource, name, filter, timespan string) float64 {
	s.t.Helper()
	q := url.Values{"metricnames": {name}, "aggregation": {"Total"}, "timespan": {timespan}, "api-version": {"2024-02-01"}}
	if filter != "" {
		q.Set("$filter", filter)
	}
	a := s.api("GET", resource+"/providers/microsoft.insights/metrics?"+q.Encode(), nil)
	if a.status != http.StatusOK {
		s.t.Fatalf("metrics: %d %s", a.status, a.body)
	}
	sum := 0.0
	for _, v := range list(a.json(s.t)["value"]) {
		for _, series := range list(v["timeseries"]) {
			for _, p := range list(series["data"]) {
				n, _ := p["total"].(float64)
				sum += n
			}
		}
	}
	return sum
}

func list(v any) []map[string]any {
	items, _ := v.([]any)
	out := make([]map[string]any, 0, len(items))
	for _, item := range items {
		if m, ok := item.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// TestMirrorMetricsAndCost walks through a shadow test as the documentation does: copies reach the shadow and nobody
// else; metrics are the client's own counts; cost is what the instances' time costs.
func TestMirrorMetricsAndCost(t *testing.T) {
	prices := "prices:\n  currency: EUR\n  per_hour:\n    Standard_DS3_v2: 3600\n" // one a second
	s := start(t, "--config", filepath.Join(files(t, map[string]string{"portico.yaml": prices}), "portico.yaml"))
	begin := time.Now()
	s.deploy("shadowed", "blue", echoScript, "environment_variables:\n  VERSION: one\n")
	dir := files(t, map[string]string{
		"green.yml":  deploymentYAML("shadowed", "green", "environment_variables:\n  VERSION: two\n"),
		"conda.yaml": emptyConda, "src/score.py": echoScript,
	})
	s.must("ml", "online-deployment", "create", "-f", filepath.Join(dir, "green.yml"), "-o", "none")
	s.must("ml", "online-endpoint", "update", "-n", "shadowed", "--mirror-traffic", "green=50", "-o", "none")
	key := s.key("shadowed")
	endpoint := workspace + "/onlineEndpoints/shadowed"
	const n = 60
	for i := range n {
		if v := s.score("shadowed", key, fmt.Sprintf(`{"n": %d}`, i)).json(t)["version"]; v != "one" {
			t.Fatalf("a caller was answered by %v", v)
		}
	}
	for range 4 {
		if a := s.score("shadowed", "wrong", `{}`); a.status != http.StatusUnauthorized {
			t.Fatal(a.status)
		}
	}
	span := begin.Add(-time.Minute).UTC().Format(time.RFC3339) + "/PT1H"
	s.eventually("copies reach the shadow", func() bool { return s.metric(endpoint+"/deployments/green", "RequestsPerMinute", "", span) > 0 })
	for filter, want := range map[string]float64{"": n + 4, "statusCodeClass eq '2xx'": n, "statusCode eq '401'": 4, "deployment eq 'green'": 0, "deployment eq 'blue'": n} {
		if got := s.metric(endpoint, "RequestsPerMinute", filter, span); got != want {
			t.Errorf("%q: %v requests, the client sent %v", filter, got, want)
		}
	}
	// The object that the documentation mutates: traffic and mirror at once.
	live := s.api("PUT", endpoint+"?api-version=2022-02-01-preview", map[string]any{"location": "local", "properties": map[string]any{
		"authMode": "Key", "traffic": map[string]int{"blue": 90, "green": 10}, "mirrorTraffic": map[string]int{"green": 10}}})
	if live.status != http.StatusOK || !strings.Contains(live.header.Get("x-portico-warning"), "dropped") {
		t.Errorf("%d %v %s", live.status, live.header, live.body)
	}
	query := map[string]any{"type": "Usage", "timeframe": "MonthToDate", "dataset": map[string]any{"granularity": "None",
		"aggregation": map[string]any{"c": map[string]string{"name": "PreTaxCost", "function": "Sum"}, "h": map[string]string{"name": "UsageQuantity", "function": "Sum"}},
		"filter":      map[string]any{"tags": map[string]string{"name": "endpoint", "value": "shadowed"}}}}
	if now := time.Now().UTC(); begin.UTC().Month() != now.Month() {
		t.Skip("the month ended while the test ran")
	}
	cost := s.api("POST", "/subscriptions/00000000-0000-0000-0000-000000000001/providers/Microsoft.CostManagement/query?api-version=2022-10-01", query)
	properties, _ := cost.json(t)["properties"].(map[string]any)
	rows, _ := properties["rows"].([]any)
	if cost.status != http.StatusOK || len(rows) != 1 {
		t.Fatalf("%d %s", cost.status, cost.body)
	}
	row, _ := rows[0].([]any)
	money, _ := row[0].(float64)
	hours, _ := row[1].(float64)
	// Two instances for some of the time since begin, at one a second; the store keeps milliseconds.
	most := 2 * time.Since(begin).Seconds()
	if money <= 0 || money > most || math.Abs(money-hours*3600) > money/100 || row[2] != "EUR" {
		t.Errorf("row %v, at most %v", row, most)
	}
	if strings.Contains(cost.header.Get("x-portico-warning"), "price") {
		t.Errorf("warned: %v", cost.header)
	}
	if out := s.must("config", "show"); !strings.Contains(out, "EUR, for 1 of") {
		t.Errorf("config show: %s", out)
	}
	events := s.api("GET", "/subscriptions/00000000-0000-0000-0000-000000000001/providers/microsoft.insights/eventtypes/management/values?"+
		url.Values{"$filter": {"resourceUri eq '" + endpoint + "'"}}.Encode(), nil)
	if events.status != http.StatusOK || !strings.Contains(string(events.body), "was dropped: it receives live traffic") {
		t.Errorf("events: %d %.500s", events.status, events.body)
	}
}
