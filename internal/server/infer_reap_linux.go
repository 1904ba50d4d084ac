package server

import (
	"bytes"
	"context"
	"os"
	signals "os/signal" // a function of this package has the other name
	"path/filepath"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// adopts says whether processes whose parent has ended become children of this one: the first process of a container, or one
// that was made a reaper.
func adopts() bool {
	var reaper int32
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&reaper)), 0, 0, 0)
	return os.Getpid() == 1 || err == nil && reaper == 1
}

// reap takes leave of processes that workers' code has left behind, as they end: nobody else can, and what nobody takes leave
// of keeps its number for ever. It returns when ctx ends.
func (l *execLauncher) reap(ctx context.Context) {
	ended := make(chan os.Signal, 1)
	signals.Notify(ended, syscall.SIGCHLD)
	defer signals.Stop(ended)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ended:
			l.reapOnce()
		}
	}
}

// reapOnce does so for those that have ended. Workers are not among them: who started them waits for them.
func (l *execLauncher) reapOnce() {
	l.mu.Lock() // no worker is between its start and its entry in running
	defer l.mu.Unlock()
	workers := make(map[int]bool, len(l.running))
	for _, p := range l.running {
		workers[p.PID()] = true
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // fails only for a malformed pattern
	for _, path := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || workers[pid] || !endedChild(path) {
			continue
		}
		_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil) // it has ended
	}
}

// endedChild says whether the process is a child of this one, and has ended.
func endedChild(stat string) bool {
	data, err := os.ReadFile(stat)
	if err != nil {
		return false
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:]) // state, parent, ...
	return len(fields) > 1 && string(fields[0]) == "Z" && string(fields[1]) == strconv.Itoa(os.Getpid())
}
