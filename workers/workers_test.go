package workers

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestWriteIsCompleteAndReadable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "runtime")
	path, err := Write(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, Digest(), Package); path != want {
		t.Errorf("path %q, want %q", path, want)
	}
	files := 0
	err = filepath.WalkDir(filepath.Dir(path), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o444)
		if d.IsDir() {
			want = 0o755
		} else {
			files++
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil || files != len(names()) || files == 0 {
		t.Errorf("%d files of %d (%v)", files, len(names()), err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

func TestWriteMendsDamage(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"changed file": func(path string) error {
			file := filepath.Join(path, "loop.py")
			if err := os.Chmod(file, 0o644); err != nil {
				return err
			}
			return os.WriteFile(file, []byte("raise SystemExit\n"), 0o644)
		},
		"missing file":    func(path string) error { return os.Remove(filepath.Join(path, "page.py")) },
		"missing package": os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path, err := Write(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			if again, err := Write(dir); err != nil || again != path || !intact(path) {
				t.Errorf("%q, intact %v, %v", again, intact(path), err)
			}
		})
	}
}

func TestWriteAtOnce(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if path, err := Write(dir); err != nil || !intact(path) {
				t.Errorf("%q: %v", path, err)
			}
		})
	}
	wg.Wait()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v (%v), want one tree", left, err)
	}
}

func TestWriteSaysWhatFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(filepath.Join(file, "below")); err == nil {
		t.Error("a runtime below a file was written")
	}
}

func TestVersionIsTheWorkers(t *testing.T) {
	data, err := tree.ReadFile(root + "/__init__.py")
	if want := "\nVERSION = \"" + Version + "\"\n"; err != nil || !strings.Contains(string(data), want) {
		t.Errorf("__init__.py lacks %q (%v)", want, err)
	}
}
