package storetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"portico/internal/online"
	"portico/internal/store"
)

// modelRecord is what a record must be after a history of calls.
type modelRecord struct {
	uid        string
	generation int64
	spec       string
	status     string
	version    int64
	deleting   bool
}

// testModel gives the store random transactions, some of which fail on purpose, and compares it with a map.
func testModel(t *testing.T, f *fixture) {
	names := []string{"aaa", "bbb", "ccc"}
	model := map[string]modelRecord{}
	revisions := map[string]int{} // per name
	revision := f.revision()
	rapid.Check(t, func(t *rapid.T) {
		staged, stagedRevs, touched := maps.Clone(model), maps.Clone(revisions), false
		fails := rapid.IntRange(0, 4).Draw(t, "fails") == 0
		steps := rapid.IntRange(0, 5).Draw(t, "steps")
		err := f.Update(f.ctx, func(tx store.Tx) error {
			for range steps {
				name := rapid.SampledFrom(names).Draw(t, "name")
				did, err := modelStep(t, tx, name, staged, stagedRevs, revision+1)
				if err != nil {
					return err
				}
				touched = touched || did
			}
			if fails {
				return errMine
			}
			return nil
		})
		switch {
		case fails && !errors.Is(err, errMine), !fails && err != nil:
			t.Fatalf("update: %v", err)
		case !fails:
			model, revisions = staged, stagedRevs
			if touched {
				revision++
			}
		}
		compareModel(t, f, names, model, revisions, revision)
	})
}

// modelStep makes one random call and checks its answer; it tells whether the call changed anything.
func modelStep(t *rapid.T, tx store.Tx, name string, model map[string]modelRecord, revisions map[string]int, next int64) (bool, error) {
	id := endpoint(name)
	m, exists := model[name]
	expect := func(err, want error) {
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Fatalf("%s: error %v, want %v", name, err, want)
		}
	}
	absent := func() error {
		if exists {
			return nil
		}
		return store.ErrNotFound
	}()
	switch rapid.SampledFrom([]string{"put", "put", "create", "match", "status", "mark", "remove"}).Draw(t, "call") {
	case "status":
		status := fmt.Sprintf(`{"s":%d}`, rapid.IntRange(0, 1).Draw(t, "status"))
		if expect(tx.PutStatus(id, m.uid, []byte(status)), absent); !exists || m.status == status {
			return false, nil
		}
		m.status = status
	case "mark":
		if expect(tx.MarkDeleting(id, "ada", noon), absent); !exists || m.deleting {
			return false, nil
		}
		m.deleting = true
	case "remove":
		if expect(tx.Remove(id, "ada", noon), absent); !exists {
			return false, nil
		}
		delete(model, name)
		revisions[name]++
		return true, nil
	case "create":
		return putModel(t, tx, id, store.Spec{Create: true}, exists, model, revisions, next)
	case "match":
		seen := rapid.SampledFrom([]int64{m.version, m.version + 1}).Draw(t, "seen")
		return putModel(t, tx, id, store.Spec{IfMatch: seen}, seen != 0 && seen != m.version, model, revisions, next)
	default:
		return putModel(t, tx, id, store.Spec{}, false, model, revisions, next)
	}
	model[name] = m
	return true, nil
}

func putModel(t *rapid.T, tx store.Tx, id online.ID, s store.Spec, stale bool, model map[string]modelRecord, revisions map[string]int, next int64) (bool, error) {
	s.ID, s.JSON, s.At = id, fmt.Appendf(nil, `{"v":%d}`, rapid.IntRange(0, 9).Draw(t, "v")), noon
	rec, err := tx.PutSpec(s)
	if stale {
		if !errors.Is(err, store.ErrStale) {
			t.Fatalf("put %s: error %v, want ErrStale", id.Name, err)
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	m := model[id.Name]
	if m.uid != "" && m.uid != rec.UID {
		t.Fatalf("put %s changed its UID", id.Name)
	}
	m.uid, m.spec, m.version = rec.UID, string(s.JSON), next
	m.generation++
	model[id.Name] = m
	revisions[id.Name]++
	return true, nil
}

func compareModel(t *rapid.T, f *fixture, names []string, model map[string]modelRecord, revisions map[string]int, revision int64) {
	err := f.View(f.ctx, func(r store.Reader) error {
		if r.Revision() != revision {
			t.Fatalf("the store is at %d, want %d", r.Revision(), revision)
		}
		recs, err := r.List("", store.Page{})
		if err != nil {
			return err
		}
		got := map[string]modelRecord{}
		for _, rec := range recs {
			got[rec.ID.Name] = modelRecord{rec.UID, rec.Generation, string(rec.Spec), string(rec.Status), rec.SpecRevision, !rec.Deleting.IsZero()}
		}
		if !maps.Equal(got, model) {
			t.Fatalf("the store holds\n%+v\nwant\n%+v", got, model)
		}
		for _, name := range names {
			revs, err := r.Revisions(endpoint(name))
			if err != nil {
				return err
			}
			if len(revs) != revisions[name] || !slices.IsSortedFunc(revs, func(a, b store.Revision) int { return int(b.Revision - a.Revision) }) {
				t.Fatalf("%s has %d revisions, want %d, newest first", name, len(revs), revisions[name])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("view: %v", err)
	}
}
