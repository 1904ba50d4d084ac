package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"portico/internal/online"
	"portico/internal/store"
	"portico/internal/telemetry"
)

// scored records a request that ended at a moment.
func (s *site) scored(deployment string, at time.Time, status, model int, took time.Duration) {
	s.Measured.Record(&telemetry.Record{Arrival: at.Add(-took), Endpoint: "fraud", Deployment: deployment, Status: status,
		ModelStatus: model, Total: took, RequestBytes: 30, ResponseBytes: 30})
}

// existed records that an instance of fraud/blue existed.
func (s *site) existed(instance string, start, end time.Time) {
	s.t.Helper()
	err := s.Records.Update(context.Background(), func(tx store.Tx) error {
		id := online.WorkspaceID{Subscription: "sub", ResourceGroup: "group", Name: "home"}.Deployment("fraud", "blue")
		rec, err := tx.Get(id)
		if err != nil {
			return err
		}
		if err := tx.OpenInterval(online.Interval{Instance: instance, Deployment: id, UID: rec.UID, InstanceType: "Standard_DS3_v2", Start: start}); err != nil {
			return err
		}
		return tx.CloseInterval(instance, end, "stopped")
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// fraudSite has an endpoint with one deployment, three requests and four hours of an instance.
func fraudSite(t *testing.T) *site {
	s := newSite(t)
	s.assets()
	s.do("PUT", fraud, `{"location":"local","tags":{"team":"risk"},"properties":{"authMode":"Key"}}`).want(201)
	s.Settle()
	s.do("PUT", fraud+"/deployments/blue", deploymentBody).want(201)
	s.Settle()
	at := time.Date(2026, 11, 23, 11, 50, 0, 0, time.UTC)
	s.scored("blue", at.Add(10*time.Second), 200, 200, 12*time.Millisecond)
	s.scored("blue", at.Add(20*time.Second), 200, 200, 13*time.Millisecond)
	s.scored("blue", at.Add(70*time.Second), 424, 500, 50*time.Millisecond)
	s.existed("i1", at.Add(-15*time.Hour), at.Add(-11*time.Hour))
	return s
}

const threeMinutes = "2026-11-23T11:50:00Z/2026-11-23T11:53:00Z"

func query(pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return "?" + v.Encode()
}

func TestGoldenMonitor(t *testing.T) {
	tr := &transcript{site: fraudSite(t), names: map[string]string{}}
	metrics, blue := fraud+"/providers/Microsoft.Insights/", fraud+"/deployments/blue/providers/Microsoft.Insights/"
	tr.exchange("GET", metrics+"metrics"+query("api-version", "2018-01-01", "metricnames", "RequestLatency,RequestsPerMinute", "timespan", threeMinutes), "")
	tr.exchange("GET", metrics+"metrics"+query("api-version", "2024-02-01", "metricnames", "RequestsPerMinute", "timespan", "2026-11-23T11:50:00.000Z/PT3600.0S",
		"interval", "PT1H", "aggregation", "Total,Average,Minimum,Maximum,Count", "$filter", "deployment eq '*' and statusCodeClass eq '*'",
		"top", "5", "orderby", "total desc"), "")
	tr.exchange("GET", metrics+"metrics"+query("metricnames", "RequestsPerMinute", "timespan", threeMinutes, "$filter", "statusCode eq '*'",
		"resultType", "metadata"), "")
	tr.exchange("GET", metrics+"metrics"+query("metricnames", "Latency", "timespan", threeMinutes), "")
	tr.exchange("GET", blue+"metrics"+query("metricnames", "CpuUtilizationPercentage,DeploymentCapacity,RequestsPerMinute", "timespan", threeMinutes, "interval", "PT5M"), "")
	tr.exchange("GET", metrics+"metricDefinitions", "")
	tr.exchange("GET", blue+"metricNamespaces", "")
	tr.golden("monitor.http")
}

func TestGoldenCost(t *testing.T) {
	tr := &transcript{site: fraudSite(t), names: map[string]string{}}
	const cost = "/providers/Microsoft.CostManagement/query"
	// What the documentation's code sends, with the SDK that loses the value and with the one that keeps it.
	tr.exchange("POST", "/subscriptions/sub"+cost+"?api-version=2022-10-01",
		`{"type":"Usage","timeframe":"MonthToDate","dataset":{"granularity":"Daily","filter":{"tags":{"name":"endpoint"}}}}`)
	tr.exchange("POST", "/subscriptions/sub"+cost+"?api-version=2025-03-01",
		`{"type":"Usage","timeframe":"MonthToDate","dataset":{"granularity":"Daily","filter":{"tags":{"name":"endpoint","value":"fraud-detection-api"}}}}`)
	tr.exchange("POST", "/subscriptions/sub/resourcegroups/GROUP"+cost,
		`{"type":"ActualCost","timeframe":"Custom","timePeriod":{"from":"2026-11-01T00:00:00+00:00","to":"2026-11-30T23:59:59Z"},
		"dataset":{"granularity":"Monthly","aggregation":{"totalCost":{"name":"PreTaxCost","function":"Sum"},"used":{"name":"UsageQuantity","function":"Sum"}},
		"grouping":[{"type":"Dimension","name":"ResourceGroup"},{"type":"TagKey","name":"team"}],
		"filter":{"and":[{"dimensions":{"name":"ResourceType","operator":"In","values":["Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments"]}},
		{"or":[{"tags":{"name":"azuremlendpoint","operator":"In","values":["fraud"]}},{"tags":{"name":"azuremldeployment","operator":"In","values":["green"]}}]}]},
		"sorting":[{"direction":"Descending","name":"PreTaxCost"}]}}`)
	tr.exchange("POST", fraud+"/deployments/blue"+cost, `{"type":"Usage","timeframe":"WeekToDate","dataset":{"granularity":"None","configuration":{"columns":[]}}}`)
	tr.exchange("POST", "/subscriptions/sub"+cost, `{"type":"Usage","timeframe":"TheLastMonth","dataset":{"configuration":{"columns":["Cost"]}}}`)
	tr.golden("cost.http")
}

func TestGoldenActivity(t *testing.T) {
	tr := &transcript{site: fraudSite(t), names: map[string]string{}}
	const events = "/subscriptions/sub/providers/Microsoft.Insights/eventtypes/management/values"
	tr.exchange("GET", events+query("api-version", "2015-04-01", "$filter", "eventTimestamp ge '2026-11-23T00:00:00Z' and resourceUri eq '"+fraud+"/deployments/blue'"), "")
	tr.exchange("GET", events+query("$filter", "eventTimestamp ge '2026-11-23T00:00:00Z' and eventTimestamp le '2026-11-24T00:00:00Z' and resourceGroupName eq 'GROUP'",
		"$select", "operationName,resourceId,caller"), "")
	tr.golden("activity.http")
}

func TestEventsArePaged(t *testing.T) {
	s := newSite(t)
	s.do("PUT", fraud, `{"properties":{"authMode":"Key"}}`).want(201)
	s.Settle()
	const n = eventPage + 30
	for range n {
		s.do("POST", fraud+"/listKeys", "").want(200)
	}
	seen := map[string]bool{}
	pages := 0
	next := "/subscriptions/SUB/providers/microsoft.insights/EventTypes/Management/values" + query("$filter", "operationName eq 'Microsoft.MachineLearningServices/workspaces/onlineEndpoints/listKeys/action'")
	for next != "" {
		a := s.do("GET", next, "").want(200)
		var page struct {
			Value    []struct{ EventDataID, EventTimestamp string }
			NextLink string
		}
		if err := json.Unmarshal([]byte(a.body), &page); err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Value {
			if seen[e.EventDataID] {
				t.Fatalf("event %s is listed twice", e.EventDataID)
			}
			seen[e.EventDataID] = true
		}
		if pages++; pages > 3 {
			t.Fatal("pages without end")
		}
		next = page.NextLink
	}
	if len(seen) != n || pages != 2 {
		t.Errorf("%d events on %d pages, want %d on 2", len(seen), pages, n)
	}
}

func TestMonitorRefusals(t *testing.T) {
	s := fraudSite(t)
	metrics := fraud + "/providers/Microsoft.Insights/metrics"
	names := []string{"metricnames", "RequestLatency"}
	const events = "/subscriptions/sub/providers/Microsoft.Insights/eventtypes/management/values"
	const cost = "/subscriptions/sub/providers/Microsoft.CostManagement/query"
	for what, c := range map[string]struct {
		method, path, body string
		code               online.Code
		target             string
	}{
		"no metric":            {"GET", metrics, "", online.CodeBadArgument, "metricnames"},
		"timespan":             {"GET", metrics + query(append(names, "timespan", "an hour")...), "", online.CodeBadArgument, "timespan"},
		"two durations":        {"GET", metrics + query(append(names, "timespan", "PT1H/PT1H")...), "", online.CodeBadArgument, "timespan"},
		"interval":             {"GET", metrics + query(append(names, "interval", "PT2M")...), "", online.CodeBadArgument, "interval"},
		"aggregation":          {"GET", metrics + query(append(names, "aggregation", "Median")...), "", online.CodeBadArgument, "aggregation"},
		"orderby":              {"GET", metrics + query(append(names, "orderby", "total down")...), "", online.CodeBadArgument, "orderby"},
		"top":                  {"GET", metrics + query(append(names, "top", "many")...), "", online.CodeBadArgument, "top"},
		"result type":          {"GET", metrics + query(append(names, "resultType", "all")...), "", online.CodeBadArgument, "resultType"},
		"filter":               {"GET", metrics + query(append(names, "$filter", "deployment is 'x'")...), "", online.CodeBadArgument, "$filter"},
		"order of a dimension": {"GET", metrics + query(append(names, "$filter", "deployment gt 'x'")...), "", online.CodeBadArgument, "$filter"},
		"namespace":            {"GET", metrics + query(append(names, "metricnamespace", "x")...), "", online.CodeBadArgument, "metricnamespace"},
		"roll up":              {"GET", metrics + query(append(names, "rollupby", "deployment")...), "", online.CodeNotImplemented, "rollupby"},
		"event name":           {"GET", events + query("$filter", "colour eq 'red'"), "", online.CodeBadArgument, "$filter"},
		"event time":           {"GET", events + query("$filter", "eventTimestamp ge 'noon'"), "", online.CodeBadArgument, "$filter"},
		"event order":          {"GET", events + query("$filter", "caller gt 'a'"), "", online.CodeBadArgument, "$filter"},
		"event member":         {"GET", events + query("$select", "colour"), "", online.CodeBadArgument, "$select"},
		"event token":          {"GET", events + query("$skiptoken", "x"), "", online.CodeBadArgument, "$skiptoken"},
		"cost type":            {"POST", cost, `{"type":"Forecast","timeframe":"MonthToDate","dataset":{}}`, online.CodeBadArgument, "type"},
		"cost frame":           {"POST", cost, `{"type":"Usage","timeframe":"Yesterday","dataset":{}}`, online.CodeBadArgument, "timeframe"},
		"cost period":          {"POST", cost, `{"type":"Usage","timeframe":"Custom","dataset":{}}`, online.CodeBadArgument, "timePeriod"},
		"cost period's end":    {"POST", cost, `{"type":"Usage","timeframe":"Custom","timePeriod":{"from":"2026-11-01","to":"x"},"dataset":{}}`, online.CodeBadArgument, "timePeriod.to"},
		"cost dataset":         {"POST", cost, `{"type":"Usage","timeframe":"MonthToDate"}`, online.CodeBadArgument, "dataset"},
		"cost granularity":     {"POST", cost, `{"type":"Usage","timeframe":"MonthToDate","dataset":{"granularity":"Hourly"}}`, online.CodeBadArgument, "dataset.granularity"},
		"cost sum":             {"POST", cost, `{"type":"Usage","timeframe":"MonthToDate","dataset":{"aggregation":{"a":{"name":"CostUSD","function":"Sum"}}}}`, online.CodeBadArgument, "dataset.aggregation.a.name"},
		"cost function":        {"POST", cost, `{"type":"Usage","timeframe":"MonthToDate","dataset":{"aggregation":{"a":{"name":"Cost","function":"Max"}}}}`, online.CodeBadArgument, "dataset.aggregation.a.function"},
		"cost grouping":        {"POST", cost, `{"type":"Usage","timeframe":"MonthToDate","dataset":{"grouping":[{"type":"Colour","name":"x"}]}}`, online.CodeBadArgument, "dataset.grouping"},
		"cost not":             {"POST", cost, `{"type":"Usage","timeframe":"MonthToDate","dataset":{"filter":{"not":{"tags":{"name":"x"}}}}}`, online.CodeNotImplemented, "dataset.filter.not"},
		"cost operator":        {"POST", cost, `{"type":"Usage","timeframe":"MonthToDate","dataset":{"filter":{"tags":{"name":"x","operator":"Contains","values":["y"]}}}}`, online.CodeNotImplemented, "dataset.filter"},
		"cost two filters":     {"POST", cost, `{"type":"Usage","timeframe":"MonthToDate","dataset":{"filter":{"tags":{"name":"x"},"dimensions":{"name":"Meter"}}}}`, online.CodeBadArgument, "dataset.filter"},
		"cost sorting":         {"POST", cost, `{"type":"Usage","timeframe":"MonthToDate","dataset":{"sorting":[{"name":"Colour"}]}}`, online.CodeBadArgument, "dataset.sorting"},
	} {
		t.Run(what, func(t *testing.T) {
			a := s.do(c.method, c.path, c.body)
			a.t = t
			a.wantError(400, c.code, c.target)
		})
	}
	s.do("GET", strings.Replace(metrics, "fraud", "nobody", 1)+query(names...), "").wantError(404, online.CodeNotFound, "-")
	s.do("GET", strings.Replace(metrics, "metrics", "metricDefinitions", 1)+query(names...), "").want(200)
	s.do("GET", strings.Replace(fraud, "fraud", "nobody", 1)+"/providers/Microsoft.Insights/metricDefinitions", "").wantError(404, online.CodeNotFound, "-")
	s.do("GET", "/subscriptions/sub/providers/Microsoft.Insights/eventtypes/digest/values", "").wantError(404, online.CodeNotFound, "")
}

// TestAbsentResourcesAreNamed: what belongs to a later capability is refused by its name, whatever is asked of it.
func TestAbsentResourcesAreNamed(t *testing.T) {
	s := newSite(t)
	group := "/subscriptions/sub/resourcegroups/group"
	for path, name := range map[string]string{
		group + "/providers/Microsoft.Insights/autoscalesettings/as1":                                     "autoscaleSettings",
		group + "/providers/microsoft.insights/autoscaleSettings":                                         "autoscaleSettings",
		"/subscriptions/sub/providers/Microsoft.Insights/autoscalesettings":                               "autoscaleSettings",
		fraud + "/providers/Microsoft.Authorization/roleAssignments/0b5f13b4-9d0c-4be8-b1a1-000000000000": "roleAssignments",
		"/subscriptions/sub/providers/Microsoft.Authorization/roleAssignments":                            "roleAssignments",
		wsPath + "/providers/Microsoft.Authorization/roledefinitions/x":                                   "roleDefinitions",
		wsPath + "/privateEndpointConnections/x":                                                          "privateEndpointConnections",
		wsPath + "/privateLinkResources":                                                                  "privateLinkResources",
	} {
		for _, method := range []string{"GET", "PUT", "PATCH", "DELETE"} {
			a := s.do(method, path+"?api-version=2022-10-01", `{"properties":{}}`).wantError(400, online.CodeNotImplemented, name)
			if text, _ := a.get("error.message").(string); !strings.Contains(text, name) {
				t.Errorf("%s %s: %s", method, path, text)
			}
		}
		s.do("GET", path, "", "Authorization", "").want(401)
	}
	for field, body := range map[string]string{
		"properties.encryption":                 `{"properties":{"authMode":"Key","encryption":{"status":"Enabled"}}}`,
		"properties.publicNetworkAccess":        `{"properties":{"authMode":"Key","publicNetworkAccess":"disabled"}}`,
		"properties.privateEndpointConnections": `{"properties":{"authMode":"Key","privateEndpointConnections":[{"id":"x"}]}}`,
	} {
		s.do("PUT", fraud, body).wantError(400, online.CodeNotImplemented, field)
	}
}

func TestParseTimespan(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 30, 15, 0, time.UTC)
	for text, want := range map[string]string{
		"":                                   "2026-11-23T11:30:15Z/2026-11-23T12:30:15Z",
		"PT3600.0S":                          "2026-11-23T11:30:15Z/2026-11-23T12:30:15Z",
		"P1D":                                "2026-11-22T12:30:15Z/2026-11-23T12:30:15Z",
		"2026-01-01T00:00:00.000Z/PT1H":      "2026-01-01T00:00:00Z/2026-01-01T01:00:00Z",
		"2026-01-01T00:00:00.000Z/PT3600.0S": "2026-01-01T00:00:00Z/2026-01-01T01:00:00Z",
		"PT1H/2026-01-01T01:00:00Z":          "2026-01-01T00:00:00Z/2026-01-01T01:00:00Z",
		"2026-01-01T00:00:00Z/2026-01-02T00:00:00Z":         "2026-01-01T00:00:00Z/2026-01-02T00:00:00Z",
		"2026-01-01T02:00:00+02:00/2026-01-01T01:00:00":     "2026-01-01T00:00:00Z/2026-01-01T01:00:00Z",
		"2026-01-01T02:00:00 02:00/2026-01-01T01:00:00.50Z": "2026-01-01T00:00:00Z/2026-01-01T01:00:00Z",
	} {
		since, until, err := parseTimespan(text, now)
		if got := stamp(since) + "/" + stamp(until); err != nil || got != want {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
	// What is printed is read again.
	rapid.Check(t, func(t *rapid.T) {
		a := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "a"), 0)
		b := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "b"), 0)
		since, until, err := parseTimespan(stamp(a)+"/"+stamp(b), now)
		if err != nil || !since.Equal(a) || !until.Equal(b) {
			t.Fatalf("%v, %v, %v", since, until, err)
		}
	})
	for text, want := range map[string]time.Duration{"PT1M": time.Minute, "PT300.0S": 5 * time.Minute, "P1D": 24 * time.Hour, "full": 0} {
		if _, d, err := parseInterval(text, false); err != nil || d != want {
			t.Errorf("interval %q: %s, %v", text, d, err)
		}
	}
	if name, d, err := parseInterval("PT2M", true); err != nil || d != 5*time.Minute || name != "PT5M" {
		t.Errorf("adjusted to %s, %v", name, err)
	}
}

