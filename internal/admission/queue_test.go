package admission_test

import (
	"context"
	"errors"
	"math/rand"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"portico/internal/admission"
)

var wide = admission.Limits{Executing: 1, Pending: 100, Bytes: 1 << 20}

func later() time.Time { return time.Now().Add(time.Hour) }

// join starts a request and waits until it holds its place. It tells its outcome on the channel.
func join(ctx context.Context, q *admission.Queue, deadline time.Time, size int64) <-chan error {
	out := make(chan error, 1)
	go func() { out <- q.Acquire(ctx, deadline, size) }()
	synctest.Wait()
	return out
}

func TestOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := admission.New(wide)
		if err := q.Acquire(t.Context(), later(), 1); err != nil {
			t.Fatal(err)
		}
		var waiting []<-chan error
		for range 10 {
			waiting = append(waiting, join(t.Context(), q, later(), 1))
		}
		for i, w := range waiting {
			q.Release(1)
			synctest.Wait()
			select {
			case err := <-w:
				if err != nil {
					t.Fatal(err)
				}
			default:
				t.Fatalf("request %d was passed over", i)
			}
			if l := q.Load(); l.Waiting != len(waiting)-1-i || l.Executing != 1 {
				t.Fatalf("after %d: %+v", i, l)
			}
		}
		q.Release(1)
		if l := q.Load(); l != (admission.Load{}) {
			t.Errorf("left behind: %+v", l)
		}
	})
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := admission.New(admission.Limits{Executing: 1, Pending: 2, Bytes: 100})
		if err := q.Acquire(t.Context(), later(), 500); err != nil {
			t.Fatalf("one request alone may be larger than the bound: %v", err)
		}
		if err := q.Acquire(t.Context(), later(), 1); !errors.Is(err, admission.ErrFull) {
			t.Fatalf("bytes: %v", err)
		}
		q.Release(500)
		if err := q.Acquire(t.Context(), later(), 60); err != nil {
			t.Fatal(err)
		}
		if err := q.Acquire(t.Context(), later(), 41); !errors.Is(err, admission.ErrFull) {
			t.Fatalf("bytes: %v", err)
		}
		second := join(t.Context(), q, later(), 40)
		if err := q.Acquire(t.Context(), later(), 0); !errors.Is(err, admission.ErrFull) {
			t.Fatalf("count: %v", err)
		}
		q.Release(60)
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		q.Release(40)
	})
}

func TestDeadlineAndWithdrawal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := admission.New(wide)
		if err := q.Acquire(t.Context(), later(), 1); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		first := join(t.Context(), q, start.Add(3*time.Second), 1)
		second := join(ctx, q, later(), 1)
		third := join(t.Context(), q, later(), 1)
		cancel()
		if err := <-second; !errors.Is(err, context.Canceled) {
			t.Errorf("withdrawn: %v", err)
		}
		if err := <-first; !errors.Is(err, admission.ErrDeadline) || time.Since(start) != 3*time.Second {
			t.Errorf("deadline: %v after %s", err, time.Since(start))
		}
		if err := q.Acquire(t.Context(), time.Now(), 1); !errors.Is(err, admission.ErrDeadline) {
			t.Errorf("a deadline that has passed: %v", err)
		}
		q.Release(1)
		if err := <-third; err != nil {
			t.Errorf("who stayed: %v", err)
		}
		q.Release(1)
		if l := q.Load(); l != (admission.Load{}) {
			t.Errorf("left behind: %+v", l)
		}
	})
}

func TestHoldsWithoutSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := admission.New(admission.Limits{Pending: 4, Bytes: 100})
		var held []<-chan error
		for range 4 {
			held = append(held, join(t.Context(), q, later(), 1))
		}
		if err := q.Acquire(t.Context(), later(), 1); !errors.Is(err, admission.ErrFull) {
			t.Fatalf("%v", err)
		}
		time.Sleep(time.Minute)
		q.SetLimits(admission.Limits{Executing: 3, Pending: 4, Bytes: 100})
		synctest.Wait()
		if l := q.Load(); l.Executing != 3 || l.Waiting != 1 {
			t.Fatalf("%+v", l)
		}
		// Fewer slots: who executes goes on, and nobody follows until there is room.
		q.SetLimits(admission.Limits{Executing: 1, Pending: 4, Bytes: 100})
		q.Release(1)
		q.Release(1)
		synctest.Wait()
		if l := q.Load(); l.Executing != 1 || l.Waiting != 1 {
			t.Fatalf("%+v", l)
		}
		q.Release(1)
		for _, h := range held {
			if err := <-h; err != nil {
				t.Error(err)
			}
		}
		q.Release(1)
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := admission.New(wide)
		if err := q.Acquire(t.Context(), later(), 1); err != nil {
			t.Fatal(err)
		}
		held := join(t.Context(), q, later(), 1)
		q.Close()
		if err := <-held; !errors.Is(err, admission.ErrClosed) {
			t.Errorf("waiting: %v", err)
		}
		if err := q.Acquire(t.Context(), later(), 1); !errors.Is(err, admission.ErrClosed) {
			t.Errorf("coming: %v", err)
		}
		q.Release(1)
		if l := q.Load(); l != (admission.Load{}) {
			t.Errorf("left behind: %+v", l)
		}
	})
}

