package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// mirrored puts one endpoint in force: all traffic to blue on i1, copies of half of it to green on s1.
func (s *site) mirrored(change func(green *route.Deployment)) {
	live := blue("i1")
	live.Request.MaxConcurrent = 64
	green := blue("s1")
	green.Name, green.UID, green.Request.MaxConcurrent = "green", "uid-green", 4
	if change != nil {
		change(&green)
	}
	e := route.Endpoint{
		Name: "my-endpoint", UID: "uid-endpoint", AuthMode: online.AuthKey, Keys: [][32]byte{access.Digest(primaryKey)},
		Deployments: []route.Deployment{live, green}, Traffic: online.Traffic{"blue": 100},
		Mirror: online.Traffic{"green": online.MaxMirrorPercent},
	}
	s.revision++
	s.gateway.SetTable(route.Build(s.revision, []route.Endpoint{e}))
}

// copies gives the records of copies, live those of requests, drops the reasons of dropped copies.
func (r *records) split() (copies, live []telemetry.Record, drops []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.all {
		if rec.Mirror {
			copies = append(copies, rec)
		} else {
			live = append(live, rec)
		}
	}
	return copies, live, append(drops, r.drops...)
}

// sendAll makes n requests one after the other and expects the live answer to each.
func (s *site) sendAll(n int, body string, fields ...string) {
	s.t.Helper()
	for range n {
		if r := s.do("POST", score+"?q=1", body, fields...); r.status != 200 || r.body != body {
			s.t.Fatalf("a live request got %d %.60q", r.status, r.body)
		}
	}
}

// shadowServer is a real instance: an HTTP server on a socket of its own.
func (s *site) shadowServer(id string, h http.HandlerFunc) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: testkit.Limit}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	s.t.Cleanup(func() { server.Close(); <-done })
	s.shadowAt(id, l.Addr().String())
}

func (s *site) shadowAt(id, address string) {
	u := inference.NewHTTPUpstream(id, address, 8)
	s.t.Cleanup(u.Close)
	s.upstreams.m.Store(id, u)
}

