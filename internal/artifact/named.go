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
	"syscall"
)

// namedPrefix begins the names of the folders that Named makes beside a tree.
const namedPrefix = "named-"

// Named gives a folder that holds the tree as a folder of this name, as AZUREML_MODEL_DIR holds a registered folder.
// It lives and goes with the tree and costs no further space: its files are links to the tree's. Errors:
// ErrNotFound, ErrFull.
func (s *Store) Named(ctx context.Context, digest, name string) (string, error) {
	tree, err := s.Path(digest)
	if err != nil {
		return "", err
	}
	if err := checkBlobName(name); err != nil || filepath.Base(name) != name {
		return "", fmt.Errorf("name tree %s %.80q: not a file name", digest, name)
	}
	sum := sha256.Sum256([]byte(name))
	final := filepath.Join(filepath.Dir(tree), namedPrefix+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	temp, err := os.MkdirTemp(s.dir, tempPrefix)
	if err == nil {
		if err = linkTree(ctx, tree, filepath.Join(temp, name)); err == nil {
			err = errors.Join(os.Chmod(temp, 0o755), syncDir(temp))
		}
		if err == nil {
			err = os.Rename(temp, final)
		}
		if err != nil {
			_ = removeTree(temp) // the first error is the one to tell; leftovers go at the next start
		}
	}
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return final, nil // another call was faster
	}
	if err != nil {
		return "", fmt.Errorf("name tree %s %q: %w", digest, name, diskError(err))
	}
	return final, nil
}

// linkTree makes to a copy of the folder from, whose files are links.
func linkTree(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		return os.Link(path, filepath.Join(to, rel))
	})
}
