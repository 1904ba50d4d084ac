package gateway_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"portico/internal/gateway"
	"portico/internal/inference"
	"portico/internal/telemetry"
	"portico/internal/testkit"
)

// slow takes some time over a request, and stops when nobody wants the answer or the deadline passes, as a worker does.
func slow(d time.Duration) upstream {
	return func(ctx context.Context, call *inference.Call) (*inference.Answer, error) {
		select {
		case <-time.After(d):
			return answer(200, string(call.Body), inference.Field{Name: "x-ms-request-id", Value: call.ID}), nil
		case <-time.After(time.Until(call.Deadline)):
			return nil, inference.ErrDeadline
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// outcome is how a request ended, and after how long.
type outcome struct {
	*taken
	after time.Duration
}

// later sends a request in the bubble's time; its caller hangs up after patience, unless that is 0.
func (b *bare) later(wait, patience time.Duration, body string) <-chan outcome {
	out := make(chan outcome, 1)
	go func() {
		time.Sleep(wait)
		ctx := context.Background()
		if patience > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, patience)
			defer cancel()
		}
		start := time.Now()
		out <- outcome{b.do(ctx, body), time.Since(start)}
	}()
	return out
}

func flying(t *testing.T, run upstream, test func(b *bare)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBare(t, gateway.Config{})
		b.set(cached(3, minute(), "b1"))
		b.script("b1", run)
		test(b)
		synctest.Wait()
		if load, ok := b.gateway.Load("uid-blue"); !ok || load.Executing != 0 || load.Waiting != 0 {
			t.Errorf("left behind: %+v", load)
		}
	})
}

// TestFlightIsShared: equal requests at one time cost one call; each has its own ids.
func TestFlightIsShared(t *testing.T) {
	flying(t, slow(time.Second), func(b *bare) {
		lead := b.later(0, 0, "a")
		var all []<-chan outcome
		for i := range 50 {
			all = append(all, b.later(time.Duration(i+1)*time.Millisecond, 0, "a"))
		}
		other := b.later(time.Millisecond, 0, "b")
		first := <-lead
		b.expect(first.taken, "miss")
		ids := map[string]bool{first.get("x-request-id"): true}
		for _, c := range all {
			o := <-c
			b.expect(o.taken, "shared")
			if o.String() != "200 a" || o.get("age") != "" || o.get("x-ms-request-id") != o.get("x-request-id") || o.after > time.Second {
				b.t.Errorf("%s after %s %v", o, o.after, o.header)
			}
			ids[o.get("x-request-id")] = true
		}
		if o := <-other; o.String() != "200 b" || b.calls.Load() != 2 || len(ids) != 51 {
			b.t.Errorf("%s, %d calls, %d ids", o, b.calls.Load(), len(ids))
		}
		b.expect(b.do(context.Background(), "a"), "hit")
	})
}

// TestLeaderHangsUp: the work goes on for who waits, and is not done twice.
func TestLeaderHangsUp(t *testing.T) {
	flying(t, slow(time.Second), func(b *bare) {
		lead, follow := b.later(0, 300*time.Millisecond, "a"), b.later(100*time.Millisecond, 0, "a")
		o := <-follow
		b.expect(o.taken, "shared")
		if o.String() != "200 a" || o.after != 900*time.Millisecond || b.calls.Load() != 1 {
			b.t.Errorf("%s after %s, %d calls", o, o.after, b.calls.Load())
		}
		<-lead
		b.expect(b.do(context.Background(), "a"), "hit")
	})
}

// TestNobodyWaits: work that nobody wants any more is ended, at an instance and in the queue.
func TestNobodyWaits(t *testing.T) {
	flying(t, slow(4*time.Second), func(b *bare) {
		lead, follow := b.later(0, 300*time.Millisecond, "a"), b.later(100*time.Millisecond, time.Second, "a")
		for _, c := range []<-chan outcome{lead, follow} {
			if o := <-c; o.status != 0 || !o.aborted || o.after > 1100*time.Millisecond {
				b.t.Errorf("%s after %s", o, o.after)
			}
		}
		for i := 1; i <= 2; i++ {
			if r := b.records.wait(b.t, i); r.Status != telemetry.StatusClientClosed {
				b.t.Errorf("%+v", r)
			}
		}
		o := <-b.later(0, 0, "a") // begins anew
		b.expect(o.taken, "miss")
		if o.String() != "200 a" || b.calls.Load() != 2 {
			b.t.Errorf("%s, %d calls", o, b.calls.Load())
		}
	})
}