// TestModel compares the queue with a list of requests in order, step by step.
func TestModel(t *testing.T) {
	type request struct {
		cancel   context.CancelFunc
		deadline time.Time
		out      <-chan error
	}
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 6), 1, 60).Draw(rt, "steps")
		numbers := rapid.SliceOfN(rapid.IntRange(0, 5), len(steps), len(steps)).Draw(rt, "numbers")
		synctest.Test(t, func(t *testing.T) {
			limits := admission.Limits{Executing: 2, Pending: 8, Bytes: 1 << 20}
			q := admission.New(limits)
			executing := 0
			var waiting []request
			settle := func() {
				synctest.Wait()
				for len(waiting) > 0 && executing < limits.Executing {
					if err := <-waiting[0].out; err != nil {
						t.Fatalf("first in line: %v", err)
					}
					waiting[0].cancel()
					waiting = waiting[1:]
					executing++
				}
				if l := q.Load(); l.Executing != executing || l.Waiting != len(waiting) || l.Bytes != int64(executing+len(waiting)) {
					t.Fatalf("%+v, want %d executing, %d waiting", l, executing, len(waiting))
				}
			}
			for i, step := range steps {
				n := numbers[i]
				switch {
				case step <= 2: // arrive
					ctx, cancel := context.WithCancel(t.Context())
					r := request{cancel: cancel, deadline: time.Now().Add(time.Duration(n+1) * time.Second)}
					full := executing+len(waiting) >= limits.Pending
					r.out = join(ctx, q, r.deadline, 1)
					if full {
						if err := <-r.out; !errors.Is(err, admission.ErrFull) {
							t.Fatalf("full: %v", err)
						}
						cancel()
					} else {
						waiting = append(waiting, r)
					}
				case step == 3 && executing > 0:
					q.Release(1)
					executing--
				case step == 4 && len(waiting) > 0: // withdraw
					k := n % len(waiting)
					waiting[k].cancel()
					if err := <-waiting[k].out; !errors.Is(err, context.Canceled) {
						t.Fatalf("withdrawn: %v", err)
					}
					waiting = append(waiting[:k], waiting[k+1:]...)
				case step == 5: // time passes
					time.Sleep(time.Duration(n) * 700 * time.Millisecond)
					synctest.Wait()
					kept := waiting[:0]
					for _, r := range waiting {
						if r.deadline.After(time.Now()) {
							kept = append(kept, r)
							continue
						}
						if err := <-r.out; !errors.Is(err, admission.ErrDeadline) {
							t.Fatalf("late: %v", err)
						}
						r.cancel()
					}
					waiting = kept
				case step == 6:
					limits.Executing = n
					q.SetLimits(limits)
				}
				settle()
			}
			for _, r := range waiting {
				r.cancel()
				<-r.out
			}
		})
	})
}

// TestStress lets grants race with withdrawals, deadlines and changing limits. No slot may be lost or used twice.
func TestStress(t *testing.T) {
	const slots = 4
	q := admission.New(admission.Limits{Executing: slots, Pending: 40, Bytes: 1 << 20})
	var executing, admitted atomic.Int64
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			random := rand.New(rand.NewSource(int64(worker)))
			for range 500 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.Intn(300))*time.Microsecond)
				deadline := time.Now().Add(time.Duration(random.Intn(300)) * time.Microsecond)
				size := int64(random.Intn(100))
				if err := q.Acquire(ctx, deadline, size); err == nil {
					if n := executing.Add(1); n > slots {
						t.Errorf("%d execute at once", n)
					}
					admitted.Add(1)
					executing.Add(-1)
					q.Release(size)
				}
				cancel()
				if random.Intn(10) == 0 {
					q.SetLimits(admission.Limits{Executing: random.Intn(slots + 1), Pending: 40, Bytes: 1 << 20})
				}
			}
		})
	}
	wg.Wait()
	if admitted.Load() == 0 {
		t.Error("nothing was admitted")
	}
	if l := q.Load(); l != (admission.Load{}) {
		t.Errorf("left behind: %+v", l)
	}
}

func BenchmarkAcquireRelease(b *testing.B) {
	q := admission.New(admission.Limits{Executing: 100, Pending: 200, Bytes: 1 << 30})
	deadline := time.Now().Add(time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		if err := q.Acquire(context.Background(), deadline, 256); err != nil {
			b.Fatal(err)
		}
		q.Release(256)
	}
}
