package gateway_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"portico/internal/access"
	"portico/internal/gateway"
	"portico/internal/inference"
	"portico/internal/online"
	"portico/internal/route"
	"portico/internal/testkit"
)

// bare is a gateway without a listener: requests are handed to the core, so that time can be a test's own.
type bare struct {
	t         *testing.T
	gateway   *gateway.Gateway
	upstreams *upstreams
	records   *records
	revision  int64
	calls     atomic.Int64 // of instances made by script
}

func newBare(t *testing.T, cfg gateway.Config) *bare {
	t.Helper()
	b := &bare{t: t, upstreams: &upstreams{}, records: &records{more: make(chan struct{}, 1)}}
	b.gateway = gateway.New(cfg, b.upstreams, b.records, slog.New(slog.NewTextHandler(io.Discard, nil)))
	return b
}

// cached is blue with a response cache, on instances of one generation.
func cached(generation int64, c online.ResponseCache, instances ...string) route.Deployment {
	d := blue(instances...)
	d.Generation, d.Cache = generation, &c
	d.Request.MaxConcurrent = 100
	for i := range d.Instances {
		d.Instances[i].Generation = generation
	}
	return d
}

func minute(vary ...string) online.ResponseCache {
	return online.ResponseCache{TTL: time.Minute, MaxBytes: 1 << 20, Vary: vary}
}

func (b *bare) set(ds ...route.Deployment) {
	e := route.Endpoint{Name: "my-endpoint", UID: "e", AuthMode: online.AuthKey, Deployments: ds,
		Keys: [][32]byte{access.Digest(primaryKey), access.Digest(secondaryKey)}, Traffic: online.Traffic{ds[0].Name: 100}}
	b.revision++
	b.gateway.SetTable(route.Build(b.revision, []route.Endpoint{e}))
}

// script puts an instance in place that counts its calls.
func (b *bare) script(id string, run upstream) {
	b.upstreams.m.Store(id, upstream(func(ctx context.Context, call *inference.Call) (*inference.Answer, error) {
		b.calls.Add(1)
		return run(ctx, call)
	}))
}

// taken is the transport of one request, and what its caller saw.
type taken struct {
	sent    *strings.Reader
	status  int
	header  []inference.Field
	body    strings.Builder
	aborted bool
}

func (k *taken) ReadBody(p []byte) (int, error)   { return k.sent.Read(p) }
func (k *taken) SetReadDeadline(time.Time) error  { return nil }
func (k *taken) SetWriteDeadline(time.Time) error { return nil }
func (k *taken) Begin(status int, header []inference.Field, _ int64, _ bool) {
	k.status, k.header = status, append([]inference.Field(nil), header...)
}
func (k *taken) Write(p []byte) (int, error) { return k.body.Write(p) }
func (k *taken) Flush() error                { return nil }
func (k *taken) Abort()                      { k.aborted = true }

func (k *taken) get(name string) string {
	all := []string{}
	for _, f := range k.header {
		if strings.EqualFold(f.Name, name) {
			all = append(all, f.Value)
		}
	}
	return strings.Join(all, "|")
}

func (k *taken) String() string { return fmt.Sprintf("%d %s", k.status, k.body.String()) }

// do sends a request to the end; fields are names and values.
func (b *bare) do(ctx context.Context, body string, fields ...string) *taken {
	return b.send(ctx, "POST", "", body, fields...)
}

func (b *bare) send(ctx context.Context, method, query, body string, fields ...string) *taken {
	return b.at(ctx, method, score, query, body, fields...)
}

func (b *bare) at(ctx context.Context, method, path, query, body string, fields ...string) *taken {
	k := &taken{sent: strings.NewReader(body)}
	x := &gateway.Exchange{Method: method, Path: path, Query: query, Protocol: "HTTP/1.1", Length: int64(len(body)),
		Arrival: time.Now(), Transport: k, Header: []inference.Field{{Name: "Authorization", Value: "Bearer " + primaryKey}}}
	for i := 0; i < len(fields); i += 2 {
		x.Header = append(x.Header, inference.Field{Name: fields[i], Value: fields[i+1]})
	}
	b.gateway.Serve(ctx, x)
	return k
}

