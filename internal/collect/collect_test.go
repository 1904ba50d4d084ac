package collect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"portico/internal/artifact"
	"portico/internal/online"
	"portico/internal/route"
	"portico/internal/telemetry"
	"portico/internal/testkit"
)

var at = time.Date(2026, 11, 27, 23, 4, 5, 0, time.UTC)

// counted is a Recorder that adds up.
type counted struct {
	mu sync.Mutex
	n  map[telemetry.Collected]int
}

func (c *counted) Collected(e telemetry.Collected) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[telemetry.Collected]int{}
	}
	c.n[e]++
}

func (c *counted) of(collection, reason string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for e, k := range c.n {
		if e.Collection == collection && e.Reason == reason {
			n += k
		}
	}
	return n
}

type bench struct {
	*Collector
	t      *testing.T
	ledger *artifact.Ledger
	counts *counted
}

func newBench(t *testing.T, maxBytes, queueBytes int64) *bench {
	t.Helper()
	l, err := artifact.OpenLedger(t.TempDir(), maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, ledger: l, counts: &counted{}}
	b.Collector = New(Config{Blobs: l, Recorder: b.counts, Key: []byte("key"), QueueBytes: queueBytes,
		Now: func() time.Time { return at }, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		_ = l.Close()
	})
	return b
}

// table has the deployment u-1, which collects everything, and u-2, which has a collection of its own.
func table(rate float64) *route.Table {
	home := online.WorkspaceID{Subscription: "s", ResourceGroup: "g", Name: "w"}
	on := func(names ...string) *online.DataCollector {
		c := &online.DataCollector{RollingRate: "Hour"}
		for _, n := range names {
			c.Collections = append(c.Collections, online.Collection{Name: n, Enabled: true, SamplingRate: rate, Blobs: "box/mdc/" + n})
		}
		c.Collections = append(c.Collections, online.Collection{Name: "off", SamplingRate: 1, Blobs: "box/off"})
		return c
	}
	return route.Build(1, []route.Endpoint{{Name: "ep", Deployments: []route.Deployment{
		{Name: "blue", UID: "u-1", ID: home.Deployment("ep", "blue"), Collector: on("model_inputs", "model_outputs", "request", "response")},
		{Name: "green", UID: "u-2", ID: home.Deployment("ep", "green"), Collector: on("own")},
		{Name: "red", UID: "u-3", ID: home.Deployment("ep", "red")},
	}}})
}

// send posts an event as an instance and gives the status.
func (b *bench) send(uid, instance, collection, body string, header ...string) int {
	b.t.Helper()
	r := httptest.NewRequest(http.MethodPost, Path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("ce-type", "azureml.inference."+collection)
	user, password := b.Credential(uid, instance)
	r.SetBasicAuth(user, password.Reveal())
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	return w.Code
}

func (b *bench) lines(name string) []map[string]any {
	b.t.Helper()
	_, r, err := b.ledger.Open(name)
	if err != nil {
		return nil
	}
	defer r.Close()
	doc, err := io.ReadAll(r)
	if err != nil {
		b.t.Fatal(err)
	}
	var out []map[string]any
	for line := range strings.Lines(string(doc)) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			b.t.Fatalf("%s: %v in %q", name, err, line)
		}
		out = append(out, e)
	}
	return out
}

const inputs = "box/mdc/model_inputs/2026/11/27/23/i-1.jsonl"

