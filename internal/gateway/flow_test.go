package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"portico/internal/gateway"
	"portico/internal/inference"
	"portico/internal/online"
	"portico/internal/route"
	"portico/internal/telemetry"
	"portico/internal/testkit"
)

// async sends a request in the background.
func (s *site) async(fields ...string) <-chan reply {
	out := make(chan reply, 1)
	go func() {
		r, err := s.try("POST", score, "x", fields...)
		if err != nil {
			r.body = err.Error()
		}
		out <- r
	}()
	return out
}

// gate is an instance that holds each request until told.
type gate struct {
	started chan string   // request ids
	open    chan struct{} // one value lets one request end
}

func newGate() *gate { return &gate{started: make(chan string, 100), open: make(chan struct{})} }

func (g *gate) do(ctx context.Context, call *inference.Call) (*inference.Answer, error) {
	g.started <- call.ID
	timer := time.NewTimer(time.Until(call.Deadline))
	defer timer.Stop()
	select {
	case <-g.open:
		return answer(200, "done"), nil
	case <-timer.C:
		return nil, inference.ErrDeadline
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestAdmission(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	g := newGate()
	s.instance("i1", g.do)
	d := blue("i1")
	d.Request.MaxConcurrent = 2
	d.Request.Timeout = 60 * time.Second
	s.set(d)
	var replies []<-chan reply
	for range 4 { // 2 x max_concurrent x instances
		replies = append(replies, s.async())
	}
	testkit.Until(t, "four pending", func() bool {
		l, _ := s.gateway.Load(d.UID)
		return l == gateway.Load{Executing: 2, Waiting: 2, Bytes: 4}
	})
	r := s.do("POST", score, "x")
	if code, _ := r.errorCode(t); r.status != 429 || code != "too_many_pending_request" ||
		r.header.Get("ms-azureml-model-error-reason") != "too_many_pending_request" || r.header.Get("Retry-After") != "" {
		t.Errorf("%d %q %v", r.status, r.body, r.header)
	}
	if n := len(g.started); n != 2 {
		t.Errorf("%d requests execute at once, want 2", n)
	}
	for range 4 {
		g.open <- struct{}{}
	}
	for _, c := range replies {
		if r := <-c; r.status != 200 {
			t.Errorf("%d %q", r.status, r.body)
		}
	}
}

func TestTimeouts(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	g := newGate()
	s.instance("i1", g.do)
	d := blue("i1")
	d.Request.Timeout = 300 * time.Millisecond
	s.set(d)
	// The first is canceled at the instance, the second in the queue: both by the same deadline.
	a, b := s.async(), s.async()
	for _, c := range []<-chan reply{a, b} {
		r := <-c
		if _, message := r.errorCode(t); r.status != 408 || message != "upstream request timeout" {
			t.Errorf("%d %q", r.status, r.body)
		}
	}
	t.Run("no instance", func(t *testing.T) {
		d := blue()
		d.Request.Timeout = 50 * time.Millisecond
		s.set(d)
		r := s.do("POST", score, "x")
		if r.status != 424 || r.header.Get("ms-azureml-model-error-reason") != "model_not_ready" {
			t.Errorf("%d %q %v", r.status, r.body, r.header)
		}
	})
	t.Run("instance that is closed for good", func(t *testing.T) {
		s.instance("i2", func(context.Context, *inference.Call) (*inference.Answer, error) {
			return nil, inference.ErrClosed
		})
		d := blue("i2", "unknown")
		d.Request.Timeout = 50 * time.Millisecond
		s.set(d)
		if r := s.do("POST", score, "x"); r.status != 424 || r.header.Get("ms-azureml-model-error-reason") != "model_not_ready" {
			t.Errorf("%d %q", r.status, r.body)
		}
	})
	t.Run("instance that stays busy", func(t *testing.T) {
		s.instance("i3", func(context.Context, *inference.Call) (*inference.Answer, error) {
			return nil, fmt.Errorf("instance: %w", inference.ErrBusy)
		})
		d := blue("i3")
		d.Request.Timeout = 50 * time.Millisecond
		s.set(d)
		if r := s.do("POST", score, "x"); r.status != 408 {
			t.Errorf("%d %q", r.status, r.body)
		}
	})
	if l, _ := s.gateway.Load(d.UID); l != (gateway.Load{}) {
		t.Errorf("left behind: %+v", l)
	}
}

func TestSlowBody(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	s.instance("i1", echo)
	d := blue("i1")
	d.Request.Timeout = 200 * time.Millisecond
	s.set(d)
	for name, head := range map[string]string{
		"announced": "Content-Length: 10\r\n\r\nabc", "chunked": "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"expect": "Expect: 100-continue\r\nContent-Length: 10\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn := testkit.Dial(t, s.addr)
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s", score, primaryKey, head)
			all, err := io.ReadAll(conn) // the connection is closed after the answer
			if err != nil || !strings.Contains(string(all), "HTTP/1.1 408") || !strings.Contains(string(all), "request_body_timeout") {
				t.Errorf("%q %v", all, err)
			}
		})
	}
	if l, _ := s.gateway.Load(d.UID); l != (gateway.Load{}) {
		t.Errorf("left behind: %+v", l)
	}
}

