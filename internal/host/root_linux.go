package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// rootDevBytes bounds /dev of a root of its own, which holds mount points and links.
const rootDevBytes = 1 << 20

// ownRoot is the root file system and the network of one process. The supervisor makes the mounts, which are attached
// nowhere; the stage inherits them and puts them together in its own mount namespace. It runs in the user namespace of the
// process from its first moment, so that nothing of it ever has a right over anything of the machine's.
type ownRoot struct {
	uid, gid int // inside
	outside  int // the user id of both
	hostname string
	out      bool     // there is to be an egress
	trees    []placed // the root first, then parents before children; until the stage has them
	network  *os.File // from the start of the process until its end
	egress   *egress  // likewise; nil: there is no way out
}

func (r *ownRoot) close() {
	if r == nil {
		return
	}
	closeTrees(r.trees)
	r.trees = nil
	if r.network != nil {
		_ = r.network.Close()
	}
}

// again gives another descriptor of the network.
func (r *ownRoot) again() (*os.File, error) {
	fd, err := unix.FcntlInt(r.network.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInternal, err)
	}
	return os.NewFile(uintptr(fd), "network"), nil
}

// attr is how the stage is started. Its mapping has one id inside, that of the image's user, which is outside the id of
// the process: every file that another user of the image owned belongs to this one.
func (r *ownRoot) attr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Setsid:      true,
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWUTS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: r.uid, HostID: r.outside, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: r.gid, HostID: r.outside, Size: 1}},
		// The group list is emptied, which needs this; it has no right to it later.
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{Uid: uint32(r.uid), Gid: uint32(r.gid)}, //nolint:gosec // checked
		// For the user namespace alone: to attach mounts, and to give all of them up.
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP},
	}
}

// makeRoot makes what the specification asks for, for a process of a user id, with its working directory.
func (s *supervisor) makeRoot(spec *Root, dir string, uid int, views []binding) (r *ownRoot, err error) {
	r = &ownRoot{uid: spec.UID, gid: spec.GID, outside: uid, hostname: spec.Hostname, out: spec.Egress}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	lower, err := s.ownedTree(spec.Tree, uid)
	if err != nil {
		return r, err
	}
	defer lower.Close()
	merged, err := overlay(lower, spec.Scratch, uid)
	if err != nil {
		return r, fmt.Errorf("writable file system: %w", err)
	}
	r.trees = append(r.trees, placed{merged, "/"})
	if err := r.fill(spec, views); err != nil {
		return r, err
	}
	if dir != "" && dir != "/" {
		made, err := makeInside(merged, dir, true, 0o755, uid)
		if err != nil {
			return r, fmt.Errorf("working directory: %w", err)
		}
		_ = made.Close()
	}
	proc, err := s.procTree()
	if err != nil {
		return r, err
	}
	return r, r.place(proc, "/proc", true)
}

// ownedTree is a read-only mount of a tree in which what belongs to root belongs to a user id.
func (s *supervisor) ownedTree(path string, uid int) (*os.File, error) {
	namespace, err := s.idNamespace(uid)
	if err != nil {
		return nil, fmt.Errorf("user namespace: %w", err)
	}
	defer namespace.Close()
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("tree: %w", err)
	}
	attr := &unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_IDMAP,
		Propagation: unix.MS_PRIVATE, Userns_fd: uint64(namespace.Fd()),
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("mount with mapped ids: %w", err)
	}
	return os.NewFile(uintptr(fd), "tree"), nil
}

// idNamespace is a user namespace in which root is a user id. It is taken from a stage that gets no plan.
func (s *supervisor) idNamespace(uid int) (*os.File, error) {
	files := &inherited{}
	if err := files.addStage(); err != nil {
		return nil, err
	}
	defer files.close()
	p := &proc{rec: &record{Process: Process{ID: "id-mapping"}}}
	attr := &syscall.SysProcAttr{
		Setsid: true, Cloneflags: unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
	}
	if err := s.fork(p, attr, files, nil); err != nil {
		return nil, err
	}
	defer s.abandon(p)
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", p.rec.PID))
}

// onThread runs work on a thread that is not used again, whatever it made of itself.
func onThread(work func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		done <- work()
	}()
	return <-done
}

// overlay is a mount that shows lower and takes changes in two directories below scratch, which it makes.
func overlay(lower *os.File, scratch string, uid int) (tree *os.File, err error) {
	upper, work := filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, withoutPath(err)
		}
	}
	if err := os.Chown(upper, uid, uid); err != nil { // it is the root directory that the process sees
		return nil, withoutPath(err)
	}
	err = onThread(func() (err error) {
		// An overlay wants its parts in the mount namespace of its maker, and nobody else is to see them.
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		var parts [2]*os.File
		for i, dir := range []string{upper, work} {
			fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			parts[i] = os.NewFile(uintptr(fd), dir)
			defer parts[i].Close()
		}
		if err := unix.MoveMount(int(lower.Fd()), "", unix.AT_FDCWD, "/tmp", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return err
		}
		tree, err = newOverlay("/tmp", fdPath(parts[0]), fdPath(parts[1]))
		return err
	})
	return tree, err
}