func TestMirrorCopies(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	s.instance("i1", echo)
	type seen struct{ method, query, body, auth, own, id string }
	var mu sync.Mutex
	var got []seen
	s.shadowServer("s1", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		got = append(got, seen{r.Method + " " + r.URL.Path, r.URL.RawQuery, string(body), r.Header.Get("Authorization"),
			r.Header.Get("X-Own"), r.Header.Get("x-request-id")})
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, "nobody may see this")
	})
	s.mirrored(nil)
	const n = 200
	s.sendAll(n, `{"data":[1]}`, "X-Own", "1", "X-Portico-Forged", "1")
	testkit.Until(t, "every request is counted as copied, dropped or neither", func() bool {
		copies, live, _ := s.records.split()
		mu.Lock()
		defer mu.Unlock()
		return len(live) == n && len(copies) == len(got)
	})
	copies, live, drops := s.records.split()
	// 200 fair draws lie within 55 and 145 but once in 10^10 runs.
	if k := len(copies) + len(drops); k < 55 || k > 145 || len(copies) == 0 {
		t.Errorf("%d copies and %d drops of %d requests at 50 %%", len(copies), len(drops), n)
	}
	ids := map[string]bool{}
	for _, rec := range live {
		ids[rec.RequestID] = true
		if rec.Deployment != "blue" || rec.Status != 200 {
			t.Fatalf("live record %+v", rec)
		}
	}
	for _, rec := range copies {
		if rec.Deployment != "green" || rec.Instance != "s1" || rec.Status != 424 || rec.ModelStatus != 500 || !ids[rec.RequestID] {
			t.Fatalf("record of a copy %+v", rec)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, c := range got {
		if c.method != "POST /score" || c.query != "q=1" || c.body != `{"data":[1]}` || c.auth != "" || c.own != "1" || !ids[c.id] {
			t.Fatalf("the shadow saw %+v", c)
		}
	}
}

func TestPinnedRequestsAreNotMirrored(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	s.instance("i1", echo)
	var calls atomic.Int64
	s.instance("s1", func(ctx context.Context, c *inference.Call) (*inference.Answer, error) {
		calls.Add(1)
		return echo(ctx, c)
	})
	s.mirrored(nil)
	s.sendAll(60, "x", "azureml-model-deployment", "blue")
	s.sendAll(5, "x", "azureml-model-deployment", "green") // the shadow itself can be called
	testkit.Until(t, "every request is recorded", func() bool {
		_, live, _ := s.records.split()
		return len(live) == 65
	})
	copies, live, drops := s.records.split()
	if len(copies)+len(drops) != 0 || calls.Load() != 5 || live[64].Deployment != "green" {
		t.Errorf("%d copies, %d drops, %d calls", len(copies), len(drops), calls.Load())
	}
}

// TestRefusedRequestsAreNotMirrored: what the front door refuses is no live traffic.
func TestRefusedRequestsAreNotMirrored(t *testing.T) {
	s := newSite(t, gateway.Config{MaxRequestBytes: 10}, gateway.ServerConfig{})
	s.instance("i1", echo)
	s.instance("s1", echo)
	s.mirrored(nil)
	for range 40 {
		if r := s.do("POST", score, "x", "Authorization", "Bearer wrong"); r.status != 401 {
			t.Fatal(r.status)
		}
		if r := s.do("POST", score, "more than ten bytes"); r.status != 413 {
			t.Fatal(r.status)
		}
	}
	if copies, _, drops := s.records.split(); len(copies)+len(drops) != 0 {
		t.Errorf("%d copies, %d drops", len(copies), len(drops))
	}
}

// TestSlowShadow: a shadow that never answers holds at most half of what may be pending on it; the rest is dropped
// and counted, callers notice nothing, and who asks for the shadow by name finds room.
func TestSlowShadow(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	s.instance("i1", echo)
	var open atomic.Int64
	s.shadowServer("s1", func(w http.ResponseWriter, r *http.Request) {
		if open.Add(1) <= 4 {
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, "named")
	})
	s.mirrored(func(d *route.Deployment) { d.Request.Timeout = 3 * time.Second })
	s.sendAll(200, `{"data":[1]}`)
	_, _, drops := s.records.split()
	for _, reason := range drops {
		if reason != telemetry.DropCopies {
			t.Fatalf("a copy was dropped for %s", reason)
		}
	}
	if len(drops) == 0 {
		t.Fatal("a shadow that never answers takes every copy")
	}
	if load, _ := s.gateway.Load("uid-green"); load.Executing+load.Waiting > 4 {
		t.Errorf("%+v is pending on the shadow, of 8", load)
	}
	testkit.Until(t, "copies end at the shadow's deadline", func() bool {
		copies, _, _ := s.records.split()
		return len(copies) >= 4
	})
	copies, _, _ := s.records.split()
	for _, rec := range copies[:4] {
		if rec.Status != 408 || rec.Reason != telemetry.ReasonTimeout {
			t.Errorf("record of a copy %+v", rec)
		}
	}
	if r := s.do("POST", score, "x", "azureml-model-deployment", "green"); r.status != 200 || r.body != "named" {
		t.Errorf("the shadow by name: %d %q", r.status, r.body)
	}
}

// TestDeadShadows: instances that refuse connections, hang up, or break the protocol.
func TestDeadShadows(t *testing.T) {
	for name, behave := range map[string]func(net.Conn){
		"refuses": nil,
		"hangs up": func(c net.Conn) {
			c.Close()
		},
		"garbage": func(c net.Conn) {
			_, _ = io.WriteString(c, "no http\r\n\r\n")
			c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
			s.instance("i1", echo)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s.shadowAt("s1", l.Addr().String())
			if behave == nil {
				l.Close()
			} else {
				done := make(chan struct{})
				go func() {
					defer close(done)
					for {
						c, err := l.Accept()
						if err != nil {
							return
						}
						behave(c)
					}
				}()
				defer func() { l.Close(); <-done }()
			}
			s.mirrored(func(d *route.Deployment) { d.Request.Timeout = 200 * time.Millisecond })
			s.sendAll(100, "x")
			testkit.Until(t, "a copy has failed", func() bool {
				copies, live, _ := s.records.split()
				return len(copies) > 0 && len(live) == 100 // a request is recorded after its answer
			})
			copies, _, _ := s.records.split()
			for _, rec := range copies {
				if rec.Status == 200 {
					t.Errorf("record of a copy %+v", rec)
				}
			}
		})
	}
}

func TestMirrorBounds(t *testing.T) {
	for name, c := range map[string]struct {
		cfg    gateway.Config
		change func(*route.Deployment)
		want   string
	}{
		"memory":   {gateway.Config{MirrorBytes: 100}, nil, telemetry.DropBytes},
		"instance": {gateway.Config{}, func(d *route.Deployment) { d.Instances = nil }, telemetry.DropNotReady},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, c.cfg, gateway.ServerConfig{})
			s.instance("i1", echo)
			s.instance("s1", func(context.Context, *inference.Call) (*inference.Answer, error) {
				t.Error("the shadow was called")
				return nil, inference.ErrClosed
			})
			s.mirrored(c.change)
			s.sendAll(60, strings.Repeat("x", 200))
			copies, _, drops := s.records.split()
			if len(copies) != 0 || len(drops) == 0 {
				t.Errorf("%d copies, %d drops", len(copies), len(drops))
			}
			for _, reason := range drops {
				if reason != c.want {
					t.Errorf("dropped for %s, want %s", reason, c.want)
				}
			}
		})
	}
}

