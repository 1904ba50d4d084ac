package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The file system of a fork is built from outside, in the mount namespace that the child made for itself: mounts are
// made here, where the machine's files are, and moved there. The child needs no privilege for it, and has none by then.

// mounter is a thread that can visit other mount namespaces. One job runs at a time.
type mounter struct {
	jobs chan mountJob
	done chan struct{}
}

type mountJob struct {
	namespace *os.File
	work      func() error
	result    chan error
}

func newMounter() *mounter {
	m := &mounter{jobs: make(chan mountJob), done: make(chan struct{})}
	go func() {
		defer close(m.done)
		for m.run() {
		}
	}()
	return m
}

// run serves jobs on a thread of its own until one leaves it in a foreign namespace; false when there are no more.
func (m *mounter) run() bool {
	more := make(chan bool)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		more <- m.visit()
	}()
	return <-more
}

func (m *mounter) visit() bool {
	home, err := os.Open("/proc/thread-self/ns/mnt")
	if err == nil {
		defer home.Close()
		err = unix.Unshare(unix.CLONE_FS) // root and working directory belong to this thread from now on
	}
	for job := range m.jobs {
		if err != nil {
			job.result <- err
			continue
		}
		if err := unix.Setns(int(job.namespace.Fd()), unix.CLONE_NEWNS); err != nil {
			job.result <- fmt.Errorf("enter mount namespace: %w", err)
			continue
		}
		job.result <- job.work()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNS) != nil {
			return true
		}
	}
	return false
}

// in runs work inside a mount namespace.
func (m *mounter) in(namespace *os.File, work func() error) error {
	job := mountJob{namespace: namespace, work: work, result: make(chan error, 1)}
	m.jobs <- job
	return <-job.result
}

func (m *mounter) close() {
	close(m.jobs)
	<-m.done
}

// forkRoot is the root of a fork: a fresh tree whose mount points can still be made while the child sees it read-only.
type forkRoot struct {
	mounts    *mounter
	namespace *os.File
	bases     []rootBase
	trees     []placed // until they are in their places
	views     []placed // the same
}

// rootBase is a file system in memory that is part of the tree.
type rootBase struct {
	at   string // "/" or an absolute path
	tree *os.File
	root *os.Root
}

func (r *forkRoot) close() {
	if r == nil {
		return
	}
	closeTrees(r.trees)
	closeTrees(r.views)
	if r.namespace != nil {
		_ = r.namespace.Close()
	}
	for _, b := range r.bases {
		_ = b.tree.Close()
		_ = b.root.Close()
	}
}

// newForkRoot makes a root file system with all that every sandbox shows, apart from any process.
func newForkRoot(m *mounter, uid int) (r *forkRoot, err error) {
	r = &forkRoot{mounts: m}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	for _, b := range []struct {
		at, mode string
		bytes    int
	}{{"/", "0755", sandboxRootBytes}, {"/tmp", "1777", sandboxTmpBytes}, {"/dev/shm", "1777", sandboxShmBytes}} {
		tree, err := newTmpfs(b.mode, b.bytes)
		if err != nil {
			return r, fmt.Errorf("make %s: %w", b.at, err)
		}
		root, err := os.OpenRoot(fdPath(tree))
		if err != nil {
			_ = tree.Close()
			return r, fmt.Errorf("open %s: %w", b.at, err)
		}
		r.bases = append(r.bases, rootBase{b.at, tree, root})
	}
	r.trees, err = r.system(uid)
	return r, err
}

// giveTo makes it the root of a process that has a mount namespace of its own, in place of the one that it has.
func (r *forkRoot) giveTo(pid int) (err error) {
	if r.namespace, err = os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid)); err != nil {
		return withoutPath(err)
	}
	var again *os.File
	err = r.mounts.in(r.namespace, func() (err error) {
		if again, err = r.install(); err == nil {
			err = r.attach()
		}
		return err
	})
	if err != nil {
		return err
	}
	defer again.Close()
	closeTrees(r.trees)
	r.trees = nil
	return r.bases[0].reopen(again) // outside: /proc of the namespace does not know us
}

// placed is a mount that is made and not yet in its place.
type placed struct {
	tree *os.File
	at   string
}

func closeTrees(trees []placed) {
	for _, t := range trees {
		_ = t.tree.Close()
	}
}

// system makes what every sandbox has: the content of the root, and mounts of the machine's directories.
func (r *forkRoot) system(uid int) (trees []placed, err error) {
	s := &sandbox{root: r.bases[0].root}
	if err := s.links(); err != nil {
		return nil, err
	}
	show := func(path string, flags uint64) error {
		tree, err := openTree(path, path, flags)
		if err != nil {
			return err
		}
		trees = append(trees, placed{tree, path})
		return r.mountPoint(path, tree)
	}
	for _, p := range s.shown() {
		if err := show(p, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV); err != nil {
			return trees, err
		}
	}
	for _, p := range devicePaths {
		if err := show(p, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC); err != nil {
			return trees, err
		}
	}
	if err := s.accounts(uid); err != nil {
		return trees, err
	}
	for _, p := range []string{"tmp", "dev/shm", "proc", "var"} {
		if err := s.root.MkdirAll(p, 0o755); err != nil {
			return trees, err
		}
	}
	return trees, s.root.Symlink("/tmp", "var/tmp")
}

