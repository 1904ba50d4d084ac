package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	maxSignal  = 64
	maxRSSUnit = 1024 // getrusage counts KiB
	// usersFile holds one lock per user id, at the byte of its number, shared by all supervisors of the machine.
	usersFile = "/run/portico-user-ids.lock"
)

// platform is what Linux gives: user ids, cgroups and a place to build file systems on.
type platform struct {
	cgroups    *cgroups
	users      *users
	usersWhy   error // why users is nil
	sandboxDir string
}

func newPlatform(ctx context.Context, cfg Config) (*platform, error) {
	p := &platform{cgroups: &cgroups{}, sandboxDir: filepath.Join(stateDir(cfg.DataDir), "root")}
	if os.Geteuid() != 0 {
		p.usersWhy = errors.New("the host does not run as root")
		return p, nil
	}
	if err := makePrivate(p.sandboxDir); err != nil {
		return nil, err
	}
	if mounts, err := cgroupMounts(); err == nil { // else there are none, which capabilities tells
		key, err := cgroupKey(cfg.DataDir)
		if err != nil {
			return nil, err
		}
		if err := sweepCgroups(ctx, stateDir(cfg.DataDir), key, mounts, cgroupBases(mounts, key)); err != nil {
			cfg.Logger.Warn("a next host may not find all cgroups of this one", "error", err)
		}
		p.cgroups = openCgroups(mounts, key)
	}
	p.users, p.usersWhy = openUsers(cfg.UserFirst, cfg.UserLast)
	return p, nil
}

func (p *platform) close() {
	p.cgroups.close()
	if p.users != nil {
		_ = p.users.file.Close()
	}
}

// capabilities finds out what is in force: contain makes a process namespace, probe a
// sandbox, forks the namespaces of a fork in one, roots a root of its own (with out: and a way out of its network), and each says why it cannot.
func (p *platform) capabilities(contain, probe, forks func() error, roots func(out bool) error) Capabilities {
	c := Capabilities{
		Users: p.users != nil, Memory: p.cgroups.has("memory"), CPU: p.cgroups.has("cpu"), Pids: p.cgroups.has("pids"),
		Tracked: len(p.cgroups.hierarchies) > 0,
	}
	reduce := func(format string, args ...any) { c.Reductions = append(c.Reductions, fmt.Sprintf(format, args...)) }
	if err := contain(); err != nil {
		reduce("children of user code outlive a host that is killed until the next one starts: %v", err)
	} else {
		c.Contained = true
	}
	if !c.Users {
		reduce("user code runs as the host's own user and sees its files: %v", p.usersWhy)
	} else if err := probe(); err != nil {
		reduce("user code sees the machine's files as far as their permissions allow: %v", err)
	} else {
		c.Mounts = true
	}
	if err := p.canFork(c, forks); err != nil {
		reduce("workers are executed, not forked: %v", err)
	} else {
		c.Forks = true
	}
	err := p.usersWhy
	if c.Users {
		err = roots(false)
	}
	if err != nil {
		c.NoRoots = err.Error()
	} else {
		c.Roots = true
		if err := roots(true); err != nil {
			c.NoEgress = err.Error()
		}
	}
	for _, l := range []struct {
		have bool
		what string
	}{{c.Memory, "memory"}, {c.CPU, "CPU"}, {c.Pids, "process"}} {
		if !l.have {
			reduce("%s limits are not enforced: no cgroup controller that this user may use", l.what)
		}
	}
	if !c.Tracked {
		reduce("children that leave their process group are found by a mark in their environment: no usable cgroup")
	}
	return c
}

// canFork says why a fork would be less isolated here than what is executed.
func (p *platform) canFork(c Capabilities, probe func() error) error {
	switch {
	case !c.Users:
		return nil // neither is isolated
	case !c.Mounts:
		return errors.New("there are no file systems of their own")
	}
	if err := probeMounts(); err != nil {
		return err
	}
	return probe()
}

func (p *platform) makeCgroups(name string, limits Limits) ([]string, error) {
	return p.cgroups.make(name, limits)
}

func (p *platform) removeCgroups(dirs []string) { removeCgroups(context.Background(), dirs) }

func (p *platform) oomKills(dirs []string) int { return oomKills(dirs) }

// users gives user ids out, each to one process of one supervisor of the machine.
type users struct {
	first, last int
	file        *os.File

	mu   sync.Mutex
	next int
	held map[int]bool
}

// userLease is a user id that is taken.
type userLease struct {
	users *users
	uid   int
	ids   *forkIDs // which has it until all of it has ended; nil: it is nobody else's
}

func openUsers(first, last int) (*users, error) {
	f, err := os.OpenFile(usersFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("user ids cannot be reserved: %w", err)
	}
	return &users{first: first, last: last, file: f, next: first, held: map[int]bool{}}, nil
}

// take reserves the next id that no supervisor holds and no process has. Ids are given out in turn, so that one
// comes back as late as possible.
func (u *users) take() (*userLease, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	used, err := usersInUse(u.first, u.last)
	if err != nil {
		return nil, err
	}
	for range u.last - u.first + 1 {
		uid := u.next
		if u.next++; u.next > u.last {
			u.next = u.first
		}
		if used[uid] || u.held[uid] || u.lock(uid, unix.F_WRLCK) != nil {
			continue
		}
		u.held[uid] = true
		return &userLease{users: u, uid: uid}, nil
	}
	return nil, fmt.Errorf("%w: all user ids from %d to %d are taken", ErrLimit, u.first, u.last)
}

func (u *users) lock(uid int, how int16) error {
	return unix.FcntlFlock(u.file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: how, Start: int64(uid), Len: 1})
}

// release gives the id back.
func (l *userLease) release() {
	if l.ids != nil {
		l.ids.back(l)
		return
	}
	l.free()
}

// free lets everybody have the id.
func (l *userLease) free() {
	l.users.mu.Lock()
	defer l.users.mu.Unlock()
	delete(l.users.held, l.uid)
	_ = l.users.lock(l.uid, unix.F_UNLCK) // unlocking one's own lock does not fail
}

// selfProgram is this program even if its file was replaced meanwhile: both sides of the stage must agree.
const selfProgram = "/proc/self/exe"

func stageProgram() (string, error) { return selfProgram, nil }

// stageAttr is how the stage is started: a session of its own, and with sandbox mounts and IPC of its own. It
// needs no parent-death signal until it has its plan: it ends when the pair does.
func stageAttr(sandbox bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if sandbox {
		attr.Cloneflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC
	}
	return attr
}

// socketPair makes two connected sockets, ours ready for deadlines.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
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
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); e != nil {
		return 0, e
	}
	if err != nil {
		return 0, fmt.Errorf("read peer credentials: %w", err)
	}
	return int(cred.Uid), nil
}

// preallocate reserves disk without changing the size of the file.
func preallocate(f *os.File, size int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
}

// replaceDescriptor makes the descriptor to mean the same file as from.
func replaceDescriptor(from, to int) error { return unix.Dup3(from, to, 0) }
