package gateway_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"portico/internal/gateway"
	"portico/internal/inference"
	"portico/internal/online"
	"portico/internal/route"
	"portico/internal/telemetry"
	"portico/internal/testkit"
)

// keeper is a Collector that keeps captures, or has no room.
type keeper struct {
	mu       sync.Mutex
	full     bool
	reserved int64
	refused  int
	kept     []telemetry.Capture
}

func (k *keeper) Reserve(_ *telemetry.Capture, size int64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.full {
		k.refused++
		return false
	}
	k.reserved += size
	return true
}

func (k *keeper) Collect(c *telemetry.Capture) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept = append(k.kept, *c)
}

func (k *keeper) take() []telemetry.Capture {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := k.kept
	k.kept = nil
	return out
}

func collecting(rate float64, names ...string) *online.DataCollector {
	c := &online.DataCollector{RollingRate: "Hour"}
	for _, n := range names {
		c.Collections = append(c.Collections, online.Collection{Name: n, Enabled: true, SamplingRate: rate})
	}
	return c
}

// streamed is an answer of unknown length.
func streamed(parts ...string) upstream {
	return func(context.Context, *inference.Call) (*inference.Answer, error) {
		a := answer(200, strings.Join(parts, ""), inference.Field{Name: "Content-Type", Value: "text/plain"})
		a.ContentLength = -1
		return a, nil
	}
}

// TestCapture: what a deployment collects of bodies is copied as far as the limit, whatever the caller does, and no field
// of a header is.
func TestCapture(t *testing.T) {
	k := &keeper{}
	s := newSite(t, gateway.Config{Collector: k}, gateway.ServerConfig{})
	s.instance("i1", func(_ context.Context, call *inference.Call) (*inference.Answer, error) {
		return answer(200, strings.Repeat("a", len(call.Body)), inference.Field{Name: "Content-Type", Value: "application/json"}), nil
	})
	s.instance("i2", streamed("one ", "two"))
	s.instance("i3", func(context.Context, *inference.Call) (*inference.Answer, error) {
		return answer(500, `{"message":"x"}`), nil
	})
	s.instance("i4", func(context.Context, *inference.Call) (*inference.Answer, error) {
		a := answer(200, "")
		a.ContentLength, a.Body = -1, io.NopCloser(io.MultiReader(strings.NewReader("half"), brokenReader{}))
		return a, nil
	})
	large := strings.Repeat("b", telemetry.MaxCapturedBytes+10)
	for _, c := range []struct {
		what, instance, body string
		names                []string
		request, response    int64 // sizes; -1: not collected
	}{
		{"both", "i1", "hello", []string{"request", "response"}, 5, 5},
		{"request", "i1", "hello", []string{"request", "model_inputs"}, 5, -1},
		{"response", "i1", "hello", []string{"Response"}, -1, 5},
		{"large", "i1", large, []string{"request", "response"}, int64(len(large)), int64(len(large))},
		{"a stream", "i2", "x", []string{"response"}, -1, 7},
		{"a failure", "i3", "x", []string{"request", "response"}, 1, 15},
		{"a broken stream", "i4", "x", []string{"response"}, -1, 4},
	} {
		d := blue(c.instance)
		d.Collector = collecting(1, c.names...)
		s.set(d)
		r, _ := s.try("POST", score+"?q=1", c.body, "Content-Type", "text/csv") // one of them breaks off
		testkit.Until(t, c.what, func() bool { k.mu.Lock(); defer k.mu.Unlock(); return len(k.kept) == 1 })
		got := k.take()[0]
		for _, b := range []struct {
			what string
			body *telemetry.Body
			size int64
			kind string
		}{{"request", got.Request, c.request, "text/csv"}, {"response", got.Response, c.response, ""}} {
			if (b.body == nil) != (b.size < 0) {
				t.Errorf("%s: the %s is %v", c.what, b.what, b.body)
				continue
			}
			if b.body == nil {
				continue
			}
			if b.body.Size != b.size || int64(len(b.body.Data)) != min(b.size, telemetry.MaxCapturedBytes) || b.kind != "" && b.body.Type != b.kind {
				t.Errorf("%s: the %s has %d bytes of %d, %s", c.what, b.what, len(b.body.Data), b.body.Size, b.body.Type)
			}
		}
		if got.UID != d.UID || got.Instance != c.instance || got.Method != http.MethodPost || got.Path != "/score?q=1" {
			t.Errorf("%s: %+v", c.what, got)
		}
		if id := r.header.Get("x-request-id"); id != "" && got.RequestID != id {
			t.Errorf("%s: of request %s, not %s", c.what, got.RequestID, id)
		}
	}
}

// brokenReader fails where an answer should go on.
type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestCaptureNothing: without an enabled collection, outside the sample, or without room a request is served as always.
func TestCaptureNothing(t *testing.T) {
	k := &keeper{}
	s := newSite(t, gateway.Config{Collector: k}, gateway.ServerConfig{})
	s.instance("i1", echo)
	for _, c := range []*online.DataCollector{nil, collecting(1, "model_inputs"), collecting(0, "request", "response"),
		{Collections: []online.Collection{{Name: "request", SamplingRate: 1}}}} {
		d := blue("i1")
		d.Collector = c
		s.set(d)
		if r := s.do("POST", score, "x"); r.status != 200 {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	d := blue("i1")
	d.Collector = collecting(1, "request")
	s.set(d)
	k.full = true
	if r := s.do("POST", score, "x"); r.status != 200 || k.refused != 1 {
		t.Errorf("%d %s, refused %d times", r.status, r.body, k.refused)
	}
	if got := k.take(); len(got) != 0 || k.reserved != 0 {
		t.Errorf("%v was kept, %d bytes reserved", got, k.reserved)
	}
}

// TestCaptureOfCopies: a shadow deployment collects what it got and what it would have answered.
func TestCaptureOfCopies(t *testing.T) {
	k := &keeper{}
	s := newSite(t, gateway.Config{Collector: k}, gateway.ServerConfig{})
	s.instance("i1", echo)
	s.instance("s1", echo)
	s.mirrored(func(green *route.Deployment) { green.Collector = collecting(1, "request", "response") })
	testkit.Until(t, "a copy", func() bool {
		s.do("POST", score, "copied")
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.kept) > 0
	})
	if got := k.take()[0]; string(got.Request.Data) != "copied" || got.Response.Size == 0 || got.Path != "/score" {
		t.Errorf("%+v", got)
	}
}
