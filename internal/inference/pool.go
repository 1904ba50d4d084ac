package inference

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"
)

// PoolConfig says what an instance is made of. Zero durations take the defaults named below.
type PoolConfig struct {
	Instance      string // id of the instance, for messages
	Dir           string // private directory for sockets and status pages; short, for a socket's path has 100 bytes
	Workers       int    // processes (WORKER_COUNT); at least 1
	MaxConcurrent int    // calls that Do holds at once, executing or waiting; more are refused with ErrBusy. At least 1

	Batching Batching // calls that wait are executed together; the workers must have VariableBatching then

	HangTimeout time.Duration // a canceled request may go on this long before its worker is killed
	StopGrace   time.Duration // from SIGTERM to SIGKILL when a worker is stopped
	RestartWait time.Duration // how long calls wait while no worker lives, before they get ErrClosed
	BackOff     BackOff       // between restarts

	// KillTurn is asked before a hung worker is killed and blocks until it is this instance's turn, so that of
	// many instances only one reloads its model at a time; done ends the turn once the worker is ready again or
	// ended. Nil: at once. Within one pool there is only one kill at a time anyway.
	KillTurn func(ctx context.Context) (done func(), err error)
}

// BackOff is the wait before a worker is started again: none for the first restart, then First, doubling up to
// Max. A worker that was ready for Reset begins anew.
type BackOff struct {
	First time.Duration
	Max   time.Duration
	Reset time.Duration
}

// Defaults of a PoolConfig.
const (
	DefaultHangTimeout  = 30 * time.Second
	DefaultStopGrace    = 5 * time.Second
	DefaultRestartWait  = 2 * time.Second
	DefaultBackOffFirst = 500 * time.Millisecond
	DefaultBackOffMax   = 60 * time.Second
	DefaultBackOffReset = 60 * time.Second
)

// What a pool does without being told.
const (
	depthMax        = 16                    // connections to a worker: those beyond what it executes prefetch
	prefetchBelow   = time.Millisecond      // a request is prefetched if it will wait less in the socket, by the mean run time
	prefetchBody    = 64 << 10              // bytes of a request body that may wait in a socket
	patience        = 3 * time.Millisecond  // after which an answer counts as slow, and a prefetched request is withdrawn
	attemptsMax     = 8                     // workers that a request is offered to before it gets ErrClosed
	socketPathMax   = 100                   // bytes; the least that a supported system allows is 104 with the final zero
	meanWeight      = 8                     // of n finished requests the newest counts 1/meanWeight of the mean
	numberGap       = 2 * withdrawSlots     // left out when numbering is resumed, so that no old withdrawal matches
	killWait        = 30 * time.Second      // for a process to end after SIGKILL
	launchTimeout   = 2 * time.Minute       // for a Launcher to answer, its waiting for a turn included
	connectTimeout  = 2 * time.Second       // for a worker's socket to take a connection
	lostWait        = time.Second           // for the exit of a process whose connection broke
	aliveWait       = 50 * time.Millisecond // the same, before it is asked whether it lives
	statusFast      = 2 * time.Millisecond  // between looks at a young worker's page
	statusSlow      = 20 * time.Millisecond // between looks at the page of one that has been starting for longer
	statusFastLooks = 100                   // how many of the former
)

// Pool is one instance: its worker processes and the calls that they get. It implements Upstream.
type Pool struct {
	cfg      PoolConfig
	launcher Launcher
	log      *slog.Logger
	stop     context.CancelFunc // ends the minders
	wg       sync.WaitGroup     // minders and everything that follows a canceled request
	killing  chan struct{}      // full while a hung worker is being replaced

	mu        sync.Mutex
	workers   []*worker
	waiters   queue
	forming   *forming // nil: no batches
	admitted  int
	draining  bool
	ending    ending
	quiet     chan struct{} // made by Drain; closed when nothing is admitted
	state     State
	since     time.Time
	ready     time.Time
	everReady bool
	downSince time.Time // since when no worker can be called; zero while one can
	downTimer *time.Timer
	gone      bool // Close or Detach has come to its end
	watchers  map[*watcher]struct{}
}

type ending uint8

const (
	goingOn ending = iota
	closing
	detaching
)

