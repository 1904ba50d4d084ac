package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"portico/internal/store"
)

var bulk = `{"text":"` + strings.Repeat("x", 20_000) + `"}`

// fill commits until the store is full and gives the names that were acknowledged.
func fill(t *testing.T, s *Store) (names []string) {
	t.Helper()
	for i := range 1000 {
		name := fmt.Sprintf("e%d", i)
		err := s.Update(t.Context(), func(tx store.Tx) error {
			_, err := tx.PutSpec(store.Spec{ID: ws.Endpoint(name), JSON: []byte(bulk), At: noon})
			return err
		})
		if errors.Is(err, store.ErrFull) {
			return names
		}
		if err != nil {
			t.Fatalf("after %d records: %v, want ErrFull", i, err)
		}
		names = append(names, name)
	}
	t.Fatal("the store never got full")
	return nil
}

func wantAll(t *testing.T, s *Store, names []string) {
	t.Helper()
	err := s.View(t.Context(), func(r store.Reader) error {
		recs, err := r.List("", store.Page{})
		if len(recs) != len(names) || r.Revision() != int64(len(names)) {
			t.Errorf("%d records at revision %d; %d were acknowledged", len(recs), r.Revision(), len(names))
		}
		for _, rec := range recs {
			if string(rec.Spec) != bulk {
				t.Errorf("%s is damaged", rec.ID.Name)
			}
		}
		return err
	})
	if err != nil {
		t.Errorf("reading a full store: %v", err)
	}
}

// swallow is a caller that overlooks an error: SQLite has ended the transaction by then, and what follows must
// not be committed by itself.
func swallow(t *testing.T, s *Store) {
	t.Helper()
	err := s.Update(t.Context(), func(tx store.Tx) error {
		for i := range 100 {
			if _, err := tx.PutSpec(store.Spec{ID: ws.Endpoint(fmt.Sprintf("big%d", i)), JSON: []byte(bulk), At: noon}); err != nil {
				break
			}
		}
		_, _ = tx.PutSpec(store.Spec{ID: ws.Endpoint("small"), JSON: []byte(`{}`), At: noon})
		return nil //nolint:nilerr // to overlook the errors is what is tested
	})
	if !errors.Is(err, store.ErrFull) {
		t.Errorf("an overlooked ErrFull: Update gave %v", err)
	}
}

// A full database file, on every machine: SQLite's own bound.
func TestFullByPages(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "store.db"))
	bound := func(pages int) {
		w := <-s.writer
		defer func() { s.writer <- w }()
		var now int
		if err := w.row(fmt.Sprintf("PRAGMA max_page_count = %d", pages), nil, &now); err != nil || now != pages {
			t.Fatalf("max_page_count is %d, %v", now, err)
		}
	}
	bound(200)
	names := fill(t, s)
	wantAll(t, s, names)
	swallow(t, s)
	wantAll(t, s, names)
	bound(2000)
	putSpec(t, s, "after", bulk, nil)
	wantAll(t, s, append(names, "after"))
}

// A full disk. The store answers ErrFull, reads on, and works again by itself when there is room.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := mountSmall(dir, "size=2m"); err != nil {
		t.Skipf("cannot mount a small file system here: %v", err)
	}
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "store.db")
	s := openAt(t, path)
	names := fill(t, s)
	if len(names) == 0 {
		t.Fatal("nothing was stored before the disk was full")
	}
	wantAll(t, s, names)
	swallow(t, s)
	for range 20 { // and again, for as long as the disk is full
		if err := s.Update(t.Context(), func(tx store.Tx) error {
			_, err := tx.PutSpec(store.Spec{ID: ws.Endpoint("more"), JSON: []byte(bulk), At: noon})
			return err
		}); !errors.Is(err, store.ErrFull) {
			t.Fatalf("on a full disk: %v, want ErrFull", err)
		}
	}
	if err := s.Backup(t.Context(), filepath.Join(dir, "backup")); !errors.Is(err, store.ErrFull) {
		t.Errorf("a backup to the full disk: %v, want ErrFull", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "backup")); err == nil {
		t.Error("half a backup is there")
	}
	wantAll(t, s, names)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	putSpec(t, s, "after", bulk, nil)
	names = append(names, "after")
	wantAll(t, s, names)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantAll(t, openAt(t, path), names)
}
