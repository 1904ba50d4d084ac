package artifact

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"portico/internal/durable"
)

// Limits bound what one tree may be.
type Limits struct {
	MaxFiles int
	MaxBytes int64
}

// DefaultLimits are generous for models and still keep a mistaken folder (a home directory) out.
func DefaultLimits() Limits { return Limits{MaxFiles: 100_000, MaxBytes: 1 << 40} }

// Tree is what an import gave.
type Tree struct {
	Digest string // sha256:<64 hex digits> over the tree's manifest
	Files  int
	Bytes  int64
	IsFile bool   // the source was one file; the tree holds it under Name
	Name   string // base name of the source; not part of the digest when the source is a folder
}

// Held is one tree of the store.
type Held struct {
	Digest string
	Files  int
	Bytes  int64
	Used   time.Time // when it was last imported
}

// Names inside the store's directory: HEX/tree is a tree, HEX/manifest its text; what begins with a prefix
// below is unfinished or on its way out and is removed at the next start.
const (
	treeName     = "tree"
	manifestName = "manifest"
	trashPrefix  = ".old-"
)

// Store keeps trees under their digests. Safe for concurrent use by one process.
type Store struct {
	dir    string
	limits Limits
}

// Open opens the store in dir, makes dir, and clears what a crash left unfinished.
func Open(dir string, limits Limits) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open artifacts: %w", err)
	}
	// Others may enter: instances that run under user ids of their own read the trees.
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return nil, fmt.Errorf("open artifacts: %w", diskError(err))
	}
	if err := clearUnfinished(abs); err != nil {
		return nil, fmt.Errorf("open artifacts: %w", err)
	}
	return &Store{dir: abs, limits: limits}, nil
}

func clearUnfinished(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasPrefix(n.Name(), durable.TempPrefix) || strings.HasPrefix(n.Name(), trashPrefix) {
			if err := removeTree(filepath.Join(dir, n.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Path is the folder of a tree: folders 0555, files 0444 or 0555. ErrNotFound when there is none. For an
// imported file the folder holds that file.
func (s *Store) Path(digest string) (string, error) {
	folder, ok := folderOf(digest)
	if !ok {
		return "", fmt.Errorf("tree %.80q: %w", digest, ErrNotFound)
	}
	path := filepath.Join(s.dir, folder, treeName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("tree %s: %w", digest, ErrNotFound)
	} else if err != nil {
		return "", fmt.Errorf("tree %s: %w", digest, err)
	}
	return path, nil
}

// List gives every tree.
func (s *Store) List() ([]Held, error) {
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list trees: %w", err)
	}
	var out []Held
	for _, n := range names {
		digest := digestPrefix + n.Name()
		if _, ok := folderOf(digest); !ok {
			continue
		}
		h, err := s.held(digest)
		if errors.Is(err, ErrNotFound) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list trees: %w", err)
		}
		out = append(out, h)
	}
	return out, nil
}

func (s *Store) held(digest string) (Held, error) {
	folder, _ := folderOf(digest) // the caller made it from a folder or a manifest
	path := filepath.Join(s.dir, folder)
	text, err := os.ReadFile(filepath.Join(path, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return Held{}, fmt.Errorf("tree %s: %w", digest, ErrNotFound)
	}
	if err != nil {
		return Held{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return Held{}, err
	}
	files, size, err := totals(text)
	if err != nil {
		return Held{}, fmt.Errorf("tree %s: %w", digest, err)
	}
	return Held{Digest: digest, Files: files, Bytes: size, Used: info.ModTime()}, nil
}

// Remove deletes a tree; removing one that is not there is no error. A caller that collects garbage leaves
// trees alone that were Used a short while ago: an import that found the tree may not have recorded it yet.
func (s *Store) Remove(digest string) error {
	folder, ok := folderOf(digest)
	if !ok {
		return fmt.Errorf("remove tree %.80q: %w", digest, ErrNotFound)
	}
	trash, err := os.MkdirTemp(s.dir, trashPrefix)
	if err != nil {
		return fmt.Errorf("remove tree %s: %w", digest, diskError(err))
	}
	err = os.Rename(filepath.Join(s.dir, folder), filepath.Join(trash, folder)) // gone at once, whole
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err := errors.Join(err, durable.SyncDir(s.dir), removeTree(trash)); err != nil {
		return fmt.Errorf("remove tree %s: %w", digest, err)
	}
	return nil
}

// Verify reads a whole tree again and compares it with its digest. Errors: ErrNotFound, ErrDamaged.
func (s *Store) Verify(ctx context.Context, digest string) error {
	path, err := s.Path(digest)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	b := &builder{limits: Limits{MaxFiles: math.MaxInt, MaxBytes: math.MaxInt64 - 1}} // those of the import held then
	if err := b.addFolder(ctx, path); err != nil {
		return fmt.Errorf("verify tree %s: %w", digest, err)
	}
	if got := digestOf(manifest(b.files)); got != digest {
		return fmt.Errorf("verify tree %s: it has become %s: %w", digest, got, ErrDamaged)
	}
	return nil
}
