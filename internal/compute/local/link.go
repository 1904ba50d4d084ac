package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"syscall"
	"time"

	"portico/internal/compute"
	"portico/internal/host"
)

// Waits between attempts to reach or to start the host.
const (
	linkRetryFirst = 100 * time.Millisecond
	linkRetryMax   = 5 * time.Second
)

// The labels by which the engine finds its processes again.
const (
	labelKind     = "kind"
	labelSet      = "set"
	labelInstance = "instance"
	labelWorker   = "worker"
	labelStart    = "start" // which start of this worker it is, from 1

	kindWorker = "worker"
)

// link is the engine's connection to the host. It knows every process of the engine, closes their Done, and
// brings the host back when it is gone. A new host first ends what the old one recorded, so nothing runs twice.
type link struct {
	cfg host.Config
	log *slog.Logger
	// forks is told what is seen of fork servers.
	forks func(host.Process)

	mu        sync.Mutex
	client    *host.Client        // nil while there is none
	connected chan struct{}       // closed while there is one
	over      chan struct{}       // closed when there will be none again
	processes map[string]*process // the newest of each id
}

func newLink(cfg host.Config, log *slog.Logger) *link {
	return &link{
		cfg: cfg, log: log, connected: make(chan struct{}), over: make(chan struct{}), processes: map[string]*process{},
	}
}

// session is one connection with its first list taken in.
type session struct {
	client *host.Client
	events <-chan host.Event
	stop   context.CancelFunc // of the watch
}

