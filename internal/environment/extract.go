package environment

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"portico/internal/online"
)

// Bounds of an image's file system.
const (
	maxImageEntries = 1 << 20
	entryBytes      = 4 << 10 // what an entry counts beside its content: a block of the disk
)

// extraction unpacks the archive of an image's file system. The archive is a stranger's: nothing is made outside of root,
// through whatever links the archive holds.
type extraction struct {
	root  *os.Root
	bytes int64 // that may still be written
	limit int64
	dirs  []*tar.Header // they get their modes last: a later entry of the same name may change one
}

// extract unpacks an archive into an empty directory and gives the size in bytes. Everything belongs to this process's
// user, whatever the archive says; devices, pipes and sockets are left out, and no file gives its user's rights away.
func extract(archive io.Reader, dir string, limit int64) (int64, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, fmt.Errorf("unpack the image: %w", err)
	}
	defer func() { _ = root.Close() }() // it was only reached through
	x := &extraction{root: root, bytes: limit, limit: limit}
	in := tar.NewReader(archive)
	for entries := 0; ; entries++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, badImage("its archive cannot be read: %w", err)
		}
		if entries == maxImageEntries {
			return 0, badImage("it has more than %d files", maxImageEntries)
		}
		if err := x.add(h, in); err != nil {
			return 0, err
		}
	}
	for i := len(x.dirs) - 1; i >= 0; i-- {
		h := x.dirs[i]
		// A later entry may have put something else in its place, which is not followed.
		if info, err := root.Lstat(h.Name); err != nil || !info.IsDir() {
			continue
		}
		if err := root.Chmod(h.Name, safeMode(h)); err != nil {
			return 0, fmt.Errorf("unpack the image: %w", err)
		}
	}
	return limit - x.bytes, nil
}

func badImage(format string, args ...any) *online.Error {
	return online.Errorf(online.CodeImageBuildFailure, "", "the image cannot be used: %w", fmt.Errorf(format, args...))
}

func imageTooBig(limit int64) *online.Error {
	return badImage("it is bigger than %d MiB, which is this server's limit (max_image_bytes)", limit>>20)
}

// add makes one entry.
func (x *extraction) add(h *tar.Header, content io.Reader) error {
	name, err := inTree(h.Name)
	if err != nil {
		return err
	}
	if x.bytes -= entryBytes; x.bytes < 0 || h.Size > x.bytes {
		return imageTooBig(x.limit)
	}
	if name == "." {
		return nil
	}
	h.Name = name
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeReg, tar.TypeSymlink, tar.TypeLink:
	default:
		return nil
	}
	if err := x.make(h, content); err != nil {
		if fault, known := online.AsError(err); known {
			return fault
		}
		var at *fs.PathError
		if errors.As(err, &at) {
			err = at.Err
		}
		return badImage("%.200q in its archive: %w", name, err)
	}
	return nil
}

func (x *extraction) make(h *tar.Header, content io.Reader) error {
	if err := x.root.MkdirAll(path.Dir(h.Name), 0o755); err != nil {
		return err
	}
	info, err := x.root.Lstat(h.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case h.Typeflag == tar.TypeDir && info.IsDir():
		x.dirs = append(x.dirs, h)
		return nil
	default: // of two entries with one name the later counts
		if err := x.root.RemoveAll(h.Name); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		x.dirs = append(x.dirs, h)
		return x.root.Mkdir(h.Name, 0o700)
	case tar.TypeSymlink:
		return x.root.Symlink(h.Linkname, h.Name) // followed inside the image only
	case tar.TypeLink:
		return x.link(h)
	}
	return x.file(h, content)
}

// link makes a second name of a file that is in the tree.
func (x *extraction) link(h *tar.Header) error {
	target, err := inTree(h.Linkname)
	if err != nil {
		return err
	}
	info, err := x.root.Lstat(target)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return errors.New("a link to a directory")
	}
	return x.root.Link(target, h.Name)
}

func (x *extraction) file(h *tar.Header, content io.Reader) error {
	f, err := x.root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(content, x.bytes))
	x.bytes -= n
	if err == nil && n < h.Size {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = f.Chmod(safeMode(h))
	}
	return errors.Join(err, f.Close())
}

// safeMode is an entry's mode without the bits by which a program gets another user's rights. The owner may read and write:
// root, who an image mostly expects to be, is not asked for that elsewhere, and here has no rights but an owner's.
func safeMode(h *tar.Header) fs.FileMode {
	owner := fs.FileMode(0o600)
	if h.Typeflag == tar.TypeDir {
		owner = 0o700
	}
	return h.FileInfo().Mode()&(fs.ModePerm|fs.ModeSticky) | owner
}

// inTree is a name of an archive, relative to the root of its tree. What points elsewhere is no archive of a file system.
func inTree(name string) (string, error) {
	clean := path.Clean(name)
	if name == "" || path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../") || strings.Contains("/"+name+"/", "/../") ||
		strings.ContainsRune(name, 0) {
		return "", badImage("its archive names %.200q, which lies outside of it", name)
	}
	return clean, nil
}