// TestLeaderIsLate: one that waits takes over from a leader whose deadline has passed.
func TestLeaderIsLate(t *testing.T) {
	var calls atomic.Int64
	first := func(ctx context.Context, call *inference.Call) (*inference.Answer, error) {
		if calls.Add(1) == 1 {
			return slow(time.Hour)(ctx, call)
		}
		return slow(time.Second)(ctx, call)
	}
	flying(t, first, func(b *bare) {
		lead := b.later(0, 0, "a")
		early, late := b.later(2*time.Second, 0, "a"), b.later(3*time.Second, 0, "a")
		gone := b.later(time.Second, 500*time.Millisecond, "a")
		if o := <-lead; o.status != 408 || o.after != 5*time.Second {
			b.t.Errorf("leader: %s after %s", o, o.after)
		}
		if o := <-gone; o.status != 0 || !o.aborted {
			b.t.Errorf("gone: %s", o)
		}
		took := map[string]int{}
		for _, c := range []<-chan outcome{early, late} {
			o := <-c
			took[o.get("x-portico-cache")]++
			if o.String() != "200 a" {
				b.t.Errorf("%s after %s", o, o.after)
			}
		}
		if took["miss"] != 1 || took["shared"] != 1 || calls.Load() != 2 {
			b.t.Errorf("%v, %d calls", took, calls.Load())
		}
	})
}

// TestFollowerIsLate: a follower has its own deadline and its own connection; the others do not notice.
func TestFollowerIsLate(t *testing.T) {
	flying(t, slow(4*time.Second), func(b *bare) {
		b.set(cached(3, minute())) // no instance: the leader waits for one
		lead, follow := b.later(0, 0, "a"), b.later(time.Second, 0, "a")
		time.Sleep(4500 * time.Millisecond)
		b.set(cached(3, minute(), "b1"))
		if o := <-lead; o.status != 408 || o.after != 5*time.Second {
			b.t.Errorf("leader: %s after %s", o, o.after)
		}
		if o := <-follow; o.status != 408 || o.after != 5*time.Second || o.get("ms-azureml-model-error-statuscode") != "" {
			b.t.Errorf("follower: %s after %s", o, o.after)
		}
		b.set(cached(3, minute()))
		lead, follow = b.later(0, 0, "b"), b.later(time.Second, 0, "b")
		if o := <-lead; o.status != 424 || o.after != 5*time.Second {
			b.t.Errorf("leader: %s after %s", o, o.after)
		}
		if o := <-follow; o.status != 424 || o.after != 5*time.Second {
			b.t.Errorf("follower: %s after %s", o, o.after)
		}
	})
}

// TestFailureIsNotShared: when the outcome cannot be shared, all who wait ask instances themselves, at once.
func TestFailureIsNotShared(t *testing.T) {
	var calls atomic.Int64
	fails := func(ctx context.Context, call *inference.Call) (*inference.Answer, error) {
		n := calls.Add(1)
		a, err := slow(time.Second)(ctx, call)
		if err == nil {
			a.Status = 500
			a.Header = append(a.Header, inference.Field{Name: "x-number", Value: fmt.Sprint(n)})
		}
		return a, err
	}
	flying(t, fails, func(b *bare) {
		var all []<-chan outcome
		for i := range 20 {
			all = append(all, b.later(time.Duration(i)*time.Millisecond, 0, "a"))
		}
		numbers := map[string]bool{}
		for _, c := range all {
			o := <-c
			b.expect(o.taken, "miss")
			numbers[o.get("x-number")] = true
			if o.status != 424 || o.get("ms-azureml-model-error-statuscode") != "500" || o.after > 2*time.Second {
				b.t.Errorf("%s after %s", o, o.after)
			}
		}
		if len(numbers) != 20 || calls.Load() != 20 {
			b.t.Errorf("%d answers of %d calls", len(numbers), calls.Load())
		}
	})
}