// install runs inside the namespace: the new tree takes the place of the old one. The result is another mount of the
// new root, which the child does not see and through which mount points can be made while its own is read-only.
func (r *forkRoot) install() (again *os.File, err error) {
	root := int(r.bases[0].tree.Fd())
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, "/tmp", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("mount root: %w", err)
	}
	writable, err := unix.OpenTree(root, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("mount root again: %w", err)
	}
	again = os.NewFile(uintptr(writable), "root")
	defer func() {
		if err != nil {
			_ = again.Close()
		}
	}()
	processes, err := unix.OpenTree(unix.AT_FDCWD, "/proc", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("mount /proc: %w", err)
	}
	defer func() { _ = unix.Close(processes) }()
	all := append(slices.Clone(r.trees), placed{r.bases[1].tree, "/tmp"}, placed{r.bases[2].tree, "/dev/shm"})
	for _, t := range all {
		if err := unix.MoveMount(int(t.tree.Fd()), "", root, t.at[1:], unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return nil, fmt.Errorf("mount %s: %w", t.at, err)
		}
	}
	if err := unix.MoveMount(processes, "", root, "proc", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("mount /proc: %w", err)
	}
	sealed := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(root, "", unix.AT_EMPTY_PATH, sealed); err != nil {
		return nil, fmt.Errorf("protect root: %w", err)
	}
	// This moves the child too: whoever has the old root gets the new one.
	if err := unix.Fchdir(root); err != nil {
		return nil, err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return nil, fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return nil, fmt.Errorf("detach old root: %w", err)
	}
	return again, nil
}

// reopen makes files of a base through another mount of it.
func (b *rootBase) reopen(tree *os.File) error {
	root, err := os.OpenRoot(fdPath(tree))
	if err != nil {
		return fmt.Errorf("open root again: %w", err)
	}
	_ = b.root.Close()
	b.root = root
	return nil
}

// add makes the mounts of views, and their mount points. They appear when the root is given away, or with show.
func (r *forkRoot) add(views []binding) error {
	for i, v := range views {
		flags := uint64(unix.MOUNT_ATTR_NOSUID)
		if !strings.HasPrefix(v.From, "/dev/") {
			flags |= unix.MOUNT_ATTR_NODEV
		}
		if !v.Writable {
			flags |= unix.MOUNT_ATTR_RDONLY
		}
		tree, err := openTree(v.From, v.At, flags)
		if err != nil {
			return fmt.Errorf("view %s: %w", v.At, err)
		}
		r.views = append(r.views, placed{tree, v.At})
		if belowAny(v.At, views[:i]) {
			continue // its mount point is part of another view
		}
		if err := r.mountPoint(v.At, tree); err != nil {
			return fmt.Errorf("view %s: %w", v.At, err)
		}
	}
	return nil
}

// show puts the views that were added into the tree of a process that has it already.
func (r *forkRoot) show() error { return r.mounts.in(r.namespace, r.attach) }

// attach puts the views into their places; the thread is in the namespace.
func (r *forkRoot) attach() error {
	for _, t := range r.views {
		if err := attach(t); err != nil {
			return fmt.Errorf("view %s: %w", t.at, err)
		}
	}
	closeTrees(r.views)
	r.views = nil
	return nil
}

func belowAny(path string, views []binding) bool {
	for _, v := range views {
		if strings.HasPrefix(path, v.At+"/") {
			return true
		}
	}
	return false
}

// attach puts a mount into its place in the namespace that the thread is in. No symbolic link may lead there: what
// user code can write to may hold some.
func attach(t placed) error {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	point, err := unix.Openat2(unix.AT_FDCWD, t.at, how)
	if err != nil {
		return fmt.Errorf("open mount point: %w", err)
	}
	defer func() { _ = unix.Close(point) }()
	flags := unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	if err := unix.MoveMount(int(t.tree.Fd()), "", point, "", flags); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return nil
}

// mountPoint makes the file or directory that a mount covers, in the part of the tree that is in memory.
func (r *forkRoot) mountPoint(at string, tree *os.File) error {
	base := r.bases[0]
	for _, b := range r.bases[1:] {
		if strings.HasPrefix(at, b.at+"/") {
			base = b
		}
	}
	rel := strings.TrimPrefix(strings.TrimPrefix(at, base.at), "/")
	var st unix.Stat_t
	if err := unix.Fstat(int(tree.Fd()), &st); err != nil {
		return err
	}
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = base.root.MkdirAll(rel, 0o755)
	} else if err = base.root.MkdirAll(filepath.Dir(rel), 0o755); err == nil {
		err = base.root.WriteFile(rel, nil, 0o644)
	}
	if err != nil {
		return fmt.Errorf("make mount point: %w", withoutPath(err))
	}
	return nil
}

// openTree makes a mount of a path, with all that is mounted below it, that is attached nowhere.
func openTree(path, name string, flags uint64) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	attr := &unix.MountAttr{Attr_set: flags, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("protect: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// newTmpfs makes a file system in memory that is attached nowhere.
func newTmpfs(mode string, bytes int) (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fs) }()
	if err := errors.Join(
		unix.FsconfigSetString(fs, "source", "portico"), unix.FsconfigSetString(fs, "mode", mode),
		unix.FsconfigSetString(fs, "size", fmt.Sprint(bytes)), unix.FsconfigCreate(fs),
	); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tmpfs"), nil
}

// probeMounts says why a root cannot be built from outside here (Linux 5.12 can).
func probeMounts() error {
	tree, err := newTmpfs("0755", sandboxRootBytes)
	if err != nil {
		return fmt.Errorf("new mount calls: %w", err)
	}
	defer tree.Close()
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(int(tree.Fd()), "", unix.AT_EMPTY_PATH, attr); err != nil {
		return fmt.Errorf("new mount calls: %w", err)
	}
	return nil
}

func fdPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
