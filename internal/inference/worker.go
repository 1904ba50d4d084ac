package inference

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"portico/internal/compute"
)

// worker is one place for a process in an instance. Its goroutine is the minder.
type worker struct {
	pool *Pool
	spec WorkerSpec

	turn      func() // the minder's own: ends its turn to kill; nil without one
	hurryOnce sync.Once
	done      <-chan struct{} // of the minder's context
	hurried   chan struct{}   // closed: do not wait for StopGrace

	// Guarded by the pool's mu:
	inc       *incarnation // the process that runs; nil while none does
	state     State
	since     time.Time
	restarts  int
	exit      *compute.Exit
	stopError error
}

// hurry makes a stop that is under way, or comes, skip the grace.
func (w *worker) hurry() { w.hurryOnce.Do(func() { close(w.hurried) }) }

// mind is the worker's life: launch, watch, back off, launch again.
func (w *worker) mind(ctx context.Context) {
	failures := 0
	for launched := 0; ctx.Err() == nil; launched++ {
		if launched > 0 && !w.backOff(ctx, failures) {
			break
		}
		good, permanent := w.live(ctx, launched > 0)
		if permanent {
			<-ctx.Done()
			break
		}
		failures++
		if good {
			failures = 1
		}
	}
	w.endTurn()
	w.set(StateClosed, nil)
}

// backOff waits before the n-th restart in a row: none before the first.
func (w *worker) backOff(ctx context.Context, failures int) bool {
	wait := w.pool.cfg.BackOff.wait(failures)
	if wait == 0 {
		return ctx.Err() == nil
	}
	w.set(StateBackOff, nil)
	return sleep(ctx, wait)
}

// live is the life of one process, from launch to its end or the pool's. good: it was ready for BackOff.Reset.
func (w *worker) live(ctx context.Context, restart bool) (good, permanent bool) {
	w.set(StateStarting, nil)
	inc, err := w.start(ctx)
	if err != nil {
		if ctx.Err() == nil {
			w.pool.log.Error("cannot start a worker", "worker", w.spec.ID, "error", err)
			w.set(StateStarting, &compute.Exit{
				Code: -1, Reason: "the worker could not be started: " + err.Error(), At: time.Now(), InInit: true,
			})
		}
		return false, false
	}
	w.attach(inc, restart)
	readySince, ended := w.watch(ctx, inc)
	if !ended {
		w.detach(inc)
		w.leaveProcess(inc)
		return true, false
	}
	w.detach(inc)
	if !inc.hanged {
		w.endTurn() // it was started after a kill and did not become ready: others may try
	}
	exit := inc.exit()
	lived := !readySince.IsZero() && time.Since(readySince) >= w.pool.cfg.BackOff.Reset
	state := StateStarting
	if exit.Permanent {
		state = StateFailed
	}
	w.pool.log.Warn("a worker ended", "worker", w.spec.ID, "code", exit.Code, "signal", exit.Signal, "reason", exit.Reason)
	w.set(state, &exit)
	return lived, exit.Permanent
}

// start launches the process and maps its page. The launch is not interrupted when the pool ends, because then
// nobody would know whether there is a process to stop.
func (w *worker) start(ctx context.Context) (*incarnation, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), launchTimeout)
	defer cancel()
	proc, err := w.pool.launcher.Launch(ctx, w.spec)
	if err != nil {
		return nil, err
	}
	pg, err := openPage(w.spec.Page)
	if err != nil {
		if err := proc.Signal(ctx, syscall.SIGKILL); err != nil {
			w.pool.log.Warn("cannot signal a worker", "worker", w.spec.ID, "error", err)
		}
		return nil, err
	}
	return newIncarnation(w, proc, pg), nil
}

func (w *worker) attach(inc *incarnation, restart bool) {
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	w.inc = inc
	if restart {
		w.restarts++
	}
	for i, n := range inc.page.executing() {
		// It was taken up again while it executes a request of an earlier server: busy until that ends.
		if i == len(inc.lanes) {
			break // the page is user code's to write, and may say anything
		}
		ln := &inc.lanes[i]
		ln.used, ln.number, ln.joined = true, n, 1
		inc.busy++
		w.pool.wg.Go(ln.outlive)
	}
}

// outlive holds the lane until a request that nobody waits for has ended by itself.
func (ln *lane) outlive() {
	wait := followFirst
	for ln.runs() && ln.inc.pause(wait) {
		wait = min(2*wait, followMax/4)
	}
	ln.inc.worker.pool.release(ln)
}

// detach takes the process out of use.
func (w *worker) detach(inc *incarnation) {
	p := w.pool
	p.mu.Lock()
	inc.ready = false
	w.inc = nil
	inc.gone.Store(inc.dead())
	for i := range inc.lanes {
		if ln := &inc.lanes[i]; !ln.used {
			ln.drop()
		} else if inc.gone.Load() {
			ln.sever()
		}
	}
	p.mu.Unlock()
}

