package inference

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"portico/internal/compute"
	"portico/internal/online"
)

// Check is a probe of a server that somebody else wrote: GET Path, which must answer 200.
type Check struct {
	Path  string
	Port  int // as declared; Address tells where it is
	Probe online.Probe
}

// ServerConfig says how an instance that is somebody else's server is looked after. Zero durations take a pool's defaults.
type ServerConfig struct {
	Instance      string
	MaxConcurrent int // calls that Do holds at once; more are refused with ErrBusy. At least 1
	Port          int // declared port that calls go to
	Liveness      Check
	Readiness     Check
	Startup       *online.Probe // of the liveness check until its first success
	// Address tells where a declared port of the instance is reached: host:port. It is asked after each start.
	Address func(port int) string
	// Dial connects to a declared port of the instance. Nil: by TCP to its Address, which else only names it.
	Dial func(ctx context.Context, port int) (net.Conn, error)

	StopSignal syscall.Signal // that asks the process to end; 0: SIGTERM
	StopGrace  time.Duration  // from SIGTERM to SIGKILL
	BackOff    BackOff
}

// Server is one instance whose process is a server that somebody else wrote. It implements Upstream. It starts the process,
// asks it whether it is well, and starts it again when it ended or was ended for its liveness check.
type Server struct {
	cfg      ServerConfig
	launcher Launcher
	log      *slog.Logger
	events   chan Event
	cancel   context.CancelFunc
	over     chan struct{} // closed when the minder has ended
	hurried  chan struct{} // closed: do not wait for StopGrace
	hurry    sync.Once

	answered atomic.Int64 // calls that got an answer
	silent   atomic.Bool  // nobody has got an answer since a call that was given up

	mu        sync.Mutex
	up        *HTTPUpstream // nil while nothing may be called
	process   Process       // the newest
	state     State
	told      bool // something was told
	everReady bool
	ready     time.Time
	restarts  int
	executing int
	draining  bool
	detached  bool
	quiet     chan struct{} // made by Drain; closed when nothing executes
	stopError error
}

// serverBacklog is how many events wait for the receiver of Watch before the server's minder waits for it.
const serverBacklog = 16

// NewServer makes an instance and starts its process (or takes up the one that runs) in the background. Exactly one of
// Close and Detach must be called.
func NewServer(cfg ServerConfig, launcher Launcher, logger *slog.Logger) *Server {
	limits := PoolConfig{StopGrace: cfg.StopGrace, BackOff: cfg.BackOff}
	limits.fill()
	if cfg.StopSignal == 0 {
		cfg.StopSignal = syscall.SIGTERM
	}
	cfg.StopGrace, cfg.BackOff = limits.StopGrace, limits.BackOff
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		cfg: cfg, launcher: launcher, log: logger.With("instance", cfg.Instance), events: make(chan Event, serverBacklog),
		cancel: cancel, over: make(chan struct{}), hurried: make(chan struct{}),
	}
	go func() {
		defer close(s.over)
		s.mind(ctx)
	}()
	return s
}

// Watch gives every change, and is called once. It ends with the instance.
func (s *Server) Watch(context.Context) <-chan Event { return s.events }

// set notes a new state, or an exit, and tells it.
func (s *Server) set(ctx context.Context, state State, exit *compute.Exit) {
	s.mu.Lock()
	if s.draining && state != StateClosed {
		state = StateDraining
	}
	same := s.told && s.state == state && exit == nil
	if state == StateReady && s.state != StateReady {
		s.everReady, s.ready = true, time.Now()
	}
	s.state, s.told = state, true
	ev := Event{State: state, Exit: exit, Status: Status{State: state, Ready: s.ready, Restarts: s.restarts}}
	s.mu.Unlock()
	if same {
		return
	}
	select {
	case s.events <- ev:
	case <-ctx.Done():
	}
}

// mind is the instance's life: launch, look after, back off, launch again.
func (s *Server) mind(ctx context.Context) {
	defer close(s.events)
	failures := 0
	for launched := 0; ctx.Err() == nil; launched++ {
		if launched > 0 {
			s.mu.Lock()
			s.restarts++
			s.mu.Unlock()
			if wait := s.cfg.BackOff.wait(failures); wait > 0 {
				s.set(ctx, StateBackOff, nil)
				if !sleep(ctx, wait) {
					break
				}
			}
		}
		failures++
		if s.live(ctx) {
			failures = 1
		}
	}
	s.set(ctx, StateClosed, nil)
}

// wait is the pause before the n-th restart in a row.
func (b BackOff) wait(n int) time.Duration {
	if n <= 1 {
		return 0
	}
	if shift := n - 2; shift < 20 && b.First<<shift < b.Max {
		return b.First << shift
	}
	return b.Max
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// live is the life of one process; true when it was ready for BackOff.Reset.
func (s *Server) live(ctx context.Context) bool {
	s.mu.Lock()
	s.everReady = false
	s.mu.Unlock()
	s.set(ctx, StateStarting, nil)
	proc, err := s.launch(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Error("cannot start a server", "error", err)
			s.set(ctx, StateStarting, &compute.Exit{
				Code: -1, Reason: "the server could not be started: " + err.Error(), At: time.Now(), InInit: true,
			})
		}
		return false
	}
	up := s.upstream(s.cfg.Port, s.cfg.MaxConcurrent)
	defer up.Close()
	s.mu.Lock()
	s.process = proc
	s.mu.Unlock()
	s.silent.Store(false)
	why := s.look(ctx, proc, up)
	s.mu.Lock()
	s.up = nil
	everReady, since := s.everReady, s.ready
	s.mu.Unlock()
	if ctx.Err() != nil && !stopped(proc.Done()) {
		s.leaveProcess(proc)
		return true
	}
	if why != "" {
		s.log.Warn("a server is ended", "reason", why)
		s.end(proc)
	}
	exit := proc.Exit()
	exit.InInit = !everReady
	switch {
	case why != "":
		exit.Reason = why
	case exit.Reason != "":
	case exit.Signal != "":
		exit.Reason = fmt.Sprintf("the server was ended by a signal (%s)", exit.Signal)
	default:
		exit.Reason = fmt.Sprintf("the server exited with status %d", exit.Code)
	}
	if exit.InInit && why == "" {
		exit.Reason += " before it was ready"
	}
	s.log.Warn("a server ended", "code", exit.Code, "signal", exit.Signal, "reason", exit.Reason)
	s.set(ctx, StateStarting, &exit)
	return everReady && time.Since(since) >= s.cfg.BackOff.Reset
}

