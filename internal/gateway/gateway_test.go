package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"portico/internal/access"
	"portico/internal/gateway"
	"portico/internal/inference"
	"portico/internal/online"
	"portico/internal/route"
	"portico/internal/telemetry"
	"portico/internal/testkit"
)

const (
	primaryKey   = "primary-key-0123456789"
	secondaryKey = "secondary-key-0123456789"
)

// upstream is an instance made of a function.
type upstream func(ctx context.Context, call *inference.Call) (*inference.Answer, error)

func (u upstream) Do(ctx context.Context, call *inference.Call) (*inference.Answer, error) {
	return u(ctx, call)
}

// upstreams is the set of instances of a test.
type upstreams struct{ m sync.Map }

func (u *upstreams) Lookup(id string) (inference.Upstream, bool) {
	v, ok := u.m.Load(id)
	if !ok {
		return nil, false
	}
	return v.(inference.Upstream), true
}

// records keeps what was recorded and how many connections are open.
type records struct {
	mu sync.Mutex
	// drops are the reasons why copies were not offered.
	drops []string
	all   []telemetry.Record
	open  int
	// cached is the memory of kept answers.
	cached int64
	more   chan struct{}
}

func (r *records) Record(rec *telemetry.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, *rec)
	select {
	case r.more <- struct{}{}:
	default:
	}
}

func (r *records) MirrorDropped(_, _, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drops = append(r.drops, reason)
}

func (r *records) CacheBytes(delta int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cached += delta
}

func (r *records) Connection(delta int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open += delta
}

// wait gives the n-th record when it has come.
func (r *records) wait(t *testing.T, n int) telemetry.Record {
	t.Helper()
	limit := time.After(testkit.Limit)
	for {
		r.mu.Lock()
		if len(r.all) >= n {
			rec := r.all[n-1]
			r.mu.Unlock()
			return rec
		}
		r.mu.Unlock()
		select {
		case <-r.more:
		case <-limit:
			t.Fatalf("record %d never came", n)
		}
	}
}

func (r *records) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}

// site is a gateway behind a real listener.
type site struct {
	t         *testing.T
	gateway   *gateway.Gateway
	server    *gateway.Server
	upstreams *upstreams
	records   *records
	addr      string
	client    *http.Client
	revision  int64
}

func newSite(t *testing.T, cfg gateway.Config, scfg gateway.ServerConfig) *site {
	t.Helper()
	s := &site{t: t, upstreams: &upstreams{}, records: &records{more: make(chan struct{}, 1)}}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	s.gateway = gateway.New(cfg, s.upstreams, s.records, log)
	s.server = gateway.NewServer(s.gateway, scfg, log)
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	s.client = &http.Client{Transport: transport}
	s.addr = testkit.Serve(t, s.server, nil)
	t.Cleanup(transport.CloseIdleConnections)
	return s
}

// blue is a deployment that answers on the instances named.
func blue(instances ...string) route.Deployment {
	d := route.Deployment{
		Name: "blue", UID: "uid-blue", MaxInstances: max(len(instances), 1),
		Request: online.RequestSettings{Timeout: 5 * time.Second, MaxConcurrent: 1},
	}
	for _, id := range instances {
		d.Instances = append(d.Instances, route.Instance{ID: id, Generation: 3, ModelDigest: "sha256:abc"})
	}
	return d
}

// set puts one endpoint with these deployments in force; the first has all traffic.
func (s *site) set(ds ...route.Deployment) {
	e := route.Endpoint{
		Name: "my-endpoint", UID: "uid-endpoint", AuthMode: online.AuthKey,
		Keys: [][32]byte{access.Digest(primaryKey), access.Digest(secondaryKey)}, Deployments: ds,
	}
	if len(ds) > 0 {
		e.Traffic = online.Traffic{ds[0].Name: 100}
	}
	s.revision++
	s.gateway.SetTable(route.Build(s.revision, []route.Endpoint{e}))
}

func (s *site) instance(id string, u upstream) { s.upstreams.m.Store(id, u) }

func answer(status int, body string, fields ...inference.Field) *inference.Answer {
	return &inference.Answer{
		Status: status, Header: append([]inference.Field{{Name: "content-type", Value: "application/json"}}, fields...),
		ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)),
	}
}

