package storetest

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"portico/internal/online"
	"portico/internal/store"
)

func testOperations(t *testing.T, f *fixture) {
	op := func(id, uid string, state online.OperationState) *online.Operation {
		return &online.Operation{ID: id, Target: endpoint("iris"), TargetUID: uid, Action: "write", Generation: 3, State: state,
			Principal: "ada", Start: noon}
	}
	put := func(o *online.Operation) { f.update(func(tx store.Tx) error { return tx.PutOperation(o) }) }
	list := func(uid string, running bool) (ids []string) {
		f.view(func(r store.Reader) error {
			ops, err := r.Operations(uid, running)
			for _, o := range ops {
				ids = append(ids, o.ID)
			}
			return err
		})
		return ids
	}
	put(op("1", "u", online.OperationRunning))
	put(op("2", "v", online.OperationRunning))
	put(op("3", "u", online.OperationRunning))
	ended := op("1", "u", online.OperationFailed)
	ended.End, ended.Error = noon.Add(time.Minute), &online.Error{Code: online.CodeResourceNotReady, Message: "no", Target: "t"}
	put(ended)

	f.view(func(r store.Reader) error {
		got, err := r.Operation("1")
		if err != nil || !reflect.DeepEqual(got, ended) {
			t.Errorf("operation came back as %+v, %v", got, err)
		}
		return nil
	})
	f.wantErr(f.View(f.ctx, func(r store.Reader) error { _, err := r.Operation("absent"); return err }), store.ErrNotFound)
	for _, c := range []struct {
		uid     string
		running bool
		want    []string
	}{
		{"", false, []string{"3", "2", "1"}},
		{"", true, []string{"3", "2"}},
		{"u", false, []string{"3", "1"}},
		{"u", true, []string{"3"}},
		{"w", false, nil},
	} {
		if got := list(c.uid, c.running); !slices.Equal(got, c.want) {
			t.Errorf("operations of %q, running %v: %q, want %q", c.uid, c.running, got, c.want)
		}
	}
	before := f.revision()
	put(ended)
	if now := f.revision(); now != before {
		t.Errorf("an equal operation moved the revision from %d to %d", before, now)
	}
	if err := f.Update(f.ctx, func(tx store.Tx) error { return tx.PutOperation(&online.Operation{}) }); err == nil {
		t.Error("an operation without an id was accepted")
	}
}

func testActivities(t *testing.T, f *fixture) {
	add := func(minute int, id online.ID) online.Activity {
		a := online.Activity{Time: noon.Add(time.Duration(minute) * time.Minute), Principal: "ada", Action: "x/write", Target: id,
			RequestID: fmt.Sprint(minute), ClientIP: "127.0.0.1", Outcome: "Accepted", Detail: "d", Revision: 99}
		f.update(func(tx store.Tx) error { return tx.AddActivity(a) })
		a.Revision = f.revision()
		return a
	}
	a0, a1 := add(0, endpoint("a")), add(1, endpoint("b"))
	a2, a3 := add(2, endpoint("A")), add(3, ws.ID())
	late := add(1, endpoint("a")) // told late: its own time decides the order
	at := func(minute int) time.Time { return noon.Add(time.Duration(minute) * time.Minute) }
	for name, c := range map[string]struct {
		prefix       string
		since, until time.Time
		limit        int
		want         []online.Activity
	}{
		"all":            {"", time.Time{}, time.Time{}, 0, []online.Activity{a3, a2, late, a1, a0}},
		"one target":     {endpoint("a").Key(), time.Time{}, time.Time{}, 0, []online.Activity{a2, late, a0}},
		"half-open time": {"", at(1), at(3), 0, []online.Activity{a2, late, a1}},
		"newest first":   {"", time.Time{}, time.Time{}, 2, []online.Activity{a3, a2}},
		"none":           {"models/", time.Time{}, time.Time{}, 0, nil},
	} {
		f.view(func(r store.Reader) error {
			got, err := r.Activities(c.prefix, c.since, c.until, c.limit)
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s:\n got %+v\nwant %+v", name, got, c.want)
			}
			return err
		})
	}
}

func testIntervals(t *testing.T, f *fixture) {
	at := func(minute int) time.Time { return noon.Add(time.Duration(minute) * time.Minute) }
	interval := func(name string, dep string, start int) online.Interval {
		return online.Interval{Instance: name, Deployment: ws.Deployment("ep", dep), UID: "u", Generation: 2,
			InstanceType: "Standard_DS1_v2", Start: at(start)}
	}
	a, b, c := interval("a", "blue", 0), interval("b", "blue", 10), interval("c", "green", 20)
	for _, i := range []online.Interval{c, b, a} {
		f.update(func(tx store.Tx) error { return tx.OpenInterval(i) })
	}
	a.End, a.Reason = at(10), "scaled in"
	f.update(func(tx store.Tx) error { return tx.CloseInterval("a", a.End, a.Reason) })
	before := f.revision()
	f.update(func(tx store.Tx) error { return tx.CloseInterval("a", at(50), "again") })
	f.update(func(tx store.Tx) error { return tx.OpenInterval(interval("a", "green", 40)) })
	if now := f.revision(); now != before {
		t.Errorf("opening and closing again moved the revision from %d to %d", before, now)
	}
	f.wantErr(f.Update(f.ctx, func(tx store.Tx) error { return tx.CloseInterval("absent", noon, "") }), store.ErrNotFound)

	for name, q := range map[string]struct {
		prefix       string
		since, until time.Time
		want         []online.Interval
	}{
		"all":            {"", time.Time{}, time.Time{}, []online.Interval{a, b, c}},
		"one deployment": {ws.Deployment("ep", "blue").Key(), time.Time{}, time.Time{}, []online.Interval{a, b}},
		"within":         {"", at(3), at(4), []online.Interval{a}},
		"touching ends":  {"", at(10), at(20), []online.Interval{b}},
		"open ones last": {"", at(60), time.Time{}, []online.Interval{b, c}},
		"before all":     {"", at(-9), at(0), nil},
	} {
		f.view(func(r store.Reader) error {
			got, err := r.Intervals(q.prefix, q.since, q.until)
			if !reflect.DeepEqual(got, q.want) {
				t.Errorf("%s:\n got %+v\nwant %+v", name, got, q.want)
			}
			return err
		})
	}
}
