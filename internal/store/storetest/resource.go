package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"portico/internal/online"
	"portico/internal/store"
)

func testSpecLifecycle(t *testing.T, f *fixture) {
	id := endpoint("iris")
	secrets := map[string]online.Secret{"TOKEN": "t1", "EMPTY": ""}
	var first *store.Record
	f.update(func(tx store.Tx) (err error) {
		first, err = tx.PutSpec(store.Spec{ID: id, JSON: []byte(`{"a":1}`), Secrets: secrets, By: "ada", Why: "create", At: noon, Create: true})
		return err
	})
	want := store.Record{
		ID: id, UID: first.UID, Generation: 1, SpecRevision: f.revision(), Spec: []byte(`{"a":1}`), Secrets: secrets,
		CreatedAt: noon, CreatedBy: "ada", UpdatedAt: noon, UpdatedBy: "ada",
	}
	if first.UID == "" {
		t.Fatal("no UID was given")
	}
	for from, rec := range map[string]*store.Record{"PutSpec": first, "Get": f.get(id)} {
		if !reflect.DeepEqual(*rec, want) {
			t.Errorf("%s after create:\n got %+v\nwant %+v", from, *rec, want)
		}
	}

	later := noon.Add(time.Hour)
	f.update(func(tx store.Tx) error {
		_, err := tx.PutSpec(store.Spec{ID: id, JSON: []byte(`{"a":2}`), By: "bob", Why: "update", At: later, IfMatch: first.SpecRevision})
		return err
	})
	want.Generation, want.SpecRevision, want.Spec, want.Secrets = 2, f.revision(), []byte(`{"a":2}`), nil
	want.UpdatedAt, want.UpdatedBy = later, "bob"
	if got := f.get(id); !reflect.DeepEqual(*got, want) {
		t.Errorf("after update:\n got %+v\nwant %+v", *got, want)
	}

	var revs []store.Revision
	f.view(func(r store.Reader) (err error) { revs, err = r.Revisions(id); return err })
	wantRevs := []store.Revision{
		{ID: id, UID: first.UID, Generation: 2, Revision: want.SpecRevision, Spec: []byte(`{"a":2}`), At: later, By: "bob", Why: "update"},
		{ID: id, UID: first.UID, Generation: 1, Revision: first.SpecRevision, Spec: []byte(`{"a":1}`), Secrets: secrets, At: noon, By: "ada", Why: "create"},
	}
	if !reflect.DeepEqual(revs, wantRevs) {
		t.Errorf("revisions:\n got %+v\nwant %+v", revs, wantRevs)
	}

	f.wantErr(f.View(f.ctx, func(r store.Reader) error { _, err := r.Get(endpoint("absent")); return err }), store.ErrNotFound)
	f.view(func(r store.Reader) error {
		if revs, err := r.Revisions(endpoint("absent")); err != nil || len(revs) != 0 {
			t.Errorf("revisions of a name never used: %v, %v", revs, err)
		}
		return nil
	})
}

func testStaleWrites(t *testing.T, f *fixture) {
	id := endpoint("iris")
	put := func(s store.Spec) error {
		s.JSON, s.At = []byte(`{}`), noon
		return f.Update(f.ctx, func(tx store.Tx) error { _, err := tx.PutSpec(s); return err })
	}
	f.wantErr(put(store.Spec{ID: id, IfMatch: 7}), store.ErrStale) // nothing there
	if err := put(store.Spec{ID: id, Create: true}); err != nil {
		t.Fatal(err)
	}
	rec := f.get(id)
	f.update(func(tx store.Tx) error { return tx.PutStatus(id, rec.UID, []byte(`{"n":1}`)) })
	before := f.revision()
	f.wantErr(put(store.Spec{ID: id, Create: true}), store.ErrStale)
	f.wantErr(put(store.Spec{ID: id, IfMatch: rec.SpecRevision + 1}), store.ErrStale) // the status' revision is not an ETag
	if got := f.revision(); got != before {
		t.Errorf("refused writes moved the revision from %d to %d", before, got)
	}
	if err := put(store.Spec{ID: id, IfMatch: rec.SpecRevision}); err != nil {
		t.Errorf("a status must not make the spec's version stale: %v", err)
	}
	f.wantErr(put(store.Spec{ID: id, IfMatch: rec.SpecRevision}), store.ErrStale)
}

