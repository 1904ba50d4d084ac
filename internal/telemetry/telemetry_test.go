package telemetry

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite golden files")

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func open(t *testing.T, cfg Config) *Telemetry {
	t.Helper()
	tel, err := New(cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return tel
}

func request(endpoint, deployment string, at time.Time, status, model int, total time.Duration) *Record {
	return &Record{
		Arrival: at, RequestID: "00000000-0000-4000-8000-000000000000", Endpoint: endpoint, Deployment: deployment,
		Method: "POST", Path: "/endpoints/" + endpoint + "/score", Protocol: "HTTP/1.1",
		Status: status, ModelStatus: model, Total: total, Queue: total / 10, RequestBytes: 100, ResponseBytes: 10,
	}
}

func TestBuckets(t *testing.T) {
	at := time.Duration(0)
	for i := range bucketCount {
		low, high := bucketBounds(i)
		if low != at {
			t.Fatalf("bucket %d begins at %s, the one before ends at %s", i, low, at)
		}
		at = high
	}
	if at < 180*time.Second {
		t.Errorf("the last bucket ends at %s, before the longest request", at)
	}
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(268*time.Second)).Draw(t, "d")).Truncate(time.Microsecond)
		low, high := bucketBounds(bucketOf(d))
		if d < low || d >= high {
			t.Fatalf("%s is in the bucket from %s to %s", d, low, high)
		}
		if d > 64*time.Microsecond && float64(high-low) > float64(low)/8 {
			t.Fatalf("the bucket from %s to %s is too wide", low, high)
		}
	})
	for d, want := range map[time.Duration]int{-time.Second: 0, 0: 0, time.Hour: bucketCount - 1} {
		if got := bucketOf(d); got != want {
			t.Errorf("bucketOf(%s) = %d, want %d", d, got, want)
		}
	}
}

// TestPackKeepsEverything: packing and adding cells in any split gives what one cell would hold.
func TestPackKeepsEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var whole, sum cell
		for range rapid.IntRange(0, 5).Draw(t, "minutes") {
			var minute cell
			for range rapid.IntRange(0, 20).Draw(t, "requests") {
				r := &Record{
					Status: rapid.SampledFrom([]int{200, 424, 429, 499}).Draw(t, "status"), ModelStatus: rapid.SampledFrom([]int{0, 200, 500}).Draw(t, "model"),
					Total:       time.Duration(rapid.Int64Range(0, int64(200*time.Second)).Draw(t, "total")),
					Queue:       time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "queue")),
					SoftFailure: rapid.Bool().Draw(t, "soft"), RequestBytes: rapid.Int64Range(0, 1<<40).Draw(t, "bytes"),
				}
				minute.add(r)
				whole.add(r)
			}
			sum.addPacked(minute.pack())
		}
		order := func(c *cell) string {
			slices.SortFunc(c.statuses, func(a, b statusCount) int { return (a.status-b.status)*1000 + a.model - b.model })
			return fmt.Sprintf("%+v", *c)
		}
		if a, b := order(&whole), order(&sum); a != b {
			t.Fatalf("got %s\nwant %s", b, a)
		}
	})
}

// TestPercentiles compares with the exact percentile of the sorted values.
func TestPercentiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.SliceOfN(rapid.Int64Range(200, 100_000_000), 1, 400).Draw(t, "microseconds")
		var c cell
		for _, v := range us {
			c.add(&Record{Status: 200, Total: time.Duration(v) * time.Microsecond})
		}
		slices.Sort(us)
		for _, share := range []float64{0.5, 0.9, 0.95, 0.99} {
			rank := int(math.Ceil(share*float64(len(us)))) - 1
			exact := float64(us[rank])
			got := float64(c.percentile(share).Microseconds())
			if math.Abs(got-exact) > exact/8+1 {
				t.Fatalf("p%v: got %v us, want %v us", share*100, got, exact)
			}
		}
	})
}

