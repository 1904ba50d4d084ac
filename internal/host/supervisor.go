package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a supervisor.
const (
	MaxProcesses   = 2000                   // running at the same time
	maxConnections = 512                    // of clients; further ones are told to come back
	lockPatience   = time.Second            // how long a new supervisor waits for a lock that is only looked at
	lockPoll       = 20 * time.Millisecond  // between two attempts
	maxStarting    = 16                     // processes that are set up at the same time
	acceptPause    = 100 * time.Millisecond // after a failed accept (no descriptors left)
)

// supervisor is one `portico host`.
type supervisor struct {
	cfg      Config
	log      *slog.Logger
	dir      string // state directory
	boot     string
	platform *platform
	forks    *forker
	mounts   *mounter
	children *children
	inside   *enclosure // nil where there is none
	capable  Capabilities

	starting chan struct{}  // one token per process that is being set up
	attended sync.WaitGroup // goroutines that belong to processes

	mu       sync.Mutex
	journal  *journal
	procs    map[string]*proc // being set up or running
	watchers map[*watcher]struct{}
	draining bool

	listeners listeners
	presence  presence

	shutdown chan time.Duration // grace of a requested end
}

// Run supervises cfg.DataDir until ctx ends, SIGTERM or SIGINT comes, a client shuts it down, or no client was
// connected for cfg.OrphanTimeout. It then drains: SIGTERM to every process, after the grace SIGKILL. It owns the
// calling process: all its children, and descriptors above 2 that exec would pass on are closed. ErrRunning: another
// supervisor holds the data directory.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.setDefaults(); err != nil {
		return err
	}
	// Other users must get into the root file systems that are made here; what is private has its mode from its maker.
	syscall.Umask(0o022)
	// Pipes and files that whoever started us leaked: holding them for ever would make others wait for their end.
	if err := onExec(3, func(fd int) { _ = unix.Close(fd) }); err != nil {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	root, err := canonical(cfg.DataDir)
	if err != nil {
		return err
	}
	cfg.DataDir = root
	dir := stateDir(root)
	if err := makePrivate(dir); err != nil {
		return err
	}
	unlock, err := lockPatiently(ctx, filepath.Join(dir, lockName))
	if err != nil {
		return fmt.Errorf("supervise %s: %w", root, err)
	}
	defer unlock()
	s := &supervisor{
		cfg: cfg, log: cfg.Logger, dir: dir,
		starting: make(chan struct{}, maxStarting), procs: map[string]*proc{}, watchers: map[*watcher]struct{}{},
		shutdown: make(chan time.Duration, 1), children: newChildren(),
	}
	s.listeners.open, s.presence.change = map[string]*listening{}, make(chan struct{})
	return s.run(ctx)
}

func (s *supervisor) run(ctx context.Context) error {
	j, err := openJournal(s.dir)
	if err != nil {
		return err
	}
	defer func() { _ = j.close() }() // every entry is on disk already
	s.journal = j
	if s.boot, err = bootID(); err != nil {
		return err
	}
	// What an earlier supervisor left is ended before anything new is started: nothing ever runs twice.
	if n, err := killJournal(ctx, j); err != nil {
		return err
	} else if n > 0 {
		s.log.Warn("ended processes of an earlier host", "count", n)
	}
	if s.platform, err = newPlatform(ctx, s.cfg); err != nil {
		return err
	}
	defer s.platform.close()
	becomeReaper()
	s.forks = newForker()
	defer func() { s.forks.close() }()
	reaping := make(chan struct{})
	stopReaping := make(chan struct{})
	go func() {
		defer close(reaping)
		s.children.reap(stopReaping)
	}()
	defer func() {
		close(stopReaping)
		<-reaping
	}()
	s.mounts = newMounter()
	defer s.mounts.close()
	s.capable = s.platform.capabilities(
		func() (err error) { s.inside, err = s.contain(); return err },
		func() error { return s.probeSandbox(ctx, false) },
		func() error { return s.probeSandbox(ctx, true) },
		func(out bool) error { return s.probeRoot(ctx, out) },
	)
	defer s.inside.close()
	return s.serveUntilEnd(ctx)
}

