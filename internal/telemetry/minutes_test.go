package telemetry

import (
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// TestMinutesAddUp: minutes and Query are two views of the same counts, and no minute is invented or lost.
func TestMinutesAddUp(t *testing.T) {
	tel := open(t, Config{})
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z]{12}`).Draw(t, "endpoint")
		begin := time.Now().Truncate(time.Minute).Add(-30 * time.Minute)
		want := map[string]uint64{} // by deployment
		slowest, fastest := 0.0, math.Inf(1)
		var mirrored uint64
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			d := rapid.SampledFrom([]string{"", "blue", "green"}).Draw(t, "deployment")
			at := begin.Add(time.Duration(rapid.IntRange(0, 20*60).Draw(t, "second")) * time.Second)
			took := time.Duration(rapid.IntRange(1, 3_000_000).Draw(t, "took")) * time.Microsecond
			r := request(name, d, at, rapid.SampledFrom([]int{200, 424, 429}).Draw(t, "status"), 200, took)
			if r.Mirror = rapid.IntRange(0, 9).Draw(t, "mirror") == 0; r.Mirror {
				mirrored++
			} else {
				want[d]++
				slowest, fastest = max(slowest, ms(took)), min(fastest, ms(took))
			}
			tel.Record(r)
		}
		end := begin.Add(25 * time.Minute)
		got, copies := map[string]uint64{}, uint64(0)
		low, high := math.Inf(1), 0.0
		var latency float64
		for _, s := range tel.Minutes(name, begin, end) {
			if !slices.IsSortedFunc(s.Minutes, func(a, b Minute) int { return a.Time.Compare(b.Time) }) {
				t.Fatal("minutes are out of order")
			}
			for _, m := range s.Minutes {
				n := uint64(0)
				for _, row := range m.Statuses {
					n += row.Requests
				}
				if n != m.Requests() || n == 0 || m.Fastest > m.Slowest || m.Latency+1e-9 < m.Slowest {
					t.Fatalf("minute %+v", m)
				}
				if p := Percentile(1, m); p != m.Slowest {
					t.Fatalf("the 100th percentile %v of a minute whose slowest took %v", p, m.Slowest)
				}
				if s.Mirror {
					copies += n
					continue
				}
				got[s.Deployment] += n
				latency += m.Latency
				low, high = min(low, m.Fastest), max(high, m.Slowest)
			}
		}
		sum := tel.Query(name, begin, end)
		for d, n := range want {
			if got[d] != n {
				t.Fatalf("%q has %d requests, want %d", d, got[d], n)
			}
		}
		var mirrors uint64
		for _, row := range sum.Mirrors {
			mirrors += row.Requests
		}
		if copies != mirrored || mirrors != mirrored || sum.Total.Requests != got[""]+got["blue"]+got["green"] {
			t.Fatalf("copies %d and %d, want %d; total %d", copies, mirrors, mirrored, sum.Total.Requests)
		}
		if sum.Total.Requests > 0 {
			if low != fastest || high != slowest {
				t.Fatalf("from %v to %v, want %v to %v", low, high, fastest, slowest)
			}
			if mean := latency / float64(sum.Total.Requests); math.Abs(mean-sum.Total.Average) > 0.01 {
				t.Fatalf("mean %v, Query says %v", mean, sum.Total.Average)
			}
		}
	})
}

func TestMinutesAreCut(t *testing.T) {
	tel := open(t, Config{})
	at := time.Date(2026, 11, 23, 12, 0, 30, 0, time.UTC)
	for i := range 5 {
		tel.Record(request("ep", "blue", at.Add(time.Duration(i)*time.Minute), 200, 200, time.Millisecond))
	}
	got := tel.Minutes("ep", at.Add(time.Minute), at.Add(3*time.Minute))
	if len(got) != 1 || len(got[0].Minutes) != 3 || !got[0].Minutes[0].Time.Equal(at.Add(30*time.Second)) {
		t.Errorf("got %+v", got)
	}
	if got := tel.Minutes("other", at, at.Add(time.Hour)); len(got) != 0 {
		t.Errorf("an endpoint without requests has %+v", got)
	}
	if p := Percentile(0.5); p != 0 {
		t.Errorf("the median of nothing is %v", p)
	}
}

func TestConnectionHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel, err := New(Config{Retention: time.Hour}, quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer tel.Close()
		time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute))) // begin at a whole minute
		begin := time.Now()
		tel.Connection(+1)
		time.Sleep(30 * time.Second)
		tel.Connection(+1)
		time.Sleep(30 * time.Second)
		time.Sleep(2 * time.Minute)
		tel.Connection(-1)
		tel.Connection(-1)
		time.Sleep(90 * time.Second)
		got := tel.Connections(begin, time.Now())
		want := []ConnectionMinute{
			{begin.UTC(), 1.5, 2, 0, 2}, {begin.UTC().Add(time.Minute), 2, 2, 2, 0}, {begin.UTC().Add(2 * time.Minute), 2, 2, 2, 0},
			{begin.UTC().Add(3 * time.Minute), 0, 2, 0, 0}, {begin.UTC().Add(4 * time.Minute), 0, 0, 0, 0},
		}
		if !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		time.Sleep(2 * time.Hour)
		if got := tel.Connections(begin, begin.Add(time.Hour)); len(got) != 0 {
			t.Errorf("%d minutes are kept beyond the retention", len(got))
		}
	})
}

func TestConnectionHistoryOverClockChanges(t *testing.T) {
	var h connectionHistory
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	h.count(+1, at)
	h.count(+1, at.Add(-time.Hour))       // set back
	h.count(-1, at.Add(365*24*time.Hour)) // far ahead
	if len(h.minutes) > 3 {
		t.Errorf("%d minutes were filled", len(h.minutes))
	}
	for minute, c := range h.minutes {
		if c.passed < 0 || c.passed > time.Minute || c.open < 0 {
			t.Errorf("minute %d: %+v", minute, c)
		}
	}
}

// TestMirrorLine: copies are marked in the access log.
func TestMirrorLine(t *testing.T) {
	r := request("ep", "green", time.Unix(0, 0), 200, 200, time.Millisecond)
	plain := string(appendLine(nil, r))
	r.Mirror = true
	if marked := string(appendLine(nil, r)); marked == plain || len(marked) != len(plain)+len(`,"mirror":true`) {
		t.Errorf("lines %s and %s", plain, marked)
	}
}
