package local

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxInterpreterLinks bounds a chain of symbolic links from an environment's python to the real one.
const maxInterpreterLinks = 16

// systemDirectories are seen by every process of the host.
var systemDirectories = []string{"/usr", "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin"}

// interpreterPaths are what a process needs to see to run python: the environment that it is called through, the
// installation that it ends at and the one that a virtual environment names as its home, whole; of other links on
// the way only the link. What every process sees anyway is left out.
func interpreterPaths(python string) ([]string, error) {
	if !filepath.IsAbs(python) {
		return nil, fmt.Errorf("interpreter %q is not an absolute path", python)
	}
	var paths []string
	add := func(path string) {
		if !inside(path, systemDirectories) && !inside(path, paths) {
			paths = append(paths, path)
		}
	}
	executable := filepath.Clean(python)
	for range maxInterpreterLinks {
		info, err := os.Lstat(executable)
		if err != nil {
			return nil, fmt.Errorf("look at interpreter: %w", err)
		}
		link := info.Mode()&fs.ModeSymlink != 0
		prefix := filepath.Dir(filepath.Dir(executable))
		switch {
		case isPrefix(prefix):
			add(prefix)
		case link:
			add(executable)
		default:
			return nil, fmt.Errorf("interpreter %s is not below the bin directory of a Python installation", executable)
		}
		home, err := venvHome(prefix)
		if err != nil {
			return nil, err
		}
		if base := filepath.Dir(home); home != "" && isPrefix(base) {
			add(base)
		}
		if !link {
			slices.Sort(paths)
			return paths, nil
		}
		target, err := os.Readlink(executable)
		if err != nil {
			return nil, fmt.Errorf("follow interpreter: %w", err)
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(executable), target)
		}
		executable = filepath.Clean(target)
	}
	return nil, fmt.Errorf("interpreter %s: more than %d symbolic links", python, maxInterpreterLinks)
}

// isPrefix says whether a directory is a Python installation or environment. It keeps a stray link from showing
// somebody's whole home directory to a worker.
func isPrefix(dir string) bool {
	if dir == "/" {
		return false
	}
	matches, err := filepath.Glob(filepath.Join(dir, "lib*", "python3*"))
	if err == nil && len(matches) > 0 {
		return true
	}
	_, err = os.Stat(filepath.Join(dir, venvFile))
	return err == nil
}

const venvFile = "pyvenv.cfg"

// venvHome is the bin directory that a virtual environment was made from; empty for what is none.
func venvHome(prefix string) (string, error) {
	f, err := os.Open(filepath.Join(prefix, venvFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read environment: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if ok && strings.TrimSpace(name) == "home" {
			return filepath.Clean(strings.TrimSpace(value)), nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read environment: %w", err)
	}
	return "", nil
}

// inside says whether path is one of dirs or below one.
func inside(path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool {
		return path == dir || strings.HasPrefix(path, dir+"/")
	})
}
