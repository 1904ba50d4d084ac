package inference

import (
	"context"
	"log/slog"
	"time"
)

// PoolConfig says what an instance is made of. Zero durations take the defaults named below.
type PoolConfig struct {
	Instance      string // id of the instance, for messages
	Dir           string // private directory for sockets and status pages; short, for a socket's path has 100 bytes
	Workers       int    // processes (WORKER_COUNT); at least 1
	MaxConcurrent int    // calls that Do holds at once, executing or waiting; more are refused with ErrBusy. At least 1

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

// Pool is one instance: its worker processes and the calls that they get. It implements Upstream.
type Pool struct {
	cfg    PoolConfig
	launch Launcher
	log    *slog.Logger
}

// NewPool makes an instance and starts (or takes up again) its workers in the background. It fails only on a
// configuration that cannot work. Exactly one of Close and Detach must be called.
func NewPool(cfg PoolConfig, launcher Launcher, logger *slog.Logger) (*Pool, error) {
	return &Pool{cfg: cfg, launch: launcher, log: logger}, nil
}

// Do sends the call to the least loaded worker, in order of arrival, and gives its answer. Errors: ErrDeadline
// when call.Deadline passed, ctx's error when the caller hung up, ErrBusy and ErrClosed when the call was not started,
// *LostError when its worker died over it.
func (p *Pool) Do(ctx context.Context, call *Call) (*Answer, error) { return nil, ErrClosed }

// Status gives the instance as it is.
func (p *Pool) Status() Status { return Status{} }

// Watch sends the present state of every worker, then every change, until ctx ends or the pool is closed. When the
// receiver is more than a few hundred events late, older ones are merged, those that tell of an exit last.
func (p *Pool) Watch(ctx context.Context) <-chan Event { return nil }

// Drain refuses new calls from now on and waits until those that were admitted have ended, or ctx has.
func (p *Pool) Drain(ctx context.Context) error { return nil }

// Close ends the workers: SIGTERM, then SIGKILL after StopGrace or when ctx ends. Calls that wait get ErrClosed.
// It returns when every process has ended and every goroutine with it, or with an error when a process outlives
// SIGKILL.
func (p *Pool) Close(ctx context.Context) error { return nil }

// Detach lets go of the workers without stopping them, for a later NewPool with the same Dir and worker ids.
func (p *Pool) Detach() {}
