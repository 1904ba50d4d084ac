package computetest

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"portico/internal/compute"
)

// How far a far engine's watch may lag, and how often it repeats itself.
const (
	maxDelay     = 150 * time.Millisecond
	maxCopyDelay = 600 * time.Millisecond
	copyChance   = 0.3
)

// Far makes an engine look as if it were far away: what is watched comes late, repeated and in another order. What
// the contract promises stays: the sets that exist come before Synced, and the newest event of each set comes in the
// end. The same seed makes the same choices; a test that fails tells it.
func Far(t *testing.T, e Engine, seed uint64) Engine {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the watch was delayed, repeated and reordered with seed %d", seed)
		}
	})
	return &far{Engine: e, seed: seed}
}

type far struct {
	Engine
	seed uint64
}

// Watch implements compute.Backend.
func (f *far) Watch(ctx context.Context) (<-chan compute.Event, error) {
	in, err := f.Engine.Watch(ctx)
	if err != nil {
		return nil, err
	}
	out := make(chan compute.Event)
	go func() {
		defer close(out)
		d := &disorder{random: rand.New(rand.NewPCG(f.seed, 0)), out: out}
		d.run(ctx, in)
		// The engine below ends its stream with ctx, or with itself.
		for range in {
			continue
		}
	}()
	return out, nil
}

// disorder holds events back.
type disorder struct {
	random *rand.Rand
	out    chan<- compute.Event
	held   heldEvents
}

func (d *disorder) run(ctx context.Context, in <-chan compute.Event) {
	if !d.first(ctx, in) {
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for in != nil || len(d.held) > 0 {
		var due <-chan time.Time
		if len(d.held) > 0 {
			timer.Reset(time.Until(d.held[0].due))
			due = timer.C
		}
		select {
		case ev, ok := <-in:
			if !ok {
				return
			}
			d.hold(ev)
		case <-due:
			if !d.send(ctx, heap.Pop(&d.held).(heldEvent).event) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// first passes what exists on in another order, partly twice, and then Synced.
func (d *disorder) first(ctx context.Context, in <-chan compute.Event) bool {
	var exists []compute.Event
	for ev := range in {
		if !ev.Synced {
			exists = append(exists, ev)
			if d.random.Float64() < copyChance {
				exists = append(exists, ev)
			}
			continue
		}
		d.random.Shuffle(len(exists), func(i, j int) { exists[i], exists[j] = exists[j], exists[i] })
		for _, e := range append(exists, ev) {
			if !d.send(ctx, e) {
				return false
			}
		}
		return true
	}
	return false
}

func (d *disorder) hold(ev compute.Event) {
	now := time.Now()
	heap.Push(&d.held, heldEvent{due: now.Add(d.upTo(maxDelay)), event: ev})
	for d.random.Float64() < copyChance {
		heap.Push(&d.held, heldEvent{due: now.Add(d.upTo(maxCopyDelay)), event: ev})
	}
}

func (d *disorder) upTo(limit time.Duration) time.Duration {
	return time.Duration(d.random.Int64N(int64(limit)))
}

func (d *disorder) send(ctx context.Context, ev compute.Event) bool {
	select {
	case d.out <- ev:
		return true
	case <-ctx.Done():
		return false
	}
}

type heldEvent struct {
	due   time.Time
	event compute.Event
}

// heldEvents is a heap: the event that is due first is at 0.
type heldEvents []heldEvent

func (h heldEvents) Len() int           { return len(h) }
func (h heldEvents) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h heldEvents) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *heldEvents) Push(x any) { *h = append(*h, x.(heldEvent)) }

// Pop implements heap.Interface.
func (h *heldEvents) Pop() any {
	last := len(*h) - 1
	ev := (*h)[last]
	*h = (*h)[:last]
	return ev
}
