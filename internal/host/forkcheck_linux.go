package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// inCgroups says whether a process is in all of dirs.
func inCgroups(pid int, dirs []string) bool {
	if len(dirs) == 0 {
		return true
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && bytes.Count(text, []byte("/"+filepath.Base(dirs[0])+"\n")) == len(dirs)
}

// mapUser gives the user namespace that a fork made for itself its only id. Namespaces that are ours or the fork
// server's would be a fork that did not do as it was told.
func mapUser(pid, server, uid int) error {
	for _, name := range []string{"user", "mnt", "ipc"} {
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		if err != nil {
			return fmt.Errorf("look at the fork: %w", withoutPath(err))
		}
		for _, other := range []string{"self", strconv.Itoa(server)} {
			if theirs, err := os.Readlink(fmt.Sprintf("/proc/%s/ns/%s", other, name)); err != nil || theirs == its {
				return fmt.Errorf("the fork has no %s namespace of its own", name)
			}
		}
	}
	line := fmt.Appendf(nil, "%d %d 1\n", uid, uid)
	for _, file := range []string{"uid_map", "gid_map"} {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, file), line, 0); err != nil {
			return fmt.Errorf("map the user id: %w", withoutPath(err))
		}
	}
	return nil
}

// checkFork looks from outside whether a fork is what it says: one thread that leads its session, and, with a user id,
// that user alone without any privilege or a way to one.
func checkFork(pid, uid int) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return fmt.Errorf("look at the fork: %w", withoutPath(err))
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return fmt.Errorf("look at the fork: %w", withoutPath(err))
	}
	after := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // state, parent, group, session
	me := strconv.Itoa(pid)
	if len(after) < 4 || after[2] != me || after[3] != me {
		return errors.New("the fork does not lead a session")
	}
	want := map[string][]string{"Threads:": {"1"}}
	if uid != 0 {
		id := strconv.Itoa(uid)
		want["Uid:"], want["Gid:"] = slices.Repeat([]string{id}, 4), slices.Repeat([]string{id}, 4)
		want["Groups:"], want["NoNewPrivs:"] = []string{}, []string{"1"}
		for _, set := range []string{"CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"} {
			want[set] = []string{"0000000000000000"}
		}
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if values, ok := want[fields[0]]; ok {
			if !slices.Equal(fields[1:], values) {
				return fmt.Errorf("the fork has %s, which it was to give up", strings.TrimSpace(line))
			}
			delete(want, fields[0])
		}
	}
	if len(want) > 0 {
		return errors.New("the kernel does not tell what the fork may do")
	}
	return nil
}

// adopt takes up a process that is our child without our having started it.
func (c *children) adopt(pid int) (*child, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Nothing is buried while the lock is held: the number is its own.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, errors.New("the fork ended at once")
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) || c.live[pid] != nil {
		return nil, errors.New("the fork is not the supervisor's child")
	}
	ch := &child{pid: pid, died: make(chan death, 1)}
	c.live[pid] = ch
	return ch, nil
}

// lives says that a child is not buried: a number that was given to another process is not its.
func (c *children) lives(ch *child) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.live[ch.pid] == ch
}

// tryNamespaces says whether this process, which has no privileges, may make the namespaces that a fork needs.
func tryNamespaces() error {
	flags := uintptr(unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | int(unix.SIGCHLD))
	pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, flags, 0, 0, 0, 0, 0)
	if e != 0 {
		return fmt.Errorf("user namespaces: %w", e)
	}
	if pid == 0 {
		for { // nothing of the runtime may be used here
			_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	_, err := unix.Wait4(int(pid), nil, 0, nil)
	return err
}
