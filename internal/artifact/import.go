package artifact

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"portico/internal/durable"
	"portico/internal/online"
)

// Import copies a folder or a file into the store. The same content again gives the same digest and costs no
// further space; several imports of it at once end as one tree.
//
// Links inside the folder are followed and stored as what they point to. A link that leaves the folder, a
// device, a socket, a name that no blob could have, and more than the limits are refused with an online.Error;
// then nothing is kept. Other errors: ErrFull.
func (s *Store) Import(ctx context.Context, source string) (Tree, error) {
	info, err := os.Stat(source)
	if errors.Is(err, fs.ErrNotExist) {
		return Tree{}, online.Errorf(online.CodeBadArgument, "path", "there is no file or folder %q", source)
	}
	if err != nil {
		return Tree{}, fmt.Errorf("import %s: %w", source, err)
	}
	tree := Tree{IsFile: !info.IsDir(), Name: filepath.Base(source)}
	if info.IsDir() {
		err = s.build(&tree, func(b *builder) error { return b.addFolder(ctx, source) })
	} else {
		err = s.build(&tree, func(b *builder) error { return b.addFile(ctx, source, tree.Name) })
	}
	if err != nil {
		return Tree{}, fmt.Errorf("import %s: %w", source, diskError(err))
	}
	return tree, nil
}