func testCaseOfNames(t *testing.T, f *fixture) {
	f.put(online.WorkspaceID{Subscription: "Sub", ResourceGroup: "RG", Name: "Ws"}.Endpoint("Iris"), `{"n":1}`)
	rec := f.put(endpoint("IRIS"), `{"n":2}`)
	if rec.Generation != 2 || rec.ID.Name != "Iris" || rec.ID.Workspace.Subscription != "Sub" {
		t.Errorf("names that differ in case are one resource that keeps its first case; got %+v", rec)
	}
	if got := f.get(endpoint("iris")); got.ID != rec.ID {
		t.Errorf("Get by another case gave %+v", got.ID)
	}
}

func testStatus(t *testing.T, f *fixture) {
	id := endpoint("iris")
	rec := f.put(id, `{}`)
	f.update(func(tx store.Tx) error { return tx.PutStatus(id, rec.UID, []byte(`{"state":"Succeeded"}`)) })
	got := f.get(id)
	if string(got.Status) != `{"state":"Succeeded"}` || got.StatusRevision != f.revision() || got.SpecRevision != rec.SpecRevision || got.Generation != 1 {
		t.Errorf("after a status: %+v", got)
	}
	before := f.revision()
	f.update(func(tx store.Tx) error { return tx.PutStatus(id, rec.UID, []byte(`{"state":"Succeeded"}`)) })
	if now := f.revision(); now != before {
		t.Errorf("an equal status moved the revision from %d to %d", before, now)
	}
	f.put(id, `{"x":1}`)
	if again := f.get(id); string(again.Status) != string(got.Status) || again.StatusRevision != got.StatusRevision {
		t.Errorf("a new spec must keep the status; got %+v", again)
	}
	for name, try := range map[string]func(store.Tx) error{
		"another incarnation": func(tx store.Tx) error { return tx.PutStatus(id, "no-such-uid", []byte(`{}`)) },
		"no such name":        func(tx store.Tx) error { return tx.PutStatus(endpoint("absent"), rec.UID, []byte(`{}`)) },
	} {
		if err := f.Update(f.ctx, try); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("status of %s: %v", name, err)
		}
	}
}