// expect checks how the cache took a request.
func (b *bare) expect(k *taken, how string) {
	b.t.Helper()
	if got := k.get("x-portico-cache"); got != how {
		b.t.Errorf("x-portico-cache is %q, want %q (%s)", got, how, k)
	}
}

// TestCacheKey: an answer is given again exactly when everything that it may depend on is equal.
func TestCacheKey(t *testing.T) {
	b := newBare(t, gateway.Config{})
	b.set(cached(3, minute("x-tenant"), "b1"))
	b.script("b1", echo)
	ctx := context.Background()
	b.expect(b.do(ctx, "one", "X-Tenant", "a"), "miss")
	b.expect(b.do(ctx, "one", "X-Tenant", "a"), "hit")
	for name, k := range map[string]*taken{
		"another body":             b.do(ctx, "two", "X-Tenant", "a"),
		"another tenant":           b.do(ctx, "one", "X-Tenant", "b"),
		"no tenant":                b.do(ctx, "one"),
		"an empty tenant":          b.do(ctx, "one", "X-Tenant", ""),
		"the tenant twice":         b.do(ctx, "one", "X-Tenant", "a", "X-Tenant", "a"),
		"another type":             b.do(ctx, "one", "X-Tenant", "a", "Content-Type", "text/csv"),
		"another origin":           b.do(ctx, "one", "X-Tenant", "a", "Origin", "https://a"),
		"another query":            b.send(ctx, "POST", "q=1", "one", "X-Tenant", "a"),
		"another method":           b.send(ctx, "GET", "", "one", "X-Tenant", "a"),
		"the border is not shared": b.send(ctx, "POST", "o", "ne", "X-Tenant", "a"),
	} {
		if k.get("x-portico-cache") != "miss" {
			t.Errorf("%s: %s", name, k.get("x-portico-cache"))
		}
	}
	b.expect(b.do(ctx, "one", "x-tenant", "a", "X-Unrelated", "1", "Authorization2", "x"), "hit")
	for _, pass := range []string{"no-cache", "private, No-Store", "max-age=0"} {
		b.expect(b.do(ctx, "one", "X-Tenant", "a", "Cache-Control", pass), "bypass")
	}
	b.expect(b.do(ctx, "one", "X-Tenant", "a", "Cache-Control", "max-age=60"), "hit")
}

// TestCacheAnswer: a hit has the instance's own header and body, and the caller's own ids.
func TestCacheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBare(t, gateway.Config{})
		b.set(cached(3, minute(), "b1"))
		b.script("b1", func(_ context.Context, call *inference.Call) (*inference.Answer, error) {
			return answer(200, string(call.Body), inference.Field{Name: "x-ms-request-id", Value: call.ID},
				inference.Field{Name: "x-ms-run-fn-exec-ms", Value: "1.5"}, inference.Field{Name: "x-own", Value: "kept"},
				inference.Field{Name: "x-request-id", Value: "of the worker"}), nil
		})
		first := b.do(context.Background(), "body", "x-ms-client-request-id", "c-1")
		time.Sleep(7 * time.Second)
		second := b.do(context.Background(), "body", "x-ms-client-request-id", "c-2", "TraceId", "t-2")
		third := b.do(context.Background(), "body", "x-ms-request-id", "m-3")
		if first.String() != second.String() || second.get("x-own") != "kept" || second.get("content-type") != "application/json" {
			t.Errorf("%s %v\n%s %v", first, first.header, second, second.header)
		}
		for name, want := range map[string]string{"age": "7", "x-ms-client-request-id": "c-2", "x-ms-request-id": "c-2", "traceid": "t-2",
			"x-ms-run-fn-exec-ms": "", "azureml-model-deployment": "blue", "ms-azureml-model-time": "0", "server": "portico"} {
			if got := second.get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if id := second.get("x-request-id"); id == "" || id == first.get("x-request-id") || strings.Contains(id, "|") {
			t.Errorf("x-request-id is %q", id)
		}
		if third.get("x-ms-request-id") != "m-3" || third.get("x-ms-client-request-id") != "" {
			t.Errorf("%v", third.header)
		}
		miss, hit := b.records.wait(t, 1), b.records.wait(t, 2)
		if miss.Cache != "miss" || miss.Instance != "b1" || miss.ModelStatus != 200 {
			t.Errorf("%+v", miss)
		}
		if hit.Cache != "hit" || hit.Instance != "" || hit.ModelStatus != 0 || hit.Status != 200 || hit.Generation != 3 ||
			hit.ModelDigest != "sha256:abc" || hit.ResponseBytes != 4 || hit.Caller != "primary" {
			t.Errorf("%+v", hit)
		}
	})
}

