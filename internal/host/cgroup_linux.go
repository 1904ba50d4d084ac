package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of what is done with cgroups.
const (
	cgroupRemoveTimeout = 2 * time.Second // a cgroup is busy until the kernel has buried its last process
	cpuPeriodMicros     = 100_000
)

var cgroupControllers = []string{"memory", "cpu", "pids"}

// hierarchy is one tree of cgroups in which the supervisor has a directory of its own.
type hierarchy struct {
	base        string // of this data directory; one child per process
	v2          bool
	controllers []string // those of cgroupControllers that are enforced here
}

// cgroups is what the machine offers: version 2, version 1, both at once, or nothing. The first hierarchy is
// the one that finds the members of a process.
type cgroups struct{ hierarchies []hierarchy }

// cgroupMount is a mounted cgroup file system.
type cgroupMount struct {
	root, point string
	v2          bool
	options     []string
	own         string // cgroup in which this process is
}

// openCgroups makes this data directory's part of every usable hierarchy. key names it.
func openCgroups(mounts []cgroupMount, key string) *cgroups {
	cg := &cgroups{}
	for _, m := range mounts {
		if m.v2 {
			cg.addV2(m, key)
		}
	}
	own2 := cg.hierarchies
	for _, m := range mounts {
		for _, c := range cgroupControllers {
			if !m.v2 && slices.Contains(m.options, c) && !cg.has(c) {
				cg.addV1(m, key, c)
			}
		}
	}
	// A hierarchy of version 2 without controllers only finds processes, which those of version 1 do too; moving a
	// process into it waits for every processor.
	if len(own2) == 1 && len(own2[0].controllers) == 0 && len(cg.hierarchies) > 1 {
		removeCgroups(context.Background(), []string{own2[0].base})
		cg.hierarchies = cg.hierarchies[1:]
	}
	return cg
}

func (cg *cgroups) has(controller string) bool {
	return slices.ContainsFunc(cg.hierarchies, func(h hierarchy) bool { return slices.Contains(h.controllers, controller) })
}

// places lists where in m the directory may be made: below our own cgroup, so that what limits us limits what we
// start, else at the top of what is mounted.
func (m *cgroupMount) places() []string {
	places := []string{m.point}
	if rel, err := filepath.Rel(m.root, m.own); err == nil && rel != "." && !strings.HasPrefix(rel, "..") {
		places = []string{filepath.Join(m.point, rel), m.point}
	}
	return places
}

// holds says whether a path leads into m.
func (m *cgroupMount) holds(path string) bool {
	rel, err := filepath.Rel(m.point, path)
	return err == nil && filepath.IsLocal(rel)
}

// cgroupBases lists every directory that openCgroups may make.
func cgroupBases(mounts []cgroupMount, key string) []string {
	var bases []string
	for _, m := range mounts {
		for _, place := range m.places() {
			bases = append(bases, filepath.Join(place, key))
		}
	}
	return bases
}

func (cg *cgroups) addV1(m cgroupMount, key, controller string) {
	for _, place := range m.places() {
		base := filepath.Join(place, key)
		if makeCgroup(base) != nil {
			continue
		}
		for i := range cg.hierarchies {
			if h := &cg.hierarchies[i]; h.base == base { // mounted together, such as cpu and cpuacct
				h.controllers = append(h.controllers, controller)
				return
			}
		}
		cg.hierarchies = append(cg.hierarchies, hierarchy{base: base, controllers: []string{controller}})
		return
	}
}

// addV2 takes the place where most controllers can be had. Version 2 gives controllers to the children of a
// cgroup only while no process is in it, so our own cgroup mostly offers none, but still finds processes.
func (cg *cgroups) addV2(m cgroupMount, key string) {
	var best hierarchy
	for _, place := range m.places() {
		for _, c := range cgroupControllers {
			_ = writeCgroup(place, "cgroup.subtree_control", "+"+c)
		}
		base := filepath.Join(place, key)
		if makeCgroup(base) != nil {
			continue
		}
		h := hierarchy{base: base, v2: true}
		for _, c := range cgroupControllers {
			if writeCgroup(base, "cgroup.subtree_control", "+"+c) == nil {
				h.controllers = append(h.controllers, c)
			}
		}
		if best.base == "" || len(h.controllers) > len(best.controllers) {
			if best.base != "" {
				_ = unix.Rmdir(best.base)
			}
			best = h
		} else {
			_ = unix.Rmdir(base)
		}
	}
	if best.base != "" {
		cg.hierarchies = append(cg.hierarchies, best)
	}
}

// make makes the cgroups of one process and sets its limits. The directories that find processes come first.
func (cg *cgroups) make(name string, limits Limits) (dirs []string, err error) {
	for _, h := range cg.hierarchies {
		dir := filepath.Join(h.base, name)
		if err = makeCgroup(dir); err == nil {
			dirs = append(dirs, dir)
			err = h.limit(dir, limits)
		}
		if err != nil {
			removeCgroups(context.Background(), dirs)
			return nil, fmt.Errorf("make cgroup: %w", err)
		}
	}
	return dirs, nil
}

