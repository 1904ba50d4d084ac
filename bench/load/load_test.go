package load_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"portico/bench/load"
)

func TestClosedLoop(t *testing.T) {
	var seen atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("X-A") != "1" || r.Method != http.MethodPost {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if n := seen.Add(1); n%10 == 0 {
			w.Header().Set("Connection", "close")
		} else if n%7 == 0 {
			w.WriteHeader(http.StatusInternalServerError)
		}
		w.Write(body)
	}))
	defer s.Close()
	r, err := load.Run(context.Background(), load.Config{
		URL: s.URL + "/x", Header: http.Header{"X-A": {"1"}}, Body: []byte("hello"), Want: []byte("hello"),
		Connections: 4, Duration: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests == 0 || r.Failures == 0 || r.Failure == nil || len(r.Latencies) != r.Requests || r.Rate() <= 0 {
		t.Errorf("%d requests, %d failures (%v)", r.Requests, r.Failures, r.Failure)
	}
	if total := int64(r.Requests + r.Failures); total > seen.Load() || total < seen.Load()-4 {
		t.Errorf("counted %d, the server saw %d; %v", total, seen.Load(), r.Failure)
	}
	if p50, p99 := r.Percentile(0.5), r.Percentile(0.99); p50 <= 0 || p99 < p50 {
		t.Errorf("p50 %s, p99 %s", p50, p99)
	}
}

// TestFixedRateCountsFromWhenDue: a stall of the server is seen by every request that was due in it.
func TestFixedRateCountsFromWhenDue(t *testing.T) {
	const stall = 300 * time.Millisecond
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if n.Add(1) == 5 {
			time.Sleep(stall)
		}
	}))
	defer s.Close()
	r, err := load.Run(context.Background(), load.Config{URL: s.URL, Connections: 1, Duration: time.Second, Rate: 100})
	if err != nil || r.Failures > 0 {
		t.Fatal(err, r.Failure)
	}
	slow := 0
	for _, l := range r.Latencies {
		if l > stall/3 {
			slow++
		}
	}
	if slow < 10 {
		t.Errorf("%d slow requests of %d: the stall of %s hid those that were due meanwhile", slow, r.Requests, stall)
	}
	if r.Requests > 101 {
		t.Errorf("%d requests in a second, the rate was 100", r.Requests)
	}
}

func TestBadConfig(t *testing.T) {
	for _, cfg := range []load.Config{{URL: "https://x", Connections: 1}, {URL: "http://x"}, {URL: ":", Connections: 1}} {
		if _, err := load.Run(context.Background(), cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}
