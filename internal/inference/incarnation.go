package inference

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// Between repeated looks and signals while a canceled request goes on.
const (
	followFirst = 10 * time.Millisecond
	followMax   = time.Second
	signalWait  = 5 * time.Second // for a launcher to deliver a signal
)

// incarnation is one process of a worker. Fields are guarded by the pool's mu unless they say otherwise.
type incarnation struct {
	worker *worker
	proc   Process // constant
	page   *page   // constant

	gone     atomic.Bool // it has ended
	lanes    [depthMax]lane
	slots    int    // requests that it executes at once
	next     uint64 // number of the next request
	busy     int    // lanes in use
	ready    bool
	suspect  bool          // a connection broke: not offered anything until the minder has looked
	mean     time.Duration // of a run; 0 until one has ended
	finished uint64        // of the page, when mean was last brought up to date
	spent    time.Duration // likewise
	progress time.Time     // when a request last ended, or began on an idle worker

	hanged bool          // the minder's own: it is being killed because it hangs
	looked chan struct{} // capacity 1: the minder shall look whether the process is all right
	hung   chan uint64   // capacity 1: this request goes on long after it was canceled
}

func newIncarnation(w *worker, proc Process, pg *page) *incarnation {
	inc := &incarnation{
		worker: w, proc: proc, page: pg,
		looked: make(chan struct{}, 1), hung: make(chan uint64, 1),
		finished: pg.finished(), spent: pg.busy(), next: 1, slots: 1,
	}
	if newest := max(pg.newest(), pg.running()); newest > 0 {
		inc.next = newest + numberGap
	}
	for i := range inc.lanes {
		inc.lanes[i].inc = inc
	}
	return inc
}

// take gives a free lane with the next number.
func (inc *incarnation) take(prefetch bool) *lane {
	for i := range inc.lanes {
		ln := &inc.lanes[i]
		if ln.used {
			continue
		}
		ln.used, ln.prefetched, ln.number, ln.joined = true, prefetch, inc.next, 1
		inc.next++
		inc.busy++
		return ln
	}
	panic("inference: a worker with a free lane has none") // busy counts the lanes in use
}

// executing counts the calls that the process was handed.
func (inc *incarnation) executing() int {
	n := 0
	for i := range inc.lanes {
		if ln := &inc.lanes[i]; ln.used {
			n += ln.joined
		}
	}
	return n
}

// depth is how many requests may be under way at once, so that the last of them begins within prefetchBelow.
func (inc *incarnation) depth() int {
	if inc.mean == 0 || inc.mean >= prefetchBelow {
		return inc.slots
	}
	return min(inc.slots*(1+int(prefetchBelow/inc.mean)), depthMax)
}

// observe brings the mean run time up to date from the page.
func (inc *incarnation) observe() {
	finished, spent := inc.page.finished(), inc.page.busy()
	n := finished - inc.finished
	if n == 0 || finished < inc.finished {
		return
	}
	each := (spent - inc.spent) / time.Duration(n)
	if inc.mean == 0 {
		inc.mean = max(each, 1)
	} else {
		weight := time.Duration(min(n, meanWeight))
		inc.mean = max(inc.mean+(each-inc.mean)*weight/meanWeight, 1)
	}
	inc.finished, inc.spent, inc.progress = finished, spent, time.Now()
}

// doubt takes the process out of use until the minder has looked at it. It is called without mu.
func (inc *incarnation) doubt() {
	p := inc.worker.pool
	p.mu.Lock()
	inc.suspect = true
	p.mu.Unlock()
	select {
	case inc.looked <- struct{}{}:
	default:
	}
}

func (inc *incarnation) dead() bool { return stopped(inc.proc.Done()) }

func stopped(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// deathCause says in words for the caller why the worker is gone, once that is known or lostWait is over.
func (inc *incarnation) deathCause(ctx context.Context) string {
	timer := time.NewTimer(lostWait)
	defer timer.Stop()
	select {
	case <-inc.proc.Done():
	case <-ctx.Done():
	case <-timer.C:
	}
	if !inc.dead() {
		return "the worker closed the connection while it executed this request"
	}
	exit := inc.proc.Exit()
	how := fmt.Sprintf("exited with status %d", exit.Code)
	if exit.Signal != "" {
		how = fmt.Sprintf("was ended by a signal (%s)", exit.Signal)
	}
	if exit.Reason != "" {
		how += " (" + exit.Reason + ")"
	}
	return "the worker " + how + " while it executed this request"
}

// follow stays with a request whose caller is gone until the worker has ended it: it repeats the cancel, because
// user code may swallow one, reads the answer off the connection if that is still whole, and reports a request that
// goes on for HangTimeout. The lane is taken until then. Ends at once when the pool does.
func (ln *lane) follow() {
	inc := ln.inc
	p := inc.worker.pool
	began, wait, reported := time.Now(), followFirst, false
	for ln.runs() {
		inc.cancel(ln.number)
		if ln.link != nil {
			if ln.discard(wait) {
				p.release(ln)
				return
			}
		} else if !inc.pause(wait) {
			break
		}
		if stopped(inc.worker.done) {
			break
		}
		if !reported && time.Since(began) > p.cfg.HangTimeout {
			reported = true
			select {
			case inc.hung <- ln.number:
			default:
			}
		}
		wait = min(2*wait, followMax)
	}
	if ln.link != nil && !ln.discard(followFirst) {
		ln.drop()
	}
	p.release(ln)
}

// runs says whether the process executes the lane's request.
func (ln *lane) runs() bool { return ln.inc.page.runs(ln.number) && !ln.inc.dead() }

// pause waits; false when the process or the pool ended instead.
func (inc *incarnation) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-inc.proc.Done():
		return false
	case <-inc.worker.done:
		return false
	}
}

// cancel asks the worker to stop the request if it still runs.
func (inc *incarnation) cancel(number uint64) {
	inc.page.cancel(number)
	ctx, done := context.WithTimeout(context.Background(), signalWait)
	defer done()
	if err := inc.proc.Signal(ctx, syscall.SIGUSR1); err != nil {
		inc.worker.pool.log.Warn("cannot signal a worker", "worker", inc.worker.spec.ID, "error", err)
	}
}

// discard reads an answer that nobody wants for at most d. True: it was read to its end and the connection may be
// used again. The connection is dropped when it cannot be used any more.
func (ln *lane) discard(d time.Duration) bool {
	l := ln.link
	_ = l.conn.SetReadDeadline(time.Now().Add(d)) // fails only on a closed connection, which the read tells
	h, err := l.readHead(ln.method)
	if err == nil && h.length >= 0 && h.length <= eagerBody && !h.close {
		_, err = io.CopyN(io.Discard, readerOf{l}, h.length)
		if err == nil && l.r == l.w {
			ln.keep(true)
			return true
		}
		err = io.ErrUnexpectedEOF
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		ln.drop() // broken, or an answer that is not worth reading
	}
	return false
}

type readerOf struct{ l *link }

func (r readerOf) Read(p []byte) (int, error) { return r.l.read(p) }