// TestCacheFreshness: an answer whose own header says how long it holds is not given again after that.
func TestCacheFreshness(t *testing.T) {
	for value, want := range map[string]string{
		"": "hit", "max-age=9": "hit", "public, MAX-AGE=8, s-maxage=9": "hit", "max-age=86400": "hit", "max-age=soon": "hit",
		"max-age=7": "miss", "public, max-age=1": "miss", "max-age=60, s-maxage=\"3\"": "miss", "s-maxage=0": "miss",
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBare(t, gateway.Config{})
			b.set(cached(3, minute(), "b1"))
			b.script("b1", func(context.Context, *inference.Call) (*inference.Answer, error) {
				return answer(200, "x", inference.Field{Name: "Cache-Control", Value: value}), nil
			})
			b.expect(b.do(context.Background(), "one"), "miss")
			time.Sleep(7 * time.Second)
			if got := b.do(context.Background(), "one").get("x-portico-cache"); got != want {
				t.Errorf("%q: %s after 7 s, want %s", value, got, want)
			}
			time.Sleep(7 * time.Second)
			if value == "max-age=86400" {
				time.Sleep(time.Minute)
				b.expect(b.do(context.Background(), "one"), "miss") // the TTL holds all the same
			}
		})
	}
}

// TestCacheNeverKeeps: what is not a plain success of everybody's is neither kept nor shared.
func TestCacheNeverKeeps(t *testing.T) {
	b := newBare(t, gateway.Config{})
	b.set(cached(3, minute("x-tenant"), "b1"))
	field := func(name, value string) upstream {
		return func(context.Context, *inference.Call) (*inference.Answer, error) {
			return answer(200, "x", inference.Field{Name: name, Value: value}), nil
		}
	}
	for name, c := range map[string]struct {
		run  upstream
		kept bool
	}{
		"an error": {run: func(context.Context, *inference.Call) (*inference.Answer, error) { return answer(500, "x"), nil }},
		"created":  {run: func(context.Context, *inference.Call) (*inference.Answer, error) { return answer(201, "x"), nil }},
		"a loss": {run: func(context.Context, *inference.Call) (*inference.Answer, error) {
			return nil, &inference.LostError{Cause: "gone"}
		}},
		"a soft failure": {run: field("x-ms-run-function-failed", "True")},
		"a stream": {run: func(context.Context, *inference.Call) (*inference.Answer, error) {
			a := answer(200, "x")
			a.ContentLength = -1
			return a, nil
		}},
		"a cookie":        {run: field("Set-Cookie", "a=b")},
		"no-store":        {run: field("Cache-Control", "max-age=3, No-Store")},
		"private by name": {run: field("Cache-Control", `private="x-tenant"`)},
		"varies by more":  {run: field("Vary", "X-Tenant, Accept-Language")},
		"varies by all":   {run: field("Vary", "*")},
		"too large": {run: func(context.Context, *inference.Call) (*inference.Answer, error) {
			return answer(200, strings.Repeat("x", 1<<20+1)), nil
		}},
		"varies as agreed":  {run: field("Vary", "X-Tenant, Origin"), kept: true},
		"public":            {run: field("Cache-Control", "public, max-age=3"), kept: true},
		"nothing":           {run: func(context.Context, *inference.Call) (*inference.Answer, error) { return answer(200, ""), nil }, kept: true},
		"no failure at all": {run: field("x-ms-run-function-failed", "False"), kept: true},
	} {
		b.script("b1", c.run)
		first, second := b.do(context.Background(), name), b.do(context.Background(), name)
		want := "miss"
		if c.kept {
			want = "hit"
		}
		if first.get("x-portico-cache") != "miss" || second.get("x-portico-cache") != want || first.String() != second.String() {
			t.Errorf("%s: %s, then %s", name, first.get("x-portico-cache"), second.get("x-portico-cache"))
		}
	}
}