// echo answers with the body of the request.
func echo(_ context.Context, call *inference.Call) (*inference.Answer, error) {
	return answer(200, string(call.Body)), nil
}

// reply is an answer that was read whole.
type reply struct {
	status int
	header http.Header
	body   string
}

func (s *site) do(method, path, body string, fields ...string) reply {
	s.t.Helper()
	r, err := s.try(method, path, body, fields...)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

func (s *site) try(method, path, body string, fields ...string) (reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.addr+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Authorization", "Bearer "+primaryKey)
	for i := 0; i < len(fields); i += 2 {
		switch fields[i] {
		case "Host":
			req.Host = fields[i+1]
		default:
			req.Header[fields[i]] = []string{fields[i+1]}
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(text)}, err
}

// errorCode reads the JSON error and fails the test when the body has another shape.
func (r reply) errorCode(t *testing.T) (code, message string) {
	t.Helper()
	var b struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(r.body), &b); err != nil {
		t.Fatalf("body is not JSON: %q", r.body)
	}
	if b.Error.Message == "" {
		t.Fatalf("body has no error.message: %q", r.body)
	}
	return b.Error.Code, b.Error.Message
}

const score = "/endpoints/my-endpoint/score"

func TestScore(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	var got inference.Call
	var header []inference.Field
	s.instance("i1", func(_ context.Context, call *inference.Call) (*inference.Answer, error) {
		got = *call
		got.Body = bytes.Clone(call.Body)
		header = append(header, call.Header...)
		return answer(200, `{"ok":1}`,
			inference.Field{Name: "x-ms-run-function-failed", Value: "True"},
			inference.Field{Name: "x-ms-run-fn-exec-ms", Value: "12.925"},
			inference.Field{Name: "x-request-id", Value: "forged"},
			inference.Field{Name: "server", Value: "worker"},
			inference.Field{Name: "azureml-model-deployment", Value: "forged"},
			inference.Field{Name: "ms-azureml-model-error-reason", Value: "forged"},
			inference.Field{Name: "connection", Value: "x-private"},
			inference.Field{Name: "x-private", Value: "1"},
			inference.Field{Name: "set-cookie", Value: "a=1"},
			inference.Field{Name: "set-cookie", Value: "b=2"}), nil
	})
	s.set(blue("i1"))
	r := s.do("POST", "/endpoints/MY-endpoint/score?a=1&b=2", `{"data":[1]}`,
		"Content-Type", "application/json", "x-ms-client-request-id", "client_1-"+strings.Repeat("x", 40),
		"X-Request-Id", "theirs", "X-Portico-Number", "7", "Te", "trailers", "X-Custom", "kept",
		"Connection", "X-Hop", "X-Hop", "1", "User-Agent", strings.Repeat("u", 90))
	if r.status != 200 || r.body != `{"ok":1}` {
		t.Fatalf("got %d %q", r.status, r.body)
	}
	clientID := ("client_1-" + strings.Repeat("x", 40))[:40]
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Azureml-Model-Deployment": "blue", "Azureml-Model-Session": "blue",
		"X-Ms-Run-Function-Failed": "True", "X-Ms-Run-Fn-Exec-Ms": "12.925", "Server": "portico",
		"X-Ms-Client-Request-Id": clientID, "Ms-Azureml-Model-Error-Reason": "", "X-Private": "", "Connection": "",
		"Content-Length": "8",
	} {
		if v := r.header.Values(name); strings.Join(v, "|") != want {
			t.Errorf("%s: got %q, want %q", name, v, want)
		}
	}
	if v := r.header.Values("Set-Cookie"); len(v) != 2 {
		t.Errorf("Set-Cookie: %q", v)
	}
	if r.header.Get("Ms-Azureml-Model-Time") == "" {
		t.Error("no ms-azureml-model-time")
	}
	id := r.header.Values("X-Request-Id")
	if len(id) != 1 || len(id[0]) != 36 || id[0][14] != '4' {
		t.Errorf("x-request-id is not one UUID: %q", id)
	}
	if got.Method != http.MethodPost || got.Path != "/score" || got.Query != "a=1&b=2" || string(got.Body) != `{"data":[1]}` ||
		got.ID != id[0] || got.ClientID != clientID || time.Until(got.Deadline) > 5*time.Second {
		t.Errorf("call: %+v", got)
	}
	seen := map[string]string{}
	for _, f := range header {
		seen[strings.ToLower(f.Name)] = f.Value
	}
	for _, gone := range []string{"authorization", "x-request-id", "x-portico-number", "te", "x-hop", "connection",
		"content-length", "x-ms-client-request-id", "host"} {
		if v, ok := seen[gone]; ok {
			t.Errorf("%s reached the instance: %q", gone, v)
		}
	}
	if seen["x-custom"] != "kept" || seen["content-type"] != "application/json" {
		t.Errorf("header at the instance: %v", seen)
	}
	rec := s.records.wait(t, 1)
	if rec.RequestID != id[0] || rec.ClientRequestID != clientID || rec.Caller != "primary" || rec.AuthMode != "Key" ||
		rec.Endpoint != "my-endpoint" || rec.Deployment != "blue" || rec.Generation != 3 ||
		rec.ModelDigest != "sha256:abc" || rec.Instance != "i1" || rec.Method != http.MethodPost || rec.Status != 200 ||
		rec.ModelStatus != 200 || rec.Reason != "" || !rec.SoftFailure || rec.Protocol != "HTTP/1.1" ||
		rec.RequestBytes != 12 || rec.ResponseBytes != 8 || rec.Path != "/endpoints/MY-endpoint/score" {
		t.Errorf("record: %+v", rec)
	}
	if rec.Total < rec.FirstByte || rec.FirstByte < rec.Service || rec.Upload < 0 || rec.Queue < 0 {
		t.Errorf("times of the record do not add up: %+v", rec)
	}
}