// TestSink: an event of the reference package becomes a CloudEvent in the blob of its instance.
func TestSink(t *testing.T) {
	b := newBench(t, 1<<30, 0)
	b.SetTable(table(1))
	status := b.send("u-1", "i-1", "model_inputs", "[{\"a\": 1.50,\n \"b\": \"x\"}]", "ce-time", "1764284645", "ce-x-request-id", "corr",
		"ce-model-version", "default", "trace-id", "0b9c5a1e-1111-4222-8333-444455556666", "ce-collect-data-type", "pandas.core.frame.DataFrame",
		"ce-agent", "azureml-ai-monitoring/1.0.0", "ce-tenant-name", "blue \"quoted\"", "ce-id", "mine", "Authorization-Hint", "no")
	if status != http.StatusOK {
		t.Fatal(status)
	}
	_, r, err := b.ledger.Open(inputs)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, _ := io.ReadAll(r)
	want := `{"specversion":"1.0","id":"0b9c5a1e-1111-4222-8333-444455556666",` +
		`"source":"/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/onlineEndpoints/ep/deployments/blue",` +
		`"type":"azureml.inference.model_inputs","datacontenttype":"application/json","time":"2025-11-27T23:04:05Z",` +
		`"data":[{"a":1.50,"b":"x"}],"correlationid":"corr","xrequestid":"corr","modelversion":"default",` +
		`"collectdatatype":"pandas.core.frame.DataFrame","agent":"azureml-ai-monitoring/1.0.0","contentrange":"bytes 0-23/24",` +
		`"tenantname":"blue \"quoted\""}` + "\n"
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if n := b.counts.of("model_inputs", ""); n != 1 {
		t.Errorf("%d events were counted", n)
	}
}

// TestSinkRefuses: who is not the instance, what is not enabled, and what is too much.
func TestSinkRefuses(t *testing.T) {
	b := newBench(t, 1<<30, 0)
	b.SetTable(table(1))
	_, other := b.Credential("u-2", "i-2")
	r := httptest.NewRequest(http.MethodPost, Path, strings.NewReader("{}"))
	r.SetBasicAuth("u-1.i-1", other.Reveal())
	w := httptest.NewRecorder()
	if b.ServeHTTP(w, r); w.Code != http.StatusUnauthorized {
		t.Errorf("another's password: %d", w.Code)
	}
	r = httptest.NewRequest(http.MethodPost, Path, io.MultiReader(strings.NewReader("{}"))) // of unknown length
	r.SetBasicAuth("u-1.i-1", must(b.Credential("u-1", "i-1")))
	r.Header.Set("ce-type", "azureml.inference.model_inputs")
	w = httptest.NewRecorder()
	if b.ServeHTTP(w, r); w.Code != http.StatusLengthRequired {
		t.Errorf("without a length: %d", w.Code)
	}
	many := []string{}
	for i := range maxAttributes + 1 {
		many = append(many, fmt.Sprintf("ce-a%d", i), "x")
	}
	for _, c := range []struct {
		what, uid, collection, body string
		header                      []string
		status                      int
		reason                      string
	}{
		{"another's collection", "u-1", "own", "{}", nil, 404, telemetry.UncollectedUnknown},
		{"not enabled", "u-1", "off", "{}", nil, 404, telemetry.UncollectedUnknown},
		{"reserved", "u-1", "request", "{}", nil, 404, telemetry.UncollectedUnknown},
		{"collects nothing", "u-3", "model_inputs", "{}", nil, 404, ""},
		{"no deployment", "u-9", "model_inputs", "{}", nil, 404, ""},
		{"too large", "u-1", "model_inputs", strings.Repeat("x", MaxEventBytes+1), nil, 413, telemetry.UncollectedSize},
		{"an attribute that is too long", "u-1", "model_inputs", "{}", []string{"ce-a", strings.Repeat("x", maxAttributeBytes+1)}, 400, telemetry.UncollectedInvalid},
		{"too many attributes", "u-1", "model_inputs", "{}", many, 400, telemetry.UncollectedInvalid},
	} {
		before := b.counts.of("model_inputs", c.reason) + b.counts.of(unknownCollection, c.reason)
		if got := b.send(c.uid, "i-1", c.collection, c.body, c.header...); got != c.status {
			t.Errorf("%s: %d, want %d", c.what, got, c.status)
		}
		if after := b.counts.of("model_inputs", c.reason) + b.counts.of(unknownCollection, c.reason); c.reason != "" && after != before+1 {
			t.Errorf("%s: counted %d times", c.what, after-before)
		}
	}
	if b.ledger.Used() != 0 {
		t.Errorf("%d bytes were written", b.ledger.Used())
	}
	if b.held.Load() != 0 {
		t.Errorf("%d bytes are held", b.held.Load())
	}
}