// TestMetricNamesWithCommas: a name is looked up with the comma that the SDK replaced.
func TestMetricNamesWithCommas(t *testing.T) {
	s := fraudSite(t)
	a := s.do("GET", fraud+"/providers/Microsoft.Insights/metrics"+query("metricnames", "a%2b"), "").wantError(400, online.CodeBadArgument, "metricnames")
	if text, _ := a.get("error.message").(string); !strings.Contains(text, `"a,b"`) || !strings.Contains(text, "RequestLatency_P95") {
		t.Errorf("message %q", text)
	}
}

// TestListingsFollowTheirLinks: every listing of the page gives each entry once, over any number of pages.
func TestListingsFollowTheirLinks(t *testing.T) {
	s := newSite(t)
	for i := range 7 {
		s.do("PUT", fmt.Sprintf("%s/onlineEndpoints/ep-%d", wsPath, i), `{"properties":{"authMode":"Key"}}`).want(201)
	}
	for _, size := range []string{"count=3", "%24top=3", "count=7", "count=1"} {
		var names []string
		next := wsPath + "/onlineEndpoints?" + size
		for pages := 0; next != "" && pages < 10; pages++ {
			a := s.do("GET", next, "").want(200)
			var page struct {
				Value    []struct{ Name string }
				NextLink string
			}
			if err := json.Unmarshal([]byte(a.body), &page); err != nil {
				t.Fatal(err)
			}
			for _, e := range page.Value {
				names = append(names, e.Name)
			}
			if next = page.NextLink; next != "" && !strings.HasPrefix(next, s.URL) {
				t.Fatalf("nextLink %q is not absolute", next)
			}
		}
		if len(names) != 7 || !slices.IsSorted(names) {
			t.Errorf("%s: %v", size, names)
		}
	}
}