func testRemoval(t *testing.T, f *fixture) {
	id := endpoint("iris")
	secrets := map[string]online.Secret{"TOKEN": "old"}
	var first *store.Record
	f.update(func(tx store.Tx) (err error) {
		if first, err = tx.PutSpec(store.Spec{ID: id, JSON: []byte(`{"v":1}`), Secrets: secrets, By: "ada", Why: "create", At: noon}); err != nil {
			return err
		}
		return tx.PutSecret(first.UID, "primary", "k1")
	})
	absent := endpoint("absent")
	f.wantErr(f.Update(f.ctx, func(tx store.Tx) error { return tx.MarkDeleting(absent, "ada", noon) }), store.ErrNotFound)
	f.wantErr(f.Update(f.ctx, func(tx store.Tx) error { return tx.Remove(absent, "ada", noon) }), store.ErrNotFound)

	marked := noon.Add(time.Minute)
	f.update(func(tx store.Tx) error { return tx.MarkDeleting(id, "bob", marked) })
	before := f.revision()
	f.update(func(tx store.Tx) error { return tx.MarkDeleting(id, "eve", marked.Add(time.Minute)) })
	if got := f.get(id); !got.Deleting.Equal(marked) || got.SpecRevision != first.SpecRevision || f.revision() != before {
		t.Errorf("the deletion mark is set once and is no spec: %+v at %d", got, f.revision())
	}

	removed := marked.Add(time.Hour)
	f.update(func(tx store.Tx) error { return tx.Remove(id, "", removed) })
	f.wantErr(f.View(f.ctx, func(r store.Reader) error { _, err := r.Get(id); return err }), store.ErrNotFound)
	f.wantErr(f.Update(f.ctx, func(tx store.Tx) error { return tx.PutStatus(id, first.UID, []byte(`{}`)) }), store.ErrNotFound)
	f.view(func(r store.Reader) error {
		kept, err := r.Secrets(first.UID)
		if err != nil || len(kept) != 0 {
			t.Errorf("owned secrets outlived their record: %d, %v", len(kept), err)
		}
		return nil
	})

	second := f.put(id, `{"v":2}`)
	if second.UID == first.UID || second.Generation != 1 || second.Status != nil || !second.Deleting.IsZero() {
		t.Errorf("a name used again is another resource: %+v", second)
	}
	var revs []store.Revision
	f.view(func(r store.Reader) (err error) { revs, err = r.Revisions(id); return err })
	if len(revs) != 3 {
		t.Fatalf("%d revisions, want those of both incarnations and the deletion", len(revs))
	}
	tomb := store.Revision{ID: id, UID: first.UID, Generation: 1, Revision: before + 1, Spec: []byte(`{"v":1}`), Secrets: secrets,
		At: removed, By: "bob", Why: store.WhyDelete}
	if revs[0].UID != second.UID || !reflect.DeepEqual(revs[1], tomb) || revs[2].Why != "create" {
		t.Errorf("revisions after removal and re-creation: %+v", revs)
	}
	f.update(func(tx store.Tx) error { return tx.Remove(id, "zoe", removed) })
	f.view(func(r store.Reader) (err error) { revs, err = r.Revisions(id); return err })
	if revs[0].By != "zoe" {
		t.Errorf("a removal names who removed; got %q", revs[0].By)
	}
}

func testListing(t *testing.T, f *fixture) {
	other := online.WorkspaceID{Subscription: "sub", ResourceGroup: "rg", Name: "ws2"}
	var ids []online.ID
	for _, n := range []string{"b", "a", "a-1", "a_1", "z", "B2"} {
		ids = append(ids, endpoint(n))
	}
	for _, id := range append(ids, other.Endpoint("a"), ws.Deployment("a", "blue"), ws.Deployment("a-1", "blue"), ws.ID(), other.ID()) {
		f.put(id, `{}`)
	}
	list := func(prefix string, page store.Page) []string {
		var keys []string
		f.view(func(r store.Reader) error {
			recs, err := r.List(prefix, page)
			for _, rec := range recs {
				keys = append(keys, rec.ID.Key())
			}
			return err
		})
		return keys
	}
	var want []string
	for _, id := range ids {
		want = append(want, id.Key())
	}
	slices.Sort(want)
	prefix := endpoint("").Prefix()
	if got := list(prefix, store.Page{}); !slices.Equal(got, want) {
		t.Errorf("list:\n got %q\nwant %q", got, want)
	}
	if got := list("onlineendpoints/", store.Page{}); len(got) != len(want)+1 {
		t.Errorf("a shorter prefix gave %q", got)
	}
	if got := list(ws.Deployment("a", "").Prefix(), store.Page{}); len(got) != 1 {
		t.Errorf("the deployments of one endpoint: %q", got)
	}
	if got := list("models/", store.Page{}); len(got) != 0 {
		t.Errorf("nothing of a kind: %q", got)
	}
	for size := 1; size <= len(want)+1; size++ {
		var got []string
		page := store.Page{Limit: size}
		for {
			keys := list(prefix, page)
			if len(keys) > size {
				t.Fatalf("a page of %d holds %d", size, len(keys))
			}
			got = append(got, keys...)
			if len(keys) < size {
				break
			}
			page.After = keys[len(keys)-1]
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: %q", size, got)
		}
	}
}

