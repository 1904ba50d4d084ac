package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of the private file systems of a sandbox. All count against the memory limit of the process.
const (
	sandboxRootBytes = 4 << 20 // holds mount points and a few files of /etc
	sandboxTmpBytes  = 1 << 30
	sandboxShmBytes  = 1 << 30
)

// etcPaths is the part of /etc that programs need to load libraries, resolve names and know the time. Accounts are
// not among them: passwd and group are made anew.
var etcPaths = []string{
	"/etc/alternatives", "/etc/ca-certificates", "/etc/fonts", "/etc/gai.conf", "/etc/host.conf", "/etc/hosts",
	"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/magic", "/etc/mime.types",
	"/etc/nsswitch.conf", "/etc/os-release", "/etc/pki", "/etc/protocols", "/etc/resolv.conf", "/etc/services",
	"/etc/ssl", "/etc/timezone",
}

// hardwarePaths tell numeric libraries how many cores there are.
var hardwarePaths = []string{"/sys/devices/system/cpu", "/sys/devices/system/node"}

// deviceLinks are what /dev has beside devices.
var deviceLinks = map[string]string{
	"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
}

var devicePaths = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}

// sandbox is a file system tree while it is built: mounts below dir, which becomes the root.
type sandbox struct {
	dir  string
	root *os.Root
	rule []mountRule
}

// mountRule says which flags the mounts at and below a path (as seen inside) get at the end.
type mountRule struct {
	path  string
	flags uintptr
}

// isolate makes this thread what the plan says: another root, another user, no privileges.
func isolate(plan *stagePlan) error {
	if plan.Root != nil {
		if err := enterRoot(plan.Root); err != nil {
			return fmt.Errorf("file system: %w", err)
		}
		return nil
	}
	if plan.Sandbox != "" {
		if err := enterSandbox(plan); err != nil {
			return fmt.Errorf("file system: %w", err)
		}
	}
	if plan.UID != 0 {
		if err := dropPrivileges(plan.UID); err != nil {
			return fmt.Errorf("user id %d: %w", plan.UID, err)
		}
	}
	return nil
}

func enterSandbox(plan *stagePlan) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	unix.Umask(0)
	flags, options := uintptr(unix.MS_NOSUID|unix.MS_NODEV), fmt.Sprintf("mode=0755,size=%d", sandboxRootBytes)
	if err := unix.Mount("portico", plan.Sandbox, "tmpfs", flags, options); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	root, err := os.OpenRoot(plan.Sandbox)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	s := &sandbox{dir: plan.Sandbox, root: root}
	for _, step := range []func() error{
		s.system, func() error { return s.accounts(plan.UID) }, s.devices, s.temporary,
		func() error { return s.views(plan.View) }, s.seal, s.pivot,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// system shows the read-only directories of the operating system.
func (s *sandbox) system() error {
	if err := s.links(); err != nil {
		return err
	}
	for _, p := range s.shown() {
		if err := s.bind(p, p, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV); err != nil {
			return err
		}
	}
	return nil
}

// links makes the links of the sandbox: those of the system's directories that are links, and those in /dev.
func (s *sandbox) links() error {
	for _, p := range systemPaths {
		if target, err := os.Readlink(p); err == nil {
			if err := s.root.Symlink(target, p[1:]); err != nil {
				return err
			}
		}
	}
	if err := s.root.MkdirAll("dev", 0o755); err != nil {
		return err
	}
	for name, target := range deviceLinks {
		if err := s.root.Symlink(target, "dev/"+name); err != nil {
			return err
		}
	}
	return nil
}

// shown lists what this system has of the read-only paths.
func (s *sandbox) shown() []string {
	return slices.DeleteFunc(slices.Concat(systemPaths, etcPaths, hardwarePaths), func(p string) bool {
		if _, err := os.Stat(p); err != nil {
			return true
		}
		_, err := os.Readlink(p)
		return err == nil && slices.Contains(systemPaths, p)
	})
}

// accounts writes the few names that programs look up.
func (s *sandbox) accounts(uid int) error {
	passwd := "root:x:0:0:root:/root:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
	group := "root:x:0:\nnogroup:x:65534:\n"
	if uid != 0 {
		passwd += fmt.Sprintf("portico:x:%d:%d:portico:/tmp:/usr/sbin/nologin\n", uid, uid)
		group += fmt.Sprintf("portico:x:%d:\n", uid)
	}
	if err := s.root.WriteFile("etc/passwd", []byte(passwd), 0o644); err != nil {
		return err
	}
	return s.root.WriteFile("etc/group", []byte(group), 0o644)
}

func (s *sandbox) devices() error {
	for _, p := range devicePaths {
		if err := s.bind(p, p, unix.MS_NOSUID|unix.MS_NOEXEC); err != nil {
			return err
		}
	}
	return nil
}

// temporary mounts what is private to the process: /tmp, shared memory and its own view of /proc.
func (s *sandbox) temporary() error {
	for _, m := range []struct {
		path, fstype, data string
		flags              uintptr
	}{
		{"/tmp", "tmpfs", fmt.Sprintf("mode=1777,size=%d", sandboxTmpBytes), unix.MS_NOSUID | unix.MS_NODEV},
		{"/dev/shm", "tmpfs", fmt.Sprintf("mode=1777,size=%d", sandboxShmBytes), unix.MS_NOSUID | unix.MS_NODEV},
		{"/proc", "proc", procOptions(), unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	} {
		if err := s.root.MkdirAll(m.path[1:], 0o755); err != nil {
			return err
		}
		if err := unix.Mount("portico", s.dir+m.path, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.path, err)
		}
		s.rule = append(s.rule, mountRule{m.path, m.flags})
	}
	if err := s.root.MkdirAll("var", 0o755); err != nil {
		return err
	}
	return s.root.Symlink("/tmp", "var/tmp")
}

// procOptions hides the processes of other users, where that is a property of the mount and not of the machine.
func procOptions() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	parts := strings.SplitN(unix.ByteSliceToString(name.Release[:]), ".", 3)
	if len(parts) < 2 {
		return ""
	}
	major, _ := strconv.Atoi(parts[0])
	minor, _ := strconv.Atoi(parts[1])
	if major > 5 || major == 5 && minor >= 8 {
		return "hidepid=2"
	}
	return ""
}

