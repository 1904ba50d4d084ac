package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"portico/internal/durable"
)

// namedPrefix begins the names of the folders that Named makes beside a tree.
const namedPrefix = "named-"

// Named gives a folder that holds the tree as a folder of this name, as AZUREML_MODEL_DIR holds a registered folder.
// It lives and goes with the tree and costs no further space: its files are links to the tree's. Errors:
// ErrNotFound, ErrFull, online.Error for a name that no folder can have.
func (s *Store) Named(ctx context.Context, digest, name string) (string, error) {
	tree, err := s.Path(digest)
	if err != nil {
		return "", fmt.Errorf("name: %w", err)
	}
	if err := checkPath(name, "path"); err != nil {
		return "", fmt.Errorf("name tree %s: %w", digest, err)
	}
	if strings.Contains(name, "/") {
		return "", fmt.Errorf("name tree %s: %q is a path, not a name", digest, name)
	}
	sum := sha256.Sum256([]byte(name))
	final := filepath.Join(filepath.Dir(tree), namedPrefix+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	if err := s.makeNamed(ctx, tree, name, final); err != nil {
		return "", fmt.Errorf("name tree %s %q: %w", digest, name, diskError(err))
	}
	return final, nil
}

func (s *Store) makeNamed(ctx context.Context, tree, name, final string) error {
	temp, err := os.MkdirTemp(s.dir, durable.TempPrefix)
	if err != nil {
		return err
	}
	err = linkTree(ctx, tree, filepath.Join(temp, name))
	if err == nil {
		err = errors.Join(os.Chmod(temp, 0o755), durable.SyncDir(temp))
	}
	if err == nil {
		err = os.Rename(temp, final)
	}
	switch {
	case errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY): // another call was faster
		return removeTree(temp)
	case errors.Is(err, fs.ErrNotExist): // the tree was removed meanwhile
		return errors.Join(ErrNotFound, removeTree(temp))
	case err != nil:
		return errors.Join(err, removeTree(temp))
	}
	return durable.SyncDir(filepath.Dir(final))
}

// linkTree makes to a copy of the folder from, whose files are links, on disk and as read-only as from.
func linkTree(ctx context.Context, from, to string) error {
	var made []string
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			made = append(made, filepath.Join(to, rel))
			return os.Mkdir(filepath.Join(to, rel), 0o700)
		}
		return os.Link(path, filepath.Join(to, rel))
	})
	for _, dir := range made {
		if err == nil {
			err = errors.Join(durable.SyncDir(dir), os.Chmod(dir, 0o555))
		}
	}
	return err
}
