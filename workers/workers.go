package workers

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

//go:embed python/portico_worker/*.py python/portico_worker/children/*.py
var tree embed.FS

// Package is the name of the Python package and the last element of the path that Write returns.
const Package = "portico_worker"

// Version is what the worker calls itself in the header x-ms-server-version, after "portico/".
const Version = "1.0"

const (
	root         = "python/" + Package
	digestLength = 16 // hexadecimal digits of the digest that name a directory
)

// Digest identifies the embedded worker: two binaries with equal digests carry the same bytes.
var Digest = sync.OnceValue(func() string {
	sum := sha256.New()
	for _, name := range names() {
		data, err := tree.ReadFile(root + "/" + name)
		if err != nil {
			panic("workers: embedded file cannot be read: " + err.Error()) // the compiler put it there
		}
		fmt.Fprintf(sum, "%s\x00%d\x00", name, len(data))
		sum.Write(data)
	}
	return hex.EncodeToString(sum.Sum(nil))[:digestLength]
})

func names() []string {
	var names []string
	err := fs.WalkDir(tree, root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, strings.TrimPrefix(path, root+"/"))
		}
		return err
	})
	if err != nil {
		panic("workers: embedded tree cannot be read: " + err.Error())
	}
	return names
}

// Write lays the worker out below dir and gives the path to run: dir/<digest>/portico_worker. A tree that is there
// already is used if it is complete and unchanged, else replaced. Several processes may write at the same time: one
// does, under a lock of the directory, and the others find its tree. The files are readable by everyone and writable by
// nobody, because workers run as users of their own.
func Write(dir string) (string, error) {
	path := filepath.Join(dir, Digest(), Package)
	if intact(path) {
		return path, nil
	}
	if err := write(dir, path); err != nil {
		return "", fmt.Errorf("write the Python worker: %w", err)
	}
	return path, nil
}

func write(dir, path string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer lock.Close() // which ends the lock, too
	if err := flock(lock); err != nil {
		return err
	}
	if intact(path) {
		return nil
	}
	staging, err := os.MkdirTemp(dir, ".staging-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(staging) // what is left of it; after success only its empty shell
	if err := fill(staging); err != nil {
		return err
	}
	return install(filepath.Join(staging, "tree"), filepath.Dir(path))
}

// flock waits for the exclusive lock of an open file; a holder needs milliseconds.
func flock(f *os.File) error {
	for {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// fill writes the whole tree below staging/tree.
func fill(staging string) error {
	target := filepath.Join(staging, "tree", Package)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	folders := map[string]bool{filepath.Dir(target): true}
	for _, name := range names() {
		data, err := tree.ReadFile(root + "/" + name)
		if err != nil {
			return err
		}
		path := filepath.Join(target, filepath.FromSlash(name))
		folders[filepath.Dir(path)] = true
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := writeFile(path, data); err != nil {
			return err
		}
	}
	for folder := range folders { // the umask must not decide whether another user can read this
		if err := os.Chmod(folder, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(0o444), f.Sync(), f.Close())
}

// install moves the complete tree into place in one step. A damaged one that stands there is moved aside first.
func install(from, to string) error {
	err := os.Rename(from, to)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	aside, err := os.MkdirTemp(filepath.Dir(to), ".damaged-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(aside)
	if err := os.Rename(to, filepath.Join(aside, "tree")); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// intact says whether path holds exactly the embedded files.
func intact(path string) bool {
	for _, name := range names() {
		want, err := tree.ReadFile(root + "/" + name)
		if err != nil {
			return false
		}
		got, err := os.ReadFile(filepath.Join(path, filepath.FromSlash(name)))
		if err != nil || string(got) != string(want) {
			return false
		}
	}
	return true
}
