package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// only checks what is in a directory, file by file, with its mode.
func only(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		text := "(directory)"
		if !e.IsDir() {
			content, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			text = info.Mode().String() + " " + string(content)
		}
		if want[e.Name()] != text {
			t.Errorf("%s: %q, want %q", e.Name(), text, want[e.Name()])
		}
	}
	if len(entries) != len(want) {
		t.Errorf("%d files, want %d", len(entries), len(want))
	}
}

func TestReplaceAndCreate(t *testing.T) {
	old := syscall.Umask(0o077) // which decides nothing
	defer syscall.Umask(old)
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := Create(a, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Create(a, []byte("second"), 0o644); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a name that is taken: %v", err)
	}
	only(t, dir, map[string]string{"a": "-rw------- first"})
	if err := errors.Join(Replace(a, []byte("third"), 0o644), Replace(b, nil, 0o444)); err != nil {
		t.Fatal(err)
	}
	only(t, dir, map[string]string{"a": "-rw-r--r-- third", "b": "-r--r--r-- "})
	f, err := ReplaceOpen(b, []byte("fourth"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.WriteString(f, " and more"); err != nil {
		t.Fatal(err)
	}
	only(t, dir, map[string]string{"a": "-rw-r--r-- third", "b": "-rw------- fourth and more"})
}

// TestFailuresLeaveNothing: neither a part of the new nor a temporary file.
func TestFailuresLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken")
	if err := os.Mkdir(taken, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Replace(taken, []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if err := Replace(filepath.Join(dir, "absent", "a"), []byte("x"), 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a directory that is not there: %v", err)
	}
	only(t, dir, map[string]string{"taken": "(directory)"})
}

// TestReadersSeeOneOrTheOther: never half of a file, and never none.
func TestReadersSeeOneOrTheOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	one, other := strings.Repeat("a", 1<<16), strings.Repeat("b", 1<<17)
	if err := Replace(path, []byte(one), 0o600); err != nil {
		t.Fatal(err)
	}
	var writing sync.WaitGroup
	writing.Go(func() {
		for n := range 50 {
			if err := Replace(path, []byte([]string{other, one}[n%2]), 0o600); err != nil {
				t.Error(err)
			}
		}
	})
	over := make(chan struct{})
	go func() { writing.Wait(); close(over) }()
	for {
		text, err := os.ReadFile(path)
		if err != nil || string(text) != one && string(text) != other {
			t.Fatalf("%d bytes, %v", len(text), err)
		}
		select {
		case <-over:
			return
		default:
		}
	}
}