func must(_ string, password online.Secret) string { return password.Reveal() }

// TestSinkWaits: before the first table nobody knows what is enabled; events that come then are kept.
func TestSinkWaits(t *testing.T) {
	b := newBench(t, 1<<30, 0)
	status := make(chan int)
	go func() { status <- b.send("u-1", "i-1", "model_inputs", "[]") }()
	b.SetTable(table(1))
	if got := <-status; got != http.StatusOK || len(b.lines(inputs)) != 1 {
		t.Errorf("%d", got)
	}
}

// TestSampledTogether: of one request all is kept or nothing, whoever collects it.
func TestSampledTogether(t *testing.T) {
	b := newBench(t, 1<<30, 0)
	b.SetTable(table(0.5))
	const n = 200
	for i := range n {
		id := fmt.Sprintf("r-%d", i)
		b.send("u-1", "i-1", "model_inputs", "[1]", "ce-x-request-id", "c-"+id, "x-request-id", id)
		b.send("u-1", "i-1", "model_outputs", "[2]", "ce-x-request-id", id)
	}
	in, out := b.lines(inputs), b.lines(strings.Replace(inputs, "inputs", "outputs", 1))
	if len(in) == 0 || len(in) == n || len(in) != len(out) {
		t.Fatalf("%d and %d of %d are kept", len(in), len(out), n)
	}
	for i := range in {
		if in[i]["xrequestid"] != out[i]["xrequestid"] || in[i]["correlationid"] != "c-"+in[i]["xrequestid"].(string) {
			t.Errorf("%v and %v", in[i], out[i])
		}
	}
}

// TestCaptures: bodies become events; what is cut off, not text or long is told apart.
func TestCaptures(t *testing.T) {
	b := newBench(t, 1<<30, 0)
	b.SetTable(table(1))
	long := bytes.Repeat([]byte("é"), telemetry.MaxCapturedBytes/2)
	body := func(data []byte, size int, kind string) *telemetry.Body {
		return &telemetry.Body{Data: data, Size: int64(size), Type: kind}
	}
	for _, p := range []*telemetry.Capture{
		{Request: body([]byte(`{"a": 1}`), 8, "application/x-www-form-urlencoded"), Response: body([]byte("plain"), 5, "text/html")},
		{Request: body(nil, 0, ""), Response: body([]byte{0xff, 0xfe, 0x00}, 3, "image/png")},
		{Request: body([]byte(`{"a": 1`), 900, "application/json"), Response: body(long[:len(long)-1], len(long), "text/csv")},
	} {
		p.UID, p.Instance, p.RequestID, p.Method, p.Path, p.Arrival = "u-1", "i-1", "r-1", "POST", "/score?x=1", at
		if !b.Reserve(p, 2<<20) {
			t.Fatal("there is no room")
		}
		b.Collect(p)
	}
	testkit.Until(t, "three that are counted", func() bool { return b.counts.of("response", "") == 3 })
	in, out := b.lines("box/mdc/request/2026/11/27/23/i-1.jsonl"), b.lines("box/mdc/response/2026/11/27/23/i-1.jsonl")
	show := func(e map[string]any) string {
		data, _ := json.Marshal(e["data"])
		if len(data) > 40 {
			data = fmt.Appendf(nil, "%d", len(data))
		}
		return fmt.Sprint(string(data), " ", e["datacontenttype"], " ", e["contentrange"], " ", e["path"], " ", e["method"], " ", e["datainblob"])
	}
	for i, want := range []string{
		`{"a":1} application/json bytes 0-7/8 /score?x=1 POST <nil>`,
		`null <nil> <nil> /score?x=1 POST <nil>`,
		`"{\"a\": 1" text/plain bytes 0-6/900 /score?x=1 POST <nil>`,
	} {
		if got := show(in[i]); got != want {
			t.Errorf("request %d: %s, want %s", i, got, want)
		}
	}
	for i, want := range []string{
		`"plain" text/html bytes 0-4/5 <nil> <nil> <nil>`,
		`null image/png bytes 0-2/3 <nil> <nil> true`,
		fmt.Sprintf("%d text/csv bytes 0-%d/%d <nil> <nil> <nil>", len(long)-2+2, len(long)-2, len(long)),
	} {
		if got := show(out[i]); got != want {
			t.Errorf("response %d: %s, want %s", i, got, want)
		}
	}
	ref := strings.TrimPrefix(out[1]["dataref"].(string), "azureml://datastores/workspaceblobstore/paths/")
	if ref != "mdc/response/2026/11/27/23/i-1/"+out[1]["id"].(string) {
		t.Errorf("the data lie at %s", ref)
	}
	if blob, err := b.ledger.Stat("box/" + ref); err != nil || blob.Size != 3 {
		t.Errorf("%+v %v", blob, err)
	}
	if b.held.Load() != 0 {
		t.Errorf("%d bytes are held", b.held.Load())
	}
	again := &telemetry.Capture{UID: "u-1", RequestID: "r-2", Request: body([]byte("1"), 1, "text/plain"), Arrival: at}
	if !b.Reserve(again, 1) {
		t.Fatal("there is no room")
	}
	b.Collect(again)
	testkit.Until(t, "a fourth that is counted", func() bool { return b.counts.of("request", "") == 4 })
	if got := b.lines("box/mdc/request/2026/11/27/23/cached.jsonl"); len(got) != 1 {
		t.Errorf("of an answer that no instance gave: %v", got)
	}
}