func TestRefusals(t *testing.T) {
	s := newSite(t, gateway.Config{MaxRequestBytes: 100 << 10}, gateway.ServerConfig{})
	s.instance("i1", echo)
	s.set(blue("i1"))
	big := strings.Repeat("x", 100<<10+1)
	for name, c := range map[string]struct {
		method, path, body string
		fields             []string
		status             int
		code, text         string
	}{
		"no endpoint":      {"POST", "/endpoints/other/score", "", nil, 404, "endpoint_not_found", ""},
		"no path":          {"POST", "/nothing", "", nil, 404, "route_not_found", ""},
		"only endpoint":    {"POST", "/endpoints/my-endpoint", "", nil, 404, "route_not_found", ""},
		"sub path":         {"POST", score + "/more", "", nil, 404, "route_not_found", ""},
		"swagger by POST":  {"POST", "/endpoints/my-endpoint/swagger.json", "", nil, 405, "method_not_allowed", ""},
		"sub path, no key": {"POST", score + "/more", "", []string{"Authorization", ""}, 401, "key_auth_bad_header_forbidden", ""},
		"dots":             {"POST", score + "/../score", "", nil, 400, "bad_request", ".."},
		"dots, escaped":    {"POST", score + "/%2e%2E/score", "", nil, 400, "bad_request", ".."},
		"websocket": {"GET", score, "", []string{"Connection", "Upgrade", "Upgrade", "websocket"}, 501,
			"websocket_not_implemented", "stream"},
		"empty name":       {"POST", "/endpoints//score", "", nil, 404, "route_not_found", ""},
		"long name":        {"POST", "/endpoints/" + strings.Repeat("x", 400) + "/score", "", nil, 404, "endpoint_not_found", ""},
		"method":           {"PUT", score, "x", nil, 405, "method_not_allowed", ""},
		"options":          {"OPTIONS", score, "", nil, 405, "method_not_allowed", ""},
		"no key":           {"POST", score, "", []string{"Authorization", ""}, 401, "key_auth_bad_header_forbidden", ""},
		"basic":            {"POST", score, "", []string{"Authorization", "Basic YTpi"}, 401, "key_auth_bad_header_forbidden", ""},
		"wrong key":        {"POST", score, "", []string{"Authorization", "Bearer wrong"}, 401, "key_auth_access_denied", ""},
		"wrong key, body":  {"POST", score, big, []string{"Authorization", "Bearer wrong"}, 401, "key_auth_access_denied", ""},
		"pinned elsewhere": {"POST", score, "", []string{"Azureml-Model-Deployment", "green"}, 404, "deployment_not_found", "Specified deployment could not be found"},
		"too large":        {"POST", score, big, nil, 413, "request_too_large", "max_request_bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.do(c.method, c.path, c.body, c.fields...)
			if r.status != c.status {
				t.Fatalf("got %d %q, want %d", r.status, r.body, c.status)
			}
			code, message := r.errorCode(t)
			if code != c.code || !strings.Contains(message, c.text) {
				t.Errorf("got %q %q", code, message)
			}
			if !strings.Contains(r.header.Get("Link"), `rel="help"`) || r.header.Get("X-Request-Id") == "" {
				t.Errorf("header: %v", r.header)
			}
			if r.header.Get("Retry-After") != "" {
				t.Error("Retry-After makes clients repeat")
			}
			if c.status == 401 && r.header.Get("Www-Authenticate") != "Bearer" {
				t.Error("401 without WWW-Authenticate")
			}
			if want := map[bool]string{true: "GET", false: "GET, POST"}[strings.Contains(c.path, "swagger")]; c.status == 405 &&
				r.header.Get("Allow") != want {
				t.Errorf("405 with Allow %q", r.header.Get("Allow"))
			}
		})
	}
	if r := s.do("POST", score, strings.Repeat("y", 100<<10)); r.status != 200 || len(r.body) != 100<<10 {
		t.Errorf("a body of exactly the limit: %d", r.status)
	}
	if r := s.do("POST", score, "", "Authorization", "Bearer "+secondaryKey); r.status != 200 {
		t.Errorf("secondary key: %d", r.status)
	}
	s.set()
	r := s.do("POST", score, "")
	if _, message := r.errorCode(t); r.status != 404 || !strings.HasPrefix(message, "No valid deployments to route to.") {
		t.Errorf("no deployment: %d %q", r.status, message)
	}
}

