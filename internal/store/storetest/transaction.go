package storetest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"portico/internal/online"
	"portico/internal/store"
)

func testRevisionCounter(t *testing.T, f *fixture) {
	start := f.revision()
	f.update(func(store.Tx) error { return nil })
	f.update(func(tx store.Tx) error { _, err := tx.List("", store.Page{}); return err })
	if now := f.revision(); now != start {
		t.Errorf("updates that change nothing moved the revision from %d to %d", start, now)
	}
	f.update(func(tx store.Tx) error {
		if tx.Revision() != start {
			t.Errorf("before its first write a transaction is at %d, want %d", tx.Revision(), start)
		}
		for _, n := range []string{"a", "b"} {
			rec, err := tx.PutSpec(store.Spec{ID: endpoint(n), JSON: []byte(`{}`), At: noon})
			if err != nil {
				return err
			}
			if rec.SpecRevision != start+1 || tx.Revision() != start+1 {
				t.Errorf("%s was written at %d, the transaction is at %d, want %d", n, rec.SpecRevision, tx.Revision(), start+1)
			}
			if seen, err := tx.Get(rec.ID); err != nil || seen.UID != rec.UID {
				t.Errorf("a transaction sees its own writes; got %v, %v", seen, err)
			}
		}
		return nil
	})
	for i := range int64(3) {
		f.update(func(tx store.Tx) error { return tx.AddActivity(online.Activity{Time: noon, Target: ws.ID()}) })
		if now := f.revision(); now != start+2+i {
			t.Errorf("revision %d, want %d", now, start+2+i)
		}
	}
}

var errMine = errors.New("mine")

func testRollback(t *testing.T, f *fixture) {
	rec := f.put(endpoint("iris"), `{"v":1}`)
	before := f.revision()
	err := f.Update(f.ctx, func(tx store.Tx) error { return errors.Join(writeEverything(tx, rec), errMine) })
	if !errors.Is(err, errMine) {
		t.Fatalf("Update gave %v, want the error of its function", err)
	}
	f.wantUntouched(rec, before)
	f.put(endpoint("next"), `{}`)
	if now := f.revision(); now != before+1 {
		t.Errorf("a failed transaction used up a revision: %d after %d", now, before)
	}
}

// writeEverything uses every writing method once.
func writeEverything(tx store.Tx, rec *store.Record) error {
	_, err := tx.PutSpec(store.Spec{ID: rec.ID, JSON: []byte(`{"v":2}`), At: noon})
	return errors.Join(err,
		tx.PutStatus(rec.ID, rec.UID, []byte(`{"x":1}`)),
		tx.MarkDeleting(rec.ID, "ada", noon),
		tx.PutSecret(rec.UID, "k", "v"),
		tx.PutOperation(&online.Operation{ID: "op", TargetUID: rec.UID, State: online.OperationRunning}),
		tx.AddActivity(online.Activity{Time: noon, Target: rec.ID}),
		tx.OpenInterval(online.Interval{Instance: "i", Deployment: rec.ID, Start: noon}),
		tx.CloseInterval("i", noon, "x"),
		tx.Remove(rec.ID, "ada", noon))
}

func (f *fixture) wantUntouched(rec *store.Record, revision int64) {
	f.t.Helper()
	f.view(func(r store.Reader) error {
		if r.Revision() != revision {
			f.t.Errorf("the revision is %d, want %d", r.Revision(), revision)
		}
		got, err := r.Get(rec.ID)
		if err != nil {
			return err
		}
		if string(got.Spec) != string(rec.Spec) || got.Status != nil || got.Generation != rec.Generation || !got.Deleting.IsZero() {
			f.t.Errorf("the record changed: %+v", got)
		}
		revs, err1 := r.Revisions(rec.ID)
		ops, err2 := r.Operations("", false)
		acts, err3 := r.Activities("", noon.Add(-1), noon.Add(1), 0)
		ivs, err4 := r.Intervals("", noon.Add(-1), noon.Add(1))
		secrets, err5 := r.Secrets(rec.UID)
		if len(revs) != 1 || len(ops)+len(acts)+len(ivs)+len(secrets) != 0 {
			f.t.Errorf("left behind: %d revisions, %d operations, %d activities, %d intervals, %d secrets",
				len(revs), len(ops), len(acts), len(ivs), len(secrets))
		}
		return errors.Join(err1, err2, err3, err4, err5)
	})
}

func testPanic(t *testing.T, f *fixture) {
	rec := f.put(endpoint("iris"), `{"v":1}`)
	before := f.revision()
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = f.Update(f.ctx, func(tx store.Tx) error {
			if err := writeEverything(tx, rec); err != nil {
				t.Error(err)
			}
			panic("mine")
		})
	}()
	f.wantUntouched(rec, before)
	f.put(rec.ID, `{"v":3}`) // and the writer is free again
}