func TestHangUp(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	g := newGate()
	s.instance("i1", g.do)
	d := blue("i1")
	d.Request.Timeout = 60 * time.Second
	s.set(d)
	for _, where := range []string{"executing", "waiting"} {
		t.Run(where, func(t *testing.T) {
			var first <-chan reply
			if where == "waiting" {
				first = s.async()
				<-g.started
			}
			before := s.records.count()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.addr+score, strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+primaryKey)
			done := make(chan error, 1)
			go func() {
				_, err := s.client.Do(req)
				done <- err
			}()
			if where == "executing" {
				<-g.started
			} else {
				testkit.Until(t, "waiting", func() bool { l, _ := s.gateway.Load(d.UID); return l.Waiting == 1 })
			}
			cancel()
			<-done
			if rec := s.records.wait(t, before+1); rec.Status != telemetry.StatusClientClosed || rec.Reason != "client_closed_request" {
				t.Errorf("record: %+v", rec)
			}
			if first != nil {
				g.open <- struct{}{}
				if r := <-first; r.status != 200 {
					t.Errorf("neighbour: %d %q", r.status, r.body)
				}
			}
			testkit.Until(t, "all slots free", func() bool { l, _ := s.gateway.Load(d.UID); return l == gateway.Load{} })
		})
	}
}

func TestClosedInstanceIsFollowedByAnother(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	var closed atomic.Int64
	for i := range 12 {
		s.instance(fmt.Sprint("gone", i), func(context.Context, *inference.Call) (*inference.Answer, error) {
			closed.Add(1)
			return nil, fmt.Errorf("instance: %w", inference.ErrClosed)
		})
	}
	s.instance("good", echo)
	s.set(blue("gone0", "good", "gone1", "not-found"))
	for range 20 {
		if r := s.do("POST", score, "x"); r.status != 200 || r.body != "x" {
			t.Fatalf("%d %q", r.status, r.body)
		}
	}
	if closed.Load() == 0 {
		t.Error("no closed instance was ever tried")
	}
	// More closed ones than are offered a request in one round.
	s.set(blue("gone0", "gone1", "gone2", "gone3", "gone4", "gone5", "gone6", "gone7", "gone8", "gone9", "gone10", "good"))
	for range 5 {
		if r := s.do("POST", score, "x"); r.status != 200 {
			t.Fatalf("%d %q", r.status, r.body)
		}
	}
	if rec := s.records.wait(t, 1); rec.Instance != "good" {
		t.Errorf("record: %+v", rec)
	}
}

func TestHoldUntilReady(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	s.instance("i1", echo)
	d := blue()
	d.Request.Timeout = 60 * time.Second
	s.set(d)
	held := s.async()
	testkit.Until(t, "held", func() bool { l, _ := s.gateway.Load(d.UID); return l.Waiting == 1 })
	ready := blue("i1")
	ready.Request.Timeout = d.Request.Timeout
	s.set(ready)
	if r := <-held; r.status != 200 {
		t.Errorf("%d %q", r.status, r.body)
	}
	// An instance that closes while a request is on its way to it, and a successor that comes later.
	var asked atomic.Bool
	s.instance("i2", func(context.Context, *inference.Call) (*inference.Answer, error) {
		asked.Store(true)
		return nil, inference.ErrClosed
	})
	moving := blue("i2")
	moving.Request.Timeout = d.Request.Timeout
	s.set(moving)
	held = s.async()
	testkit.Until(t, "asked", asked.Load)
	s.set(ready)
	if r := <-held; r.status != 200 {
		t.Errorf("%d %q", r.status, r.body)
	}
}

