package inference

import (
	"math/rand/v2"
	"testing"
	"time"
)

// shop is a pool of one worker in simulated time: callers come, forming decides when a run begins, and its answers go
// back. Nothing in it is random but what a test puts in.
type shop struct {
	forming
	now     time.Time
	run     time.Duration   // of any batch
	think   time.Duration   // of a caller between two calls
	arrive  []time.Time     // calls that will come, in any order
	queue   []time.Time     // calls that wait, by arrival
	busyTo  time.Time       // zero: idle
	size    int             // of the batch that runs
	idleAt  time.Time       // since when the worker is free
	sizes   []int           // of every batch, in order
	waited  []time.Duration // of every call with the worker free
	returns bool            // callers come back
}

func newShop(maxSize int, maxWait, run time.Duration) *shop {
	start := time.Unix(1000, 0)
	return &shop{forming: forming{Batching: Batching{maxSize, maxWait}}, now: start, idleAt: start, run: run}
}

// until plays what happens before the end.
func (s *shop) until(end time.Time) {
	for {
		next := end
		if s.busyTo.IsZero() && len(s.queue) > 0 {
			hold := s.hold(s.now, len(s.queue))
			if hold <= 0 {
				s.begin()
				continue
			}
			next = earlier(next, s.now.Add(hold))
		}
		if !s.busyTo.IsZero() {
			next = earlier(next, s.busyTo)
		}
		first := -1
		for i, at := range s.arrive {
			if at.Before(next) {
				next, first = at, i
			}
		}
		if !next.Before(end) {
			s.now = end
			return
		}
		s.now = next
		switch {
		case first >= 0:
			s.queue = append(s.queue, next)
			s.arrive = append(s.arrive[:first], s.arrive[first+1:]...)
		case next.Equal(s.busyTo):
			s.ended(s.now, s.size, len(s.queue))
			s.busyTo, s.idleAt = time.Time{}, s.now
			if s.returns {
				for range s.size {
					s.arrive = append(s.arrive, s.now.Add(s.think))
				}
			}
		}
	}
}

func (s *shop) begin() {
	s.size = min(len(s.queue), s.MaxSize)
	for _, at := range s.queue[:s.size] {
		free := s.idleAt
		if at.After(free) {
			free = at
		}
		s.waited = append(s.waited, s.now.Sub(free))
	}
	s.queue = s.queue[s.size:]
	s.began(s.size)
	s.sizes = append(s.sizes, s.size)
	s.busyTo = s.now.Add(s.run)
}

func (s *shop) come(after time.Duration) { s.arrive = append(s.arrive, s.now.Add(after)) }

// TestFormingNeverDelaysWhoIsAlone: one caller after another, at any distance, is never held back.
func TestFormingNeverDelaysWhoIsAlone(t *testing.T) {
	for _, think := range []time.Duration{0, time.Microsecond, time.Millisecond, time.Second} {
		s := newShop(16, 5*time.Millisecond, 10*time.Millisecond)
		s.think, s.returns = think, true
		s.come(0)
		s.until(s.now.Add(time.Second))
		for _, w := range s.waited {
			if w != 0 {
				t.Fatalf("think time %s: waited %s for nobody", think, w)
			}
		}
		if len(s.waited) == 0 {
			t.Fatal("nothing ran")
		}
	}
}

// TestFormingNeverDelaysWhenIdle: whoever comes when nothing has run for the longest wait starts at once, whatever was
// before.
func TestFormingNeverDelaysWhenIdle(t *testing.T) {
	const maxWait = 5 * time.Millisecond
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		s := newShop(1+rng.IntN(40), maxWait, time.Duration(rng.IntN(20))*time.Millisecond+1)
		for range rng.IntN(100) {
			s.come(time.Duration(rng.IntN(50_000)) * time.Microsecond)
		}
		s.until(s.now.Add(time.Minute))
		before := len(s.waited)
		s.come(time.Duration(rng.IntN(1000)) * time.Microsecond)
		s.until(s.now.Add(time.Second))
		if len(s.waited) != before+1 || s.waited[before] != 0 {
			t.Fatalf("waited %v after a minute of rest", s.waited[before:])
		}
	}
}

// TestFormingBounds: no call waits longer than the bound for a worker that is free, and no batch is too large, under
// any pattern of calls.
func TestFormingBounds(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		maxSize, maxWait := 2+rng.IntN(30), time.Duration(rng.IntN(8000))*time.Microsecond
		s := newShop(maxSize, maxWait, time.Duration(rng.IntN(15_000))*time.Microsecond+1)
		s.think, s.returns = time.Duration(rng.IntN(9000))*time.Microsecond, rng.IntN(2) == 0
		n := 1 + rng.IntN(80)
		for range n {
			s.come(time.Duration(rng.IntN(30_000)) * time.Microsecond)
		}
		s.until(s.now.Add(300 * time.Millisecond))
		s.returns = false
		s.until(s.now.Add(time.Minute))
		for _, w := range s.waited {
			if w > maxWait {
				t.Fatalf("waited %s, at most %s is allowed", w, maxWait)
			}
		}
		for _, size := range s.sizes {
			if size > maxSize {
				t.Fatalf("a batch of %d, at most %d is allowed", size, maxSize)
			}
		}
		if len(s.queue) > 0 || len(s.arrive) > 0 || len(s.waited) < n {
			t.Fatalf("%d calls were never run", len(s.queue)+len(s.arrive))
		}
	}
}

// TestFormingFillsBatches: callers who come back after their answers meet in one batch, however they began.
func TestFormingFillsBatches(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, callers := range []int{2, 7, 16, 32, 50} {
		s := newShop(16, 5*time.Millisecond, 10*time.Millisecond)
		s.think, s.returns = time.Millisecond, true
		for range callers {
			s.come(time.Duration(rng.IntN(10_000)) * time.Microsecond)
		}
		s.until(s.now.Add(2 * time.Second))
		want := min(callers, 16)
		full := 0
		for _, size := range s.sizes {
			if size == want {
				full++
			}
		}
		if full < len(s.sizes)*8/10 {
			t.Errorf("%d callers: %d of %d batches have %d calls: %v", callers, full, len(s.sizes), want, s.sizes[:40])
		}
	}
}

// TestFormingStopsHopingInVain: callers who do not come back are soon not waited for any more.
func TestFormingStopsHopingInVain(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	s := newShop(16, 5*time.Millisecond, 10*time.Millisecond)
	at := time.Duration(0)
	for range 5000 { // a load of three quarters without batches, nobody comes twice
		at += time.Duration(rng.ExpFloat64() * float64(13*time.Millisecond))
		s.come(at)
	}
	s.until(s.now.Add(at + time.Minute))
	held, total := 0, time.Duration(0)
	for _, w := range s.waited {
		if total += w; w > 0 {
			held++
		}
	}
	if held > len(s.waited)/10 || total/time.Duration(len(s.waited)) > 250*time.Microsecond {
		t.Errorf("%d of %d calls were held back, on average for %s", held, len(s.waited), total/time.Duration(len(s.waited)))
	}
	t.Logf("%d of %d calls held back, %s on average", held, len(s.waited), total/time.Duration(len(s.waited)))
}