func newOverlay(lower, upper, work string) (*os.File, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fs) }()
	if err := errors.Join(
		unix.FsconfigSetString(fs, "source", "portico"), unix.FsconfigSetString(fs, "lowerdir", lower),
		unix.FsconfigSetString(fs, "upperdir", upper), unix.FsconfigSetString(fs, "workdir", work),
	); err != nil {
		return nil, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "overlay"), nil
}

// procTree is a mount of /proc of the namespace that holds what the supervisor starts.
func (s *supervisor) procTree() (tree *os.File, err error) {
	if s.inside == nil || s.inside.first == nil || !s.inside.proc {
		return nil, errors.New("there is no process namespace with a /proc of its own")
	}
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", s.inside.first.pid))
	if err != nil {
		return nil, withoutPath(err)
	}
	defer namespace.Close()
	err = s.mounts.in(namespace, func() (err error) {
		tree, err = openTree("/proc", "/proc", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
		return err
	})
	return tree, err
}

// fill puts into the tree what every process needs and what is to be seen in it.
func (r *ownRoot) fill(spec *Root, views []binding) error {
	root := r.trees[0].tree
	if _, err := makeInside(root, "/tmp", true, 0o1777, r.outside); err != nil {
		return fmt.Errorf("make /tmp: %w", err)
	}
	if err := r.etc(spec); err != nil {
		return err
	}
	dev, err := newTmpfs("0755", rootDevBytes)
	if err != nil {
		return fmt.Errorf("make /dev: %w", err)
	}
	if err := r.place(dev, "/dev", true); err != nil {
		return err
	}
	if err := r.devices(dev); err != nil {
		return fmt.Errorf("make /dev: %w", err)
	}
	for _, p := range hardwarePaths {
		if _, err := os.Stat(p); err != nil {
			continue
		}
		if err := r.show(binding{From: p, At: p}); err != nil {
			return err
		}
	}
	for _, v := range views {
		if err := r.show(v); err != nil {
			return fmt.Errorf("view %s: %w", v.At, err)
		}
	}
	return nil
}

// devices fills /dev.
func (r *ownRoot) devices(dev *os.File) error {
	in, err := os.OpenRoot(fdPath(dev))
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	for name, target := range deviceLinks {
		if err := in.Symlink(target, name); err != nil {
			return err
		}
	}
	for _, p := range devicePaths {
		if err := in.WriteFile(strings.TrimPrefix(p, "/dev/"), nil, 0o644); err != nil {
			return err
		}
		tree, err := openTree(p, p, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
		if err != nil {
			return err
		}
		r.trees = append(r.trees, placed{tree, p})
	}
	if err := in.Mkdir("shm", 0o755); err != nil {
		return err
	}
	shm, err := newTmpfs("1777", sandboxShmBytes)
	if err != nil {
		return err
	}
	r.trees = append(r.trees, placed{shm, "/dev/shm"})
	return nil
}

// etc tells the process its names. Without a way out of its network there is no resolver either.
func (r *ownRoot) etc(spec *Root) error {
	dir, err := makeInside(r.trees[0].tree, "/etc", true, 0o755, r.outside)
	if err != nil {
		return fmt.Errorf("make /etc: %w", err)
	}
	defer dir.Close()
	hostname, resolver := spec.Hostname, ""
	if spec.Egress {
		resolver = "nameserver " + egressResolver + "\n"
	}
	hosts := "127.0.0.1 localhost\n::1 localhost\n127.0.0.1 " + hostname + "\n"
	for name, text := range map[string]string{"hosts": hosts, "hostname": hostname + "\n", "resolv.conf": resolver} {
		// What the image has there may be a link to anywhere.
		if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("replace /etc/%s: %w", name, err)
		}
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return fmt.Errorf("make /etc/%s: %w", name, err)
		}
		f := os.NewFile(uintptr(fd), name)
		_, err = f.WriteString(text)
		if err = errors.Join(err, f.Chown(r.outside, r.outside), f.Close()); err != nil {
			return fmt.Errorf("write /etc/%s: %w", name, err)
		}
	}
	return nil
}

// show makes the mount of a view and its mount point.
func (r *ownRoot) show(v binding) error {
	flags := uint64(unix.MOUNT_ATTR_NOSUID)
	if !strings.HasPrefix(v.From, "/dev/") {
		flags |= unix.MOUNT_ATTR_NODEV
	}
	if !v.Writable {
		flags |= unix.MOUNT_ATTR_RDONLY
	}
	info, err := os.Stat(v.From)
	if err != nil {
		return withoutPath(err)
	}
	tree, err := openTree(v.From, v.At, flags)
	if err != nil {
		return err
	}
	return r.place(tree, v.At, info.IsDir())
}

