package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// ignoreFiles name what is not uploaded, one pattern a line. The first that exists counts, as in Azure's client.
var ignoreFiles = []string{".amlignore", ".gitignore"}

// neverUploaded are left out of every upload: they hold nothing that a model needs, and change by themselves.
var neverUploaded = []string{"__pycache__", ".git", ".ipynb_checkpoints", ".venv", ".DS_Store", "*.pyc"}

// ignoreRules decide which files of a folder are left out. The patterns are gitignore's: '*' and '?' within a name,
// '**' across folders, a leading '/' for the top of the folder only, a trailing '/' for folders only, '!' to take
// back an earlier pattern.
type ignoreRules struct{ rules []ignoreRule }

type ignoreRule struct {
	pattern  string
	negated  bool
	anchored bool
	folder   bool
}

func loadIgnore(dir string) (*ignoreRules, error) {
	r := &ignoreRules{}
	for _, p := range neverUploaded {
		r.add(p)
	}
	for _, name := range ignoreFiles {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			r.add(lines.Text())
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		return r, r.check(name)
	}
	return r, nil
}

func (r *ignoreRules) add(line string) {
	line = strings.TrimRight(line, " \t\r")
	if line == "" || line[0] == '#' {
		return
	}
	var rule ignoreRule
	if rest, ok := strings.CutPrefix(line, "!"); ok {
		rule.negated, line = true, rest
	}
	if rest, ok := strings.CutSuffix(line, "/"); ok {
		rule.folder, line = true, rest
	}
	if strings.Contains(strings.TrimPrefix(line, "**/"), "/") {
		rule.anchored = true
	}
	rule.pattern = strings.TrimPrefix(strings.TrimPrefix(line, "/"), "./")
	if !rule.anchored {
		rule.pattern = strings.TrimPrefix(rule.pattern, "**/")
	}
	if rule.pattern != "" {
		r.rules = append(r.rules, rule)
	}
}

// check refuses a pattern that can match nothing because it is malformed.
func (r *ignoreRules) check(file string) error {
	for _, rule := range r.rules {
		for part := range strings.SplitSeq(rule.pattern, "/") {
			if _, err := path.Match(part, ""); err != nil {
				return usagef("%s: the pattern %q is not valid: %v", file, rule.pattern, err)
			}
		}
	}
	return nil
}

// match says whether the slash-separated relative name is left out. The last rule that fits decides.
func (r *ignoreRules) match(name string, isDir bool) bool {
	out := false
	for _, rule := range r.rules {
		if rule.folder && !isDir {
			continue
		}
		if rule.fits(name) {
			out = !rule.negated
		}
	}
	return out
}

func (rule ignoreRule) fits(name string) bool {
	if !rule.anchored {
		ok, _ := path.Match(rule.pattern, path.Base(name))
		return ok
	}
	return matchParts(strings.Split(rule.pattern, "/"), strings.Split(name, "/"))
}

func matchParts(pattern, name []string) bool {
	switch {
	case len(pattern) == 0:
		return len(name) == 0
	case pattern[0] == "**":
		for skip := range len(name) + 1 {
			if matchParts(pattern[1:], name[skip:]) {
				return true
			}
		}
		return false
	case len(name) == 0:
		return false
	}
	ok, _ := path.Match(pattern[0], name[0])
	return ok && matchParts(pattern[1:], name[1:])
}