func TestSwapKeepsWhatRuns(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	old, fresh := newGate(), newGate()
	s.instance("old", old.do)
	s.instance("new", fresh.do)
	d := blue("old")
	d.Request.Timeout = 60 * time.Second
	s.set(d)
	first := s.async()
	<-old.started
	d2 := blue("new")
	d2.Request.Timeout = 60 * time.Second
	s.set(d2)
	second := s.async()
	<-fresh.started // the request on the old instance does not take the new one's only slot
	third := s.async()
	testkit.Until(t, "third waits", func() bool {
		l, _ := s.gateway.Load(d.UID)
		return l == gateway.Load{Executing: 2, Waiting: 1, Bytes: 3}
	})
	old.open <- struct{}{}
	if r := <-first; r.status != 200 {
		t.Errorf("first: %d %q", r.status, r.body)
	}
	testkit.Until(t, "old slot is gone", func() bool {
		l, _ := s.gateway.Load(d.UID)
		return l == gateway.Load{Executing: 1, Waiting: 1, Bytes: 2}
	})
	fresh.open <- struct{}{}
	if r := <-second; r.status != 200 {
		t.Errorf("second: %d %q", r.status, r.body)
	}
	fresh.open <- struct{}{}
	if r := <-third; r.status != 200 {
		t.Errorf("third: %d %q", r.status, r.body)
	}
}

func TestRemovedDeployment(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	d := blue()
	d.Request.Timeout = 60 * time.Second
	s.set(d)
	held := s.async()
	testkit.Until(t, "held", func() bool { l, _ := s.gateway.Load(d.UID); return l.Waiting == 1 })
	s.set()
	if r := <-held; r.status != 404 {
		t.Errorf("%d %q", r.status, r.body)
	}
	if _, ok := s.gateway.Load(d.UID); ok {
		t.Error("state of a deployment that is gone is kept")
	}
}

func TestSplitAndPin(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	for _, name := range []string{"blue", "green"} {
		s.instance(name, func(context.Context, *inference.Call) (*inference.Answer, error) {
			return answer(200, name), nil
		})
	}
	green := blue("green")
	green.Name, green.UID = "green", "uid-green"
	s.set(blue("blue"), green)
	for range 20 {
		if r := s.do("POST", score, "x"); r.body != "blue" || r.header.Get("azureml-model-deployment") != "blue" {
			t.Fatalf("%d %q", r.status, r.body)
		}
		if r := s.do("POST", score, "x", "Azureml-Model-Deployment", "GREEN"); r.body != "green" || r.header.Get("azureml-model-deployment") != "green" {
			t.Fatalf("pinned at 0 %%: %d %q", r.status, r.body)
		}
	}
}

func TestLeastLoaded(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	gates := map[string]*gate{"a": newGate(), "b": newGate(), "c": newGate()}
	for id, g := range gates {
		s.instance(id, g.do)
	}
	d := blue("a", "b", "c")
	d.Request.MaxConcurrent = 2
	d.Request.Timeout = 60 * time.Second
	s.set(d)
	var replies []<-chan reply
	for range 6 {
		replies = append(replies, s.async())
	}
	for id, g := range gates {
		for range 2 {
			select {
			case <-g.started:
			case <-time.After(testkit.Limit):
				t.Fatalf("instance %s does not get its share", id)
			}
		}
	}
	for _, g := range gates {
		g.open <- struct{}{}
		g.open <- struct{}{}
	}
	for _, r := range replies {
		<-r
	}
}