// TestCachePaths: what a server says of its health and of its models is asked each time.
func TestCachePaths(t *testing.T) {
	b := newBare(t, gateway.Config{})
	d := cached(3, minute("x-tenant"), "b1")
	d.Paths, d.ScoringPath = []route.Path{{Path: "/"}}, "/v2/models/m/infer"
	b.set(d)
	b.script("b1", echo)
	for _, c := range []struct {
		method, path string
		kept         bool
	}{
		{"GET", "/ping", false}, {"GET", "/health", false}, {"GET", "/v2/health/ready", false},
		{"GET", "/v2/models/m/ready", false}, {"GET", "/v2/models/m", false}, {"GET", "/swagger.json", false},
		{"PUT", "/v2/models/m/infer", false},
		{"GET", "/score", true}, {"POST", "/score", true}, {"GET", "/v2/models/m/infer", true}, {"POST", "/v2/models/m/infer", true},
	} {
		for i := range 2 {
			want := ""
			if c.kept {
				want = []string{"miss", "hit"}[i]
			}
			k := b.at(context.Background(), c.method, strings.TrimSuffix(score, "/score")+c.path, "", "x")
			if got := k.get("x-portico-cache"); k.status != 200 || got != want {
				t.Errorf("%s %s: %s, %q, want %q", c.method, c.path, k, got, want)
			}
		}
	}
}

// TestCacheTime: an answer is given again for its time to live, and held no longer though nobody asks.
func TestCacheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBare(t, gateway.Config{})
		b.set(cached(3, minute(), "b1"))
		b.script("b1", echo)
		ctx := context.Background()
		b.expect(b.do(ctx, "a"), "miss")
		time.Sleep(30 * time.Second)
		b.expect(b.do(ctx, "b"), "miss")
		time.Sleep(30*time.Second - 1)
		b.expect(b.do(ctx, "a"), "hit")
		time.Sleep(time.Nanosecond)
		b.expect(b.do(ctx, "a"), "miss")
		b.expect(b.do(ctx, "b"), "hit")
		time.Sleep(time.Minute)
		synctest.Wait()
		if b.records.cached != 0 {
			t.Errorf("%d bytes are held", b.records.cached)
		}
	})
}

// TestCacheWithoutInstance: a hit needs no instance; a miss waits for one as ever.
func TestCacheWithoutInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBare(t, gateway.Config{})
		b.set(cached(3, minute(), "b1"))
		b.script("b1", echo)
		b.expect(b.do(context.Background(), "a"), "miss")
		b.set(cached(3, minute()))
		b.expect(b.do(context.Background(), "a"), "hit")
		k := b.do(context.Background(), "b")
		if k.status != 424 || k.get("ms-azureml-model-error-reason") != "model_not_ready" {
			t.Errorf("%s", k)
		}
		b.expect(k, "miss")
	})
}

