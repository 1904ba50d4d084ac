package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// forkServer is the supervisor's side of a process that forks others.
type forkServer struct {
	p       *proc
	spares  int
	control *net.UnixConn
	ready   chan struct{}
	// After ready:
	report json.RawMessage
	failed error

	ids   *forkIDs      // nil where there are no user ids
	taken chan struct{} // a spare was taken
	ended chan struct{} // the process is no more
	over  chan struct{} // nothing of it is left here

	mu       sync.Mutex
	waiting  []*fork
	newest   *child // the last process that was told of no pages; nil: it was looked at
	touched  []byte // the pages that it had written to then, for forkIdentity
	told     int    // forks that were told of them
	prepared *fork  // what the next one needs besides the child; nil: nothing
}

// newForkServer makes the control socket of p, which is a fork server.
func (s *supervisor) newForkServer(p *proc, spec ForkSpec, files *inherited, undo *undoing) error {
	if !s.capable.Forks {
		return errors.New("this machine cannot fork workers: see the reductions of its isolation")
	}
	ours, theirs, err := talkPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return err
	}
	undo.add(func() { _ = ours.Close() })
	files.files[3] = theirs
	p.forks = &forkServer{
		p: p, spares: spec.Spares, control: ours, ids: newForkIDs(s.platform.users),
		ready: make(chan struct{}), taken: make(chan struct{}, 1), ended: make(chan struct{}), over: make(chan struct{}),
	}
	return nil
}

// tend hears the fork server's report and then keeps spares ready until its end.
func (s *supervisor) tend(f *forkServer) {
	defer close(f.over)
	f.failed = f.hear()
	close(f.ready)
	if f.failed != nil {
		s.log.Info("nothing can be forked", "id", f.p.rec.ID, "reason", f.failed)
		_ = s.signal(f.p.rec.ID, syscall.SIGKILL, true) // it may have ended on its own
		<-f.ended
		return
	}
	for f.fill(s) {
		t := time.NewTimer(spareDelay)
		select {
		case <-t.C:
		case <-f.ended:
			t.Stop()
		}
	}
	f.mu.Lock()
	left := append(f.waiting, f.prepared)
	f.waiting, f.prepared = nil, nil
	f.mu.Unlock()
	for _, k := range left {
		if k != nil {
			k.discard(s)
		}
	}
}

// hear waits for the report.
func (f *forkServer) hear() error {
	if err := f.control.SetReadDeadline(time.Now().Add(forkReadyTimeout)); err != nil {
		return err
	}
	text := make([]byte, maxForkReport)
	n, err := f.control.Read(text)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the fork server was not ready after %s", forkReadyTimeout)
	case err != nil || n == 0:
		return errors.New("the fork server ended before it was ready")
	}
	f.report = text[:n]
	reason, err := unfit(f.report)
	if err != nil {
		return errors.New("the fork server's report is not the JSON that was expected, or too long")
	}
	if reason != "" {
		return errors.New(reason)
	}
	return nil
}

// fill makes the spares that are missing, prepares the next fork, and waits until one is taken; false at the end of the
// fork server.
func (f *forkServer) fill(s *supervisor) bool {
	f.learn(s)
	for {
		f.mu.Lock()
		missing := f.spares - len(f.waiting)
		f.mu.Unlock()
		if missing <= 0 {
			break
		}
		k, err := s.newSpare(f)
		if err != nil {
			s.log.Warn("no spare was made", "id", f.p.rec.ID, "error", err)
			break // the next start tells its caller
		}
		f.mu.Lock()
		f.waiting = append(f.waiting, k)
		f.mu.Unlock()
	}
	if next, err := s.prepareFork(f); err == nil { // an error is told when a fork is wanted
		f.mu.Lock()
		next, f.prepared = f.prepared, next
		f.mu.Unlock()
		if next != nil {
			next.discard(s)
		}
	}
	select {
	case <-f.taken:
		return true
	case <-f.ended:
		return false
	}
}

// learn looks at what the newest fork has written to so far. It was started spareDelay ago: what comes later is not of a
// start. Forks that know it have their copies of these pages before they are wanted.
func (f *forkServer) learn(s *supervisor) {
	f.mu.Lock()
	c := f.newest
	f.newest = nil
	f.mu.Unlock()
	if c == nil {
		return
	}
	pages, err := writtenPages(f.p.rec.PID, c.pid)
	if err != nil || !s.children.lives(c) { // then the number may be another's
		return // it ended: the next one is looked at
	}
	f.mu.Lock()
	f.touched, f.told = vector(pages), 0
	f.mu.Unlock()
}

// became says which fork is a process now. One that was told of pages has them, whether or not it writes to them, and
// shows nothing.
func (f *forkServer) became(k *fork) {
	if k.told {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newest = k.child
}

// written is what a fork is told of pages: those that the last one wrote to that was looked at, and now and then
// nothing, since workers change.
func (f *forkServer) written() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.told == forksToldAlike {
		f.told = 0
		return nil
	}
	if len(f.touched) > 0 {
		f.told++
	}
	return f.touched
}

// take gives a spare that lives, and discards those that do not; nil: there is none.
func (f *forkServer) take(s *supervisor) *fork {
	k, dead := f.pick(s.children)
	for _, d := range dead {
		d.discard(s)
	}
	return k
}

// pick takes the first spare that lives out of the waiting ones, and all before it, which are dead.
func (f *forkServer) pick(c *children) (k *fork, dead []*fork) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.ended:
		return nil, nil
	case f.taken <- struct{}{}:
	default:
	}
	for len(f.waiting) > 0 {
		k, f.waiting = f.waiting[0], f.waiting[1:]
		if c.lives(k.child) {
			return k, dead
		}
		dead = append(dead, k)
	}
	return nil, dead
}

// stop ends what belongs to a fork server that is no more. Its forks that run are processes like any other.
func (f *forkServer) stop() {
	if f == nil {
		return
	}
	close(f.ended)
	_ = f.control.Close()
	<-f.over
}

// left says that the fork server has ended with all that it started.
func (f *forkServer) left() {
	if f != nil {
		f.ids.leave()
	}
}

// reported waits for the report of a fork server and adds it to what is told of the process.
func (s *supervisor) reported(ctx context.Context, p *proc, process Process) (Process, error) {
	f := p.forks
	if f == nil {
		return Process{}, fmt.Errorf("%w: %s is no fork server", ErrBadRequest, process.ID)
	}
	select {
	case <-f.ready:
	case <-ctx.Done():
		return Process{}, ctx.Err()
	}
	if f.failed != nil {
		return Process{}, fmt.Errorf("%w: %w", ErrFork, f.failed)
	}
	process.Report = f.report
	return process, nil
}

// forkServerOf finds a fork server that is ready.
func (s *supervisor) forkServerOf(id string) (*forkServer, error) {
	s.mu.Lock()
	p := s.procs[id]
	s.mu.Unlock()
	if p == nil || p.forks == nil {
		return nil, fmt.Errorf("no fork server %s runs", id)
	}
	select {
	case <-p.forks.ready:
		return p.forks, p.forks.failed
	default:
		return nil, fmt.Errorf("the fork server %s is not ready", id)
	}
}