func TestQuery(t *testing.T) {
	tel := open(t, Config{})
	base := time.Date(2026, 11, 23, 10, 0, 30, 0, time.UTC)
	for i := range 100 {
		tel.Record(request("ep", "blue", base, 200, 200, time.Duration(i+1)*time.Millisecond))
	}
	tel.Record(request("ep", "blue", base.Add(5*time.Minute), 424, 500, 10*time.Millisecond))
	soft := request("ep", "green", base, 200, 200, 10*time.Millisecond)
	soft.SoftFailure = true
	tel.Record(soft)
	tel.Record(request("ep", "", base, 401, 0, time.Millisecond))
	tel.Record(request("other", "blue", base, 200, 200, time.Second))

	all := tel.Query("ep", base.Add(-time.Hour), base.Add(time.Hour))
	if all.Total.Requests != 103 || len(all.Deployments) != 3 {
		t.Fatalf("%+v", all)
	}
	none, blue, green := all.Deployments[0], all.Deployments[1], all.Deployments[2]
	if none.Deployment != "" || none.Classes["4xx"] != 1 || green.SoftFailures != 1 || blue.Deployment != "blue" {
		t.Errorf("%+v", all.Deployments)
	}
	if blue.Requests != 101 || blue.Classes["2xx"] != 100 || blue.Classes["4xx"] != 1 || blue.RequestBytes != 10100 ||
		blue.ResponseBytes != 1010 || blue.Slowest != 100 {
		t.Errorf("%+v", blue)
	}
	if want := []StatusRow{{200, 200, 100}, {424, 500, 1}}; !slices.Equal(blue.Statuses, want) {
		t.Errorf("statuses %+v", blue.Statuses)
	}
	for _, p := range []struct{ got, want float64 }{{blue.P50, 50}, {blue.P90, 90}, {blue.P95, 95}, {blue.P99, 99}, {blue.Average, 50.1}} {
		if math.Abs(p.got-p.want) > p.want/8 {
			t.Errorf("got %v ms, want about %v", p.got, p.want)
		}
	}
	part := tel.Query("ep", base.Add(4*time.Minute), base.Add(6*time.Minute))
	if part.Total.Requests != 1 || part.Since != base.Add(4*time.Minute).Truncate(time.Minute) ||
		part.Until != base.Add(7*time.Minute).Truncate(time.Minute) {
		t.Errorf("%+v", part)
	}
	if empty := tel.Query("nobody", base, base.Add(time.Hour)); empty.Total.Requests != 0 || empty.Deployments == nil {
		t.Errorf("%+v", empty)
	}
	a, _ := json.Marshal(all)
	b, _ := json.Marshal(tel.Query("ep", base.Add(-time.Hour), base.Add(time.Hour)))
	if string(a) != string(b) {
		t.Error("two reads of the same thing differ")
	}
}

// TestRetention: minutes are forgotten when they are old, series when they are idle, and the clock may jump.
func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel, err := New(Config{Retention: time.Hour}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer tel.Close()
		count := func() uint64 {
			return tel.Query("ep", time.Now().Add(-1000*time.Hour), time.Now().Add(1000*time.Hour)).Total.Requests
		}
		start := time.Now()
		tel.Record(request("ep", "blue", start, 200, 200, time.Millisecond))
		time.Sleep(30 * time.Minute)
		tel.Record(request("ep", "blue", time.Now(), 200, 200, time.Millisecond))
		if n := count(); n != 2 {
			t.Errorf("after 30 minutes: %d", n)
		}
		time.Sleep(40 * time.Minute)
		if n := count(); n != 1 {
			t.Errorf("after 70 minutes: %d", n)
		}
		tel.Record(request("ep", "blue", time.Now().Add(-30*time.Minute), 200, 200, time.Millisecond)) // the clock was set back
		tel.Record(request("ep", "blue", time.Now().Add(time.Hour), 200, 200, time.Millisecond))       // and forth
		if n := count(); n != 3 {
			t.Errorf("after the clock was set: %d", n)
		}
		time.Sleep(3 * time.Hour)
		if n := len(*tel.series.Load()); n != 0 {
			t.Errorf("%d idle series are kept", n)
		}
		if page := scrape(tel); strings.Contains(page, `deployment="blue"`) {
			t.Error("an idle deployment is still on the metrics page")
		}
	})
}