// place takes a mount in and makes its mount point, where that is not part of another mount.
func (r *ownRoot) place(tree *os.File, at string, dir bool) error {
	covered := slices.ContainsFunc(r.trees[1:], func(t placed) bool { return strings.HasPrefix(at, t.at+"/") })
	r.trees = append(r.trees, placed{tree, at})
	if covered {
		return r.placeIn(at, dir)
	}
	point, err := makeInside(r.trees[0].tree, at, dir, 0o755, r.outside)
	if err != nil {
		return fmt.Errorf("make mount point %s: %w", at, err)
	}
	return point.Close()
}

// placeIn makes a mount point in /dev, the only part of the tree beside the root that is the supervisor's own.
func (r *ownRoot) placeIn(at string, dir bool) error {
	for _, t := range r.trees[1:] {
		rel, below := strings.CutPrefix(at, t.at+"/")
		if t.at != "/dev" || !below {
			continue
		}
		point, err := makeInside(t.tree, "/"+rel, dir, 0o755, r.outside)
		if err != nil {
			return fmt.Errorf("make mount point %s: %w", at, err)
		}
		return point.Close()
	}
	return fmt.Errorf("make mount point %s: it lies in another view", at)
}

// enter gives the stage its part of the plan: the mounts are the descriptors behind its own.
func (r *ownRoot) enter(plan *stagePlan) []*os.File {
	plan.Root = &rootPlan{Hostname: r.hostname}
	files := make([]*os.File, 0, len(r.trees))
	for _, t := range r.trees {
		plan.Root.At = append(plan.Root.At, t.at)
		files = append(files, t.tree)
	}
	return files
}

// started opens the network of a stage that waits for its plan, and makes the loopback work.
func (r *ownRoot) started(pid int) (err error) {
	closeTrees(r.trees)
	r.trees = nil
	if r.network, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
		return fmt.Errorf("network: %w", withoutPath(err))
	}
	if err := inNetwork(r.network, raiseLoopback); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	return nil
}

// probeRoot makes a root of its own for a stage that then ends, and says why that does not work here. With egress it
// says why its network has no way out.
func (s *supervisor) probeRoot(ctx context.Context, out bool) error {
	lease, err := s.platform.users.take()
	if err != nil {
		return err
	}
	defer lease.release()
	dir := filepath.Join(stateDir(s.cfg.DataDir), "root-probe")
	defer os.RemoveAll(dir)
	spec := &Root{Tree: filepath.Join(dir, "tree"), Scratch: filepath.Join(dir, "scratch"), Hostname: "probe", Egress: out}
	for _, d := range []string{spec.Tree, spec.Scratch} {
		if err := os.RemoveAll(d); err != nil { // of a supervisor that was killed
			return withoutPath(err)
		}
		if err := os.MkdirAll(d, 0o755); err != nil {
			return withoutPath(err)
		}
	}
	p := &proc{rec: &record{Process: Process{ID: "root-probe"}}}
	if p.root, err = s.makeRoot(spec, "/", lease.uid, nil); err != nil {
		return err
	}
	defer p.root.close()
	files := &inherited{}
	if err := files.addStage(); err != nil {
		return err
	}
	defer files.close()
	plan := &stagePlan{Probe: true}
	if err := s.fork(p, p.root.attr(), files, p.root.enter(plan)); err != nil {
		return err
	}
	err = p.root.started(p.rec.PID)
	if err == nil && p.root.out {
		err = s.openEgress(p)
		defer func() { p.root.egress.close(s.children) }()
	}
	if err != nil {
		s.abandon(p)
		return err
	}
	return s.endProbe(ctx, p, plan, files)
}

// inNetwork runs work in a network namespace.
func inNetwork(network *os.File, work func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return work()
	})
}

// raiseLoopback brings the loopback up, and lets every user listen on every port: there is nobody else.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring the loopback up: %w", err)
	}
	if err := os.WriteFile("/proc/thread-self/root/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0); err != nil {
		return fmt.Errorf("open the low ports: %w", withoutPath(err))
	}
	return nil
}

// newSocket makes a TCP socket in a network. It stays there, whoever uses it.
func newSocket(network *os.File) (fd int, err error) {
	err = inNetwork(network, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	return fd, err
}

// enterRoot is the stage's part: it attaches the mounts, which begin at a descriptor, and makes the first one its root.
func enterRoot(plan *rootPlan) error {
	if err := unix.Sethostname([]byte(plan.Hostname)); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	root := firstTreeFD
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, "/tmp", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	for i, at := range plan.At[1:] {
		point, err := openInside(root, strings.TrimPrefix(at, "/"))
		if err != nil {
			return fmt.Errorf("open mount point %s: %w", at, err)
		}
		err = unix.MoveMount(firstTreeFD+1+i, "", point, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
		_ = unix.Close(point)
		if err != nil {
			return fmt.Errorf("mount %s: %w", at, err)
		}
	}
	if err := unix.Fchdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if err := dropBounds(); err != nil {
		return err
	}
	return dropCapabilities()
}
