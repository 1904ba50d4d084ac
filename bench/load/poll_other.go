//go:build !linux

package load

import (
	"time"

	"golang.org/x/sys/unix"
)

// poll has a resolution of a millisecond here, and rounds up.
func poll(fds []unix.PollFd, timeout *unix.Timespec) (int, error) {
	wait := time.Duration(timeout.Nano())
	return unix.Poll(fds, int((wait+time.Millisecond-1)/time.Millisecond))
}