// TestDescription: the document of a script comes from an instance of the deployment, under its own path.
func TestDescription(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	s.instance("i1", func(_ context.Context, call *inference.Call) (*inference.Answer, error) {
		return answer(200, call.Method+" "+call.Path+"?"+call.Query), nil
	})
	s.set(blue("i1"))
	r := s.do("GET", "/endpoints/my-endpoint/swagger.json?version=3", "")
	if r.status != 200 || r.body != "GET /swagger.json?version=3" {
		t.Errorf("%d %q", r.status, r.body)
	}
	if r := s.do("GET", "/endpoints/my-endpoint/swagger.json", "", "Authorization", "Bearer wrong"); r.status != 401 {
		t.Errorf("without a key: %d", r.status)
	}
	if r := s.do("GET", score, ""); r.body != "GET /score?" {
		t.Errorf("a score afterwards: %q", r.body)
	}
}

func TestChunkedBodyLimit(t *testing.T) {
	s := newSite(t, gateway.Config{MaxRequestBytes: 100 << 10}, gateway.ServerConfig{})
	s.instance("i1", echo)
	s.set(blue("i1"))
	for size, status := range map[int]int{0: 200, 5: 200, 100 << 10: 200, 100<<10 + 1: 413} {
		req, err := http.NewRequest(http.MethodPost, "http://"+s.addr+score, struct{ io.Reader }{strings.NewReader(strings.Repeat("c", size))})
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+primaryKey)
		resp, err := s.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != status || status == 200 && len(body) != size {
			t.Errorf("%d bytes: %d, %d bytes back, %v", size, resp.StatusCode, len(body), err)
		}
	}
}

