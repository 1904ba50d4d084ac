package host

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Where the supervisor is root, everything that it starts lives in one process namespace. The namespace's first
// process is this program again, as initName: it buries what is orphaned in there and ends when the supervisor
// does, however that ends. The kernel then ends all that is left in the namespace, so that no process can outlive
// the supervisor. The supervisor itself stays outside and sees everything under its ordinary number.

const initTimeout = 10 * time.Second

// What the first process says when it can bury: also whether it could mount the namespace's /proc.
const (
	initGo   byte = 'g'
	initBare byte = 'b'
)

// contain moves the processes that the forking thread starts from now on into a new process namespace.
func (s *supervisor) contain() (*enclosure, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	attr := &syscall.ProcAttr{
		Dir: "/", Env: []string{}, Sys: &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWNS},
		Files: []uintptr{null.Fd(), 2, 2, theirs.Fd()},
	}
	e := &enclosure{lifeline: ours}
	s.forks.do(func() {
		if err = unix.Unshare(unix.CLONE_NEWPID); err != nil {
			return
		}
		e.first, err = s.children.fork(func() (int, error) { return syscall.ForkExec(selfProgram, []string{initName}, attr) })
	})
	_ = theirs.Close()
	if err == nil { // until it says so it may not yet be able to bury
		_ = ours.SetReadDeadline(time.Now().Add(initTimeout))
		said := make([]byte, 1)
		_, err = ours.Read(said)
		e.proc = said[0] == initGo
	}
	if err != nil {
		e.close()
		// The thread would start the next process as the first of a namespace: it is of no use any more.
		s.forks.close()
		s.forks = newForker()
		return nil, fmt.Errorf("make process namespace: %w", err)
	}
	return e, nil
}

// initMain is the first process of the namespace. Its descriptor 3 ends with the supervisor.
func initMain() {
	syscall.CloseOnExec(3)
	lifeline := os.NewFile(3, "lifeline")
	// Signals from the terminal or from a drain are the supervisor's to handle.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	exits := make(chan os.Signal, 1)
	signal.Notify(exits, syscall.SIGCHLD)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var b [1]byte
		_, _ = lifeline.Read(b[:]) // nothing is ever sent: the end of the supervisor ends it
	}()
	word := initBare
	if mountOwnProc() == nil {
		word = initGo
	}
	if _, err := lifeline.Write([]byte{word}); err != nil {
		return
	}
	for {
		select {
		case <-exits:
			buryAll()
		case <-ended:
			return
		}
	}
}

// mountOwnProc mounts the /proc of this process's namespace where nobody but this process sees it: roots of their own
// are given a copy of the mount.
func mountOwnProc() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("portico", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, procOptions())
}

func buryAll() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}
