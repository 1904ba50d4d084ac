package load

import "golang.org/x/sys/unix"

func poll(fds []unix.PollFd, timeout *unix.Timespec) (int, error) {
	return unix.Ppoll(fds, timeout, nil)
}
