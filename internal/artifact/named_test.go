package artifact

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestNamed(t *testing.T) {
	s := openStore(t)
	src := filepath.Join(t.TempDir(), "anything")
	if err := os.MkdirAll(filepath.Join(src, "deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "deep", "model.pkl"), []byte("weights"), 0o644); err != nil {
		t.Fatal(err)
	}
	tree, err := s.Import(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	dirs := make([]string, 8)
	for i := range dirs {
		wg.Go(func() {
			dir, err := s.Named(t.Context(), tree.Digest, "models")
			if err != nil {
				t.Error(err)
			}
			dirs[i] = dir
		})
	}
	wg.Wait()
	for _, dir := range dirs {
		if dir != dirs[0] {
			t.Fatalf("%s and %s", dir, dirs[0])
		}
	}
	got, err := os.ReadFile(filepath.Join(dirs[0], "models", "deep", "model.pkl"))
	if err != nil || string(got) != "weights" {
		t.Fatalf("%q, %v", got, err)
	}
	names, err := os.ReadDir(s.dir)
	if err != nil || len(names) != 1 {
		t.Errorf("left beside the tree: %v, %v", names, err)
	}
	if info, err := os.Stat(filepath.Join(dirs[0], "models", "deep")); err != nil || info.Mode().Perm() != 0o555 {
		t.Errorf("folders are as read-only as the tree's: %v, %v", info, err)
	}
	if err := s.Verify(t.Context(), tree.Digest); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", "..", "a/b", "/a"} {
		if _, err := s.Named(t.Context(), tree.Digest, name); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
	if err := s.Remove(tree.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dirs[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the named folder outlives its tree: %v", err)
	}
	if _, err := s.Named(t.Context(), tree.Digest, "models"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a removed tree: %v", err)
	}
}
