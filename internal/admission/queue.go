package admission

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Why a request was not admitted.
var (
	ErrFull     = errors.New("too many requests are pending")
	ErrDeadline = errors.New("deadline passed in the queue")
	ErrClosed   = errors.New("queue is closed")
)

// Limits bound one queue.
type Limits struct {
	Executing int   // slots; 0 holds every request
	Pending   int   // requests that execute or wait
	Bytes     int64 // of the requests that execute or wait; one request alone may be larger
}

// Load is what a queue holds at one moment.
type Load struct {
	Executing int
	Waiting   int
	Bytes     int64
}

// Queue admits requests in order of arrival. Every operation takes constant time, apart from SetLimits, which
// takes time for each request that it admits. It is safe for concurrent use.
type Queue struct {
	mu        sync.Mutex
	limits    Limits
	closed    bool
	executing int
	waiting   int
	bytes     int64
	first     *waiter
	last      *waiter
	free      *waiter // used ones, linked by next: as many as ever waited at once
}

// waiter is a place in the queue. Whoever takes it out of the list sends exactly one value on verdict.
type waiter struct {
	next, prev *waiter
	queued     bool
	verdict    chan error
	timer      *time.Timer
}

// New makes an open queue.
func New(l Limits) *Queue { return &Queue{limits: l} }

// SetLimits changes the limits. More slots admit who waits; fewer let those that execute finish. What is already
// pending stays, also beyond new bounds.
func (q *Queue) SetLimits(l Limits) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limits = l
	q.admitLocked()
}

// Close refuses who waits and who comes with ErrClosed. Those that execute still call Release.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for w := q.first; w != nil; w = q.first {
		q.removeLocked(w)
		w.verdict <- ErrClosed
	}
}

// Load tells what is pending.
func (q *Queue) Load() Load {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Load{Executing: q.executing, Waiting: q.waiting, Bytes: q.bytes}
}

// Acquire waits for a slot for a request of size bytes. After nil the caller owes one Release with the same size.
// Otherwise nothing is held: ErrFull at once, ErrDeadline when the deadline passed, ErrClosed, or ctx's error.
func (q *Queue) Acquire(ctx context.Context, deadline time.Time, size int64) error {
	q.mu.Lock()
	switch {
	case q.closed:
		q.mu.Unlock()
		return ErrClosed
	case q.executing+q.waiting >= q.limits.Pending, q.bytes > 0 && q.bytes+size > q.limits.Bytes:
		q.mu.Unlock()
		return ErrFull
	case q.first == nil && q.executing < q.limits.Executing:
		q.executing++
		q.bytes += size
		q.mu.Unlock()
		return nil
	}
	left := time.Until(deadline)
	if left <= 0 {
		q.mu.Unlock()
		return ErrDeadline
	}
	q.bytes += size
	w := q.enqueueLocked(left)
	q.mu.Unlock()

	var err error
	select {
	case err = <-w.verdict:
	case <-w.timer.C:
		err = q.withdraw(w, ErrDeadline)
	case <-ctx.Done():
		err = q.withdraw(w, ctx.Err())
	}
	q.recycle(w, size, err)
	return err
}

// Release gives a slot back to who waits longest.
func (q *Queue) Release(size int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.executing--
	q.bytes -= size
	q.admitLocked()
}

// withdraw takes w out of the queue. If it was admitted at the same moment the slot is passed on: the caller has
// given up, and one rule for both orders keeps the outcome independent of the race.
func (q *Queue) withdraw(w *waiter, why error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.queued {
		q.removeLocked(w)
		return why
	}
	if verdict := <-w.verdict; verdict != nil {
		return verdict
	}
	q.executing--
	q.admitLocked()
	return why
}

func (q *Queue) admitLocked() {
	for q.first != nil && q.executing < q.limits.Executing {
		w := q.first
		q.removeLocked(w)
		q.executing++
		w.verdict <- nil
	}
}

func (q *Queue) enqueueLocked(left time.Duration) *waiter {
	w := q.free
	if w != nil {
		q.free, w.next = w.next, nil
		w.timer.Reset(left)
	} else {
		w = &waiter{verdict: make(chan error, 1), timer: time.NewTimer(left)}
	}
	w.queued, w.prev = true, q.last
	if q.last == nil {
		q.first = w
	} else {
		q.last.next = w
	}
	q.last = w
	q.waiting++
	return w
}

func (q *Queue) removeLocked(w *waiter) {
	if w.prev == nil {
		q.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		q.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.next, w.prev, w.queued = nil, nil, false
	q.waiting--
}

// recycle keeps w for the next one that waits. Stop leaves no stale tick behind (Go 1.23 and later).
func (q *Queue) recycle(w *waiter, size int64, err error) {
	w.timer.Stop()
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		q.bytes -= size
	}
	w.next, q.free = q.free, w
}
