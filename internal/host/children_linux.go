package host

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// becomeReaper has the kernel give us the orphans among our descendants, so that they can be found and buried.
func becomeReaper() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// childInfo is the kernel's siginfo_t as waitid fills it on 64-bit machines.
type childInfo struct {
	_   [3]int32 // signo, errno, code
	_   int32
	pid int32
	_   [108]byte
}

// nextDead names a child that is dead and not yet buried.
func (c *children) nextDead() (int, bool) {
	for {
		var info childInfo
		err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)),
			unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return int(info.pid), err == nil && info.pid != 0
	}
}