func TestBufferBudget(t *testing.T) {
	s := newSite(t, gateway.Config{BufferBytes: 1 << 20}, gateway.ServerConfig{})
	g := newGate()
	s.instance("i1", g.do)
	d := blue("i1")
	d.Request.Timeout = 60 * time.Second
	s.set(d)
	large := strings.Repeat("x", 800<<10)
	done := make(chan reply, 1)
	go func() {
		r, _ := s.try("POST", score, large)
		done <- r
	}()
	<-g.started
	r := s.do("POST", score, large)
	if code, _ := r.errorCode(t); r.status != 429 || code != "too_many_buffered_bytes" {
		t.Errorf("%d %q", r.status, r.body)
	}
	g.open <- struct{}{}
	<-done
	go func() {
		<-g.started
		g.open <- struct{}{}
	}()
	if r := s.do("POST", score, large); r.status != 200 {
		t.Errorf("memory was not given back: %d", r.status)
	}
}

func TestDrain(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	g := newGate()
	s.instance("i1", g.do)
	d := blue("i1")
	d.Request.Timeout = 60 * time.Second
	s.set(d)
	running := s.async()
	<-g.started
	drained := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), testkit.Limit)
		defer cancel()
		drained <- s.server.Drain(ctx)
	}()
	testkit.Until(t, "refuses connections", func() bool {
		conn, err := net.Dial("tcp", s.addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	g.open <- struct{}{}
	if r := <-running; r.status != 200 || r.body != "done" {
		t.Errorf("a request in flight: %d %q", r.status, r.body)
	}
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
	testkit.Until(t, "connections counted as closed", func() bool {
		s.records.mu.Lock()
		defer s.records.mu.Unlock()
		return s.records.open == 0
	})
}

func TestDrainCutsOff(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	g := newGate()
	s.instance("i1", g.do)
	d := blue("i1")
	d.Request.Timeout = 60 * time.Second
	s.set(d)
	running := s.async()
	<-g.started
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.server.Drain(ctx); err == nil {
		t.Error("cutting off a request is not told")
	}
	if r := <-running; r.status == 200 {
		t.Errorf("%d %q", r.status, r.body)
	}
	if rec := s.records.wait(t, 1); rec.Status != telemetry.StatusClientClosed {
		t.Errorf("Drain returned before the request had ended: %+v", rec)
	}
}

// TestStress changes tables under load and looks for lost slots. Its worth is under -race.
func TestStress(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	var running, calls atomic.Int64
	for i := range 4 {
		s.instance(fmt.Sprint("i", i), func(ctx context.Context, call *inference.Call) (*inference.Answer, error) {
			running.Add(1)
			defer running.Add(-1)
			if calls.Add(1)%5 == 0 {
				return nil, inference.ErrClosed
			}
			return echo(ctx, call)
		})
	}
	tables := [][]string{{"i0"}, {"i0", "i1"}, {"i2", "i3"}, {}, {"i0", "i1", "i2", "i3"}}
	make := func(ids []string) route.Deployment {
		d := blue(ids...)
		d.Request = online.RequestSettings{Timeout: 60 * time.Second, MaxConcurrent: 8}
		return d
	}
	s.set(make(tables[0]))
	var clients, swapper sync.WaitGroup
	stop := s.swap(&swapper, func(n int) { s.set(make(tables[n%len(tables)])) })
	var good, full atomic.Int64
	for range 8 {
		clients.Go(func() {
			for range 100 {
				r, err := s.try("POST", score, "payload")
				switch {
				case err != nil:
					t.Error(err)
				case r.status == 200 && r.body == "payload":
					good.Add(1)
				case r.status == 429:
					full.Add(1)
				default:
					t.Errorf("%d %q", r.status, r.body)
				}
			}
		})
	}
	clients.Wait()
	close(stop)
	swapper.Wait()
	if good.Load() == 0 || good.Load()+full.Load() != 800 {
		t.Errorf("good %d, full %d", good.Load(), full.Load())
	}
	if l, _ := s.gateway.Load("uid-blue"); l != (gateway.Load{}) || running.Load() != 0 {
		t.Errorf("left behind: %+v, %d running", l, running.Load())
	}
}

// swap calls change again and again, and a last time with 0, until the channel is closed.
func (s *site) swap(wg *sync.WaitGroup, change func(n int)) chan struct{} {
	stop := make(chan struct{})
	wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				change(n)
			}
		}
	})
	return stop
}
