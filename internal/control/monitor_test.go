package control

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"portico/internal/arm"
	"portico/internal/online"
	"portico/internal/store"
	"portico/internal/telemetry"
)

// scored records a request that ended at a moment.
func (b *bench) scored(deployment string, at time.Time, status, model int, took time.Duration, mirror bool) {
	b.Measured.Record(&telemetry.Record{Arrival: at.Add(-took), Endpoint: "fraud", Deployment: deployment, Status: status,
		ModelStatus: model, Total: took, RequestBytes: 30, ResponseBytes: 30, Mirror: mirror})
}

func (b *bench) monitor(q MonitorQuery) []MetricResult {
	b.t.Helper()
	out, err := b.Monitor(context.Background(), admin, q)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func filter(t testing.TB, text string) *arm.Filter {
	t.Helper()
	f, err := arm.ParseFilter(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// shown writes series in a line each: dimensions, then sum/count/min/max of the intervals that have something.
func shown(r MetricResult) []string {
	var out []string
	for _, s := range r.Series {
		line := ""
		for _, d := range s.Dimensions {
			line += d.Name + "=" + d.Value + " "
		}
		for _, p := range s.Points {
			if p.Known {
				line += fmt.Sprintf("%s:%g/%g/%g/%g ", p.At.Format("15:04"), p.Sum, p.Count, p.Min, p.Max)
			}
		}
		out = append(out, strings.TrimSpace(line))
	}
	return out
}

func TestMonitor(t *testing.T) {
	b := newBench(t)
	b.assets()
	b.mustEndpoint("fraud", nil)
	b.mustDeployment("fraud", "blue")
	at := b.Tick().Truncate(time.Minute).Add(-9 * time.Minute)
	ms := time.Millisecond
	for i, took := range []time.Duration{10 * ms, 30 * ms} {
		b.scored("blue", at.Add(time.Duration(i)*time.Second+time.Second), 200, 200, took, false)
	}
	b.scored("blue", at.Add(70*time.Second), 424, 500, 50*ms, false)
	b.scored("green", at.Add(75*time.Second), 200, 200, 20*ms, false)
	b.scored("", at.Add(80*time.Second), 401, 0, 0, false)
	b.scored("green", at.Add(81*time.Second), 200, 200, time.Second, true) // a copy: nobody's request
	hm := func(minute int) string { return at.Add(time.Duration(minute) * time.Minute).Format("15:04") }
	endpoint, deployment := home.Endpoint("fraud"), home.Deployment("fraud", "green")
	for _, c := range []struct {
		what     string
		id       online.ID
		name     string
		interval time.Duration
		filter   string
		want     []string
	}{
		{"latency", endpoint, "RequestLatency", time.Minute, "", []string{hm(0) + ":40/2/10/30 " + hm(1) + ":70/3/0/50"}},
		{"in five minutes", endpoint, "requestlatency", 5 * time.Minute, "", []string{hm(0) + ":110/5/0/50"}},
		{"as one point", endpoint, "RequestLatency", 0, "", []string{hm(0) + ":110/5/0/50"}},
		{"by deployment", endpoint, "RequestLatency", 5 * time.Minute, "deployment eq '*'",
			[]string{"deployment= " + hm(0) + ":0/1/0/0", "deployment=blue " + hm(0) + ":90/3/10/50", "deployment=green " + hm(0) + ":20/1/20/20"}},
		{"of one deployment", endpoint, "RequestLatency", 5 * time.Minute, "Deployment eq 'BLUE'", []string{"deployment=blue " + hm(0) + ":90/3/10/50"}},
		{"requests", endpoint, "RequestsPerMinute", time.Minute, "", []string{hm(0) + ":2/1/2/2 " + hm(1) + ":3/1/3/3"}},
		{"requests in five minutes", endpoint, "RequestsPerMinute", 5 * time.Minute, "", []string{hm(0) + ":5/2/2/3"}},
		{"by class", endpoint, "RequestsPerMinute", 5 * time.Minute, "statusCodeClass eq '*'",
			[]string{"statusCodeClass=2xx " + hm(0) + ":3/2/1/2", "statusCodeClass=4xx " + hm(0) + ":2/1/2/2"}},
		{"by two", endpoint, "RequestsPerMinute", 5 * time.Minute, "statusCode eq '*' and modelStatusCode ne ''",
			[]string{"statusCode=200 modelStatusCode=200 " + hm(0) + ":3/2/1/2", "statusCode=424 modelStatusCode=500 " + hm(0) + ":1/1/1/1"}},
		{"one or the other", endpoint, "RequestsPerMinute", 5 * time.Minute, "deployment eq 'green' or statusCode eq '401'",
			[]string{"deployment= statusCode=401 " + hm(0) + ":1/1/1/1", "deployment=green statusCode=200 " + hm(0) + ":1/1/1/1"}},
		{"nothing there", endpoint, "RequestsPerMinute", time.Minute, "deployment eq 'red'", nil},
		{"bytes", endpoint, "NetworkBytes", 5 * time.Minute, "", []string{hm(0) + ":5/2/2/3"}},
		{"collected", endpoint, "DataCollectionEventsPerMinute", 5 * time.Minute, "deployment eq 'blue' and type eq '*'",
			[]string{"deployment=blue type=model_inputs " + hm(0) + ":8/4/2/2"}},
		{"not collected", endpoint, "DataCollectionErrorsPerMinute", time.Minute, "reason eq '*'", []string{"reason=queue_full " + hm(0) + ":2/1/2/2"}},
		{"collected of a deployment", home.Deployment("fraud", "blue"), "DataCollectionEventsPerMinute", 5 * time.Minute, "instanceId eq '*'",
			[]string{"instanceId=i-1 " + hm(0) + ":8/4/2/2"}},
		{"collected of another", deployment, "DataCollectionEventsPerMinute", time.Minute, "instanceId eq '*'", nil},
		{"copies of a deployment", deployment, "RequestsPerMinute", 5 * time.Minute, "envoy_response_code eq '*'",
			[]string{"envoy_response_code=200 " + hm(0) + ":2/1/2/2"}},
		{"not measured of a deployment", deployment, "CpuUtilizationPercentage", time.Minute, "", nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			if c.id.Kind == online.KindDeployment {
				if _, err := b.deployment("fraud", "green"); err != nil {
					t.Fatal(err)
				}
			}
			r := b.monitor(MonitorQuery{Resource: c.id, Names: []string{c.name}, Since: at, Until: at.Add(5 * time.Minute), Interval: c.interval,
				Filter: filter(t, c.filter)})
			if got := shown(r[0]); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
	// Percentiles are those of all requests of a minute, whichever deployment they reached.
	p := b.monitor(MonitorQuery{Resource: endpoint, Names: []string{"RequestLatency_P99"}, Since: at, Until: at.Add(5 * time.Minute), Interval: time.Minute})
	if got := p[0].Series[0].Points; got[0].Sum < 28 || got[0].Sum > 32 || got[1].Sum < 46 || got[1].Sum > 52 || got[2].Known {
		t.Errorf("percentiles %+v", got)
	}
	c := b.monitor(MonitorQuery{Resource: endpoint, Names: []string{"ConnectionsActive", "NewConnectionsPerSecond"}, Since: at, Until: at.Add(2 * time.Minute), Interval: time.Minute})
	if got := shown(c[0]); !slices.Equal(got, []string{hm(0) + ":2/1/1/3 " + hm(1) + ":2/1/1/3"}) {
		t.Errorf("connections %q", got)
	}
	if got := shown(c[1]); !slices.Equal(got, []string{hm(0) + ":0.5/1/0.5/0.5 " + hm(1) + ":0.5/1/0.5/0.5"}) {
		t.Errorf("new connections %q", got)
	}
}

func TestMonitorOrderAndTop(t *testing.T) {
	b := newBench(t)
	b.mustEndpoint("fraud", nil)
	at := b.Tick().Add(-5 * time.Minute)
	for i := range 12 {
		for range i + 1 {
			b.scored(fmt.Sprintf("d%02d", i), at, 200, 200, time.Millisecond, false)
		}
	}
	q := MonitorQuery{Resource: home.Endpoint("fraud"), Names: []string{"RequestsPerMinute"}, Since: at, Until: at.Add(time.Minute),
		Interval: time.Minute, Filter: filter(t, "deployment eq '*'")}
	names := func() (out []string) {
		for _, s := range b.monitor(q)[0].Series {
			out = append(out, s.Dimensions[0].Value)
		}
		return out
	}
	if got := names(); len(got) != DefaultMetricTop || got[0] != "d00" {
		t.Errorf("by name: %v", got)
	}
	q.OrderBy, q.Descending, q.Top = Total, true, 2
	if got := names(); !slices.Equal(got, []string{"d11", "d10"}) {
		t.Errorf("most first: %v", got)
	}
	q.Descending, q.Top = false, 1
	if got := names(); !slices.Equal(got, []string{"d00"}) {
		t.Errorf("least first: %v", got)
	}
}

func TestDeploymentCapacity(t *testing.T) {
	b := newBench(t)
	b.assets()
	b.mustEndpoint("fraud", nil)
	d := b.mustDeployment("fraud", "blue")
	now := b.Tick()
	at := now.Truncate(time.Minute).Add(-5 * time.Minute)
	err := b.Store.Update(context.Background(), func(tx store.Tx) error {
		for _, iv := range []online.Interval{
			{Instance: "i1", UID: d.Meta.UID, Start: at.Add(-time.Hour)},
			{Instance: "i2", UID: d.Meta.UID, Start: at.Add(30 * time.Second), End: at.Add(150 * time.Second)},
			{Instance: "short", UID: d.Meta.UID, Start: at.Add(70 * time.Second), End: at.Add(80 * time.Second)},
			{Instance: "earlier", UID: "of another blue", Start: at.Add(-time.Hour)},
		} {
			iv.Deployment, iv.InstanceType = d.Meta.ID, "Standard_DS3_v2"
			if err := tx.OpenInterval(iv); err != nil {
				return err
			}
			if !iv.End.IsZero() {
				if err := tx.CloseInterval(iv.Instance, iv.End, "stopped"); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	q := MonitorQuery{Resource: d.Meta.ID, Names: []string{"DeploymentCapacity"}, Since: at, Until: at.Add(24 * time.Hour), Interval: time.Minute}
	got := b.monitor(q)[0].Series[0].Points
	for i, want := range []float64{2, 2, 1, 1, 1, 1} {
		if got[i].Sum != want || got[i].Count != 1 {
			t.Errorf("minute %d: %+v, want %v", i, got[i], want)
		}
	}
	if got[7].Known || got[600].Known {
		t.Error("instances are counted in the future")
	}
	q.Filter = filter(t, "instanceId eq '*' and State eq 'Running'")
	if s := b.monitor(q)[0].Series; len(s) != 2 || s[0].Dimensions[0].Value != "i1" || s[1].Dimensions[1].Value != "Running" {
		t.Errorf("series %+v", s)
	}
}

func TestMonitorRefusals(t *testing.T) {
	b := newBench(t)
	b.mustEndpoint("fraud", nil)
	now := b.Tick()
	for what, c := range map[string]struct {
		change       func(*MonitorQuery)
		code         online.Code
		target, part string
	}{
		"unknown metric":  {func(q *MonitorQuery) { q.Names = []string{"Latency"} }, online.CodeBadArgument, "metricnames", "RequestLatency_P99"},
		"no metric":       {func(q *MonitorQuery) { q.Names = nil }, online.CodeBadArgument, "metricnames", "RequestLatency"},
		"dimension":       {func(q *MonitorQuery) { q.Filter = filter(t, "colour eq 'red'") }, online.CodeBadArgument, "$filter", "deployment"},
		"no time":         {func(q *MonitorQuery) { q.Since = q.Until }, online.CodeBadArgument, "timespan", "nothing"},
		"too many points": {func(q *MonitorQuery) { q.Since = q.Until.Add(-100 * time.Hour) }, online.CodeBadArgument, "interval", "2880"},
		"too many series": {func(q *MonitorQuery) { q.Top = 1001 }, online.CodeBadArgument, "top", "1000"},
		"no endpoint":     {func(q *MonitorQuery) { q.Resource = home.Endpoint("nobody") }, online.CodeNotFound, "-", ""},
		"no deployment":   {func(q *MonitorQuery) { q.Resource = home.Deployment("fraud", "red") }, online.CodeNotFound, "-", ""},
	} {
		t.Run(what, func(t *testing.T) {
			q := MonitorQuery{Resource: home.Endpoint("fraud"), Names: []string{"RequestLatency"}, Since: now.Add(-time.Hour), Until: now, Interval: time.Minute}
			c.change(&q)
			if q.Resource.Kind == online.KindDeployment {
				q.Names = []string{"RequestsPerMinute"}
			}
			_, err := b.Monitor(context.Background(), admin, q)
			if c.target == "-" {
				if !online.IsCode(err, c.code) {
					t.Fatalf("got %v", err)
				}
				return
			}
			wantError(t, err, c.code, c.target, c.part)
		})
	}
}

// TestRequestsAreConserved: however the answer is cut in time and by dimensions, it holds every request once.
func TestRequestsAreConserved(t *testing.T) {
	b := newBench(t)
	b.mustEndpoint("fraud", nil)
	begin := b.Tick().Truncate(time.Minute).Add(-3 * time.Hour)
	total := 0.0
	for i := range 500 {
		b.scored([]string{"blue", "green", ""}[i%3], begin.Add(time.Duration(i*i%7200)*time.Second), []int{200, 424, 429, 408}[i%4],
			[]int{200, 500, 0}[i%3], time.Duration(i)*time.Millisecond, false)
		total++
	}
	rapid.Check(t, func(t *rapid.T) {
		q := MonitorQuery{Resource: home.Endpoint("fraud"), Names: []string{"RequestsPerMinute", "RequestLatency"}, Since: begin,
			Until: begin.Add(2*time.Hour + 10*time.Minute), Top: MaxMetricTop,
			Interval: rapid.SampledFrom([]time.Duration{0, time.Minute, 5 * time.Minute, time.Hour, 24 * time.Hour}).Draw(t, "interval")}
		if rapid.Bool().Draw(t, "split") {
			q.Filter = filter(b.t, "deployment eq '*'")
		}
		results, err := b.Monitor(context.Background(), admin, q)
		if err != nil {
			t.Fatal(err)
		}
		var requests, latencies, count float64
		for _, s := range results[0].Series {
			for _, p := range s.Points {
				requests += p.Sum
				if p.Known && (p.Average() < p.Min || p.Average() > p.Max || p.Count < 1) {
					t.Fatalf("point %+v", p)
				}
			}
		}
		for _, s := range results[1].Series {
			for _, p := range s.Points {
				latencies += p.Sum
				count += p.Count
			}
		}
		if requests != total || count != total || math.Abs(latencies-499*500/2) > 1 {
			t.Fatalf("%v requests, %v latencies of %v ms in all", requests, count, latencies)
		}
	})
}