// ImportUpload takes what was uploaded under a name into the store: the blob of that name, or the blobs below
// it as a tree. Blobs are linked where the file system allows: the staging area never changes a blob's bytes
// in place. Errors: ErrNotFound when nothing was uploaded there, ErrFull, online.Error as of Import.
func (s *Store) ImportUpload(ctx context.Context, u *Uploads, name string) (Tree, error) {
	name = strings.TrimSuffix(name, "/")
	if err := checkBlobName(name); err != nil {
		return Tree{}, fmt.Errorf("import upload: %w", err)
	}
	tree := Tree{Name: path.Base(name)}
	err := s.build(&tree, func(b *builder) error {
		if _, err := u.Stat(name); err == nil {
			tree.IsFile = true
			return b.addBlob(ctx, u, name, tree.Name)
		}
		blobs := u.List(name+"/", "", b.limits.MaxFiles+1)
		if len(blobs) == 0 {
			return ErrNotFound
		}
		for _, blob := range blobs {
			if err := b.addBlob(ctx, u, blob.Name, strings.TrimPrefix(blob.Name, name+"/")); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Tree{}, fmt.Errorf("import upload %s: %w", name, diskError(err))
	}
	return tree, nil
}

// build lets fill put files into an unfinished folder, then gives it its digest's name.
func (s *Store) build(tree *Tree, fill func(*builder) error) error {
	temp, err := os.MkdirTemp(s.dir, durable.TempPrefix)
	if err != nil {
		return err
	}
	b := &builder{limits: s.limits, dest: filepath.Join(temp, treeName)}
	err = b.run(fill)
	if err == nil {
		text := manifest(b.files)
		tree.Digest, tree.Files, tree.Bytes = digestOf(text), len(b.files), b.bytes
		err = s.place(temp, tree.Digest, text)
	}
	if err != nil {
		return errors.Join(err, removeTree(temp))
	}
	return nil
}

// place finishes an unfinished folder. If the tree is there already, that one stays and is marked as used.
func (s *Store) place(temp, digest string, text []byte) error {
	if err := durable.Replace(filepath.Join(temp, manifestName), text, 0o444); err != nil {
		return err
	}
	if err := os.Chmod(temp, 0o755); err != nil { // MkdirTemp made it 0700; it stays writable, since it is renamed
		return err
	}
	folder, _ := folderOf(digest) // made by digestOf
	final := filepath.Join(s.dir, folder)
	err := os.Rename(temp, final)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		now := time.Now()
		if err := os.Chtimes(final, now, now); err == nil {
			return removeTree(temp)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		err = os.Rename(temp, final) // it was removed between the two
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(s.dir)
}

// builder collects the files of one tree. With dest it also writes them there.
type builder struct {
	limits Limits
	dest   string
	files  []entry
	bytes  int64
	dirs   map[string]bool // made below dest
}

func (b *builder) run(fill func(*builder) error) error {
	b.dirs = map[string]bool{}
	if err := os.Mkdir(b.dest, 0o700); err != nil {
		return err
	}
	if err := fill(b); err != nil {
		return err
	}
	made := []string{b.dest}
	for dir := range b.dirs {
		made = append(made, filepath.Join(b.dest, filepath.FromSlash(dir)))
	}
	for _, dir := range made {
		if err := errors.Join(durable.SyncDir(dir), os.Chmod(dir, 0o555)); err != nil {
			return err
		}
	}
	return nil
}

// addFolder adds every file below a folder of the system. It goes through os.Root, so that no link leads out,
// also when someone changes the folder meanwhile.
func (b *builder) addFolder(ctx context.Context, source string) error {
	root, err := os.OpenRoot(source)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // it was only read
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	return b.walk(ctx, root, ".", []fs.FileInfo{info})
}

// walk adds the files of one folder. above are the folders that it is in, to notice a link that goes round.
func (b *builder) walk(ctx context.Context, root *os.Root, dir string, above []fs.FileInfo) error {
	names, err := fs.ReadDir(root.FS(), dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := path.Join(dir, n.Name())
		if err := checkPath(name, "path"); err != nil {
			return err
		}
		info, err := root.Stat(name) // follows links, but not out of root
		if err != nil {
			if n.Type()&fs.ModeSymlink != 0 {
				return online.Errorf(online.CodeBadArgument, "path", "link %q leads out of the folder or to nothing", name)
			}
			return err
		}
		switch {
		case info.IsDir():
			round := func(i fs.FileInfo) bool { return os.SameFile(i, info) }
			if slices.ContainsFunc(above, round) {
				return online.Errorf(online.CodeBadArgument, "path", "link %q leads to a folder that it is in", name)
			}
			err = b.walk(ctx, root, name, append(slices.Clip(above), info))
		case info.Mode().IsRegular():
			err = b.addOpened(ctx, name, func() (*os.File, error) { return root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) })
		default:
			err = online.Errorf(online.CodeBadArgument, "path", "%q is neither a file nor a folder", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addFile adds one file of the system under a name.
func (b *builder) addFile(ctx context.Context, source, name string) error {
	return b.addOpened(ctx, name, func() (*os.File, error) { return os.OpenFile(source, os.O_RDONLY|syscall.O_NONBLOCK, 0) })
}

// addOpened adds what open gives. The caller's open does not wait for a pipe's other end; whether it is a
// regular file is asked of what was opened, not of the name.
func (b *builder) addOpened(ctx context.Context, name string, open func() (*os.File, error)) error {
	if err := b.admit(name); err != nil {
		return err
	}
	from, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }() // it was only read
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return online.Errorf(online.CodeBadArgument, "path", "%q is neither a file nor a folder", name)
	}
	e := entry{path: name, executable: info.Mode()&0o111 != 0}
	if b.dest == "" {
		return b.finish(ctx, e, from, io.Discard)
	}
	to, err := os.OpenFile(filepath.Join(b.dest, filepath.FromSlash(name)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o444)
	if e.executable {
		mode = 0o555
	}
	if err := b.finish(ctx, e, from, to); err != nil {
		return errors.Join(err, to.Close())
	}
	return errors.Join(to.Chmod(mode), to.Sync(), to.Close())
}

// addBlob adds one uploaded blob: a link to its bytes, or a copy.
func (b *builder) addBlob(ctx context.Context, u *Uploads, blob, name string) error {
	_, from, err := u.Open(blob)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }() // it was only read
	file, ok := from.(*os.File)
	if !ok {
		return fmt.Errorf("blob %s is not a file", blob)
	}
	source := file.Name()
	to := filepath.Join(b.dest, filepath.FromSlash(name))
	if err := b.admit(name); err != nil {
		return err
	}
	if err := os.Link(source, to); err != nil { // another file system, or the blob was replaced just now
		return b.addCopy(ctx, file, to, name)
	}
	if err := b.finish(ctx, entry{path: name}, file, io.Discard); err != nil {
		return err
	}
	return os.Chmod(to, 0o444) // of the blob's bytes too; the staging area only reads and unlinks them
}

func (b *builder) addCopy(ctx context.Context, from io.Reader, to, name string) error {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := b.finish(ctx, entry{path: name}, from, f); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Chmod(0o444), f.Sync(), f.Close())
}

// admit checks a name and makes its folders.
func (b *builder) admit(name string) error {
	if err := checkPath(name, "path"); err != nil {
		return err
	}
	if len(b.files) >= b.limits.MaxFiles {
		return online.Errorf(online.CodeTooLarge, "path", "there are more than %d files", b.limits.MaxFiles)
	}
	if b.dest == "" {
		return nil
	}
	for i, c := range name {
		if c != '/' || b.dirs[name[:i]] {
			continue
		}
		if err := os.Mkdir(filepath.Join(b.dest, filepath.FromSlash(name[:i])), 0o700); err != nil {
			if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTDIR) { // blobs a and a/b
				return online.Errorf(online.CodeBadArgument, "path", "%q is a file and a folder", name[:i])
			}
			return err
		}
		b.dirs[name[:i]] = true
	}
	return nil
}

// finish streams the bytes of an admitted file, counts and digests them.
func (b *builder) finish(ctx context.Context, e entry, from io.Reader, to io.Writer) error {
	sum := sha256.New()
	left := b.limits.MaxBytes - b.bytes
	n, err := stream(ctx, io.MultiWriter(to, sum), io.LimitReader(from, left+1))
	if err != nil {
		return err
	}
	if n > left {
		return online.Errorf(online.CodeTooLarge, "path", "the files are larger than %d bytes", b.limits.MaxBytes)
	}
	e.size = n
	sum.Sum(e.sum[:0])
	b.files = append(b.files, e)
	b.bytes += n
	return nil
}
