package sqlite

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"portico/internal/online"
	"portico/internal/store"
	"portico/internal/store/storetest"
)

func openSmall(t *testing.T) *Store {
	t.Helper()
	s, err := open(t.Context(), filepath.Join(t.TempDir(), "store.db"), storetest.Sealer(), slog.New(slog.DiscardHandler),
		limits{history: 10, operations: 5, activities: 5, trimEvery: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestWatchBeyondHistory(t *testing.T) {
	s := openSmall(t)
	slow, err := s.Watch(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		putSpec(t, s, fmt.Sprintf("e%d", i), `{}`, nil)
	}
	for _, c := range []struct {
		name  string
		since int64
		lost  bool
	}{{"the beginning", 0, true}, {"just gone", 29, true}, {"the oldest kept", 30, false}, {"the newest", 39, false}} {
		ch, err := s.Watch(t.Context(), c.since)
		if err != nil {
			t.Fatal(err)
		}
		got := <-ch
		want := store.Change{Revision: 40, Lost: true}
		if !c.lost {
			want = store.Change{Revision: c.since + 1, Type: store.ChangeSpec, ID: ws.Endpoint(fmt.Sprintf("e%d", c.since)), UID: got.UID}
		}
		if got != want {
			t.Errorf("since %s: %+v, want %+v", c.name, got, want)
		}
	}
	// The slow reader got what was read ahead for it, then one Lost, then what follows.
	lost := 0
	var last int64
	for last < 40 {
		c := <-slow
		if c.Lost {
			lost++
		} else if c.Revision != last+1 {
			t.Fatalf("after %d came %+v", last, c)
		}
		last = c.Revision
	}
	if lost > 1 {
		t.Errorf("told %d times that it lost changes", lost)
	}
}

// Revisions without changes (operations, activities) must not make a watcher that saw everything lose anything.
func TestWatchIdleIsNotLost(t *testing.T) {
	s := openSmall(t)
	rec := putSpec(t, s, "first", `{}`, nil)
	at := position{revision: rec.SpecRevision, n: endOfRevision}
	for i := range int64(60) {
		err := s.Update(t.Context(), func(tx store.Tx) error {
			return tx.AddActivity(online.Activity{Time: noon, Target: ws.ID(), Detail: fmt.Sprint(i)})
		})
		if err != nil {
			t.Fatal(err)
		}
		changes, now, err := s.changesAfter(t.Context(), at)
		if err != nil || len(changes) != 0 || now.revision != rec.SpecRevision+i+1 {
			t.Fatalf("after %d activities: %+v, at %+v, %v", i+1, changes, now, err)
		}
		at = now
	}
	last := putSpec(t, s, "last", `{}`, nil)
	changes, _, err := s.changesAfter(t.Context(), at)
	if err != nil || len(changes) != 1 || changes[0].Lost || changes[0].UID != last.UID {
		t.Errorf("got %+v, %v; want revision %d", changes, err, last.SpecRevision)
	}
}

func TestHistoriesAreBounded(t *testing.T) {
	s := openSmall(t)
	for i := range 40 {
		err := s.Update(t.Context(), func(tx store.Tx) error {
			state := online.OperationSucceeded
			if i < 3 {
				state = online.OperationRunning
			}
			if err := tx.PutOperation(&online.Operation{ID: fmt.Sprint(i), TargetUID: "u", State: state}); err != nil {
				return err
			}
			return tx.AddActivity(online.Activity{Time: noon, Target: ws.ID(), Detail: fmt.Sprint(i)})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err := s.View(t.Context(), func(r store.Reader) error {
		ops, err := r.Operations("u", false)
		var ids []string
		for _, op := range ops {
			ids = append(ids, op.ID)
		}
		if got := strings.Join(ids, " "); got != "39 38 37 36 35 2 1 0" {
			t.Errorf("operations %s: want the newest five, and those that run", got)
		}
		if err != nil {
			return err
		}
		acts, err := r.Activities("", noon, noon.Add(1), 0)
		if len(acts) != 5 || acts[0].Detail != "39" {
			t.Errorf("activities %+v: want the newest five", acts)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Listings of tables that only grow read an index, not the table.
func TestListingsUseIndexes(t *testing.T) {
	s := openSmall(t)
	sess := <-s.readers
	defer func() { s.readers <- sess }()
	for query, want := range map[string]string{
		targetOperations:  "operations_by_target",
		targetRunningOnes: "operations_by_target",
		runningOperations: "operations_running",
		intervalsQuery:    "intervals_by_deployment",
		activitiesQuery:   "activities_by_time",
		listQuery:         "sqlite_autoindex_resources_1",
		revisionsQuery:    "revisions_by_name",
		changesQuery:      "sqlite_autoindex_changes_1",
	} {
		args := make([]any, strings.Count(query, "?"))
		for i := range args {
			args[i] = "x"
		}
		var plan []string
		err := sess.each("EXPLAIN QUERY PLAN "+query, args, func(scan func(...any) error) error {
			var id, parent, unused int
			var detail string
			err := scan(&id, &parent, &unused, &detail)
			plan = append(plan, detail)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(plan, "; "); !strings.Contains(text, want) {
			t.Errorf("%s\nis planned as %s, want index %s", query, text, want)
		}
	}
}