func TestModelStatus(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	status := 0
	s.instance("i1", func(context.Context, *inference.Call) (*inference.Answer, error) {
		return answer(status, `{"mine":true}`), nil
	})
	s.set(blue("i1"))
	for i, status2 := range []int{201, 204, 301, 400, 404, 429, 500, 503} {
		status = status2
		r := s.do("GET", score, "")
		if r.status != 424 || r.body != `{"mine":true}` || r.header.Get("Content-Type") != "application/json" ||
			r.header.Get("ms-azureml-model-error-statuscode") != fmt.Sprint(status) ||
			r.header.Get("ms-azureml-model-error-reason") != "model_error" ||
			r.header.Get("azureml-model-deployment") != "blue" || r.header.Get("Link") == "" {
			t.Errorf("model %d: %d %q %v", status, r.status, r.body, r.header)
		}
		if rec := s.records.wait(t, i+1); rec.Status != 424 || rec.ModelStatus != status || rec.Reason != "model_error" {
			t.Errorf("record: %+v", rec)
		}
	}
}

func TestInstanceFailures(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	calls := 0
	var failure error
	s.instance("i1", func(context.Context, *inference.Call) (*inference.Answer, error) {
		calls++
		return nil, failure
	})
	s.set(blue("i1"))
	for name, c := range map[string]struct {
		err           error
		status        int
		reason, model string
		text          string
	}{
		"lost":     {&inference.LostError{Instance: "i1", Cause: "the worker was killed"}, 424, "model_error", "502", "the worker was killed"},
		"deadline": {fmt.Errorf("wait: %w", inference.ErrDeadline), 408, "", "", "upstream request timeout"},
		"unknown":  {errors.New("secret detail"), 500, "", "", "inside the platform"},
	} {
		t.Run(name, func(t *testing.T) {
			calls, failure = 0, c.err
			r := s.do("POST", score, "x")
			_, message := r.errorCode(t)
			if r.status != c.status || r.header.Get("ms-azureml-model-error-reason") != c.reason ||
				r.header.Get("ms-azureml-model-error-statuscode") != c.model || !strings.Contains(message, c.text) {
				t.Errorf("%d %q %v", r.status, r.body, r.header)
			}
			if calls != 1 {
				t.Errorf("what may have run was sent %d times", calls)
			}
			if strings.Contains(r.body, "secret") {
				t.Error("an inner error reached the caller")
			}
		})
	}
	if l, ok := s.gateway.Load("uid-blue"); !ok || l != (gateway.Load{}) {
		t.Errorf("left behind: %+v %v", l, ok)
	}
}

// brokenBody gives some bytes, then an error.
type brokenBody struct {
	text string
	err  error
}

func (b *brokenBody) Read(p []byte) (int, error) {
	if b.text == "" {
		return 0, b.err
	}
	n := copy(p, b.text)
	b.text = b.text[n:]
	return n, nil
}

func (*brokenBody) Close() error { return nil }

func TestBrokenAnswers(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	var next *inference.Answer
	s.instance("i1", func(context.Context, *inference.Call) (*inference.Answer, error) { return next, nil })
	s.set(blue("i1"))
	lost := &inference.LostError{Instance: "i1", Cause: "the worker was killed"}
	t.Run("short answer gives an error", func(t *testing.T) {
		next = &inference.Answer{Status: 200, ContentLength: 10, Body: &brokenBody{"123", lost}}
		if r := s.do("POST", score, "x"); r.status != 424 || !strings.Contains(r.body, "the worker was killed") {
			t.Errorf("%d %q", r.status, r.body)
		}
		next = &inference.Answer{Status: 200, ContentLength: 10, Body: &brokenBody{"123", io.EOF}}
		if r := s.do("POST", score, "x"); r.status != 424 || !strings.Contains(r.body, "broke off") {
			t.Errorf("%d %q", r.status, r.body)
		}
		next = &inference.Answer{Status: 200, ContentLength: 10, Body: &brokenBody{"123", inference.ErrDeadline}}
		if r := s.do("POST", score, "x"); r.status != 408 {
			t.Errorf("%d %q", r.status, r.body)
		}
	})
	for name, c := range map[string]struct {
		length int64
		err    error
		reason string
	}{
		"stream":         {-1, lost, telemetry.ReasonResponseBroken},
		"large":          {4 << 20, lost, telemetry.ReasonResponseBroken},
		"large, short":   {4 << 20, io.EOF, telemetry.ReasonResponseBroken},
		"stream, late":   {-1, inference.ErrDeadline, telemetry.ReasonResponseTimeout},
		"stream, closed": {-1, io.ErrClosedPipe, telemetry.ReasonResponseBroken},
	} {
		t.Run(name+" is cut off", func(t *testing.T) {
			before := s.records.count()
			next = &inference.Answer{Status: 200, ContentLength: c.length, Body: &brokenBody{strings.Repeat("z", 100000), c.err}}
			r, err := s.try("POST", score, "x")
			if err == nil {
				t.Errorf("a broken answer looked whole: %d, %d bytes", r.status, len(r.body))
			}
			if rec := s.records.wait(t, before+1); rec.Status != 200 || rec.Reason != c.reason {
				t.Errorf("record: %+v", rec)
			}
		})
	}
	if l, _ := s.gateway.Load("uid-blue"); l != (gateway.Load{}) {
		t.Errorf("left behind: %+v", l)
	}
}

