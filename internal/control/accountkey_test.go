package control

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico/internal/online"
)

func signWith(t *testing.T, key online.Secret, text string) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(key.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	h := hmac.New(sha256.New, raw)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// TestAccountKeys: a key acts as who asked for it, in one container, for an hour, also after a restart, and lies nowhere.
func TestAccountKeys(t *testing.T) {
	dir := t.TempDir()
	b := openBench(t, dir)
	ctx := context.Background()
	other := Caller{Principal: online.Principal{ID: "2", Name: "other"}}
	key, err := b.ListAccountKey(ctx, admin, home, DatastoreName)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := b.ListAccountKey(ctx, other, home, DatastoreName)
	if err != nil || theirs == key {
		t.Fatalf("another principal's key is the same, or %v", err)
	}
	if _, err := b.ListAccountKey(ctx, admin, home, "mine"); !online.IsCode(err, online.CodeNotFound) {
		t.Errorf("of another datastore: %v", err)
	}
	d, err := b.GetDatastore(ctx, admin, home, DatastoreName)
	if err != nil {
		t.Fatal(err)
	}
	check := func(s *Service, when string) {
		t.Helper()
		for k, who := range map[online.Secret]Caller{key: admin, theirs: other} {
			g, err := s.VerifyAccountKey(d.Container, []string{"other", "text"}, signWith(t, k, "text"))
			if err != nil || g.Owner != OwnerOf(who.Principal) || g.Container != d.Container || g.Allows(d.Container, "d") ||
				!g.Allows(d.Container, "w") || g.Expires.Sub(s.Now()) > GrantLifetime {
				t.Errorf("%s: %+v, %v", when, g, err)
			}
		}
		for what, err := range map[string]error{
			"other text":      second(s.VerifyAccountKey(d.Container, []string{"text"}, signWith(t, key, "other"))),
			"other container": second(s.VerifyAccountKey("azureml-blobstore-000000000000", []string{"text"}, signWith(t, key, "text"))),
			"nothing":         second(s.VerifyAccountKey(d.Container, []string{"text"}, nil)),
		} {
			if !online.IsCode(err, online.CodeForbidden) {
				t.Errorf("%s: %s: %v", when, what, err)
			}
		}
	}
	check(b.Service, "at first")
	if err := b.Store.Close(); err != nil {
		t.Fatal(err)
	}
	later := openBench(t, dir)
	check(later.Service, "after a restart")
	later.Pass(GrantLifetime)
	if _, err := later.VerifyAccountKey(d.Container, []string{"text"}, signWith(t, key, "text")); !online.IsCode(err, online.CodeForbidden) {
		t.Errorf("after its time: %v", err)
	}
	if n := len(later.accountKeys.of(d.Container, time.Time{})); n != 2 {
		t.Fatalf("%d keys are remembered", n)
	}
	if _, err := later.ListAccountKey(ctx, admin, home, DatastoreName); err != nil {
		t.Fatal(err)
	}
	if n := len(later.accountKeys.of(d.Container, time.Time{})); n != 1 {
		t.Errorf("%d keys are remembered after two expired", n)
	}
	files, err := filepath.Glob(filepath.Join(dir, "store.db*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), key.Reveal()) || strings.Contains(string(text), OwnerOf(other.Principal)) {
			t.Errorf("%s holds what only the sealed store may", f)
		}
	}
}

func second(_ Grant, err error) error { return err }
