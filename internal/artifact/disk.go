package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// What this package answers besides plain failures and online.Error (what a user gave cannot be taken).
var (
	ErrNotFound = errors.New("no such tree or blob")
	ErrFull     = errors.New("no space to store") // disk full or quota: nothing of the call was kept
	ErrExists   = errors.New("the blob exists")   // OnlyNew
	ErrDamaged  = errors.New("the tree is not what its digest says")
)

// copyBuffer bounds the memory of one transfer.
const copyBuffer = 256 << 10 // bytes

// diskError marks what the system reports for a full disk or quota.
func diskError(err error) error {
	if err == nil || errors.Is(err, ErrFull) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w (%w)", ErrFull, err)
	}
	return err
}

// stream copies and stops when ctx ends.
func stream(ctx context.Context, to io.Writer, from io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{to}, untilDone{ctx, from}, make([]byte, copyBuffer))
}

type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// removeTree removes a tree that is read-only: an owner who is not root may not delete from a 0555 folder.
func removeTree(path string) error {
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir():
			return os.Chmod(p, 0o700)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return os.RemoveAll(path)
}
