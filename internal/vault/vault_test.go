package vault

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"portico/internal/store"
)

var _ store.Sealer = (*Vault)(nil) // the interface is the store's; this package does not need it otherwise

func openVault(t *testing.T, path string) *Vault {
	t.Helper()
	v, err := OpenOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSealOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	v, again := openVault(t, path), openVault(t, path)
	rapid.Check(t, func(t *rapid.T) {
		purpose := rapid.String().Draw(t, "purpose")
		clear := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "clear")
		sealed, err := v.Seal(purpose, clear)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := again.Open(purpose, sealed); err != nil || !bytes.Equal(got, clear) {
			t.Fatalf("opened %q, %v; want %q", got, err, clear)
		}
		if len(clear) >= 8 && bytes.Contains(sealed, clear) {
			t.Fatal("the sealed text holds the clear one")
		}
		if twice, err := v.Seal(purpose, clear); err != nil || bytes.Equal(twice, sealed) {
			t.Fatalf("two seals of one text are equal (%v)", err)
		}
		if _, err := v.Open(purpose+"x", sealed); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("opened for another purpose: %v", err)
		}
		harmed := bytes.Clone(sealed)
		harmed[rapid.IntRange(0, len(harmed)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := v.Open(purpose, harmed); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnknownKey) {
			t.Fatalf("opened a changed text: %v", err)
		}
		if _, err := v.Open(purpose, sealed[:rapid.IntRange(0, len(sealed)-1).Draw(t, "cut")]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("opened a cut text: %v", err)
		}
	})
}

func TestPurposeIsBounded(t *testing.T) {
	v := openVault(t, filepath.Join(t.TempDir(), "master.key"))
	if _, err := v.Seal(strings.Repeat("x", maxPurpose+1), nil); err == nil {
		t.Error("an endless purpose was taken")
	}
}

// What was sealed by an earlier version must open for ever: key, purpose and text are fixed here.
func TestFormatIsStable(t *testing.T) {
	const sealed = "AUf5sZW4rZ1tITrFl2M0ZOXGnB02abqbgiFYis3yLZl+HmHEFCrZeEB/R6Q="
	path := filepath.Join(t.TempDir(), "master.key")
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, keySize))
	if err := os.WriteFile(path, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil {
		t.Fatal(err)
	}
	clear, err := openVault(t, path).Open("store/secret/server/x", raw)
	if err != nil || string(clear) != "hunter2" {
		t.Errorf("opened %q, %v", clear, err)
	}
}

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	old, fresh := filepath.Join(dir, "old.key"), filepath.Join(dir, "fresh.key")
	before := openVault(t, old)
	sealed, err := before.Seal("p", []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	other := openVault(t, fresh)
	if _, err := other.Open("p", sealed); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("another master key: %v, want ErrUnknownKey", err)
	}
	a, err1 := os.ReadFile(fresh)
	b, err2 := os.ReadFile(old)
	both := filepath.Join(dir, "both.key")
	if err := errors.Join(err1, err2, os.WriteFile(both, append(a, b...), 0o600)); err != nil {
		t.Fatal(err)
	}
	v := openVault(t, both)
	if clear, err := v.Open("p", sealed); err != nil || string(clear) != "text" {
		t.Errorf("the older key of two opens %q, %v", clear, err)
	}
	resealed, err := v.Seal("p", []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open("p", resealed); err != nil {
		t.Errorf("the first key of two seals: %v", err)
	}
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "master.key")
	openVault(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("a new key file has mode %v, %v", info.Mode(), err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text []byte
		mode os.FileMode
		want string
	}{
		"group may read":  {good, 0o640, "chmod 600"},
		"others may read": {good, 0o604, "chmod 600"},
		"others write":    {good, 0o602, "chmod 600"},
		"empty":           {nil, 0o600, "no key"},
		"comments alone":  {[]byte("# x\n\n"), 0o600, "no key"},
		"not base64":      {[]byte("hello, world\n"), 0o600, "line 1"},
		"short":           {[]byte("# x\n" + base64.StdEncoding.EncodeToString(make([]byte, 31))), 0o600, "line 2"},
		"huge":            {bytes.Repeat([]byte("#\n"), maxKeyFile), 0o600, "larger"},
	} {
		p := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := errors.Join(os.WriteFile(p, c.text, 0o600), os.Chmod(p, c.mode)); err != nil {
			t.Fatal(err)
		}
		_, err := OpenOrCreate(p)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that says %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hello") {
			t.Errorf("%s: the error tells what the file holds: %v", name, err)
		}
		if after, err := os.ReadFile(p); err != nil || !bytes.Equal(after, c.text) {
			t.Errorf("%s: the refused file was changed (%v)", name, err)
		}
	}
	if _, err := OpenOrCreate(dir); err == nil {
		t.Error("a folder was taken for a key file")
	}
	if _, err := OpenOrCreate(filepath.Join(dir, "absent", "master.key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder to create it in: %v", err)
	}
}

// Two first starts at once end with one key.
func TestCreateConcurrently(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	ids := make([]keyID, 16)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			v, err := OpenOrCreate(path)
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			ids[i] = v.sealID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatal("two keys were made")
		}
	}
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}
