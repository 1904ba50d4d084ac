package artifact

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// smallDisk mounts a file system of 256 KiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("cannot mount a small file system here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func TestFullDisk(t *testing.T) {
	dir := smallDisk(t)
	s, err := Open(filepath.Join(dir, "artifacts"), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	u := openUploads(t, filepath.Join(dir, "uploads"))
	put(t, u, "c/kept", "before")
	held := mustImport(t, s, tree(t, map[string]string{"a": "1"}))

	large := func() io.Reader { return io.LimitReader(endless{}, 1<<20) }
	o := PutOptions{Size: 1 << 20, MaxBytes: 1 << 20}
	if _, err := u.Put(t.Context(), "c/large", large(), o); !errors.Is(err, ErrFull) {
		t.Errorf("put: %v, want ErrFull", err)
	}
	if err := u.PutBlock(t.Context(), "c/large", "QQ==", large(), BlockOptions{Size: 1 << 20, MaxBytes: 1 << 20}); !errors.Is(err, ErrFull) {
		t.Errorf("put block: %v, want ErrFull", err)
	}
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "large"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), src); !errors.Is(err, ErrFull) {
		t.Errorf("import: %v, want ErrFull", err)
	}

	// Nothing of what failed is kept, so there is room again, and what was acknowledged is still there.
	put(t, u, "c/after", "after")
	mustImport(t, s, tree(t, map[string]string{"b": "2"}))
	if read(t, u, "c/kept") != "before" || len(u.List("", "", 9)) != 2 || dataFiles(t, u) != 2 {
		t.Errorf("afterwards: %v, %d files", u.List("", "", 9), dataFiles(t, u))
	}
	if err := s.Verify(t.Context(), held.Digest); err != nil {
		t.Error(err)
	}
	if names, err := os.ReadDir(s.dir); err != nil || len(names) != 2 {
		t.Errorf("the store holds %v, %v", names, err)
	}
}