// TestCacheIsRenewed: whatever changes the deployment empties its cache, and what was under way is not kept.
func TestCacheIsRenewed(t *testing.T) {
	ctx := context.Background()
	for name, change := range map[string]func(b *bare){
		"spec": func(b *bare) {
			d := cached(3, minute(), "b1")
			d.Generation = 4 // its instances are still those of 3
			b.set(d)
		},
		"settings":           func(b *bare) { b.set(cached(3, minute("x-a"), "b1")) },
		"instances":          func(b *bare) { d := cached(4, minute(), "b1"); d.Generation = 3; b.set(d) },
		"model":              func(b *bare) { d := cached(3, minute(), "b1"); d.Instances[0].ModelDigest = "sha256:def"; b.set(d) },
		"off and on":         func(b *bare) { b.set(blue("b1")); b.set(cached(3, minute(), "b1")) },
		"removed and back":   func(b *bare) { d := blue("b1"); d.UID = "other"; b.set(d); b.set(cached(3, minute(), "b1")) },
		"purge":              func(b *bare) { b.purge("uid-blue", true) },
		"purge, then update": func(b *bare) { b.purge("uid-blue", true); b.set(cached(4, minute(), "b1")) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBare(t, gateway.Config{})
			b.set(cached(3, minute(), "b1"))
			started, goOn := make(chan struct{}), make(chan struct{})
			b.script("b1", func(ctx context.Context, call *inference.Call) (*inference.Answer, error) {
				if string(call.Body) == "slow" {
					close(started)
					<-goOn
				}
				return echo(ctx, call)
			})
			b.expect(b.do(ctx, "a"), "miss")
			b.expect(b.do(ctx, "a"), "hit")
			slow := make(chan *taken)
			go func() { slow <- b.do(ctx, "slow") }()
			<-started
			change(b)
			if b.records.cached != 0 {
				t.Errorf("%d bytes are held", b.records.cached)
			}
			close(goOn)
			if k := <-slow; k.String() != "200 slow" {
				t.Errorf("%s", k)
			}
			b.script("b1", echo)
			b.expect(b.do(ctx, "slow"), "miss")
			b.expect(b.do(ctx, "a"), "miss")
			b.expect(b.do(ctx, "a"), "hit")
		})
	}
	b := newBare(t, gateway.Config{})
	b.purge("uid-blue", false)
	b.set(blue("b1"))
	b.purge("uid-blue", false)
}

func (b *bare) purge(uid string, ok bool) {
	b.t.Helper()
	if entries, bytes, got := b.gateway.PurgeCache(uid); got != ok || ok && (entries != 1 || bytes == 0) {
		b.t.Errorf("purged %d, %d, %v", entries, bytes, got)
	}
}

// TestCacheBounds: random work on several deployments never holds more than a deployment may, nor the server, and what was
// used last is what stays.
func TestCacheBounds(t *testing.T) {
	const limit, each = 64 << 10, 40 << 10
	b := newBare(t, gateway.Config{CacheBytes: limit})
	names := []string{"aaa", "bbb", "ccc"}
	var ds []route.Deployment
	for _, name := range names {
		d := cached(3, online.ResponseCache{TTL: time.Minute, MaxBytes: each}, "i-"+name)
		d.Name, d.UID = name, name
		ds = append(ds, d)
		b.script("i-"+name, echo)
	}
	b.set(ds...)
	r := rand.New(rand.NewPCG(1, 2))
	var wg sync.WaitGroup
	for range 4 {
		seed := r.Uint64()
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, 3))
			for range 400 {
				name := names[r.IntN(len(names))]
				body := strings.Repeat(fmt.Sprint(r.IntN(30)), 1+r.IntN(8<<10))
				if k := b.do(context.Background(), body, "azureml-model-deployment", name); k.String() != "200 "+body {
					t.Errorf("another's answer: %.40s", k)
				}
				if held := b.records.held(); held > limit || held < 0 {
					t.Errorf("%d bytes are held", held)
				}
			}
		})
	}
	wg.Wait()
	sum := int64(0)
	for _, name := range names {
		entries, bytes, _ := b.gateway.PurgeCache(name)
		if bytes > each || entries == 0 {
			t.Errorf("%s held %d bytes in %d entries", name, bytes, entries)
		}
		sum += bytes
	}
	if sum > limit || sum < limit/2 || b.records.held() != 0 {
		t.Errorf("%d bytes were held, %d are after the purge", sum, b.records.held())
	}
	// What was used last stays.
	big := func(c string) string { return strings.Repeat(c, 12<<10) }
	for _, step := range []struct{ body, want string }{{"a", "miss"}, {"b", "miss"}, {"c", "miss"}, {"a", "hit"}, {"d", "miss"}, {"a", "hit"},
		{"c", "hit"}, {"b", "miss"}} {
		k := b.do(context.Background(), big(step.body))
		if k.get("x-portico-cache") != step.want {
			t.Errorf("%s is a %s, want %s", step.body, k.get("x-portico-cache"), step.want)
		}
	}
}