// TestMirrorKeepsItsBytes: a copy is whole although the request that it was made of has long been answered and its
// buffers are used by others.
func TestMirrorKeepsItsBytes(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	s.instance("i1", echo)
	release := make(chan struct{})
	var mu sync.Mutex
	var broken int
	var whole int
	s.instance("s1", func(_ context.Context, call *inference.Call) (*inference.Answer, error) {
		<-release
		mu.Lock()
		defer mu.Unlock()
		fill := call.Body[0]
		own := ""
		for _, f := range call.Header {
			if strings.EqualFold(f.Name, "x-own") {
				own = f.Value
			}
		}
		if len(bytes.Trim(call.Body, string(fill))) == 0 && own == strings.Repeat(string(fill), 30) {
			whole++
		} else {
			broken++
		}
		// An answer that is neither small nor whole in memory.
		return answer(200, strings.Repeat("y", 100<<10)), nil
	})
	s.mirrored(func(d *route.Deployment) { d.Request.Timeout = testkit.Limit })
	for i := range 40 {
		fill := string(rune('a' + i%26))
		size := 10
		if i%2 == 0 {
			size = 200 << 10 // shared, not copied
		}
		s.sendAll(1, strings.Repeat(fill, size), "X-Own", strings.Repeat(fill, 30))
	}
	close(release)
	testkit.Until(t, "copies end", func() bool {
		copies, _, _ := s.records.split()
		return len(copies) == 4 // as many as the shadow may hold
	})
	mu.Lock()
	defer mu.Unlock()
	if broken > 0 || whole == 0 {
		t.Errorf("%d copies are whole, %d are broken", whole, broken)
	}
}

// TestDrainEndsCopies: the server does not wait for answers that nobody reads, and leaves no copy behind.
func TestDrainEndsCopies(t *testing.T) {
	t.Run("silent", func(t *testing.T) {
		drainWith(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	})
	t.Run("endless", func(t *testing.T) {
		drainWith(t, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, "more and more")
			}
		})
	})
}

func drainWith(t *testing.T, behave http.HandlerFunc) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	s.instance("i1", echo)
	started := make(chan struct{}, 100)
	s.shadowServer("s1", func(w http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		behave(w, r)
	})
	s.mirrored(func(d *route.Deployment) { d.Request.Timeout = online.MaxRequestTimeout })
	for range 60 {
		s.sendAll(1, "x")
	}
	select {
	case <-started:
	case <-time.After(testkit.Limit):
		t.Fatal("no copy of 60 requests was sent")
	}
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Limit)
	defer cancel()
	if err := s.server.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	copies, _, _ := s.records.split()
	if len(copies) == 0 {
		t.Fatal("Drain returned before the copies had ended")
	}
	for _, rec := range copies {
		if rec.Status != telemetry.StatusClientClosed {
			t.Errorf("record of a copy %+v", rec)
		}
	}
}

// BenchmarkMirror shows what a shadow costs the live requests: beside none, one that answers, one that never answers
// and one that refuses.
func BenchmarkMirror(b *testing.B) {
	body := []byte(`{"data":[[1,2,3,4]]}`)
	for _, shadow := range []string{"none", "answers", "never", "refuses"} {
		b.Run(shadow, func(b *testing.B) {
			ups := &upstreams{}
			ups.m.Store("i1", newCanned("r"))
			stop := make(chan struct{})
			defer close(stop)
			ups.m.Store("s1", upstream(func(ctx context.Context, c *inference.Call) (*inference.Answer, error) {
				switch shadow {
				case "never":
					select {
					case <-stop:
					case <-ctx.Done():
					}
					return nil, inference.ErrDeadline
				case "refuses":
					return nil, inference.ErrClosed
				}
				return answer(200, "r"), nil
			}))
			live, green := blue("i1"), blue("s1")
			live.Request.MaxConcurrent = 100
			green.Name, green.UID = "green", "uid-green"
			e := route.Endpoint{Name: "my-endpoint", UID: "e", Traffic: online.Traffic{"blue": 100},
				Keys: [][32]byte{access.Digest(primaryKey)}, Deployments: []route.Deployment{live, green}}
			if shadow != "none" {
				e.Mirror = online.Traffic{"green": 50}
			}
			g := gateway.New(gateway.Config{}, ups, discardRecords{}, discardLog)
			g.SetTable(route.Build(1, []route.Endpoint{e}))
			m, x := &memory{}, &gateway.Exchange{}
			took := make([]time.Duration, 0, 1<<20)
			b.ReportAllocs()
			for b.Loop() {
				m.body.Reset(body)
				x.Method, x.Path, x.Protocol, x.Length = "POST", score, "HTTP/1.1", int64(len(body))
				x.Arrival, x.Transport = time.Now(), m
				x.Header = append(x.Header[:0], benchHeader...)
				g.Serve(context.Background(), x)
				if took = append(took, time.Since(x.Arrival)); len(took) == cap(took) {
					took = took[:0]
				}
				x.Reset()
				if m.status != 200 {
					b.Fatal(m.status)
				}
			}
			reportPercentiles(b, took)
		})
	}
}

// discardRecords is a recorder that keeps nothing.
type discardRecords struct{}

func (discardRecords) Record(*telemetry.Record)             {}
func (discardRecords) MirrorDropped(string, string, string) {}
func (discardRecords) CacheBytes(int64)                     {}
func (discardRecords) Connection(int)                       {}

var discardLog = slog.New(slog.DiscardHandler)

func reportPercentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	for _, p := range []int{50, 99} {
		b.ReportMetric(float64(took[len(took)*p/100].Nanoseconds()), fmt.Sprintf("p%d-ns", p))
	}
}