// TestHistoryIsBounded: the oldest minutes make room.
func TestHistoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bound = 20 << 10
		tel, err := New(Config{HistoryBytes: bound}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer tel.Close()
		for range 600 {
			for d := range 4 {
				for i := range 20 {
					tel.Record(request("ep", fmt.Sprint("d", d), time.Now(), 200, 200, time.Duration(i*i)*time.Millisecond))
				}
			}
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		held := int64(0)
		for _, s := range *tel.series.Load() {
			for _, p := range s.past() {
				held += p.size()
			}
		}
		if held > bound || held < bound/2 {
			t.Errorf("%d bytes are held, the bound is %d", held, bound)
		}
		if n := tel.Query("ep", time.Now().Add(-10*time.Minute), time.Now()).Total.Requests; n < 9*80 {
			t.Errorf("the newest minutes went first: %d", n)
		}
	})
}

// TestSweepSparesNewSeries: a sweep between the making of a series and its first record loses nothing.
func TestSweepSparesNewSeries(t *testing.T) {
	tel := open(t, Config{})
	now := time.Now()
	s := tel.find(seriesKey{endpoint: "ep", deployment: "blue"})
	tel.sweep(now)
	s.record(request("ep", "blue", now, 200, 200, time.Millisecond))
	if n := tel.Query("ep", now.Add(-time.Minute), now.Add(time.Minute)).Total.Requests; n != 1 {
		t.Errorf("%d requests are counted, want 1", n)
	}
}

func TestSeriesAreBounded(t *testing.T) {
	tel := open(t, Config{})
	now := time.Now()
	for i := range MaxSeries + 100 {
		tel.Record(request(fmt.Sprint("e", i), "d", now, 200, 200, time.Millisecond))
	}
	if n := len(*tel.series.Load()); n > MaxSeries+1 {
		t.Errorf("%d series", n)
	}
	if n := tel.Query("(other)", now.Add(-time.Minute), now.Add(time.Minute)).Total.Requests; n != 100 {
		t.Errorf("%d requests of further series are counted, want 100", n)
	}
}

func scrape(tel *Telemetry) string {
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

// TestMetricsPage compares the page with a golden file, and the page with the catalogue.
func TestMetricsPage(t *testing.T) {
	tel := open(t, Config{})
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	tel.Connection(+1)
	tel.Connection(+1)
	tel.Connection(-1)
	tel.Record(request("ep", "blue", at, 200, 200, 3*time.Millisecond))
	tel.Record(request("ep", "blue", at, 200, 200, 30*time.Millisecond))
	soft := request("ep", "green", at, 200, 200, 2*time.Second)
	soft.SoftFailure, soft.Batch = true, 3
	tel.Record(soft)
	kept := request("ep", "green", at, 200, 0, time.Millisecond)
	kept.Cache = CacheHit
	tel.Record(kept)
	tel.CacheBytes(4096)
	tel.Record(request("ep", "green", at, 424, 500, 5*time.Millisecond))
	tel.Record(request("ep", "", at, 401, 0, time.Millisecond))
	copied := request("ep", "shadow", at, 408, 0, 2*time.Millisecond)
	copied.Mirror = true
	tel.Record(copied)
	tel.MirrorDropped("ep", "shadow", DropCopies)
	tel.Collected(Collected{Endpoint: "ep", Deployment: "blue", Instance: "i", Collection: "model_inputs"})
	tel.Collected(Collected{Endpoint: "ep", Deployment: "blue", Instance: "i", Collection: "request", Reason: UncollectedQueue})
	var own []string
	for line := range strings.Lines(scrape(tel)) {
		if strings.Contains(line, "portico_") {
			own = append(own, line)
		}
	}
	got := strings.Join(own, "")
	golden := filepath.Join("testdata", "metrics.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the metrics page has changed; run with -update if that is meant:\n%s", got)
	}
	for _, m := range Catalogue {
		if !strings.Contains(got, "# TYPE "+m.Name+" "+m.Kind+"\n") {
			t.Errorf("%s is in the catalogue but not on the page", m.Name)
		}
		got = strings.ReplaceAll(got, "# TYPE "+m.Name+" ", "")
	}
	if strings.Contains(got, "# TYPE") {
		t.Errorf("the page has metrics that the catalogue lacks:\n%s", got)
	}
}