// open connects, starting a host when there is none. The session lasts until life ends at the latest.
func (l *link) open(ctx, life context.Context) (*session, error) {
	client, err := host.EnsureRunning(ctx, l.cfg)
	if err != nil {
		return nil, fmt.Errorf("reach the host: %w", err)
	}
	watching, stop := context.WithCancel(life)
	s := &session{client: client, stop: stop}
	if s.events, err = client.Watch(watching); err != nil {
		stop()
		return nil, errors.Join(err, client.Close())
	}
	if err := l.takeList(s); err != nil {
		s.close()
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.client = client
	close(l.connected)
	return s, nil
}

func (s *session) close() {
	s.stop()
	for range s.events {
		continue // the stream ends soon after its watch
	}
	_ = s.client.Close()
}

// takeList reads a stream up to Synced and compares it with what was known.
func (l *link) takeList(s *session) error {
	listed := map[string]host.Process{}
	for {
		ev, ok := <-s.events
		if !ok {
			return fmt.Errorf("list the host's processes: %w", host.ErrNotRunning)
		}
		if ev.Synced {
			break
		}
		switch ev.Process.Labels[labelKind] {
		case kindWorker:
			listed[ev.Process.ID] = ev.Process
		case kindForkServer:
			l.forks(ev.Process)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, p := range l.processes {
		if now, there := listed[id]; !there || startOf(now) < p.start {
			p.finish(host.Exit{Code: -1, Lost: true, At: time.Now()})
		}
	}
	for _, p := range listed {
		l.adopt(p)
	}
	return nil
}

// keep follows a session and opens the next one when it ends, until ctx ends.
func (l *link) keep(ctx context.Context, s *session) {
	defer close(l.over)
	for {
		l.follow(ctx, s)
		l.mu.Lock()
		l.client, l.connected = nil, make(chan struct{})
		l.mu.Unlock()
		s.close()
		wait := linkRetryFirst
		for s = nil; s == nil; wait = min(2*wait, linkRetryMax) {
			if ctx.Err() != nil {
				return
			}
			l.log.Warn("the host's connection ended, opening another")
			var err error
			if s, err = l.open(ctx, ctx); err == nil {
				break
			}
			l.log.Error("the host cannot be reached", "error", err)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
	}
}

func (l *link) follow(ctx context.Context, s *session) {
	for {
		select {
		case ev, ok := <-s.events:
			if !ok {
				return
			}
			switch ev.Process.Labels[labelKind] {
			case kindWorker:
				l.mu.Lock()
				l.adopt(ev.Process)
				l.mu.Unlock()
			case kindForkServer:
				l.forks(ev.Process)
			}
		case <-ctx.Done():
			return
		}
	}
}

// adopt takes an observation in and gives the process that it is of; the caller holds mu. Observations may come
// twice and late: a start is named by its number.
func (l *link) adopt(seen host.Process) *process {
	p := l.processes[seen.ID]
	if p == nil || p.start < startOf(seen) {
		p = &process{
			link: l, id: seen.ID, start: startOf(seen), pid: seen.PID, started: seen.Started, since: time.Now(),
			memory: seen.Labels[labelMemory], spare: seen.Spare, instance: seen.Labels[labelInstance], done: make(chan struct{}),
		}
		l.processes[seen.ID] = p
	}
	if seen.Exit != nil && p.start == startOf(seen) {
		p.finish(*seen.Exit)
	}
	return p
}

func startOf(p host.Process) int {
	// The engine wrote the label itself; what is not a number would be 0, older than any start.
	n, _ := strconv.Atoi(p.Labels[labelStart])
	return n
}

// wait gives the client once there is one.
func (l *link) wait(ctx context.Context) (*host.Client, error) {
	for {
		l.mu.Lock()
		client, connected := l.client, l.connected
		l.mu.Unlock()
		if client != nil {
			return client, nil
		}
		select {
		case <-connected:
		case <-l.over:
			return nil, fmt.Errorf("wait for the host: %w", errClosed)
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the host: %w", ctx.Err())
		}
	}
}

// start starts a process, waiting for a host as long as ctx allows.
func (l *link) start(ctx context.Context, spec host.ProcessSpec) (*process, error) {
	for {
		client, err := l.wait(ctx)
		if err != nil {
			return nil, err
		}
		started, err := client.Start(ctx, spec)
		if errors.Is(err, host.ErrNotRunning) && ctx.Err() == nil {
			// The connection's end is on its way to keep; the next client is waited for.
			select {
			case <-client.Done():
			case <-time.After(linkRetryFirst):
			case <-ctx.Done():
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.adopt(started), nil
	}
}

// mounts says whether processes have a file system of their own, in which a view can stand at another path.
func (l *link) mounts() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.client != nil && l.client.Info().Capabilities.Mounts
}

// current is the newest process of an id, running or ended; nil when there is none.
func (l *link) current(id string) *process {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.processes[id]
}

// forget drops an ended process here and at the host. What the host still keeps is found at the next start.
func (l *link) forget(ctx context.Context, id string) {
	l.mu.Lock()
	client := l.client
	delete(l.processes, id)
	l.mu.Unlock()
	if client == nil {
		return
	}
	if err := client.Forget(ctx, id); err != nil && ctx.Err() == nil {
		l.log.Warn("an ended process could not be forgotten", "process", id, "error", err)
	}
}

// strangers gives the processes that belong to none of the instances.
func (l *link) strangers(known func(instance string) bool) []*process {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*process
	for _, p := range l.processes {
		if !known(p.instance) {
			out = append(out, p)
		}
	}
	return out
}

// process is one process of a worker. It is inference.Process.
type process struct {
	link     *link
	id       string
	instance string
	start    int
	pid      int
	started  time.Time // the host's clock, for people
	since    time.Time // when this server first saw it; monotonic
	memory   string    // its memory limit in MiB, for messages
	spare    bool      // it was forked before it was asked for
	done     chan struct{}

	// Guarded by link.mu.
	given   bool   // handed to a pool
	verdict string // why the engine ended it
	ended   bool
	exit    compute.Exit
}

// PID implements inference.Process.
func (p *process) PID() int { return p.pid }

// Started implements inference.Process.
func (p *process) Started() time.Time { return p.started }

// Done implements inference.Process.
func (p *process) Done() <-chan struct{} { return p.done }

// Exit implements inference.Process.
func (p *process) Exit() compute.Exit {
	p.link.mu.Lock()
	defer p.link.mu.Unlock()
	return p.exit
}

func (p *process) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Signal implements inference.Process.
func (p *process) Signal(ctx context.Context, sig syscall.Signal) error {
	if p.hasEnded() {
		return nil
	}
	client, err := p.link.wait(ctx)
	if err != nil {
		return err
	}
	err = client.Signal(ctx, p.id, sig, sig == syscall.SIGKILL)
	if errors.Is(err, host.ErrNotFound) {
		return nil
	}
	return err
}

// killWait is how long a process may take to end after SIGKILL.
const killWait = 30 * time.Second

// end ends the process if it runs: SIGTERM, after the grace SIGKILL.
func (p *process) end(ctx context.Context, grace time.Duration) error {
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGTERM, grace}, {syscall.SIGKILL, killWait}} {
		if p.hasEnded() {
			return nil
		}
		if err := p.Signal(ctx, step.signal); err != nil {
			return err
		}
		select {
		case <-p.done:
			return nil
		case <-time.After(step.wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("it runs %s after SIGKILL", killWait)
}

// condemn ends the process for a reason that its exit then tells.
func (p *process) condemn(ctx context.Context, reason string) error {
	p.link.mu.Lock()
	p.verdict = reason
	p.link.mu.Unlock()
	return p.Signal(ctx, syscall.SIGKILL)
}

// finish notes the exit once; the caller holds link.mu.
func (p *process) finish(x host.Exit) {
	if p.ended {
		return
	}
	p.ended = true
	p.exit = compute.Exit{Code: x.Code, Tail: x.Tail, At: x.At}
	if x.Signal != 0 {
		p.exit.Code, p.exit.Signal = -1, syscall.Signal(x.Signal).String()
	}
	switch {
	case p.verdict != "":
		p.exit.Reason = p.verdict
	case x.OOMKilled:
		p.exit.Reason = fmt.Sprintf("killed by the system: out of memory (the limit of this process is %s MiB)", p.memory)
	case x.Lost:
		p.exit.Signal = syscall.SIGKILL.String()
		p.exit.Reason = "ended together with the host, the supervisor of this machine's processes; started again by a new one"
	}
	close(p.done)
}
