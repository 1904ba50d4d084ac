package inference

import (
	"context"
	"errors"
	"sync"
	"time"
)

// waiter is a call that waits for a worker.
type waiter struct {
	next, prev *waiter
	small      bool          // may be prefetched
	done       chan struct{} // gets one value when lane or err is set
	lane       *lane
	err        error
	timer      *time.Timer

	call   *Call   // of one that may be part of a batch; else nil
	batch  *batch  // that it is part of; guarded by the pool's mu
	answer *Answer // that it got there
}

var waiters = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &waiter{done: make(chan struct{}, 1), timer: t}
}}

func newWaiter(small bool) *waiter {
	w := waiters.Get().(*waiter) //nolint:forcetypeassert // New makes nothing else
	w.small = small
	return w
}

// free recycles a waiter that is in no queue any more.
func (w *waiter) free() {
	select {
	case <-w.done:
	default:
	}
	w.lane, w.err, w.next, w.prev = nil, nil, nil, nil
	w.call, w.batch, w.answer = nil, nil, nil
	waiters.Put(w)
}

func (w *waiter) give(ln *lane) {
	w.lane = ln
	w.done <- struct{}{}
}

func (w *waiter) refuse(err error) {
	w.err = err
	w.done <- struct{}{}
}

// queue is first in, first out, and anyone in it may leave.
type queue struct {
	head, tail *waiter
	length     int
}

func (q *queue) empty() bool    { return q.head == nil }
func (q *queue) first() *waiter { return q.head }

func (q *queue) push(w *waiter) {
	w.prev = q.tail
	if q.tail == nil {
		q.head = w
	} else {
		q.tail.next = w
	}
	q.tail = w
	q.length++
}

func (q *queue) pushFront(w *waiter) {
	w.next = q.head
	if q.head == nil {
		q.tail = w
	} else {
		q.head.prev = w
	}
	q.head = w
	q.length++
}

func (q *queue) pop() *waiter {
	w := q.head
	q.remove(w)
	return w
}

// remove takes w out; it does nothing when w is not in the queue.
func (q *queue) remove(w *waiter) {
	if w.prev == nil && q.head != w {
		return
	}
	if w.prev == nil {
		q.head = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		q.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.next, w.prev = nil, nil
	q.length--
}

// ctxError is why the caller no longer waits.
func ctxError(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ErrDeadline
	}
	return ctx.Err()
}
