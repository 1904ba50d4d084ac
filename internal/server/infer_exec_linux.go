package server

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// diesWithParent makes the kernel kill a worker when the thread that started it ends, which it does only with this
// process: even after kill -9 no worker is left.
func diesWithParent(attr *syscall.SysProcAttr) *syscall.SysProcAttr {
	attr.Pdeathsig = syscall.SIGKILL
	return attr
}

// endGroup waits for a worker's end and kills what its code started and left behind. The worker is not reaped yet, so
// its number cannot belong to anybody else.
func endGroup(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL) // the group is empty in the usual case
}
