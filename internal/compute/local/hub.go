package local

import (
	"context"
	"slices"
	"sync"

	"portico/internal/compute"
)

// hub tells watchers of sets. A watcher that is slow gets the newest event of each set and misses those between,
// so what is held for it is bounded by the number of sets.
type hub struct {
	mu       sync.Mutex
	sequence map[string]int64
	watchers map[*watcher]struct{}
	stop     chan struct{} // closed by close
	running  sync.WaitGroup
}

type watcher struct {
	pending map[string]compute.Event
	order   []string // keys of pending, oldest first
	wake    chan struct{}
}

func newHub() *hub {
	return &hub{sequence: map[string]int64{}, watchers: map[*watcher]struct{}{}, stop: make(chan struct{})}
}

// publish gives the event the next sequence number of its set and hands it to every watcher. It never waits.
func (h *hub) publish(ev compute.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := ev.Set.ID
	h.sequence[id]++
	ev.Sequence = h.sequence[id]
	if ev.Gone {
		// The ids of sets are unique for ever, so the number is never continued.
		delete(h.sequence, id)
	}
	for w := range h.watchers {
		w.add(ev)
	}
}

// watch begins a stream: what exists, Synced, then changes until ctx ends or the hub closes. The caller makes
// sure that no event is published between its reading of sets and this call.
func (h *hub) watch(ctx context.Context, sets []compute.Set) <-chan compute.Event {
	out := make(chan compute.Event)
	w := &watcher{pending: map[string]compute.Event{}, wake: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	first := make([]compute.Event, 0, len(sets)+1)
	for _, s := range sets {
		first = append(first, compute.Event{Sequence: h.sequence[s.ID], Set: s})
	}
	first = append(first, compute.Event{Synced: true})
	h.watchers[w] = struct{}{}
	h.running.Go(func() {
		defer close(out)
		defer h.leave(w)
		for _, ev := range first {
			if !h.send(ctx, out, ev) {
				return
			}
		}
		h.stream(ctx, w, out)
	})
	return out
}

func (h *hub) stream(ctx context.Context, w *watcher, out chan<- compute.Event) {
	for {
		h.mu.Lock()
		ev, ok := w.take()
		h.mu.Unlock()
		if ok {
			if !h.send(ctx, out, ev) {
				return
			}
			continue
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		case <-h.stop:
			return
		}
	}
}

func (h *hub) send(ctx context.Context, out chan<- compute.Event, ev compute.Event) bool {
	select {
	case out <- ev:
		return true
	case <-ctx.Done():
		return false
	case <-h.stop:
		return false
	}
}

// close ends every stream and waits for that. It is called once.
func (h *hub) close() {
	close(h.stop)
	h.running.Wait()
}

func (h *hub) leave(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watchers, w)
}

// add replaces what waits of the same set; the caller holds the hub's mutex.
func (w *watcher) add(ev compute.Event) {
	id := ev.Set.ID
	if _, waits := w.pending[id]; !waits {
		w.order = append(w.order, id)
	}
	w.pending[id] = ev
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) take() (compute.Event, bool) {
	if len(w.order) == 0 {
		return compute.Event{}, false
	}
	id := w.order[0]
	w.order = slices.Delete(w.order, 0, 1)
	ev := w.pending[id]
	delete(w.pending, id)
	ev.Set.Instances = slices.Clone(ev.Set.Instances) // each watcher gets its own
	return ev, true
}
