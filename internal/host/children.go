package host

import (
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// reapInterval bounds how long an exit can stay unseen if its signal was merged into another.
const reapInterval = time.Second

// forker forks on one thread that lives as long as the supervisor: the kernel sends the parent-death signal when
// the *thread* that forked ends, and the runtime may end any other.
type forker struct {
	jobs chan func()
	done chan struct{}
}

func newForker() *forker {
	f := &forker{jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		defer close(f.done)
		for job := range f.jobs {
			job()
		}
	}()
	return f
}

// do runs job on the thread and waits for it.
func (f *forker) do(job func()) {
	done := make(chan struct{})
	f.jobs <- func() {
		defer close(done)
		job()
	}
	<-done
}

func (f *forker) close() {
	close(f.jobs)
	<-f.done
}

// death is how a child ended.
type death struct {
	status syscall.WaitStatus
	usage  syscall.Rusage
	at     time.Time
}

// child is a process that was forked and not yet buried. Until it is buried its number is its own.
type child struct {
	pid  int
	died chan death // gets one
}

// children is every child of this process. The lock is held across fork and across burial, so that an exit finds
// its child, and a signal never meets a number that was given to another process.
type children struct {
	mu   sync.Mutex
	live map[int]*child
}

func newChildren() *children { return &children{live: map[int]*child{}} }

// fork starts a process through start.
func (c *children) fork(start func() (int, error)) (*child, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := start()
	if err != nil {
		return nil, err
	}
	ch := &child{pid: pid, died: make(chan death, 1)}
	c.live[pid] = ch
	return ch, nil
}

// signal sends sig to a child, or with group to the process group that it leads. A child that is already dead has
// got every signal that it will get.
func (c *children) signal(ch *child, sig syscall.Signal, group bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live[ch.pid] != ch {
		return nil
	}
	pid := ch.pid
	if group {
		pid = -pid
	}
	return syscall.Kill(pid, sig)
}

// reap buries the dead until stop is closed: our own, and what they left behind (see becomeReaper).
func (c *children) reap(stop <-chan struct{}) {
	exits := make(chan os.Signal, 1)
	signal.Notify(exits, syscall.SIGCHLD)
	defer signal.Stop(exits)
	tick := time.NewTicker(reapInterval)
	defer tick.Stop()
	for {
		for c.bury() {
		}
		select {
		case <-exits:
		case <-tick.C:
		case <-stop:
			return
		}
	}
}

// bury waits for one dead child; false when there is none.
func (c *children) bury() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, ok := c.nextDead()
	if !ok {
		return false
	}
	ch := c.live[pid]
	if ch != nil {
		// While the leader lies unburied the number of its group cannot be another's.
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
	var d death
	for {
		got, err := syscall.Wait4(pid, &d.status, syscall.WNOHANG, &d.usage)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || got != pid {
			return false
		}
		break
	}
	if ch != nil {
		delete(c.live, pid)
		d.at = time.Now()
		ch.died <- d
	}
	return true
}