// launch is not interrupted when the instance ends, because then nobody would know whether there is a process to stop.
func (s *Server) launch(ctx context.Context) (Process, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), launchTimeout)
	defer cancel()
	return s.launcher.Launch(ctx, WorkerSpec{ID: s.cfg.Instance + "-w0"})
}

// leaveProcess stops the process, unless the instance is let go of.
func (s *Server) leaveProcess(proc Process) {
	s.mu.Lock()
	detached := s.detached
	s.mu.Unlock()
	if !detached {
		s.end(proc)
	}
}

// upstream reaches a declared port of the process.
func (s *Server) upstream(port, maxIdle int) *HTTPUpstream {
	up := NewForeignUpstream(s.cfg.Instance, s.cfg.Address(port), maxIdle)
	if s.cfg.Dial != nil {
		up.dial = func(ctx context.Context) (net.Conn, error) { return s.cfg.Dial(ctx, port) }
	}
	return up
}

// end stops a process: StopSignal, after the grace SIGKILL.
func (s *Server) end(proc Process) {
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
		hurry  <-chan struct{}
	}{{s.cfg.StopSignal, s.cfg.StopGrace, s.hurried}, {syscall.SIGKILL, killWait, nil}} {
		ctx, cancel := context.WithTimeout(context.Background(), signalWait)
		if err := proc.Signal(ctx, step.signal); err != nil {
			s.log.Error("cannot signal a server", "error", err)
		}
		cancel()
		timer := time.NewTimer(step.wait)
		select {
		case <-proc.Done():
			timer.Stop()
			return
		case <-step.hurry:
		case <-timer.C:
		}
		timer.Stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopError = fmt.Errorf("stop server %s: process %d outlives SIGKILL", s.cfg.Instance, proc.PID())
}

// Do sends the call to the server. Its errors are those of Pool.Do.
func (s *Server) Do(ctx context.Context, call *Call) (*Answer, error) {
	s.mu.Lock()
	up, proc := s.up, s.process
	switch {
	case s.draining || up == nil:
		s.mu.Unlock()
		return nil, ErrClosed
	case s.executing >= s.cfg.MaxConcurrent:
		s.mu.Unlock()
		return nil, ErrBusy
	}
	s.executing++
	s.mu.Unlock()
	answer, err := up.Do(ctx, call)
	switch { // any other end says nothing of the server
	case err == nil:
		s.silent.Store(false)
	case errors.Is(err, ErrDeadline), errors.Is(err, context.Canceled):
		s.silent.Store(true)
	}
	if err != nil {
		s.leave()
		return nil, s.explain(ctx, proc, err)
	}
	s.answered.Add(1)
	if _, streams := answer.Body.(*stream); streams {
		answer.Body = &leaving{ReadCloser: answer.Body, server: s}
	} else { // it is here already
		s.leave()
	}
	return answer, nil
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.executing--
	if s.executing == 0 && s.quiet != nil {
		close(s.quiet)
		s.quiet = nil
	}
}

// leaving ends a call when its answer has been read, or is given up.
type leaving struct {
	io.ReadCloser
	server *Server
	once   sync.Once
}

// Close implements io.Closer.
func (l *leaving) Close() error {
	err := l.ReadCloser.Close()
	l.once.Do(l.server.leave)
	return err
}

// explain adds to a lost call what became of the process.
func (s *Server) explain(ctx context.Context, proc Process, err error) error {
	var gone *LostError
	if !errors.As(err, &gone) {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, lostWait)
	defer cancel()
	select {
	case <-proc.Done():
	case <-wait.Done():
		return err
	}
	exit := proc.Exit()
	how := fmt.Sprintf("exited with status %d", exit.Code)
	if exit.Signal != "" {
		how = fmt.Sprintf("was ended by a signal (%s)", exit.Signal)
	}
	if exit.Reason != "" {
		how += " (" + exit.Reason + ")"
	}
	return lost(s.cfg.Instance, "the server %s while it executed this request", how)
}

// Drain takes no more calls and waits until those that execute have ended, or ctx does.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	var quiet chan struct{}
	if s.executing > 0 {
		if s.quiet == nil {
			s.quiet = make(chan struct{})
		}
		quiet = s.quiet
	}
	s.mu.Unlock()
	if quiet == nil {
		return nil
	}
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain server %s: %w", s.cfg.Instance, ctx.Err())
	}
}

// Close ends the process: StopSignal, after the grace (or when ctx ends) SIGKILL.
func (s *Server) Close(ctx context.Context) error {
	s.cancel()
	select {
	case <-s.over:
	case <-ctx.Done():
		s.hurry.Do(func() { close(s.hurried) })
		<-s.over
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopError
}

// Detach lets go of the process without stopping it, for a later NewServer.
func (s *Server) Detach() {
	s.mu.Lock()
	s.detached = true
	s.mu.Unlock()
	s.cancel()
	<-s.over
}
