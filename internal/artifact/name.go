package artifact

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"portico/internal/online"
)

// Bounds of names.
const (
	MaxNameBytes    = 1024 // of a blob's name or a file's path inside a tree, as Azure's blobs
	MaxSegmentBytes = 255  // of one part between slashes, as file systems
	maxDepth        = 64   // folders inside each other
)

// checkPath says why a slash-separated relative path cannot name a file, or nil. target is what the error
// points at.
func checkPath(path, target string) error {
	refuse := func(why string) error {
		return online.Errorf(online.CodeBadArgument, target, "name %.80q %s", path, why)
	}
	switch {
	case path == "":
		return refuse("is empty")
	case len(path) > MaxNameBytes:
		return refuse("is longer than 1024 bytes")
	case !utf8.ValidString(path):
		return refuse("is not UTF-8")
	case strings.ContainsFunc(path, unicode.IsControl):
		return refuse("holds a control character")
	case strings.HasPrefix(path, "/"):
		return refuse("is absolute")
	}
	segments := strings.Split(path, "/")
	if len(segments) > maxDepth {
		return refuse("is nested more than 64 deep")
	}
	for _, s := range segments {
		switch {
		case s == "":
			return refuse("has an empty part")
		case s == "." || s == "..":
			return refuse("has a part that is '.' or '..'")
		case len(s) > MaxSegmentBytes:
			return refuse("has a part longer than 255 bytes")
		}
	}
	return nil
}

// checkBlobName is checkPath for container/path.
func checkBlobName(name string) error {
	if err := checkPath(name, "blob"); err != nil {
		return err
	}
	if !strings.Contains(name, "/") {
		return online.Errorf(online.CodeBadArgument, "blob", "name %.80q lacks the container", name)
	}
	return nil
}