// TestMirrorWarning: dropping the mirror is told in a header, and the answer shows that it is gone.
func TestMirrorWarning(t *testing.T) {
	s := fraudSite(t)
	s.do("PUT", fraud+"/deployments/green", deploymentBody).want(201)
	s.Settle()
	mirrored := s.do("PUT", fraud, `{"properties":{"authMode":"Key","traffic":{"blue":100},"mirrorTraffic":{"green":10}}}`).want(200)
	if mirrored.get("properties.mirrorTraffic.green") != 10.0 || mirrored.header.Get("x-portico-warning") != "" {
		t.Errorf("mirror: %s", mirrored.body)
	}
	s.Settle()
	live := s.do("PUT", fraud, `{"properties":{"authMode":"Key","traffic":{"blue":90,"green":10},"mirrorTraffic":{"green":10}}}`).want(200)
	if m, _ := live.get("properties.mirrorTraffic").(map[string]any); len(m) != 0 || live.get("properties.traffic.green") != 10.0 ||
		!strings.Contains(live.header.Get("x-portico-warning"), "mirror of 10 % to deployment green was dropped") {
		t.Errorf("live: %v %s", live.header, live.body)
	}
	if strings.Contains(live.body, "dropped") {
		t.Errorf("the answer shows what is kept inside: %s", live.body)
	}
}
