package artifact

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// entry is one regular file of a tree.
type entry struct {
	path       string // slash-separated, relative
	executable bool
	size       int64
	sum        [sha256.Size]byte
}

const (
	manifestHead = "portico-tree 1\n"
	digestPrefix = "sha256:"
)

// manifest is the canonical text of a tree: a head, then one line per file in order of path. Two trees have
// the same text exactly when they have the same files. Empty directories do not count, since an upload of
// blobs cannot have any.
func manifest(files []entry) []byte {
	sorted := slices.SortedFunc(slices.Values(files), func(a, b entry) int { return cmp.Compare(a.path, b.path) })
	var text bytes.Buffer
	text.WriteString(manifestHead)
	for _, f := range sorted {
		kind := "file"
		if f.executable {
			kind = "exec"
		}
		fmt.Fprintf(&text, "%s %d %s %s\n", kind, f.size, hex.EncodeToString(f.sum[:]), strconv.Quote(f.path))
	}
	return text.Bytes()
}

// File is one file of an upload.
type File struct {
	Path string // slash-separated, relative
	Size int64
	Sum  [sha256.Size]byte // SHA-256 of its bytes
}

// DigestOf is the digest that the store gives to an upload of these files. A client compares it with what the server
// found, and so knows that a version holds its files and nobody else's.
func DigestOf(upload []File) string {
	files := make([]entry, len(upload))
	for i, f := range upload {
		files[i] = entry{path: f.Path, size: f.Size, sum: f.Sum} // what was uploaded is never executable
	}
	return digestOf(manifest(files))
}

// digestOf names a tree by its manifest.
func digestOf(manifest []byte) string {
	sum := sha256.Sum256(manifest)
	return digestPrefix + hex.EncodeToString(sum[:])
}

// totals reads how many files and bytes a manifest names.
func totals(manifest []byte) (files int, size int64, err error) {
	body, ok := strings.CutPrefix(string(manifest), manifestHead)
	if !ok {
		return 0, 0, fmt.Errorf("the manifest does not begin with %q", manifestHead)
	}
	for line := range strings.Lines(body) {
		fields := strings.SplitN(line, " ", 3)
		if len(fields) != 3 {
			return 0, 0, fmt.Errorf("line %d of the manifest is cut", files+2)
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("line %d of the manifest: %w", files+2, err)
		}
		files, size = files+1, size+n
	}
	return files, size, nil
}

var digestRule = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// folderOf is the name of a digest's folder; false when the text is no digest.
func folderOf(digest string) (string, bool) {
	if !digestRule.MatchString(digest) {
		return "", false
	}
	return strings.TrimPrefix(digest, digestPrefix), true
}