// watch follows the process until it ends (ended) or the pool does, and kills it when it hangs or is beyond reach.
func (w *worker) watch(ctx context.Context, inc *incarnation) (readySince time.Time, ended bool) {
	ticker := time.NewTimer(0)
	defer ticker.Stop()
	for looks := 0; ; {
		select {
		case <-inc.proc.Done():
			return readySince, true
		case <-ctx.Done():
			return readySince, false
		case <-ticker.C:
			looks++
			switch inc.page.state() {
			case pageReady:
				if readySince.IsZero() {
					readySince = time.Now()
					w.becomeReady(inc)
				}
				continue // no more looks
			case pageInit:
				w.set(StateInitRunning, nil)
			}
			if looks < statusFastLooks {
				ticker.Reset(statusFast)
			} else {
				ticker.Reset(statusSlow)
			}
		case <-inc.looked:
			if w.beyondReach(ctx, inc) {
				w.pool.log.Error("a worker no longer takes connections and is killed", "worker", w.spec.ID)
				w.kill(inc)
			}
		case number := <-inc.hung:
			if w.takeTurn(ctx, inc, number) {
				w.pool.log.Error("a worker hangs in a canceled request and is killed", "worker", w.spec.ID)
				inc.hanged = true
				w.kill(inc)
			}
		}
	}
}

func (w *worker) becomeReady(inc *incarnation) {
	w.pool.mu.Lock()
	inc.ready, inc.slots = true, inc.page.slots()
	w.setLocked(StateReady, nil)
	w.pool.dispatch()
	w.pool.mu.Unlock()
	w.endTurn()
}

// beyondReach says whether the process lives but takes no connections, after something broke one. Otherwise the
// process is put to use again.
func (w *worker) beyondReach(ctx context.Context, inc *incarnation) bool {
	for _, wait := range []time.Duration{aliveWait, lostWait} {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-inc.proc.Done():
			return false
		case <-ctx.Done():
			return false
		case <-timer.C:
		}
		conn, err := (&net.Dialer{Timeout: connectTimeout}).DialContext(ctx, "unix", w.spec.Socket)
		if err == nil {
			_ = conn.Close() // it was only a question
			w.trust(inc)
			return false
		}
		if errors.Is(err, syscall.EAGAIN) { // its backlog is full, so it listens
			w.trust(inc)
			return false
		}
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) { // it was not asked: that is no fault of its own
			w.trust(inc)
			return false
		}
	}
	return !inc.dead()
}

// trust puts the process to use again.
func (w *worker) trust(inc *incarnation) {
	w.pool.mu.Lock()
	inc.suspect = false
	w.pool.dispatch()
	w.pool.mu.Unlock()
}

// takeTurn waits for the turn to kill a process that hangs in request number. False: the request, the process or
// the pool ended first, and there is nothing to kill.
func (w *worker) takeTurn(ctx context.Context, inc *incarnation, number uint64) bool {
	p := w.pool
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.wg.Go(func() {
		select {
		case <-inc.proc.Done():
			cancel()
		case <-ctx.Done():
		}
	})
	select {
	case p.killing <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	w.turn = func() { <-p.killing }
	if p.cfg.KillTurn != nil {
		done, err := p.cfg.KillTurn(ctx)
		if err != nil {
			w.endTurn()
			return false
		}
		w.turn = func() { done(); <-p.killing }
	}
	if !inc.page.runs(number) || inc.dead() {
		w.endTurn()
		return false
	}
	return true
}

// endTurn lets the next hung worker be killed.
func (w *worker) endTurn() {
	if w.turn != nil {
		w.turn()
		w.turn = nil
	}
}

func (w *worker) kill(inc *incarnation) {
	ctx, cancel := context.WithTimeout(context.Background(), signalWait)
	defer cancel()
	if err := inc.proc.Signal(ctx, syscall.SIGKILL); err != nil {
		w.pool.log.Error("cannot kill a worker", "worker", w.spec.ID, "error", err)
	}
}

// leaveProcess stops the process, or lets go of it, as the pool's end demands.
func (w *worker) leaveProcess(inc *incarnation) {
	w.pool.mu.Lock()
	how := w.pool.ending
	w.pool.mu.Unlock()
	if how == detaching {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), w.pool.cfg.StopGrace)
	if err := inc.proc.Signal(ctx, syscall.SIGTERM); err != nil {
		w.pool.log.Error("cannot stop a worker", "worker", w.spec.ID, "error", err)
	}
	select {
	case <-inc.proc.Done():
	case <-w.hurried:
	case <-ctx.Done():
	}
	cancel()
	if !inc.dead() {
		w.kill(inc)
	}
	timer := time.NewTimer(killWait)
	defer timer.Stop()
	select {
	case <-inc.proc.Done():
	case <-timer.C:
		w.pool.mu.Lock()
		w.stopError = fmt.Errorf("stop worker %s: process %d outlives SIGKILL", w.spec.ID, inc.proc.PID())
		w.pool.mu.Unlock()
	}
}

// exit puts together how the process ended from what the launcher and the status page say.
func (inc *incarnation) exit() compute.Exit {
	exit := inc.proc.Exit()
	state := inc.page.state()
	exit.InInit = state != pageReady
	if kind, reason := inc.page.failure(); reason != "" {
		exit.Reason, exit.Permanent = reason, kind == kindScript
	}
	if exit.At.IsZero() {
		exit.At = time.Now()
	}
	if exit.Reason != "" {
		return exit
	}
	when := ""
	if exit.InInit {
		when = " before init() returned"
	} else if len(inc.page.executing()) > 0 {
		when = " while it executed a request"
	}
	if exit.Signal != "" {
		exit.Reason = fmt.Sprintf("the worker was ended by a signal (%s)%s", exit.Signal, when)
	} else {
		exit.Reason = fmt.Sprintf("the worker exited with status %d%s", exit.Code, when)
	}
	return exit
}
