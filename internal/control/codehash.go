package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// CodeHashVersion is how the Python SDK calls the way in which it makes the hash of a code.
const CodeHashVersion = "202208"

// codeHash computes the Python SDK's hash of a tree in the content store: SHA-256 over the number of files; for each
// file, in order of path without regard to case, "#PATH#SIZE"; and then the bytes of each. Empty when a path holds
// '#', since then other files could have the same hash.
func (s *Service) codeHash(ctx context.Context, digest string) (string, error) {
	dir, err := s.Artifacts.Path(digest)
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", digest, err)
	}
	defer func() { _ = root.Close() }() // it was only read
	var files []string
	sizes := map[string]int64{}
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files, sizes[name] = append(files, name), info.Size()
		return ctx.Err()
	})
	if err != nil {
		return "", fmt.Errorf("list %s: %w", digest, err)
	}
	slices.SortStableFunc(files, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	sum := sha256.New()
	_, _ = io.WriteString(sum, strconv.Itoa(len(files))) // a hash takes everything
	for _, name := range files {
		if strings.Contains(name, "#") {
			return "", nil
		}
		fmt.Fprintf(sum, "#%s#%d", name, sizes[name])
	}
	for _, name := range files {
		if err := copyFile(ctx, sum, root, name); err != nil {
			return "", fmt.Errorf("read %s of %s: %w", name, digest, err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func copyFile(ctx context.Context, to io.Writer, root *os.Root, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(to, f)
	return err
}