// views shows what the plan asks for.
func (s *sandbox) views(bindings []binding) error {
	for _, b := range bindings {
		flags := uintptr(unix.MS_NOSUID)
		if !strings.HasPrefix(b.From, "/dev/") {
			flags |= unix.MS_NODEV
		}
		if !b.Writable {
			flags |= unix.MS_RDONLY
		}
		if err := s.bind(b.From, b.At, flags); err != nil {
			return fmt.Errorf("view %s: %w", b.At, err)
		}
	}
	return nil
}

// bind shows from (as it is outside) at a path inside. Every step inside goes through root, which follows no
// symbolic link out of the new tree.
func (s *sandbox) bind(from, at string, flags uintptr) error {
	info, err := os.Stat(from)
	if err != nil {
		return withoutPath(err)
	}
	rel := at[1:]
	if info.IsDir() {
		err = s.root.MkdirAll(rel, 0o755)
	} else if err = s.root.MkdirAll(filepath.Dir(rel), 0o755); err == nil {
		if _, statErr := s.root.Stat(rel); errors.Is(statErr, fs.ErrNotExist) {
			err = s.root.WriteFile(rel, nil, 0o644)
		}
	}
	if err != nil {
		return fmt.Errorf("make mount point: %w", withoutPath(err))
	}
	target, err := s.root.OpenFile(rel, unix.O_PATH, 0)
	if err != nil {
		return fmt.Errorf("open mount point: %w", withoutPath(err))
	}
	defer target.Close()
	if err := unix.Mount(from, fmt.Sprintf("/proc/self/fd/%d", target.Fd()), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	s.rule = append(s.rule, mountRule{at, flags})
	return nil
}

// seal gives every mount its flags, the root last. A bind mount takes none when it is made, and what is mounted
// below its source comes with flags of its own.
func (s *sandbox) seal() error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		at, ok := strings.CutPrefix(m.point, s.dir)
		if !ok || at == "" || at[0] != '/' {
			continue
		}
		flags := s.flagsAt(at) | optionFlags(m.options)
		if err := unix.Mount("", m.point, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
			return fmt.Errorf("protect %s: %w", at, err)
		}
	}
	flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV)
	if err := unix.Mount("", s.dir, "", flags, ""); err != nil {
		return fmt.Errorf("protect root: %w", err)
	}
	return nil
}

// flagsAt finds the rule of the nearest parent; of two at one path the later counts, as its mount covers the other.
func (s *sandbox) flagsAt(at string) uintptr {
	best := mountRule{flags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV}
	for _, r := range s.rule {
		if (at == r.path || strings.HasPrefix(at, r.path+"/")) && len(r.path) >= len(best.path) {
			best = r
		}
	}
	return best.flags
}

// optionFlags are the restrictions that a mount already has and keeps.
func optionFlags(options string) uintptr {
	known := map[string]uintptr{
		"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
		"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	}
	var flags uintptr
	for _, o := range strings.Split(options, ",") {
		flags |= known[o]
	}
	return flags
}

// pivot makes the tree the root and lets go of the old one.
func (s *sandbox) pivot() error {
	if err := unix.Chdir(s.dir); err != nil {
		return err
	}
	// The old root is stacked on the new one and then removed from there: no directory for it is needed.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach old root: %w", err)
	}
	return unix.Chdir("/")
}

// dropPrivileges makes this thread a user without groups, capabilities, or a way to get any.
func dropPrivileges(uid int) error {
	if err := dropBounds(); err != nil {
		return err
	}
	// The raw calls change this thread only, and only it will live past exec.
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		return fmt.Errorf("set groups: %w", e)
	}
	id := uintptr(uid)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id); e != 0 {
		return fmt.Errorf("set group id: %w", e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); e != 0 {
		return fmt.Errorf("set user id: %w", e)
	}
	// Leaving user id 0 emptied the other sets; the inheritable one is left.
	return dropCapabilities()
}

// dropBounds takes away what a program could give this thread.
func dropBounds() error {
	for c := uintptr(0); c < 64; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			if errors.Is(err, unix.EINVAL) && c > 0 {
				break // beyond the kernel's last capability
			}
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}

// dropCapabilities takes away what this thread has, and every way to get any.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("clear capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	return nil
}

// dieWithParent has the kernel end this process with the thread that started it. Changing credentials clears the
// setting, so it comes after that.
func dieWithParent() error {
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}
