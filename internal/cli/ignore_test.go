package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

func parseYAML(text string) (*yaml.Node, error) {
	var n yaml.Node
	err := yaml.Load([]byte(text), &n)
	return &n, err
}

func TestIgnore(t *testing.T) {
	for _, c := range []struct {
		rules, name string
		dir, out    bool
	}{
		{"*.tmp", "a.tmp", false, true},
		{"*.tmp", "x/y/a.tmp", false, true},
		{"*.tmp", "a.tmpl", false, false},
		{"/a.txt", "a.txt", false, true},
		{"/a.txt", "x/a.txt", false, false},
		{"data/", "data", true, true},
		{"data/", "data", false, false},
		{"data/", "x/data", true, true},
		{"x/*.py", "x/a.py", false, true},
		{"x/*.py", "x/y/a.py", false, false},
		{"x/**/a.py", "x/a.py", false, true},
		{"x/**/a.py", "x/y/z/a.py", false, true},
		{"**/a.py", "x/y/a.py", false, true},
		{"**/b/a.py", "x/b/a.py", false, true},
		{"x/**", "x/y/a.py", false, true},
		{"*.tmp\n!keep.tmp", "keep.tmp", false, false},
		{"*.tmp\n!keep.tmp", "other.tmp", false, true},
		{"# *.py", "a.py", false, false},
		{"", "__pycache__", true, true},
		{"", "x/.git", true, true},
		{"", "score.py", false, false},
		{"!*.pyc", "a.pyc", false, false},
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, ".amlignore"), c.rules)
		write(t, filepath.Join(dir, ".gitignore"), "*") // .amlignore goes before it
		rules, err := loadIgnore(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := rules.match(c.name, c.dir); got != c.out {
			t.Errorf("%q: %s is left out: %v", c.rules, c.name, got)
		}
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, ".gitignore"), "[a-\n")
	if _, err := loadIgnore(dir); ExitCode(err) != ExitUsage {
		t.Errorf("a malformed pattern: %v", err)
	}
}

// TestScan checks what a tree holds, and what its hash depends on.
func TestScan(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "one", "m", "a"), "1")
	write(t, filepath.Join(dir, "one", "m", "sub", "b"), "2")
	write(t, filepath.Join(dir, "two", "m", "a"), "1")
	write(t, filepath.Join(dir, "two", "m", "sub", "b"), "2")
	write(t, filepath.Join(dir, "two", "m", "__pycache__", "c"), "3")
	hash := func(path ...string) string { return hashOf(t, filepath.Join(append([]string{dir}, path...)...)) }
	if hash("one", "m") != hash("two", "m") {
		t.Error("the same content in another place has another hash")
	}
	before := hash("two", "m")
	if err := os.Rename(filepath.Join(dir, "two", "m", "a"), filepath.Join(dir, "two", "m", "c")); err != nil {
		t.Fatal(err)
	}
	if hash("two", "m") == before {
		t.Error("a renamed file does not change the hash")
	}
	if err := os.Rename(filepath.Join(dir, "two", "m", "c"), filepath.Join(dir, "two", "m", "a")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "two", "m", "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	if hash("two", "m") == before {
		t.Error("the x bit does not change the hash")
	}
	if err := os.Symlink(filepath.Join(dir, "one"), filepath.Join(dir, "two", "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := scanTree(t.Context(), filepath.Join(dir, "two")); err == nil ||
		!strings.Contains(err.Error(), "link to a folder") {
		t.Errorf("a link to a folder: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "two", "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "one", "m", "a"), filepath.Join(dir, "two", "link")); err != nil {
		t.Fatal(err)
	}
	tree, err := scanTree(t.Context(), filepath.Join(dir, "two"))
	if err != nil || len(tree.files) != 3 || tree.files[0].rel != "link" || tree.files[0].size != 1 {
		t.Errorf("a link to a file: %+v, %v", tree, err)
	}
}

// TestExamplesAreValid reads every YAML file of the examples and finds what it names, so that none rots.
func TestExamplesAreValid(t *testing.T) {
	root := filepath.Join("..", "..", "examples")
	files, err := filepath.Glob(filepath.Join(root, "*", "*.yml"))
	if err != nil || len(files) < 5 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		base := filepath.Dir(file)
		if filepath.Base(file) == "endpoint.yml" {
			var f endpointFile
			if _, err := (&writeFlags{file: file}).read(&f); err != nil {
				t.Error(err)
			}
			continue
		}
		var f deploymentFile
		if _, err := (&writeFlags{file: file}).read(&f); err != nil {
			t.Error(err)
			continue
		}
		if f.Model != nil {
			f.Model.Inline.Path = "." // models are trained, not kept
		}
		if err := (&session{}).checkLocal(&f, base); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	// A pickled model belongs to the versions that wrote it: training and serving must pin the same.
	pins, err := os.ReadFile(filepath.Join(root, "breast-cancer", "requirements.txt"))
	if err != nil {
		t.Fatal(err)
	}
	conda, err := os.ReadFile(filepath.Join(root, "breast-cancer", "conda.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for pin := range strings.FieldsSeq(string(pins)) {
		if !strings.Contains(string(conda), "- "+pin+"\n") {
			t.Errorf("conda.yaml lacks %s", pin)
		}
	}
}