// NewPool makes an instance and starts (or takes up again) its workers in the background. It fails only on a
// configuration that cannot work. Exactly one of Close and Detach must be called.
func NewPool(cfg PoolConfig, launcher Launcher, logger *slog.Logger) (*Pool, error) {
	if cfg.Workers < 1 || cfg.MaxConcurrent < 1 {
		return nil, fmt.Errorf("make pool %s: %d workers, %d concurrent calls: both must be at least 1",
			cfg.Instance, cfg.Workers, cfg.MaxConcurrent)
	}
	if n := cfg.Batching.MaxSize; n > batchSizeMax || n > cfg.MaxConcurrent {
		return nil, fmt.Errorf("make pool %s: batches of %d calls: at most %d, and no more than %d concurrent calls",
			cfg.Instance, n, batchSizeMax, cfg.MaxConcurrent)
	}
	cfg.fill()
	ctx, stop := context.WithCancel(context.Background())
	now := time.Now()
	p := &Pool{
		cfg: cfg, launcher: launcher, log: logger.With("instance", cfg.Instance), stop: stop, since: now, downSince: now,
		killing: make(chan struct{}, 1), watchers: make(map[*watcher]struct{}),
	}
	if cfg.Batching.MaxSize > 1 {
		p.forming = &forming{Batching: cfg.Batching}
	}
	for i := range cfg.Workers {
		spec := WorkerSpec{
			ID:     fmt.Sprintf("%s-w%d", cfg.Instance, i),
			Index:  i,
			Socket: filepath.Join(cfg.Dir, fmt.Sprintf("w%d.sock", i)),
			Page:   filepath.Join(cfg.Dir, fmt.Sprintf("w%d.page", i)),
		}
		if len(spec.Socket) > socketPathMax {
			stop()
			return nil, fmt.Errorf("make pool %s: socket path %q is longer than %d bytes",
				cfg.Instance, spec.Socket, socketPathMax)
		}
		p.workers = append(p.workers, &worker{
			pool: p, spec: spec, since: now, done: ctx.Done(), hurried: make(chan struct{}),
		})
	}
	p.mu.Lock()
	p.downTimer = time.AfterFunc(cfg.RestartWait, p.giveUpWaiting)
	p.mu.Unlock()
	for _, w := range p.workers {
		p.wg.Go(func() { w.mind(ctx) })
	}
	return p, nil
}

func (c *PoolConfig) fill() {
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&c.HangTimeout, DefaultHangTimeout}, {&c.StopGrace, DefaultStopGrace}, {&c.RestartWait, DefaultRestartWait},
		{&c.BackOff.First, DefaultBackOffFirst}, {&c.BackOff.Max, DefaultBackOffMax},
		{&c.BackOff.Reset, DefaultBackOffReset},
	} {
		if *d.value <= 0 {
			*d.value = d.fallback
		}
	}
}

// Do sends the call to the least loaded worker, in order of arrival, and gives its answer. Errors: ErrDeadline
// when call.Deadline passed, ctx's error when the caller hung up, ErrBusy and ErrClosed when the call was not started,
// *LostError when its worker died over it.
func (p *Pool) Do(ctx context.Context, call *Call) (*Answer, error) {
	if err := p.admit(); err != nil {
		return nil, err
	}
	if p.forming != nil && joinable(call) {
		return p.doJoined(ctx, call)
	}
	for attempt := range attemptsMax {
		ln, err := p.acquire(ctx, call, attempt > 0)
		if err != nil {
			p.leave()
			return nil, err
		}
		answer, err := ln.exchange(ctx, call)
		if err == nil {
			return answer, nil // whoever reads the answer leaves
		}
		if !errors.Is(err, errAgain) {
			p.leave()
			return nil, err
		}
	}
	p.leave()
	return nil, ErrClosed
}

func (p *Pool) admit() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.draining || p.ending != goingOn:
		return ErrClosed
	case p.admitted-p.batches() >= p.cfg.MaxConcurrent:
		return ErrBusy
	case !p.downSince.IsZero() && p.downTimer == nil:
		return ErrClosed // no worker for longer than RestartWait
	}
	p.admitted++
	return nil
}

// leave ends an admitted call.
func (p *Pool) leave() {
	p.mu.Lock()
	p.leaveLocked()
	p.mu.Unlock()
}

func (p *Pool) leaveLocked() {
	p.admitted--
	if p.admitted == 0 && p.quiet != nil {
		close(p.quiet)
		p.quiet = nil
	}
}

