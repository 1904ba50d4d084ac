package environment

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// The tree that is sealed was made by strangers: nothing outside of it may change or be read.
func TestSealHostileTree(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(secret, []byte("Name: stolen\nVersion: 1\n"), 0o600))
	site := filepath.Join(dir, "lib/python3.11/site-packages")
	must(os.MkdirAll(filepath.Join(site, "a-1.dist-info"), 0o777))
	must(os.MkdirAll(filepath.Join(site, "b-1.dist-info"), 0o700))
	must(os.Symlink(secret, filepath.Join(site, "a-1.dist-info", "METADATA")))
	must(os.WriteFile(filepath.Join(site, "b-1.dist-info", "METADATA"), []byte("Name: b\nVersion: 1\n\nName: c\n"), 0o4755))
	must(os.WriteFile(filepath.Join(site, "b-1.dist-info", "direct_url.json"), []byte(`{"url": "https://u:pw@h/b.whl"}`), 0o600))
	must(os.Symlink(outside, filepath.Join(dir, "out")))
	must(os.Link(secret, filepath.Join(dir, "hard")))
	must(syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o666))

	packages, _, err := installed(dir)
	must(err)
	if len(packages) != 1 || packages[0] != "b @ https://[redacted]@h/b.whl" {
		t.Errorf("listed %q", packages)
	}
	size, err := seal(dir)
	must(err)
	if size == 0 {
		t.Error("no size")
	}
	checkSealed(t, dir)
	st, err := os.Stat(secret)
	must(err)
	if st.Mode().Perm() != 0o600 || st.Sys().(*syscall.Stat_t).Nlink != 1 {
		t.Errorf("the file outside has mode %v and %d names", st.Mode(), st.Sys().(*syscall.Stat_t).Nlink)
	}
	if st, err := os.Stat(outside); err != nil || st.Mode().Perm() == sealedDir {
		t.Errorf("the directory outside was sealed: %v, %v", st.Mode(), err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "fifo")); !os.IsNotExist(err) {
		t.Errorf("the fifo is still there: %v", err)
	}
	must(removeTree(dir))
	if _, err := os.Stat(secret); err != nil {
		t.Error(err)
	}
}
