package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// systemPaths are shown to every sandbox, read-only. Those that are missing, or are symbolic links into one
// another, are as outside.
var systemPaths = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt"}

// binding is one path outside, free of symbolic links, and where it appears inside.
type binding struct {
	From     string `json:"from"`
	At       string `json:"at"`
	Writable bool   `json:"writable,omitempty"`
}

// bindings says what a list of views means, parents before their children.
//
// Whoever may write to a view can put symbolic links there, and the next process of the same specification is set
// up by root: a view below a writable one is therefore refused when a link leads it elsewhere.
func bindings(views []View) ([]binding, error) {
	var all []binding
	resolved := make([]string, len(views))
	for i, v := range views {
		var err error
		if resolved[i], err = filepath.EvalSymlinks(v.Path); err != nil {
			return nil, fmt.Errorf("view %s: %w", v.Path, withoutPath(err))
		}
	}
	for i, v := range views {
		for k, w := range views {
			rel, below := strings.CutPrefix(v.Path, w.Path+"/")
			if w.Writable && below && resolved[i] != filepath.Join(resolved[k], rel) {
				return nil, fmt.Errorf("view %s: a symbolic link in a writable view leads it elsewhere", v.Path)
			}
		}
		at := func(path string) { all = append(all, binding{From: resolved[i], At: path, Writable: v.Writable}) }
		switch {
		case v.At != "":
			at(v.At)
		case resolved[i] == v.Path:
			if v.Writable || !isSystem(v.Path) {
				at(v.Path)
			}
		default: // programs resolve links themselves, so that both names must lead there
			if v.Writable || !isSystem(v.Path) {
				at(v.Path)
			}
			if v.Writable || !isSystem(resolved[i]) {
				at(resolved[i])
			}
		}
	}
	slices.SortStableFunc(all, func(a, b binding) int { return strings.Compare(a.At, b.At) })
	return all, nil
}

// isSystem says whether a path is shown anyway.
func isSystem(path string) bool {
	return slices.ContainsFunc(systemPaths, func(p string) bool { return path == p || strings.HasPrefix(path, p+"/") })
}

// giveTo makes uid the owner of a path and of everything below it. Links are not followed.
func giveTo(path string, uid int) error {
	return filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, uid, uid)
	})
}

// withoutPath strips the paths that os puts before an errno: the message names the path that the caller knows.
func withoutPath(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}