func testSecrets(t *testing.T, f *fixture) {
	secrets := func(owner string) (got map[string]online.Secret) {
		f.view(func(r store.Reader) (err error) { got, err = r.Secrets(owner); return err })
		return got
	}
	if got := secrets("server"); len(got) != 0 {
		t.Errorf("an owner without secrets has %d", len(got))
	}
	f.update(func(tx store.Tx) error {
		return errors.Join(tx.PutSecret("server", "a", "1"), tx.PutSecret("server", "b", ""), tx.PutSecret("server2", "a", "2"))
	})
	f.update(func(tx store.Tx) error { return tx.PutSecret("server", "a", "3") })
	if got, want := secrets("server"), (map[string]online.Secret{"a": "3", "b": ""}); !maps.Equal(got, want) {
		t.Error("secrets are not what was put")
	}
	f.update(func(tx store.Tx) error { return tx.DeleteSecrets("server") })
	if len(secrets("server")) != 0 || !maps.Equal(secrets("server2"), map[string]online.Secret{"a": "2"}) {
		t.Error("deleting one owner's secrets must take exactly those")
	}
	before := f.revision()
	f.update(func(tx store.Tx) error { return tx.DeleteSecrets("server") })
	if now := f.revision(); now != before {
		t.Errorf("deleting nothing moved the revision from %d to %d", before, now)
	}
}

func testInvalidJSON(t *testing.T, f *fixture) {
	rec := f.put(endpoint("iris"), `{}`)
	for name, try := range map[string]func(store.Tx) error{
		"spec": func(tx store.Tx) error {
			_, err := tx.PutSpec(store.Spec{ID: endpoint("x"), JSON: []byte(`{`), At: noon})
			return err
		},
		"empty spec": func(tx store.Tx) error { _, err := tx.PutSpec(store.Spec{ID: endpoint("x"), At: noon}); return err },
		"status":     func(tx store.Tx) error { return tx.PutStatus(rec.ID, rec.UID, []byte(`nul`)) },
	} {
		if err := f.Update(f.ctx, try); err == nil {
			t.Errorf("a %s that is not JSON was accepted", name)
		}
	}
	for _, text := range []string{`{"é":"\u0000 😀 \\ ' \" %"}`, ` { "kept" :  "byte by byte" } `} {
		f.put(rec.ID, text)
		if got := f.get(rec.ID); !bytes.Equal(got.Spec, []byte(text)) {
			t.Errorf("spec %q came back as %q", text, got.Spec)
		}
	}
}

func testConcurrentIfMatch(t *testing.T, f *fixture) {
	id := endpoint("iris")
	f.put(id, `{"n":0}`)
	const writers, rounds = 8, 10
	var wg sync.WaitGroup
	var mu sync.Mutex
	accepted := 0
	for w := range writers {
		wg.Go(func() {
			for range rounds {
				var seen *store.Record
				if err := f.View(f.ctx, func(r store.Reader) (err error) { seen, err = r.Get(id); return err }); err != nil {
					t.Errorf("view: %v", err)
					return
				}
				err := f.Update(f.ctx, func(tx store.Tx) error {
					_, err := tx.PutSpec(store.Spec{ID: id, JSON: fmt.Appendf(nil, `{"n":%d}`, w), At: noon, IfMatch: seen.SpecRevision})
					return err
				})
				switch {
				case err == nil:
					mu.Lock()
					accepted++
					mu.Unlock()
				case !errors.Is(err, store.ErrStale):
					t.Errorf("update: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if rec := f.get(id); rec.Generation != int64(accepted)+1 || accepted == 0 {
		t.Errorf("%d writes were accepted and the generation is %d", accepted, rec.Generation)
	}
}
