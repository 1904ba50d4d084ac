package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// startTime is when a process started, in clock ticks since boot; 0 when it is gone. One that is dead and
// only not buried is gone.
func startTime(pid int) uint64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything, so fields are counted from the last parenthesis: state is 3.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const startTimeField = 22 - 3
	if len(fields) <= startTimeField || fields[0] == "Z" || fields[0] == "X" {
		return 0
	}
	ticks, _ := strconv.ParseUint(fields[startTimeField], 10, 64)
	return ticks
}

// allPids lists the processes that exist.
func allPids() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// members lists the living processes that belong to r: those in its cgroup, or, where there is none, those that
// carry its mark in their environment.
func members(r *record) ([]int, error) {
	if len(r.Cgroups) > 0 {
		return cgroupMembers(r.Cgroups)
	}
	all, err := allPids()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, pid := range all {
		if belongs(r, pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// belongs looks at one process again, just before it is ended: its number may be another's by then.
func belongs(r *record, pid int) bool {
	if len(r.Cgroups) > 0 {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		return err == nil && bytes.Contains(text, []byte("/"+filepath.Base(r.Cgroups[0])+"\n"))
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // empty for a zombie
	return err == nil && r.Mark != "" && bytes.Contains(text, []byte(markVariable+"="+r.Mark))
}

// killExactly ends the process with this number if it is the one that is meant: the handle is taken first, so
// that a check which holds speaks of the process that is signalled.
func killExactly(pid int, meant func() bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		if errors.Is(err, unix.ENOSYS) && meant() { // before Linux 5.3
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return
	}
	defer func() { _ = unix.Close(fd) }()
	if meant() {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}

// usersInUse says which user ids of a range some process has.
func usersInUse(first, last int) (map[int]bool, error) {
	all, err := allPids()
	if err != nil {
		return nil, err
	}
	used := map[int]bool{}
	for _, pid := range all {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // it ended meanwhile
		}
		for line := range strings.Lines(string(text)) {
			ids, ok := strings.CutPrefix(line, "Uid:")
			if !ok {
				continue
			}
			for _, f := range strings.Fields(ids) {
				if uid, err := strconv.Atoi(f); err == nil && uid >= first && uid <= last {
					used[uid] = true
				}
			}
			break
		}
	}
	return used, nil
}
