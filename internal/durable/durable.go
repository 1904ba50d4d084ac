// Package durable puts small files in their place: after a crash of the program or of the machine there is what was there before
// or what came, whole. When its functions return without an error it is on disk.
//
// It does not know what is in the files, and keeps nobody else from writing them.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// TempPrefix begins the names of files that are not in their place yet. A crash may leave one beside it.
const TempPrefix = ".new-"

// Replace writes a file with this mode, whatever the umask, in place of what was there.
func Replace(path string, data []byte, mode fs.FileMode) error {
	f, err := ReplaceOpen(path, data, mode)
	if f != nil {
		_ = f.Close() // what it holds is on disk already
	}
	return err
}

// ReplaceOpen is Replace that gives the new file, opened for reading and writing behind its content. A file together with an
// error is in place, but a power cut may bring back what was there.
func ReplaceOpen(path string, data []byte, mode fs.FileMode) (*os.File, error) {
	return put(path, data, mode, os.Rename)
}

// Create is Replace where nothing was. fs.ErrExist: something is, and stays.
func Create(path string, data []byte, mode fs.FileMode) error {
	f, err := put(path, data, mode, func(from, to string) error {
		return errors.Join(os.Link(from, to), os.Remove(from))
	})
	if f != nil {
		_ = f.Close() // likewise
	}
	return err
}

func put(path string, data []byte, mode fs.FileMode, place func(from, to string) error) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), TempPrefix+"*")
	if err != nil {
		return nil, err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync()); err == nil {
		err = place(f.Name(), path)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name()) // the first error is the one to tell
		return nil, err
	}
	return f, SyncDir(filepath.Dir(path))
}

// SyncDir writes the names in a directory to disk.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
