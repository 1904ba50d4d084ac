package sqlite

import (
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"portico/internal/online"
	"portico/internal/store"
	"portico/internal/store/storetest"
)

// load makes a database file from SQL text.
func load(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	db, err := sql.Open("sqlite", sourceName(path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func tryOpen(t *testing.T, path string) error {
	t.Helper()
	s, err := Open(t.Context(), path, storetest.Sealer(), slog.New(slog.DiscardHandler))
	if err == nil {
		err = errors.Join(s.Close(), errors.New("it was opened"))
	}
	return err
}

func TestUpgradeFromFirstSchema(t *testing.T) {
	text, err := os.ReadFile("testdata/schema1.sql")
	if err != nil {
		t.Fatal(err)
	}
	s := openAt(t, load(t, string(text)))
	w := online.WorkspaceID{Subscription: "Sub", ResourceGroup: "rg", Name: "ws"}
	iris, blue, gone := w.Endpoint("Iris"), w.Deployment("Iris", "blue"), w.Endpoint("gone")
	t0 := time.Date(2025, 11, 23, 12, 0, 0, 0, time.UTC)
	token := map[string]online.Secret{"TOKEN": "t-1"}
	err = s.View(t.Context(), func(r store.Reader) error {
		a, err1 := r.Get(iris)
		b, err2 := r.Get(blue)
		want := &store.Record{ID: iris, UID: "uid-iris", Generation: 2, SpecRevision: 3, StatusRevision: 4, Spec: []byte(`{"authMode":"Key"}`),
			Status: []byte(`{"state":"Succeeded"}`), CreatedAt: t0, CreatedBy: "ada", UpdatedAt: t0.Add(5), UpdatedBy: "bob"}
		if !reflect.DeepEqual(a, want) {
			t.Errorf("endpoint:\n got %+v\nwant %+v", a, want)
		}
		if b == nil || !reflect.DeepEqual(b.Secrets, token) || !b.Deleting.Equal(t0.Add(9)) || b.Status != nil {
			t.Errorf("deployment: %+v", b)
		}
		revs, err3 := r.Revisions(gone)
		if len(revs) != 2 || revs[0].Why != store.WhyDelete || string(revs[1].Spec) != `{"old":1}` {
			t.Errorf("revisions of what is gone: %+v", revs)
		}
		running, err4 := r.Operations("", true)
		if len(running) != 1 || running[0].ID != "op-2" || running[0].Target != blue {
			t.Errorf("running operations: %+v", running)
		}
		acts, err5 := r.Activities(iris.Key(), t0, time.Time{}, 0)
		ivs, err6 := r.Intervals(blue.Key(), t0.Add(60), time.Time{})
		if len(acts) != 1 || acts[0].Principal != "bob" || len(ivs) != 1 || ivs[0].Instance != "i-2" {
			t.Errorf("activities %+v, intervals %+v", acts, ivs)
		}
		secrets, err7 := r.Secrets("uid-iris")
		if secrets["primary"].Reveal() != "key-1" {
			t.Error("the endpoint's key did not open")
		}
		return errors.Join(err1, err2, err3, err4, err5, err6, err7)
	})
	if err != nil {
		t.Fatal(err)
	}

	ch, err := s.Watch(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []store.Change{
		{Revision: 3, Type: store.ChangeSpec, ID: iris, UID: "uid-iris"}, {Revision: 4, Type: store.ChangeStatus, ID: iris, UID: "uid-iris"},
		{Revision: 5, Type: store.ChangeSpec, ID: blue, UID: "uid-blue"}, {Revision: 6, Type: store.ChangeRemoved, ID: gone, UID: "uid-gone"},
	} {
		if got := <-ch; got != want {
			t.Errorf("change %+v, want %+v", got, want)
		}
	}
	// The store works on: histories continue, and a mark set before the upgrade has no name.
	err = s.Update(t.Context(), func(tx store.Tx) error {
		rec, err := tx.PutSpec(store.Spec{ID: iris, JSON: []byte(`{}`), At: t0, IfMatch: 3})
		if err == nil && (rec.Generation != 3 || rec.SpecRevision != 7) {
			t.Errorf("the next spec: %+v", rec)
		}
		return errors.Join(err, tx.Remove(blue, "", t0))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A step that was released is never edited: stores out there have gone through it as it was. A new step adds its
// line here.
func TestMigrationsAreFrozen(t *testing.T) {
	frozen := []string{
		"c24b1d4d81804f3f",
		"95901ff63b2b2669",
		"e754cb75b608bb3e",
	}
	steps, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	if len(steps) != len(frozen) {
		t.Errorf("there are %d migrations and %d frozen ones", len(steps), len(frozen))
	}
	for i, s := range steps {
		sum := sha256.Sum256([]byte(s.script))
		if got := hex.EncodeToString(sum[:8]); i < len(frozen) && got != frozen[i] {
			t.Errorf("migration %s is %s, and was released as %s", s.name, got, frozen[i])
		}
	}
}

// Both ways to the newest schema end in the same one.
func TestUpgradedSchemaIsTheNewSchema(t *testing.T) {
	text, err := os.ReadFile("testdata/schema1.sql")
	if err != nil {
		t.Fatal(err)
	}
	schema := func(path string) (out []string) {
		s := openAt(t, path)
		sess := <-s.readers
		defer func() { s.readers <- sess }()
		err := sess.each("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name", nil, func(scan func(...any) error) error {
			var line string
			err := scan(&line)
			out = append(out, line)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	upgraded, fresh := schema(load(t, string(text))), schema(filepath.Join(t.TempDir(), "new.db"))
	if !reflect.DeepEqual(upgraded, fresh) {
		t.Errorf("upgraded:\n%s\nnew:\n%s", strings.Join(upgraded, "\n"), strings.Join(fresh, "\n"))
	}
}

func TestFailedMigrationKeepsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	if err := openAt(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	steps, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	next := len(steps) + 1
	bad := migration{version: next, name: "bad", script: "CREATE TABLE half (x INTEGER); INSERT INTO absent VALUES (1)"}
	s := &Store{path: path, writer: make(chan *session, 1), log: slog.New(slog.DiscardHandler)}
	if err := s.openWriter(t.Context(), append(steps, bad)); err == nil || !strings.Contains(err.Error(), "bad") {
		t.Errorf("a migration that fails: %v", err)
	}
	w := <-s.writer
	if have, err := schemaVersion(w); err != nil || have != next-1 {
		t.Errorf("the schema is %d, %v; want %d", have, err, next-1)
	}
	if err := errors.Join(w.close(), s.writeDB.Close()); err != nil {
		t.Error(err)
	}
	openAt(t, path) // still opens
}

func TestOpenRefuses(t *testing.T) {
	newer := filepath.Join(t.TempDir(), "newer.db")
	s := openAt(t, newer)
	w := <-s.writer
	if err := w.exec("UPDATE schema_version SET version = 1000"); err != nil {
		t.Fatal(err)
	}
	s.writer <- w
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(t.TempDir(), "garbage.db")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("this is no database. ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, want string }{
		"newer schema":     {newer, "start the newer portico"},
		"another database": {load(t, "CREATE TABLE theirs (x INTEGER)"), "not a store of portico"},
		"no database":      {garbage, "not a database"},
		"a folder":         {t.TempDir(), "directory"},
		"no folder":        {filepath.Join(t.TempDir(), "absent", "store.db"), "no such file"},
	} {
		if err := tryOpen(t, c.path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error that says %q", name, err, c.want)
		}
	}
	if text, err := os.ReadFile(garbage); err != nil || !strings.HasPrefix(string(text), "this is no database. ") {
		t.Errorf("the refused file was changed: %v", err)
	}
}
