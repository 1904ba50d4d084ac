package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"

	"portico/internal/online"
	"portico/internal/store"
)

func testWatchTypes(t *testing.T, f *fixture) {
	ch := f.watch(0)
	id := endpoint("iris")
	rec := f.put(id, `{}`)
	f.update(func(tx store.Tx) error { return tx.PutStatus(id, rec.UID, []byte(`{}`)) })
	f.update(func(tx store.Tx) error { return tx.PutSecret(rec.UID, "k", "v") })
	f.update(func(tx store.Tx) error { return tx.MarkDeleting(id, "ada", noon) })
	f.update(func(tx store.Tx) error { // no Change: watchers would not know what to read
		return tx.AddActivity(online.Activity{Time: noon, Target: id})
	})
	f.update(func(tx store.Tx) error { // several of one transaction, each once
		_, err := tx.PutSpec(store.Spec{ID: id, JSON: []byte(`{"a":1}`), At: noon})
		return errors.Join(err, tx.PutStatus(id, rec.UID, []byte(`{"a":1}`)), tx.PutStatus(id, rec.UID, []byte(`{"a":2}`)))
	})
	f.update(func(tx store.Tx) error { return tx.DeleteSecrets(rec.UID) })
	f.update(func(tx store.Tx) error { return tx.Remove(id, "ada", noon) })
	r := rec.SpecRevision
	for i, want := range []store.Change{
		{Revision: r, Type: store.ChangeSpec, ID: id, UID: rec.UID},
		{Revision: r + 1, Type: store.ChangeStatus, ID: id, UID: rec.UID},
		{Revision: r + 2, Type: store.ChangeSecret, UID: rec.UID},
		{Revision: r + 3, Type: store.ChangeSpec, ID: id, UID: rec.UID},
		{Revision: r + 5, Type: store.ChangeSpec, ID: id, UID: rec.UID},
		{Revision: r + 5, Type: store.ChangeStatus, ID: id, UID: rec.UID},
		{Revision: r + 6, Type: store.ChangeSecret, UID: rec.UID},
		{Revision: r + 7, Type: store.ChangeRemoved, ID: id, UID: rec.UID},
	} {
		if got := f.next(ch); !reflect.DeepEqual(got, want) {
			t.Errorf("change %d: %+v, want %+v", i, got, want)
		}
	}
}

func testWatchResume(t *testing.T, f *fixture) {
	const n = 700 // more than one read of any sensible batch
	var revs []int64
	for i := range n / 7 {
		f.update(func(tx store.Tx) error { // seven changes of one revision: batches end inside of some
			for j := range 7 {
				rec, err := tx.PutSpec(store.Spec{ID: endpoint(fmt.Sprintf("e%d-%d", i, j)), JSON: []byte(`{}`), At: noon})
				if err != nil {
					return err
				}
				revs = append(revs, rec.SpecRevision)
			}
			return nil
		})
	}
	for _, skip := range []int{0, 1, 50, n/7 - 1, n / 7} {
		since := revs[0] - 1 + int64(skip)
		ch := f.watch(since)
		for i := skip * 7; i < n; i++ {
			c := f.next(ch)
			want := endpoint(fmt.Sprintf("e%d-%d", i/7, i%7))
			if c.Lost || c.Revision != revs[i] || c.ID != want {
				t.Fatalf("watch since %d: change %d is %+v, want %s at %d", since, i, c, want.Key(), revs[i])
			}
		}
	}
	ch := f.watch(f.revision())
	rec := f.put(endpoint("live"), `{}`)
	if c := f.next(ch); c.Revision != rec.SpecRevision || c.ID != rec.ID {
		t.Errorf("a watch from now on shows %+v, want revision %d", c, rec.SpecRevision)
	}
}

func testWatchForeign(t *testing.T, f *fixture) {
	f.put(endpoint("a"), `{}`)
	now := f.revision()
	ch := f.watch(now + 1000) // of a history that is no longer: a backup was restored
	if c := f.next(ch); !c.Lost || c.Revision != now {
		t.Fatalf("got %+v, want Lost at %d", c, now)
	}
	rec := f.put(endpoint("b"), `{}`)
	if c := f.next(ch); c.Lost || c.Revision != rec.SpecRevision {
		t.Errorf("after Lost the watch goes on; got %+v", c)
	}
}

// A reader that does not read must not hold writers up.
func testWatchSlow(t *testing.T, f *fixture) {
	slow := f.watch(0)
	const n = 600
	var first int64
	for i := range n {
		rec := f.put(endpoint(fmt.Sprintf("e%d", i)), `{}`)
		if i == 0 {
			first = rec.SpecRevision
		}
	}
	for i := range int64(n) {
		if c := f.next(slow); c.Revision != first+i {
			t.Fatalf("change %d has revision %d, want %d", i, c.Revision, first+i)
		}
	}
}

func testWatchConcurrent(t *testing.T, f *fixture) {
	const writers, each, watchers = 6, 40, 3
	var wg sync.WaitGroup
	type seen struct {
		rev int64
		key string
	}
	committed := make([]seen, 0, writers*each)
	var mu sync.Mutex
	got := make([][]seen, watchers)
	for w := range watchers {
		ch := f.watch(0)
		wg.Go(func() {
			for range writers * each {
				c := f.next(ch)
				got[w] = append(got[w], seen{c.Revision, c.ID.Key()})
			}
		})
	}
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				id := endpoint(fmt.Sprintf("w%d-%d", w, i))
				var rec *store.Record
				err := f.Update(f.ctx, func(tx store.Tx) (err error) {
					rec, err = tx.PutSpec(store.Spec{ID: id, JSON: []byte(`{}`), At: noon})
					return err
				})
				if err != nil {
					t.Errorf("update: %v", err)
					return
				}
				mu.Lock()
				committed = append(committed, seen{rec.SpecRevision, id.Key()})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	byRevision := map[int64]string{}
	for _, c := range committed {
		byRevision[c.rev] = c.key
	}
	if len(byRevision) != writers*each {
		t.Fatalf("%d commits got %d different revisions", writers*each, len(byRevision))
	}
	for w := range watchers {
		for i, c := range got[w] {
			if c.rev != int64(i)+1 || byRevision[c.rev] != c.key {
				t.Fatalf("watcher %d: change %d is %+v; want revision %d of %s", w, i, c, i+1, byRevision[int64(i)+1])
			}
		}
	}
}
