package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxRootLinks bounds the links to nothing on the way to what is made in a tree.
	maxRootLinks = 16
	// maxRootTries bounds how often a path is resolved again because something, anywhere on the machine, was renamed or
	// mounted meanwhile: the kernel then does not say where .. leads.
	maxRootTries = 10000
)

// openInside opens a path of a stranger's tree as if it were the root already: no link leads out of it.
func openInside(root int, at string) (fd int, err error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for range maxRootTries {
		if fd, err = unix.Openat2(root, at, how); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return fd, err
}

// makeInside gives a directory or file of a tree, making it and its parents where they are missing, for a user id. Where a
// link leads to what is missing, that is made.
func makeInside(root *os.File, at string, dir bool, mode uint32, uid int) (*os.File, error) {
	return makeThrough(root, at, dir, mode, uid, maxRootLinks)
}

func makeThrough(root *os.File, at string, dir bool, mode uint32, uid, links int) (*os.File, error) {
	at = strings.Trim(at, "/")
	fd, err := openInside(int(root.Fd()), at)
	if err == nil {
		f := os.NewFile(uintptr(fd), at)
		info, err := f.Stat()
		if err == nil && info.IsDir() != dir {
			err = fs.ErrExist
		}
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		return f, nil
	}
	if !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	parent := root
	if up, _ := filepath.Split(at); up != "" {
		if parent, err = makeThrough(root, up, true, 0o755, uid, links); err != nil {
			return nil, err
		}
		defer parent.Close()
	}
	name := filepath.Base(at)
	if dir {
		err = unix.Mkdirat(int(parent.Fd()), name, mode)
	} else {
		var made int
		if made, err = unix.Openat(int(parent.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, mode); err == nil {
			err = unix.Close(made)
		}
	}
	switch to := linkIn(parent, name); {
	case err == nil:
		err = own(parent, name, dir, mode, uid)
	case !errors.Is(err, unix.EEXIST):
	case to == "": // it came with a parent, as .. does
		err = nil
	case links == 0:
		err = unix.ELOOP
	case strings.HasPrefix(to, "/"):
		return makeThrough(root, to, dir, mode, uid, links-1)
	default: // not cleaned: what .. means is the kernel's to say
		return makeThrough(root, at[:len(at)-len(name)]+to, dir, mode, uid, links-1)
	}
	if err != nil {
		return nil, err
	}
	if fd, err = openInside(int(root.Fd()), at); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), at), nil
}

// own gives what was made to a user id, with the mode that it should have.
func own(parent *os.File, name string, dir bool, mode uint32, uid int) error {
	if err := unix.Fchownat(int(parent.Fd()), name, uid, uid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if dir && mode&0o7000 != 0 { // mkdir leaves these out
		return unix.Fchmodat(int(parent.Fd()), name, mode, 0)
	}
	return nil
}

// linkIn is where a link of a directory leads; empty: it is none.
func linkIn(dir *os.File, name string) string {
	var to [unix.PathMax]byte
	n, err := unix.Readlinkat(int(dir.Fd()), name, to[:])
	if err != nil {
		return ""
	}
	return string(to[:n])
}