// serveUntilEnd opens the control socket, waits for a reason to end, and drains.
func (s *supervisor) serveUntilEnd(ctx context.Context) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE) // the terminal that started us may close
	l, path, err := s.listenControl()
	if err != nil {
		return err
	}
	connCtx, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	var serving sync.WaitGroup
	serving.Go(func() { s.accept(connCtx, l) })
	s.log.Info("host is ready", "pid", os.Getpid(), "data_dir", s.cfg.DataDir, "isolation", s.capable)

	grace := s.cfg.Grace
	var reason string
	select {
	case <-ctx.Done():
		reason = "canceled"
	case <-signals:
		reason = "signal"
	case grace = <-s.shutdown:
		reason = "asked"
	case <-s.presence.orphaned(connCtx, s.cfg.OrphanTimeout):
		reason = "no client"
	case d := <-s.inside.died():
		s.inside.first.died <- d
		err = fmt.Errorf("the process namespace ended: %s", describe(d.status))
		reason, grace = "namespace ended", 0
	}
	s.log.Info("host drains", "reason", reason, "grace", grace)
	s.drain(grace, signals)
	s.listeners.closeAll()
	_ = os.Remove(path)
	_ = os.Remove(filepath.Dir(path)) // unless something else is in it; SocketDir makes it again under its name
	_ = l.Close()
	hangUp()
	serving.Wait()
	s.log.Info("host ended")
	return err
}

func (s *supervisor) listenControl() (*net.UnixListener, string, error) {
	path, err := controlSocket(s.cfg.DataDir)
	if err != nil {
		return nil, "", err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // the lock says that nobody uses it
		return nil, "", fmt.Errorf("remove old control socket: %w", err)
	}
	l, err := listenUnix(path)
	if err != nil {
		return nil, "", fmt.Errorf("listen on control socket: %w", err)
	}
	return l, path, nil
}

// drain ends every process: SIGTERM to its group, SIGKILL after the grace or a further signal.
func (s *supervisor) drain(grace time.Duration, signals <-chan os.Signal) {
	s.mu.Lock()
	s.draining = true
	for _, p := range s.procs {
		s.signalProc(p, syscall.SIGTERM)
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		s.attended.Wait()
		close(ended)
	}()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-ended:
		return
	case <-timer.C:
	case <-signals:
	}
	s.mu.Lock()
	for _, p := range s.procs {
		s.signalProc(p, syscall.SIGKILL)
	}
	s.mu.Unlock()
	<-ended // each is bounded by stageTimeout, endTimeout and outputTimeout
}

// lockPatiently takes the lock of a data directory, past those who only look whether it is taken.
func lockPatiently(ctx context.Context, path string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for {
		if unlock, err = lockFile(path, false); !errors.Is(err, ErrRunning) {
			return unlock, err
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// makePrivate makes the state directory, and makes it private if it was not.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, privateDir); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	if err := os.Chmod(dir, privateDir); err != nil {
		return fmt.Errorf("make state directory private: %w", err)
	}
	return nil
}

// presence counts connected clients.
type presence struct {
	mu     sync.Mutex
	count  int
	change chan struct{} // closed when the count comes to or leaves 0, and then replaced
}

// add counts a client that came (1) or went (-1).
func (p *presence) add(delta int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.count
	p.count += delta
	if (before == 0) != (p.count == 0) {
		close(p.change)
		p.change = make(chan struct{})
	}
}

// orphaned is closed when there was no client for the timeout. Its goroutine ends with ctx.
func (p *presence) orphaned(ctx context.Context, timeout time.Duration) <-chan struct{} {
	orphan := make(chan struct{})
	go func() {
		for {
			p.mu.Lock()
			alone, change := p.count == 0, p.change
			p.mu.Unlock()
			t := time.NewTimer(timeout)
			tooLong := t.C
			if !alone {
				tooLong = nil
			}
			select {
			case <-change:
			case <-tooLong:
				close(orphan)
			case <-ctx.Done():
			}
			t.Stop()
			select {
			case <-orphan:
				return
			case <-ctx.Done():
				return
			default:
			}
		}
	}()
	return orphan
}
