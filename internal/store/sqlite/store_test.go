package sqlite

import (
	"log/slog"
	"path/filepath"
	"testing"

	"portico/internal/store"
	"portico/internal/store/storetest"
)

// openAt opens the store of a path; it closes with the test.
func openAt(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, storetest.Sealer(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return openAt(t, filepath.Join(t.TempDir(), "store.db")) })
}

func BenchmarkUpdate(b *testing.B) {
	s, err := Open(b.Context(), filepath.Join(b.TempDir(), "store.db"), storetest.Sealer(), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	for b.Loop() {
		err := s.Update(b.Context(), func(tx store.Tx) error {
			_, err := tx.PutSpec(store.Spec{ID: ws.Endpoint("iris"), JSON: []byte(`{"a":1}`), At: noon})
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
