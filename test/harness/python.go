package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// making is held while an environment is looked for or made.
var making sync.Mutex

// Python gives the interpreter of a virtual environment with the requirements of the file requirements-NAME.txt, which
// lies in the folder of the test. It is kept below the repository's .build and made again when the file changes.
func Python(t testing.TB, name string) string {
	t.Helper()
	making.Lock()
	defer making.Unlock()
	requirements, err := filepath.Abs("requirements-" + name + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(requirements)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(doc)
	suite := filepath.Dir(requirements)
	dir := filepath.Join(suite, "..", "..", ".build", filepath.Base(suite), name)
	exe, stamp := filepath.Join(dir, "bin", "python"), filepath.Join(dir, ".requirements")
	if done, err := os.ReadFile(stamp); err == nil && string(done) == hex.EncodeToString(sum[:]) {
		return exe
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{
		{"python3", "-m", "venv", dir},
		{exe, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", requirements},
	} {
		if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
	if err := os.WriteFile(stamp, []byte(hex.EncodeToString(sum[:])), 0o644); err != nil {
		t.Fatal(err)
	}
	return exe
}