func testSnapshot(t *testing.T, f *fixture) {
	f.put(endpoint("a"), `{"v":1}`)
	f.view(func(r store.Reader) error {
		f.put(endpoint("a"), `{"v":2}`)
		f.put(endpoint("b"), `{}`)
		rec, err := r.Get(endpoint("a"))
		if err != nil {
			return err
		}
		all, err := r.List("", store.Page{})
		if string(rec.Spec) != `{"v":1}` || len(all) != 1 || r.Revision() != rec.SpecRevision {
			t.Errorf("the snapshot moved: %s, %d records, revision %d", rec.Spec, len(all), r.Revision())
		}
		return err
	})
	if rec := f.get(endpoint("a")); string(rec.Spec) != `{"v":2}` {
		t.Errorf("a view that began after the commit sees %s", rec.Spec)
	}

	// Two records that are always written together are never seen apart.
	ctx, cancel := context.WithCancel(f.ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		for range 50 {
			f.update(func(tx store.Tx) error {
				_, err1 := tx.PutSpec(store.Spec{ID: endpoint("a"), JSON: []byte(`{}`), At: noon})
				_, err2 := tx.PutSpec(store.Spec{ID: endpoint("b"), JSON: []byte(`{}`), At: noon})
				return errors.Join(err1, err2)
			})
		}
	})
	f.update(func(tx store.Tx) error { // level the generations
		_, err := tx.PutSpec(store.Spec{ID: endpoint("b"), JSON: []byte(`{}`), At: noon})
		return err
	})
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := f.View(f.ctx, func(r store.Reader) error {
					a, err := r.Get(endpoint("a"))
					if err != nil {
						return err
					}
					b, err := r.Get(endpoint("b"))
					if err != nil {
						return err
					}
					if d := a.Generation - b.Generation; d != 0 && d != 1 {
						t.Errorf("generations %d and %d in one snapshot", a.Generation, b.Generation)
					}
					return nil
				})
				if err != nil {
					t.Errorf("view: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func testEscaped(t *testing.T, f *fixture) {
	f.put(endpoint("a"), `{}`)
	var r store.Reader
	var w store.Tx
	f.view(func(in store.Reader) error { r = in; return nil })
	f.update(func(in store.Tx) error { w = in; return nil })
	if _, err := r.Get(endpoint("a")); err == nil {
		t.Error("a reader works after its view")
	}
	if _, err := w.PutSpec(store.Spec{ID: endpoint("b"), JSON: []byte(`{}`), At: noon}); err == nil {
		t.Error("a transaction works after its end")
	}
	f.wantErr(f.View(f.ctx, func(r store.Reader) error { _, err := r.Get(endpoint("b")); return err }), store.ErrNotFound)
}

func testCanceled(t *testing.T, f *fixture) {
	rec := f.put(endpoint("iris"), `{"v":1}`)
	before := f.revision()
	ctx, cancel := context.WithCancel(f.ctx)
	f.wantErr(f.Update(ctx, func(tx store.Tx) error {
		defer cancel() // before the commit
		return writeEverything(tx, rec)
	}), context.Canceled)
	f.wantUntouched(rec, before)
	for name, call := range map[string]func() error{
		"View":   func() error { return f.View(ctx, func(store.Reader) error { t.Error("View ran"); return nil }) },
		"Update": func() error { return f.Update(ctx, func(store.Tx) error { t.Error("Update ran"); return nil }) },
		"Watch":  func() error { _, err := f.Watch(ctx, 0); return err },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a context that has ended: %v", name, err)
		}
	}
	f.put(rec.ID, `{"v":2}`)
}

func testClose(t *testing.T, f *fixture) {
	f.put(endpoint("a"), `{}`)
	ch, err := f.Watch(f.ctx, f.revision())
	if err != nil {
		t.Fatal(err)
	}
	entered, leave, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- f.Update(f.ctx, func(tx store.Tx) error {
			close(entered)
			<-leave
			_, err := tx.PutSpec(store.Spec{ID: endpoint("b"), JSON: []byte(`{}`), At: noon})
			return err
		})
	}()
	<-entered
	closed := make(chan error, 1)
	go func() { closed <- f.Close() }()
	for range ch { //nolint:revive // Close ends the watch, also while an update runs
	}
	select {
	case err := <-closed:
		t.Errorf("Close did not wait for the update: %v", err)
	default:
	}
	close(leave)
	if err := <-ended; err != nil {
		t.Errorf("an update that ran when Close was called: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	f.wantErr(f.View(f.ctx, func(store.Reader) error { return nil }), store.ErrClosed)
	f.wantErr(f.Update(f.ctx, func(store.Tx) error { return nil }), store.ErrClosed)
	_, err = f.Watch(f.ctx, 0)
	f.wantErr(err, store.ErrClosed)
	f.wantErr(f.Backup(f.ctx, t.TempDir()+"/copy"), store.ErrClosed)
}
