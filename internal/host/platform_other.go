//go:build !linux

package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Outside Linux there are no user ids of their own, no private file systems and no cgroups: processes run as the
// host's user, and what they start is found by their process group. Capabilities says so.

const (
	maxSignal  = 31
	maxRSSUnit = 1 // getrusage counts bytes
)

var errNoIsolation = errors.New("this operating system offers none of it to Portico")

// mounter visits mount namespaces on Linux.
type mounter struct{}

func newMounter() *mounter { return nil }

func (*mounter) close() {}

type platform struct {
	users      noUsers
	sandboxDir string
}

// noUsers and userLease keep the places where Linux has user ids.
type noUsers struct{}

type userLease struct{ uid int }

func (noUsers) take() (*userLease, error) { return nil, errNoIsolation }

func (*userLease) release() {}

func newPlatform(context.Context, Config) (*platform, error) { return &platform{}, nil }

func (p *platform) close() {}

func (p *platform) capabilities(_, _, _ func() error, _ func(bool) error) Capabilities {
	return Capabilities{NoRoots: errNoRoots.Error(), Reductions: []string{
		"user code runs as the host's own user and sees its files: " + errNoIsolation.Error(),
		"memory, CPU and process limits are not enforced: " + errNoIsolation.Error(),
		"children that leave their process group are not found: " + errNoIsolation.Error(),
		"workers are executed, not forked: " + errNoFork.Error(),
	}}
}

func (s *supervisor) contain() (*enclosure, error) { return nil, errNoIsolation }

func initMain() {}

func (p *platform) makeCgroups(string, Limits) ([]string, error) { return nil, nil }
func (p *platform) removeCgroups([]string)                       {}
func (p *platform) oomKills([]string) int                        { return 0 }

func enterCgroups([]string, int) error        { return nil }
func removeCgroups(context.Context, []string) {}
func killCgroup([]string) bool                { return false }

func members(*record) ([]int, error)    { return nil, nil }
func belongs(*record, int) bool         { return false }
func killExactly(int, func() bool)      {}
func becomeReaper()                     {}
func isolate(*stagePlan) error          { return nil }
func preallocate(*os.File, int64) error { return errNoIsolation }

// dieWithParent has no counterpart: when the supervisor dies, the next one ends what it started.
func dieWithParent() error { return nil }

func stageProgram() (string, error) { return os.Executable() }

func stageAttr(bool) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// startTime is when a process started, in microseconds since the epoch; 0 when it is gone.
func startTime(pid int) uint64 {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil || int(info.Proc.P_pid) != pid {
		return 0
	}
	t := info.Proc.P_starttime
	return uint64(t.Sec)*1_000_000 + uint64(t.Usec)
}

func socketPair() (ours, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	unix.CloseOnExec(fds[0])
	unix.CloseOnExec(fds[1])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		_, _ = unix.Close(fds[0]), unix.Close(fds[1])
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "stage"), os.NewFile(uintptr(fds[1]), "stage"), nil
}

// peerUID is the user at the other end of a connection.
func peerUID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Xucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	}); e != nil {
		return 0, e
	}
	if err != nil {
		return 0, fmt.Errorf("read peer credentials: %w", err)
	}
	return int(cred.Uid), nil
}

// nextDead names a child that is dead and not yet buried: the system can look at a child only by burying it, so
// each one that we know is asked whether it lives.
func (c *children) nextDead() (int, bool) {
	for pid := range c.live {
		info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
		const zombie = 5 // SZOMB of sys/proc.h
		if err == nil && info.Proc.P_stat == zombie {
			return pid, true
		}
	}
	return 0, false
}

// page is a status page: a plain file.
type page struct {
	path string
	file *os.File
}

func newPage(path string) (*page, error) {
	_ = os.Remove(path) // of an earlier process
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(PageBytes); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &page{path: path, file: f}, nil
}

func (p *page) inherit() (*os.File, error) { return os.OpenFile(p.path, os.O_RDWR, 0) }

func (p *page) keep() error { return p.file.Close() }

func (p *page) remove() {
	_ = os.Remove(p.path)
	_ = p.file.Close()
}

// replaceDescriptor makes the descriptor to mean the same file as from.
func replaceDescriptor(from, to int) error { return unix.Dup2(from, to) }