// TestLine compares with encoding/json: a line is valid JSON, and strings come back as they were.
func TestLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := request("ep", "blue", time.Now(), 200, 200, time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "total")))
		r.UserAgent = rapid.String().Draw(t, "agent")
		r.Path = string(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "path"))
		r.Reason = rapid.String().Draw(t, "reason")
		line := appendLine(nil, r)
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		if strings.Count(string(line), "\n") != 1 || line[len(line)-1] != '\n' {
			t.Fatalf("not one line: %q", line)
		}
		agent, _ := m["userAgent"].(string)
		if !strings.HasPrefix(r.UserAgent, agent) || len(r.UserAgent) <= 70 && agent != r.UserAgent || len(agent) > 70 {
			t.Fatalf("user agent %q became %q", r.UserAgent, agent)
		}
		if want := float64(r.Total.Microseconds()) / 1000; m["totalMs"] != want {
			t.Fatalf("totalMs %v, want %v", m["totalMs"], want)
		}
		if p, ok := m["path"].(string); !ok || len(p) > 3*256 {
			t.Fatalf("path %q", m["path"])
		}
	})
}

func TestLineGolden(t *testing.T) {
	r := &Record{
		Arrival:   time.Date(2026, 11, 23, 10, 0, 0, 123456789, time.FixedZone("x", 3600)),
		RequestID: "id", ClientRequestID: "client", AuthMode: "Key", Caller: "primary", Endpoint: "ep", Deployment: "blue",
		Generation: 3, ModelDigest: "sha256:abc", Instance: "i1", Method: "POST", Path: `/a"b`, Protocol: "HTTP/1.1",
		UserAgent: "curl\x07", Status: 424, ModelStatus: 500, Reason: "model_error", SoftFailure: true,
		Upload: 1500 * time.Microsecond, Queue: time.Millisecond, FirstByte: 3 * time.Millisecond, Service: 2 * time.Millisecond,
		Total: 1234567 * time.Microsecond, RequestBytes: 10, ResponseBytes: 20,
	}
	want := `{"time":"2026-11-23T09:00:00.123456Z","requestId":"id","clientRequestId":"client","authType":"Key","key":"primary",` +
		`"endpoint":"ep","deployment":"blue","generation":3,"modelDigest":"sha256:abc","instance":"i1","method":"POST",` +
		`"path":"/a\"b","protocol":"HTTP/1.1","status":424,"reason":"model_error","modelStatus":500,"softFailure":true,` +
		`"requestBytes":10,"responseBytes":20,"userAgent":"curl\u0007","requestMs":1.500,"queueMs":1.000,"responseMs":3.000,` +
		`"modelMs":2.000,"totalMs":1234.567}` + "\n"
	if got := string(appendLine(nil, r)); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

func lines(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for s := bufio.NewScanner(f); s.Scan(); n++ {
		if !json.Valid(s.Bytes()) {
			t.Fatalf("%s: line %d is not whole: %q", path, n+1, s.Text())
		}
	}
	return n
}

// TestAccessLog writes from many goroutines with rotation, and finds every line whole after Close.
func TestAccessLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	const each, writers = 500, 8
	tel, err := New(Config{AccessLog: path, AccessLogBytes: 200 << 10, AccessLogFiles: 100}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				tel.Record(request("ep", "blue", time.Now(), 200, 200, time.Millisecond))
			}
		})
	}
	wg.Wait()
	if err := tel.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, f := range files {
		total += lines(t, f)
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %s", f, info.Mode())
		}
	}
	if total != each*writers || len(files) < 3 {
		t.Errorf("%d lines in %d files, want %d lines", total, len(files), each*writers)
	}
	if !strings.Contains(scrape(tel), "portico_access_log_dropped_total 0\n") {
		t.Error("lines were dropped")
	}
}

func TestAccessLogKeepsItsFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	for _, files := range []int{1, 3} {
		tel, err := New(Config{AccessLog: path, AccessLogBytes: 1, AccessLogFiles: files}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			tel.access.tell(tel.access.write([]byte("{}\n")), 1)
		}
		if err := tel.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := filepath.Glob(path + "*")
		if err != nil || len(got) != files {
			t.Errorf("%v, %v", got, err)
		}
		if n := lines(t, path); n != 1 {
			t.Errorf("%d lines in the newest file", n)
		}
	}
}

// TestAccessLogOverflow: what does not fit is dropped and counted, and no request waits.
func TestAccessLogOverflow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	synctest.Test(t, func(t *testing.T) {
		tel, err := New(Config{AccessLog: path, AccessLogBacklog: 1}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		// Full buffers that the writer leaves alone, since they count no line.
		for i := range tel.access.shards {
			tel.access.shards[i].buf = make([]byte, tel.access.backlog)
		}
		for range 100 {
			tel.Record(request("ep", "blue", time.Now(), 200, 200, time.Millisecond))
		}
		if !strings.Contains(scrape(tel), "portico_access_log_dropped_total 100\n") {
			t.Error("drops are not counted")
		}
		if err := tel.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestAccessLogRecovers: a file that cannot be written costs its lines, is told once, and is tried again.
func TestAccessLogRecovers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "logs", "access.log")
	if _, err := New(Config{AccessLog: path}, quiet); err == nil {
		t.Fatal("a log that cannot be opened is not told")
	}
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	tel, err := New(Config{AccessLog: path, AccessLogBytes: 1}, slog.New(slog.NewTextHandler(&told, nil)))
	if err != nil {
		t.Fatal(err)
	}
	a := tel.access
	a.tell(a.write([]byte("{}\n")), 1)
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a.tell(a.write([]byte("{}\n")), 1)
	}
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	a.tell(a.write([]byte("{}\n")), 1)
	if err := tel.Close(); err != nil {
		t.Fatal(err)
	}
	if n := lines(t, path); n != 1 {
		t.Errorf("%d lines after the repair", n)
	}
	if n := strings.Count(told.String(), "cannot be written"); n != 1 {
		t.Errorf("told %d times:\n%s", n, told.String())
	}
	if !strings.Contains(told.String(), "written again") {
		t.Errorf("recovery was not told:\n%s", told.String())
	}
}

func BenchmarkRecord(b *testing.B) {
	tel, err := New(Config{AccessLog: filepath.Join(b.TempDir(), "access.log"), AccessLogFiles: 1}, quiet)
	if err != nil {
		b.Fatal(err)
	}
	r := request("my-endpoint", "blue", time.Now(), 200, 200, 3*time.Millisecond)
	r.UserAgent, r.Instance, r.ModelDigest = "benchmark/1", "my-endpoint-blue-1-0", "sha256:0123456789abcdef"
	b.ReportAllocs()
	for b.Loop() {
		tel.Record(r)
	}
	if err := tel.Close(); err != nil {
		b.Fatal(err)
	}
}