// TestStreamIsNotShared: followers do not wait for the end of a stream.
func TestStreamIsNotShared(t *testing.T) {
	var calls atomic.Int64
	streams := func(_ context.Context, call *inference.Call) (*inference.Answer, error) {
		time.Sleep(100 * time.Millisecond)
		n := calls.Add(1)
		a := answer(200, "")
		a.ContentLength = -1
		a.Body = &dripping{text: fmt.Sprint(string(call.Body), n), pause: time.Second}
		return a, nil
	}
	flying(t, streams, func(b *bare) {
		lead, follow := b.later(0, 0, "a"), b.later(50*time.Millisecond, 0, "a")
		if o := <-lead; o.String() != "200 a1" || o.after != 2100*time.Millisecond {
			b.t.Errorf("%s after %s", o, o.after)
		}
		if o := <-follow; o.String() != "200 a2" || o.after != 2150*time.Millisecond {
			b.t.Errorf("%s after %s", o, o.after)
		}
	})
}

// dripping gives a byte at a time.
type dripping struct {
	text  string
	pause time.Duration
}

func (d *dripping) Read(p []byte) (int, error) {
	if d.text == "" {
		return 0, io.EOF
	}
	time.Sleep(d.pause)
	n := copy(p[:1], d.text)
	d.text = d.text[n:]
	return n, nil
}

func (d *dripping) Close() error { return nil }

// TestFlightsUnderChange: requests, hang-ups, failures, updates and purges at random. Every answer is what the script says of the
// request's own body, by a generation that was there while the request was; every request ends; nothing stays behind.
func TestFlightsUnderChange(t *testing.T) {
	b := newBare(t, gateway.Config{CacheBytes: 32 << 10})
	run := func(generation int) upstream {
		return func(ctx context.Context, call *inference.Call) (*inference.Answer, error) {
			if _, err := slow(time.Duration(rand.IntN(3))*time.Millisecond)(ctx, call); err != nil {
				return nil, err
			}
			if rand.IntN(10) == 0 {
				return answer(500, "failed"), nil
			}
			return answer(200, fmt.Sprintf("%d:%s", generation, call.Body)), nil
		}
	}
	var newest, oldest atomic.Int64 // generations that may answer
	newest.Store(1)
	oldest.Store(1)
	b.script("b1", run(1))
	b.set(cached(1, minute(), "b1"))
	stop := make(chan struct{})
	var changes sync.WaitGroup
	changes.Go(func() {
		for generation := 2; ; generation++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			old, next := fmt.Sprint("b", generation-1), fmt.Sprint("b", generation)
			b.script(next, run(generation))
			newest.Store(int64(generation))
			d := cached(int64(generation), minute(), old, next)
			d.Instances[0].Generation = int64(generation - 1)
			b.set(d)
			time.Sleep(5 * time.Millisecond)
			b.gateway.PurgeCache("uid-blue")
			b.set(cached(int64(generation), minute(), next))
			oldest.Store(int64(generation))
		}
	})
	var seen [5]atomic.Int64
	var callers sync.WaitGroup
	for range 24 {
		callers.Go(func() {
			for range 150 {
				body := strings.Repeat("x", 1+rand.IntN(12))
				ctx, cancel := context.WithTimeout(context.Background(), testkit.Limit)
				if rand.IntN(5) == 0 {
					cancel()
					ctx, cancel = context.WithTimeout(context.Background(), time.Duration(rand.IntN(2000))*time.Microsecond)
				}
				from := oldest.Load()
				k := b.do(ctx, body)
				upTo := newest.Load()
				cancel()
				var generation int64
				var said string
				switch {
				case k.status == 424 || k.status == 0 && k.aborted || k.aborted:
					continue
				case k.status != 200:
					t.Errorf("%s", k)
					continue
				}
				if n, err := fmt.Sscanf(k.body.String(), "%d:%s", &generation, &said); n != 2 || err != nil || said != body ||
					generation < from || generation > upTo {
					t.Errorf("asked %s of generations %d to %d: %s (%s)", body, from, upTo, k, k.get("x-portico-cache"))
				}
				for i, how := range []string{"hit", "miss", "shared"} {
					if k.get("x-portico-cache") == how {
						seen[i].Add(1)
					}
				}
			}
		})
	}
	callers.Wait()
	close(stop)
	changes.Wait()
	for i, how := range []string{"hit", "miss", "shared"} {
		if seen[i].Load() == 0 {
			t.Errorf("no request was a %s", how)
		}
	}
	b.gateway.PurgeCache("uid-blue")
	if held := b.records.held(); held != 0 {
		t.Errorf("%d bytes stay", held)
	}
	if load, ok := b.gateway.Load("uid-blue"); !ok || load.Executing != 0 || load.Waiting != 0 {
		t.Errorf("left behind: %+v", load)
	}
}