func TestStreamIsFlushed(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	r, w := io.Pipe()
	s.instance("i1", func(context.Context, *inference.Call) (*inference.Answer, error) {
		return &inference.Answer{Status: 200, ContentLength: -1, Body: r}, nil
	})
	s.set(blue("i1"))
	req, err := http.NewRequest(http.MethodPost, "http://"+s.addr+score, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+primaryKey)
	go w.Write([]byte("one"))
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 10)
	for _, part := range []string{"one", "two", "three"} {
		if part != "one" {
			go w.Write([]byte(part))
		}
		// Each part is read before the next is written: without a flush this would never end.
		if _, err := io.ReadFull(resp.Body, buf[:len(part)]); err != nil || string(buf[:len(part)]) != part {
			t.Fatalf("%q, %v", buf, err)
		}
	}
	w.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
		t.Errorf("%q %v", rest, err)
	}
}

func TestLargeBothWays(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	s.instance("i1", echo)
	s.set(blue("i1"))
	for _, size := range []int{1, 1023, 1025, 32 << 10, 32<<10 + 1, 64 << 10, 1 << 20, 1<<20 + 1, 9 << 20} {
		body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
		if r := s.do("POST", score, body); r.status != 200 || r.body != body || r.header.Get("Content-Length") != fmt.Sprint(size) {
			t.Errorf("%d bytes: %d, %d bytes, %v", size, r.status, len(r.body), r.header)
		}
	}
}

func TestDomain(t *testing.T) {
	s := newSite(t, gateway.Config{Domain: "Models.Example", InterceptDomain: "local.inference.ml.azure.com"}, gateway.ServerConfig{})
	s.instance("i1", echo)
	s.set(blue("i1"))
	for host, status := range map[string]int{
		"my-endpoint.models.example": 200, "MY-Endpoint.MODELS.example:8444": 200, "my-endpoint.models.example.": 200,
		"models.example": 404, ".models.example": 404, "a.b.models.example": 404, "my-endpointmodels.example": 404,
		"my-endpoint.other": 404, "my-endpoint.local.inference.ml.azure.com": 200, "my-endpoint.inference.ml.azure.com": 404,
	} {
		if r := s.do("POST", "/score", "x", "Host", host); r.status != status {
			t.Errorf("%s: %d, want %d", host, r.status, status)
		}
	}
	if r := s.do("POST", score, "x", "Host", "127.0.0.1"); r.status != 200 {
		t.Errorf("the path form: %d", r.status)
	}
}

func TestHealth(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	if r := s.do("GET", "/", ""); r.status != 503 || r.body != `{"status":"starting"}` {
		t.Errorf("%d %q", r.status, r.body)
	}
	if r := s.do("POST", score, "x"); r.status != 503 {
		t.Errorf("scoring before a table: %d", r.status)
	}
	s.set()
	if r := s.do("GET", "/", ""); r.status != 200 || r.body != `{"status":"ok"}` {
		t.Errorf("%d %q", r.status, r.body)
	}
	if r := s.do("HEAD", "/", ""); r.status != 200 {
		t.Errorf("HEAD: %d", r.status)
	}
	s.gateway.Drain()
	if r := s.do("GET", "/", ""); r.status != 503 || r.body != `{"status":"draining"}` {
		t.Errorf("%d %q", r.status, r.body)
	}
	if n := s.records.count(); n != 1 {
		t.Errorf("%d records: looking at health is no scoring request", n)
	}
}
