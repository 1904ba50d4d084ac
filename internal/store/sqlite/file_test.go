package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"portico/internal/online"
	"portico/internal/store"
	"portico/internal/store/storetest"
)

var (
	noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	ws   = online.WorkspaceID{Subscription: "sub", ResourceGroup: "rg", Name: "ws"}
)

// putSpec accepts a spec and gives its record.
func putSpec(t *testing.T, s *Store, name, spec string, secrets map[string]online.Secret) (rec *store.Record) {
	t.Helper()
	err := s.Update(t.Context(), func(tx store.Tx) (err error) {
		rec, err = tx.PutSpec(store.Spec{ID: ws.Endpoint(name), JSON: []byte(spec), Secrets: secrets, At: noon})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func getSpec(t *testing.T, s *Store, name string) string {
	t.Helper()
	var spec string
	err := s.View(t.Context(), func(r store.Reader) error {
		rec, err := r.Get(ws.Endpoint(name))
		if err == nil {
			spec = string(rec.Spec)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// No clear secret lies in any file of the store or of its backup, also of such that were replaced or deleted.
func TestNoClearSecretOnDisk(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, filepath.Join(dir, "store.db"))
	var clear []online.Secret
	secret := func() online.Secret {
		clear = append(clear, storetest.ClearText())
		return clear[len(clear)-1]
	}
	for range 20 {
		rec := putSpec(t, s, "iris", `{}`, map[string]online.Secret{"TOKEN": secret(), "OTHER": secret()})
		err := s.Update(t.Context(), func(tx store.Tx) error {
			return errors.Join(tx.PutSecret(rec.UID, "primary", secret()), tx.PutSecret("server", "ca", secret()))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Backup(t.Context(), filepath.Join(dir, "backup")); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(t.Context(), func(tx store.Tx) error { return tx.Remove(ws.Endpoint("iris"), "ada", noon) }); err != nil {
		t.Fatal(err)
	}
	look := func(when string, marks int) {
		files := 0
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			files++
			text, err := os.ReadFile(path)
			for _, c := range clear {
				if bytes.Contains(text, []byte(c.Reveal())) {
					t.Errorf("%s, %s holds a clear secret", when, filepath.Base(path))
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if files != marks {
			t.Errorf("%s there are %d files to look into, want %d", when, files, marks)
		}
	}
	// Copies are looked into: reading and closing the open file in this process would drop SQLite's locks.
	live := dir
	dir = t.TempDir()
	copyFiles(t, live, dir)
	look("while it is open", 4) // store.db, its WAL and index, the backup
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	dir = live
	look("after it was closed", 2)
}

// copyFiles copies with another process.
func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	if out, err := command(t, "cp", "-r", from+"/.", to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestFileModes(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, filepath.Join(dir, "store.db"))
	putSpec(t, s, "iris", `{}`, nil)
	if err := s.Backup(t.Context(), filepath.Join(dir, "backup")); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 4 {
		t.Errorf("the folder holds %v, want store.db, its WAL and index, and the backup", names)
	}
	for _, n := range names {
		if info, err := n.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s has mode %v, %v", n.Name(), info.Mode(), err)
		}
	}
}

func TestOddPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b%20?x=1&mode=memory#c;é'.db")
	s := openAt(t, path)
	putSpec(t, s, "iris", `{"v":1}`, nil)
	backup := path + " copy?"
	if err := errors.Join(s.Backup(t.Context(), backup), s.Close()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, backup} {
		if info, err := os.Stat(p); err != nil || info.Size() == 0 {
			t.Errorf("the file is not where it was asked for: %v, %v", info, err)
		}
		if got := getSpec(t, openAt(t, p), "iris"); got != `{"v":1}` {
			t.Errorf("%s holds %q", p, got)
		}
	}
}

type otherSealer struct{ store.Sealer }

func (o otherSealer) Open(purpose string, sealed []byte) ([]byte, error) {
	return o.Sealer.Open("other/"+purpose, sealed)
}

func TestAnotherMasterKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := openAt(t, path)
	putSpec(t, s, "plain", `{}`, nil)
	putSpec(t, s, "secret", `{}`, map[string]online.Secret{"a": "b"})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := Open(t.Context(), path, otherSealer{storetest.Sealer()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	if got := getSpec(t, other, "plain"); got != `{}` {
		t.Errorf("a record without secrets is %q", got)
	}
	err = other.View(t.Context(), func(r store.Reader) error { _, err := r.Get(ws.Endpoint("secret")); return err })
	if err == nil || errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "secrets") {
		t.Errorf("a record whose secrets do not open: %v", err)
	}
}

// A sealed text opens only where it was put: a row copied over another one is noticed.
func TestSecretsAreBoundToTheirPlace(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "store.db"))
	err := s.Update(t.Context(), func(tx store.Tx) error {
		return errors.Join(tx.PutSecret("a", "k", "of a"), tx.PutSecret("b", "k", "of b"))
	})
	if err != nil {
		t.Fatal(err)
	}
	putSpec(t, s, "x", `{}`, map[string]online.Secret{"n": "of x"})
	putSpec(t, s, "y", `{}`, map[string]online.Secret{"n": "of y"})
	w := <-s.writer
	err1 := w.exec("UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE owner = 'a') WHERE owner = 'b'")
	err2 := w.exec("UPDATE resources SET secrets = (SELECT secrets FROM resources WHERE rkey LIKE '%/x') WHERE rkey LIKE '%/y'")
	s.writer <- w
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for name, read := range map[string]func(store.Reader) error{
		"secret":          func(r store.Reader) error { _, err := r.Secrets("b"); return err },
		"spec's secrets":  func(r store.Reader) error { _, err := r.Get(ws.Endpoint("y")); return err },
		"list of secrets": func(r store.Reader) error { _, err := r.List("", store.Page{}); return err },
	} {
		if err := s.View(t.Context(), read); err == nil {
			t.Errorf("a %s that was put in another's place opened", name)
		}
	}
}

// A backup taken while several writers write holds a whole number of their transactions.
func TestBackupInUse(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, filepath.Join(dir, "store.db"))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				err := s.Update(t.Context(), func(tx store.Tx) error { // both or none
					spec := fmt.Appendf(nil, `{"i":%d}`, i)
					_, err1 := tx.PutSpec(store.Spec{ID: ws.Endpoint(fmt.Sprintf("left-%d", w)), JSON: spec, At: noon})
					_, err2 := tx.PutSpec(store.Spec{ID: ws.Endpoint(fmt.Sprintf("right-%d", w)), JSON: spec, At: noon})
					return errors.Join(err1, err2)
				})
				if err != nil {
					t.Errorf("update: %v", err)
					return
				}
			}
		})
	}
	for n := range 5 {
		path := filepath.Join(dir, fmt.Sprintf("backup-%d", n))
		if err := s.Backup(t.Context(), path); err != nil {
			t.Errorf("backup: %v", err)
			break
		}
		restored := filepath.Join(dir, fmt.Sprintf("restored-%d", n))
		if err := Restore(t.Context(), path, restored); err != nil {
			t.Errorf("restore: %v", err)
			break
		}
		for w := range 3 {
			c := openAt(t, restored)
			err := c.View(t.Context(), func(r store.Reader) error {
				a, err1 := r.Get(ws.Endpoint(fmt.Sprintf("left-%d", w)))
				b, err2 := r.Get(ws.Endpoint(fmt.Sprintf("right-%d", w)))
				if errors.Is(err1, store.ErrNotFound) && errors.Is(err2, store.ErrNotFound) {
					return nil // not written yet
				}
				if err := errors.Join(err1, err2); err != nil {
					return err
				}
				if !bytes.Equal(a.Spec, b.Spec) || a.SpecRevision != b.SpecRevision || a.SpecRevision > r.Revision() {
					t.Errorf("the backup tore a transaction: %s at %d, %s at %d", a.Spec, a.SpecRevision, b.Spec, b.SpecRevision)
				}
				return nil
			})
			if err := errors.Join(err, c.Close()); err != nil {
				t.Error(err)
			}
		}
	}
	cancel()
	wg.Wait()
}

func TestBackupRefuses(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, filepath.Join(dir, "store.db"))
	putSpec(t, s, "iris", `{}`, nil)
	taken := filepath.Join(dir, "taken")
	if err := os.WriteFile(taken, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Backup(t.Context(), taken); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	if text, err := os.ReadFile(taken); err != nil || string(text) != "precious" {
		t.Errorf("the file in the way was changed: %q, %v", text, err)
	}
	if err := s.Backup(t.Context(), filepath.Join(dir, "absent", "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into no folder: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Backup(ctx, filepath.Join(dir, "x")); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*partial")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRestoreRefuses(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, filepath.Join(dir, "store.db"))
	for i := range 50 {
		putSpec(t, s, fmt.Sprintf("e%d", i), `{"text":"`+strings.Repeat("x", 500)+`"}`, nil)
	}
	good := filepath.Join(dir, "good")
	if err := s.Backup(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(text)
	for i := len(damaged) / 2; i < len(damaged)/2+4096; i++ {
		damaged[i] ^= 0xff
	}
	for name, content := range map[string][]byte{"damaged": damaged, "cut": text[:len(text)/2], "empty": nil, "garbage": []byte("no database at all")} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Restore(t.Context(), path, filepath.Join(dir, "new.db")); err == nil {
			t.Errorf("a backup that is %s was restored", name)
		}
	}
	if err := Restore(t.Context(), load(t, "CREATE TABLE theirs (x INTEGER)"), filepath.Join(dir, "new.db")); err == nil {
		t.Error("another database was restored")
	}
	if err := Restore(t.Context(), filepath.Join(dir, "absent"), filepath.Join(dir, "new.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no backup: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "new.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused restore left a store: %v", err)
	}
	if err := Restore(t.Context(), good, filepath.Join(dir, "store.db")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a store: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x.db-wal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Restore(t.Context(), good, filepath.Join(dir, "x.db")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("beside the WAL of another store: %v", err)
	}
	if err := Restore(t.Context(), good, filepath.Join(dir, "new.db")); err != nil {
		t.Fatal(err)
	}
	if got := getSpec(t, openAt(t, filepath.Join(dir, "new.db")), "e49"); !strings.Contains(got, "xxx") {
		t.Errorf("the restored store holds %q", got)
	}
}