// limit sets the limits of cgroups that make made.
func (cg *cgroups) limit(dirs []string, limits Limits) error {
	for i, dir := range dirs {
		if err := cg.hierarchies[i].limit(dir, limits); err != nil {
			return fmt.Errorf("limit cgroup: %w", err)
		}
	}
	return nil
}

func (h *hierarchy) limit(dir string, limits Limits) error {
	for _, c := range h.controllers {
		var err error
		switch {
		case c == "memory" && limits.MemoryBytes > 0:
			err = h.limitMemory(dir, strconv.FormatInt(limits.MemoryBytes, 10))
		case c == "pids" && limits.Pids > 0:
			err = writeCgroup(dir, "pids.max", strconv.FormatInt(limits.Pids, 10))
		case c == "cpu" && limits.CPUMillis > 0:
			quota := max(limits.CPUMillis*cpuPeriodMicros/1000, 1000) // the kernel's smallest quota is 1 ms
			if h.v2 {
				err = writeCgroup(dir, "cpu.max", fmt.Sprintf("%d %d", quota, cpuPeriodMicros))
			} else if err = writeCgroup(dir, "cpu.cfs_period_us", strconv.Itoa(cpuPeriodMicros)); err == nil {
				err = writeCgroup(dir, "cpu.cfs_quota_us", strconv.FormatInt(quota, 10))
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// limitMemory bounds memory and forbids swap, where the kernel counts swap at all.
func (h *hierarchy) limitMemory(dir, bytes string) error {
	file, swap, noSwap := "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes
	if h.v2 {
		file, swap, noSwap = "memory.max", "memory.swap.max", "0"
		// A worker without its children, or children without their worker, are of no use: all or nothing.
		if err := writeCgroup(dir, "memory.oom.group", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := writeCgroup(dir, file, bytes); err != nil {
		return err
	}
	if err := writeCgroup(dir, swap, noSwap); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// enterCgroups moves a process with all its threads into dirs.
func enterCgroups(dirs []string, pid int) error {
	for _, dir := range dirs {
		if err := writeCgroup(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("enter cgroup: %w", err)
		}
	}
	return nil
}

// cgroupMembers lists the processes in the cgroups of a record. A cgroup that is gone has none.
func cgroupMembers(dirs []string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(dirs[0], "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list cgroup: %w", err)
	}
	var pids []int
	for _, f := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// killCgroup ends every member at once; false where the kernel (before 5.14) or version 1 cannot.
func killCgroup(dirs []string) bool { return writeCgroup(dirs[0], "cgroup.kill", "1") == nil }

// oomKills counts the processes of the cgroups that the kernel killed for want of memory.
func oomKills(dirs []string) int {
	for _, dir := range dirs {
		for _, file := range []string{"memory.events", "memory.oom_control"} {
			text, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(text)) {
				if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
					if kills, err := strconv.Atoi(strings.TrimSpace(n)); err == nil {
						return kills
					}
				}
			}
		}
	}
	return 0
}

// removeCgroups removes empty cgroups, waiting for those that are still busy for at most cgroupRemoveTimeout.
// What stays is swept by the next supervisor.
func removeCgroups(ctx context.Context, dirs []string) {
	ctx, cancel := context.WithTimeout(ctx, cgroupRemoveTimeout)
	defer cancel()
	for _, dir := range dirs {
		wait := newBackoff()
		for errors.Is(unix.Rmdir(dir), unix.EBUSY) && wait.pause(ctx) == nil {
		}
	}
}

// close removes the directories that openCgroups made.
func (cg *cgroups) close() {
	for _, h := range cg.hierarchies {
		removeCgroups(context.Background(), []string{h.base})
	}
}

func makeCgroup(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func writeCgroup(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// cgroupMounts finds the mounted hierarchies that limit or find processes.
func cgroupMounts() ([]cgroupMount, error) {
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	own, err := ownCgroups()
	if err != nil {
		return nil, err
	}
	var found []cgroupMount
	for _, m := range mounts {
		switch m.fstype {
		case "cgroup2":
			found = append(found, cgroupMount{root: m.root, point: m.point, v2: true, own: own[""]})
		case "cgroup":
			options := strings.Split(m.super, ",")
			i := slices.IndexFunc(cgroupControllers, func(c string) bool { return slices.Contains(options, c) })
			if i >= 0 {
				found = append(found, cgroupMount{root: m.root, point: m.point, options: options, own: own[cgroupControllers[i]]})
			}
		}
	}
	return found, nil
}

// ownCgroups says in which cgroup this process is, per controller; version 2 has the empty name.
func ownCgroups() (map[string]string, error) {
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	own := map[string]string{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		parts := strings.SplitN(sc.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, c := range strings.Split(parts[1], ",") {
			own[c] = parts[2]
		}
	}
	return own, nil
}
