package reconcile

import (
	"context"
	"sync"
	"time"
)

// queue hands out keys that need a look. A key is handed to one taker at a time; adding it meanwhile makes it
// come again. It holds each key once, so it is bounded by the number of resources.
type queue[K comparable] struct {
	mu      sync.Mutex
	wake    chan struct{}
	order   []K
	queued  map[K]bool
	running map[K]bool
	again   map[K]bool
	timers  map[K]*time.Timer
	closed  bool
}

func newQueue[K comparable]() *queue[K] {
	return &queue[K]{wake: make(chan struct{}, 1), queued: map[K]bool{}, running: map[K]bool{}, again: map[K]bool{}, timers: map[K]*time.Timer{}}
}

func (q *queue[K]) add(k K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed || q.queued[k]:
		return
	case q.running[k]:
		q.again[k] = true
		return
	}
	q.queued[k] = true
	q.order = append(q.order, k)
	q.signal()
}

// after adds the key once d has passed; a later call replaces the wait.
func (q *queue[K]) after(k K, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if t := q.timers[k]; t != nil {
		t.Stop()
	}
	q.timers[k] = time.AfterFunc(d, func() { q.add(k) })
}

// take waits for a key; false when ctx has ended. The taker must call done.
func (q *queue[K]) take(ctx context.Context) (K, bool) {
	for {
		q.mu.Lock()
		if len(q.order) > 0 {
			k := q.order[0]
			q.order = q.order[1:]
			delete(q.queued, k)
			q.running[k] = true
			if len(q.order) > 0 {
				q.signal()
			}
			q.mu.Unlock()
			return k, true
		}
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-ctx.Done():
			var none K
			return none, false
		}
	}
}

func (q *queue[K]) done(k K) {
	q.mu.Lock()
	again := q.again[k]
	delete(q.running, k)
	delete(q.again, k)
	q.mu.Unlock()
	if again {
		q.add(k)
	}
}

// forget drops a key's timer.
func (q *queue[K]) forget(k K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t := q.timers[k]; t != nil {
		t.Stop()
		delete(q.timers, k)
	}
}

func (q *queue[K]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, t := range q.timers {
		t.Stop()
	}
}

// signal wakes one taker; the caller holds mu.
func (q *queue[K]) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