func (r *records) held() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cached
}

// TestCacheMirror: a hit is live traffic, of which the shadow gets its copies; the copies themselves use no cache.
func TestCacheMirror(t *testing.T) {
	b := newBare(t, gateway.Config{})
	live, shadow := cached(3, minute(), "b1"), cached(3, minute(), "g1")
	shadow.Name, shadow.UID = "green", "uid-green"
	e := route.Endpoint{Name: "my-endpoint", UID: "e", AuthMode: online.AuthKey, Deployments: []route.Deployment{live, shadow},
		Keys: [][32]byte{access.Digest(primaryKey)}, Traffic: online.Traffic{"blue": 100}, Mirror: online.Traffic{"green": 50}}
	b.gateway.SetTable(route.Build(1, []route.Endpoint{e}))
	copies := make(chan struct{}, 1000)
	b.upstreams.m.Store("b1", upstream(echo))
	b.upstreams.m.Store("g1", upstream(func(ctx context.Context, call *inference.Call) (*inference.Answer, error) {
		copies <- struct{}{}
		return echo(ctx, call)
	}))
	const n = 100
	for range n {
		b.do(context.Background(), "same")
	}
	limit := time.After(testkit.Limit)
	for range 10 { // of about 50
		select {
		case <-copies:
		case <-limit:
			t.Fatal("hits are not mirrored")
		}
	}
	for i := 1; i <= n+10; i++ {
		if r := b.records.wait(t, i); r.Mirror && r.Cache != "" {
			t.Errorf("a copy used the cache: %+v", r)
		}
	}
}

// TestNoCacheNoField: without a cache nothing is said of one.
func TestNoCacheNoField(t *testing.T) {
	b := newBare(t, gateway.Config{})
	b.set(blue("b1"))
	b.script("b1", echo)
	b.do(context.Background(), "a")
	k := b.do(context.Background(), "a")
	b.expect(k, "")
	if r := b.records.wait(t, 2); r.Cache != "" || b.calls.Load() != 2 {
		t.Errorf("%+v", r)
	}
}

// TestCacheIsCollected: payloads of hits are collected like those that an instance answered.
func TestCacheIsCollected(t *testing.T) {
	k := &keeper{}
	b := newBare(t, gateway.Config{Collector: k})
	d := cached(3, minute(), "b1")
	d.Collector = collecting(1, online.CollectionRequest, online.CollectionResponse)
	b.set(d)
	b.script("b1", func(context.Context, *inference.Call) (*inference.Answer, error) { return answer(200, "out"), nil })
	b.expect(b.do(context.Background(), "in"), "miss")
	b.expect(b.do(context.Background(), "in"), "hit")
	all := k.take()
	if len(all) != 2 {
		t.Fatalf("%d captures", len(all))
	}
	for _, c := range all {
		if string(c.Request.Data) != "in" || string(c.Response.Data) != "out" || c.Response.Type != "application/json" {
			t.Errorf("%+v %+v", c.Request, c.Response)
		}
	}
	if all[1].Instance != "" || all[0].RequestID == all[1].RequestID {
		t.Errorf("%+v", all[1])
	}
}