// acquire waits for a lane of a worker, first come first served. A call that comes back from a worker that did
// not start it is the first in the queue, and is not prefetched again.
func (p *Pool) acquire(ctx context.Context, call *Call, again bool) (*lane, error) {
	small := !again && len(call.Body) <= prefetchBody && p.forming == nil // what waits is joined instead
	p.mu.Lock()
	if p.ending != goingOn {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	if again || p.waiters.empty() {
		if ln := p.pick(small); ln != nil {
			p.mu.Unlock()
			return ln, nil
		}
	}
	wt := newWaiter(small)
	if again {
		p.waiters.pushFront(wt)
	} else {
		p.waiters.push(wt)
	}
	p.mu.Unlock()
	left, ok := timeLeft(call, time.Now())
	if !ok {
		left = 0
	}
	wt.timer.Reset(left)
	var err error
	select {
	case <-wt.done:
		err = wt.err
	case <-ctx.Done():
		err = ctxError(ctx)
	case <-wt.timer.C:
		err = ErrDeadline
	}
	wt.timer.Stop()
	p.mu.Lock()
	ln := wt.lane
	if ln == nil && err != nil {
		p.waiters.remove(wt)
	}
	if ln != nil && err != nil { // handed over in the same moment
		p.releaseLocked(ln)
		ln = nil
	}
	p.mu.Unlock()
	wt.free()
	return ln, err
}

// pick takes a lane of an idle worker, else of the least loaded one that can execute more, else one to prefetch on, else
// none. The caller holds mu.
func (p *Pool) pick(small bool) *lane {
	var best, able *incarnation
	for _, w := range p.workers {
		inc := w.inc
		if inc == nil || !inc.ready || inc.suspect {
			continue
		}
		if inc.busy == 0 {
			inc.progress = time.Now()
			return inc.take(false)
		}
		if inc.busy < inc.slots && (able == nil || inc.busy < able.busy) {
			able = inc
		}
		if small && inc.busy < inc.depth() && (best == nil || inc.busy < best.busy) {
			best = inc
		}
	}
	if able != nil {
		return able.take(false)
	}
	if best == nil || time.Since(best.progress) > prefetchBelow {
		return nil
	}
	return best.take(true)
}

// dispatch hands lanes to those who wait. The caller holds mu.
func (p *Pool) dispatch() {
	for !p.waiters.empty() && !p.holdBack() {
		ln := p.pick(p.waiters.first().small)
		if ln == nil {
			return
		}
		if wt := p.waiters.pop(); !p.join(wt, ln) {
			wt.give(ln)
		}
	}
}

func (p *Pool) release(ln *lane) {
	p.mu.Lock()
	p.releaseLocked(ln)
	p.mu.Unlock()
}

func (p *Pool) releaseLocked(ln *lane) {
	ln.used = false
	ln.inc.busy--
	ln.inc.observe()
	if p.forming != nil {
		p.forming.ended(time.Now(), ln.joined, p.waiters.length)
	}
	p.dispatch()
}

// finish releases the lane and ends the call in one step.
func (p *Pool) finish(ln *lane) {
	p.mu.Lock()
	p.releaseLocked(ln)
	p.leaveLocked()
	p.mu.Unlock()
}

// refuseWaiters gives everyone who waits the error. The caller holds mu.
func (p *Pool) refuseWaiters(err error) {
	for !p.waiters.empty() {
		p.waiters.pop().refuse(err)
	}
}

// giveUpWaiting runs when no worker could be called for RestartWait.
func (p *Pool) giveUpWaiting() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.downSince.IsZero() || time.Since(p.downSince) < p.cfg.RestartWait {
		return // one came back in the meantime
	}
	p.downTimer = nil
	p.refuseWaiters(ErrClosed)
}

// countReady notes whether any worker can be called. The caller holds mu.
func (p *Pool) countReady() int {
	n := 0
	for _, w := range p.workers {
		if w.state == StateReady {
			n++
		}
	}
	switch {
	case n > 0:
		p.downSince = time.Time{}
		if p.downTimer != nil {
			p.downTimer.Stop()
			p.downTimer = nil
		}
	case p.downSince.IsZero() && p.ending == goingOn:
		p.downSince = time.Now()
		p.downTimer = time.AfterFunc(p.cfg.RestartWait, p.giveUpWaiting)
	}
	return n
}

// Drain refuses new calls from now on and waits until those that were admitted have ended, or ctx has.
func (p *Pool) Drain(ctx context.Context) error {
	p.mu.Lock()
	p.draining = true
	p.judge()
	for p.admitted > 0 {
		if p.quiet == nil {
			p.quiet = make(chan struct{})
		}
		quiet := p.quiet
		p.mu.Unlock()
		select {
		case <-quiet:
		case <-ctx.Done():
			return fmt.Errorf("drain instance %s: %w", p.cfg.Instance, ctx.Err())
		}
		p.mu.Lock()
	}
	p.mu.Unlock()
	return nil
}

// Close ends the workers: SIGTERM, then SIGKILL after StopGrace or when ctx ends. Calls that wait get ErrClosed.
// It returns when every process has ended and every goroutine with it, or with an error when a process outlives
// SIGKILL.
func (p *Pool) Close(ctx context.Context) error {
	hurry := context.AfterFunc(ctx, func() {
		for _, w := range p.workers {
			w.hurry()
		}
	})
	defer hurry()
	return p.end(closing)
}

// Detach lets go of the workers without stopping them, for a later NewPool with the same Dir and worker ids.
func (p *Pool) Detach() { _ = p.end(detaching) } // nothing is stopped, so nothing can outlive it

func (p *Pool) end(how ending) error {
	p.mu.Lock()
	if p.ending == goingOn {
		p.ending = how
	}
	p.refuseWaiters(ErrClosed)
	if p.forming != nil && p.forming.timer != nil {
		p.forming.timer.Stop()
	}
	if p.downTimer != nil {
		p.downTimer.Stop()
		p.downTimer = nil
	}
	p.mu.Unlock()
	p.stop()
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.judge()
	var err error
	for _, w := range p.workers {
		err = errors.Join(err, w.stopError)
	}
	p.closeWatchers()
	return err
}
