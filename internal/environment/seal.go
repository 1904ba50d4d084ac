package environment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Modes of a complete environment: everyone may read and run it, nobody may change it.
const (
	sealedDir  = 0o555
	sealedFile = 0o444
	runBits    = 0o111
)

// seal makes what a build left under dir the server's own, readable by all and writable by none, and gives its size
// in bytes. The tree is a stranger's: it is walked through an os.Root, links are left as they are and never followed,
// and what is neither file, directory nor link is removed.
func seal(dir string) (int64, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, fmt.Errorf("seal the environment: %w", err)
	}
	defer func() { _ = root.Close() }() // it was only read through
	var size int64
	var dirs []string
	own := os.Geteuid() == 0
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if own {
			if err := root.Lchown(name, os.Getuid(), os.Getgid()); err != nil {
				return err
			}
		}
		switch d.Type() {
		case fs.ModeDir:
			dirs = append(dirs, name)
			return nil
		case fs.ModeSymlink:
			return nil
		case 0:
			n, err := sealFile(root, name, d)
			size += n
			return err
		default:
			return root.Remove(name)
		}
	})
	if err != nil {
		return 0, fmt.Errorf("seal the environment: %w", err)
	}
	for i := len(dirs) - 1; i >= 0; i-- { // the inner ones first: a sealed directory takes no changes
		if err := root.Chmod(dirs[i], sealedDir); err != nil {
			return 0, fmt.Errorf("seal the environment: %w", err)
		}
	}
	return size, nil
}

func sealFile(root *os.Root, name string, d fs.DirEntry) (int64, error) {
	info, err := d.Info()
	if err != nil {
		return 0, err
	}
	mode := fs.FileMode(sealedFile)
	if info.Mode()&runBits != 0 {
		mode |= runBits
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		// Another name of this file may lie where a later build can write.
		if err := unlink(root, name); err != nil {
			return 0, err
		}
	}
	return info.Size(), root.Chmod(name, mode)
}

// unlink replaces a file by a copy that has no other name.
func unlink(root *os.Root, name string) error {
	in, err := root.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	temporary := name + ".portico-copy"
	out, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return root.Rename(temporary, name)
}

// treeSize sums the sizes of the files below dirs. What vanishes meanwhile does not count.
func treeSize(dirs ...string) int64 {
	var size int64
	for _, dir := range dirs {
		// The walk's own error is always nil: every error of an entry is passed over.
		_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // a build removes files while it is measured
			}
			if info, err := d.Info(); err == nil && d.Type().IsRegular() {
				size += info.Size()
			}
			return nil
		})
	}
	return size
}

// removeTree removes a tree that may be sealed. Owners other than root cannot empty a directory that they may not
// write, so directories are opened first.
func removeTree(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", filepath.Base(dir), err)
	}
	defer func() { _ = root.Close() }() // it was only read through
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			// WalkDir calls before it reads the directory, and again with the error if it could not read it.
			if chmodErr := root.Chmod(name, 0o700); chmodErr != nil {
				return chmodErr
			}
			if err != nil {
				return nil //nolint:nilerr // opened now; RemoveAll reads it again
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("remove %s: %w", filepath.Base(dir), err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove %s: %w", filepath.Base(dir), err)
	}
	return nil
}

// hidden names start with a dot; the rest of the environments directory are ids.
func hidden(name string) bool { return strings.HasPrefix(name, ".") }