// TestLargeEvent: beyond what a line holds the data lie in a blob of their own.
func TestLargeEvent(t *testing.T) {
	b := newBench(t, 1<<30, 0)
	b.SetTable(table(1))
	body := `["` + strings.Repeat("x", MaxLineBytes) + `"]`
	if got := b.send("u-1", "i-1", "model_inputs", body, "trace-id", "large-1"); got != http.StatusOK {
		t.Fatal(got)
	}
	if e := b.lines(inputs)[0]; e["datainblob"] != "true" || e["data"] != nil {
		t.Errorf("%v", e)
	}
	if blob, err := b.ledger.Stat("box/mdc/model_inputs/2026/11/27/23/i-1/large-1"); err != nil || blob.Size != int64(len(body)) {
		t.Errorf("%+v %v", blob, err)
	}
}

// TestBounds: what waits and what is written is bounded, one deployment leaves room for the others, and losses are counted.
func TestBounds(t *testing.T) {
	b := newBench(t, 8<<10, 1000)
	b.SetTable(table(1))
	p := &telemetry.Capture{UID: "u-1", Instance: "i-1", Request: &telemetry.Body{}, Response: &telemetry.Body{}}
	if !b.Reserve(p, 400) || b.Reserve(&telemetry.Capture{UID: "u-1", Request: &telemetry.Body{}}, 200) {
		t.Error("a deployment holds more than half of the room, or less")
	}
	if !b.Reserve(&telemetry.Capture{UID: "u-2", Request: &telemetry.Body{}}, 500) {
		t.Error("a deployment that holds much leaves no room for another")
	}
	if b.counts.of("request", telemetry.UncollectedQueue) != 1 {
		t.Errorf("losses: %v", b.counts.n)
	}
	if b.Reserve(&telemetry.Capture{UID: "u-3"}, 1) {
		t.Error("a deployment that collects nothing has room")
	}

	full := 0
	for range 100 {
		if b.send("u-1", "i-1", "model_inputs", "["+strings.Repeat(" ", 80)+"1]") == http.StatusInsufficientStorage {
			full++
		}
	}
	if full == 0 || b.counts.of("model_inputs", telemetry.UncollectedStorage) != full || b.ledger.Used() > 8<<10 {
		t.Errorf("%d of 100 events found no room, %d bytes are used: %v", full, b.ledger.Used(), b.counts.n)
	}
}
