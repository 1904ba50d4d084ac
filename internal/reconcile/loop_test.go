package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"portico/internal/compute"
	"portico/internal/online"
	"portico/internal/route"
	"portico/internal/store"
	"portico/internal/store/sqlite"
	"portico/internal/testkit"
)

// backend is an engine in memory: what is ensured becomes ready at once, unless hold is set.
type backend struct {
	mu     sync.Mutex
	seq    int64
	next   int
	sets   map[string]compute.Set
	gone   []string
	events chan compute.Event
	full   int // instances it has room for; 0: any
	hold   bool
	synced chan struct{} // closed when the first list may be told
	early  bool          // Ensure or Delete came before that
}

func newBackend() *backend {
	b := &backend{sets: map[string]compute.Set{}, events: make(chan compute.Event, 10000), synced: make(chan struct{})}
	close(b.synced)
	return b
}

func (b *backend) tell(id string, gone bool) {
	b.seq++
	s := b.sets[id]
	s.Instances = append([]compute.Instance(nil), s.Instances...)
	if gone {
		s = compute.Set{ID: id, UID: s.UID, Deployment: s.Deployment}
		delete(b.sets, id)
	}
	b.events <- compute.Event{Sequence: b.seq, Set: s, Gone: gone}
}

func (b *backend) Ensure(_ context.Context, t compute.Template, count int, _ []string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.synced:
	default:
		b.early = true
	}
	if b.full > 0 && count > b.full {
		return fmt.Errorf("%w: %d instances of %s, room for %d", compute.ErrCapacity, count, t.Type.Name, b.full)
	}
	s, ok := b.sets[t.Set]
	if !ok {
		s = compute.Set{ID: t.Set, Generation: t.Generation, UID: t.UID, Deployment: t.DeploymentID, Digest: t.Digest}
	}
	s.Count = count
	for len(s.Instances) < count {
		b.next++
		i := compute.Instance{ID: fmt.Sprintf("%s-%d", t.Set, b.next), Set: t.Set, State: online.InstanceReady, Started: time.Now()}
		if b.hold {
			i.State = online.InstanceStarting
		}
		s.Instances = append(s.Instances, i)
	}
	s.Instances = s.Instances[:count]
	b.sets[t.Set] = s
	b.tell(t.Set, false)
	return nil
}

func (b *backend) Delete(_ context.Context, set string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.sets[set]; !ok {
		return compute.ErrNotFound
	}
	b.gone = append(b.gone, set)
	b.tell(set, true)
	return nil
}

func (b *backend) Watch(ctx context.Context) (<-chan compute.Event, error) {
	out := make(chan compute.Event)
	b.mu.Lock()
	var first []compute.Event
	for _, s := range b.sets {
		b.seq++
		first = append(first, compute.Event{Sequence: b.seq, Set: s})
	}
	b.mu.Unlock()
	go func() {
		defer close(out)
		select {
		case <-b.synced:
		case <-ctx.Done():
			return
		}
		send := func(ev compute.Event) bool {
			select {
			case out <- ev:
				return true
			case <-ctx.Done():
				return false
			}
		}
		for _, ev := range append(first, compute.Event{Synced: true}) {
			if !send(ev) {
				return
			}
		}
		for {
			select {
			case ev := <-b.events:
				if !send(ev) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (b *backend) Logs(context.Context, compute.LogQuery) (io.ReadCloser, error) {
	return nil, compute.ErrNotFound
}

func (b *backend) Capacity(context.Context) (compute.Capacity, error) { return compute.Capacity{}, nil }

type environments struct{ fail bool }

func (e *environments) Ensure(_ context.Context, _ online.EnvironmentSpec, progress io.Writer) (Environment, error) {
	fmt.Fprintln(progress, "building")
	if e.fail {
		return Environment{}, online.Errorf(online.CodeImageBuildFailure, "", "no matching distribution for nosuchpackage")
	}
	return Environment{ID: "env", Python: "/usr/bin/python3"}, nil
}

func (e *environments) EnsureImage(context.Context, online.ID, string, io.Writer) (Environment, error) {
	return Environment{}, errors.New("no deployment of this test has an image")
}

type artifacts struct{}

func (artifacts) Path(digest string) (string, error) {
	if digest == "" {
		return "", errors.New("no digest")
	}
	return "/artifacts/" + digest, nil
}

func (a artifacts) Named(_ context.Context, digest, name string) (string, error) {
	path, err := a.Path(digest)
	return path + "/" + name, err
}

type tables struct {
	mu   sync.Mutex
	last *route.Table
}

func (t *tables) SetTable(next *route.Table) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = next
}

func (t *tables) get() *route.Table {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

type clearSealer struct{}

func (clearSealer) Seal(_ string, b []byte) ([]byte, error) { return b, nil }
func (clearSealer) Open(_ string, b []byte) ([]byte, error) { return b, nil }

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// fixture is a running loop over a real store.
type fixture struct {
	t       *testing.T
	store   store.Store
	backend *backend
	envs    *environments
	tables  *tables
	stop    func()
}

var ws = online.WorkspaceID{Subscription: "s", ResourceGroup: "g", Name: "w"}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), clearSealer{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, store: db, backend: newBackend(), envs: &environments{}, tables: &tables{}}
	t.Cleanup(func() {
		if f.stop != nil {
			f.stop()
		}
		db.Close()
	})
	f.asset(online.KindCode, &online.AssetSpec{Digest: "code"})
	f.asset(online.KindEnvironment, &online.AssetSpec{Environment: &online.EnvironmentSpec{CondaFile: "name: x"}})
	return f
}

func (f *fixture) run() {
	loop := New(Config{
		Store: f.store, Backend: f.backend, Environments: f.envs, Artifacts: artifacts{}, Tables: f.tables,
		Catalogue: online.Catalogue{Types: online.AzureTypes()}, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
		BuildLog: func(string) (io.WriteCloser, error) { return nopCloser{io.Discard}, nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	f.stop = func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("loop: %v", err)
		}
		f.stop = nil
	}
}

func (f *fixture) update(fn func(tx store.Tx) error) {
	f.t.Helper()
	if err := f.store.Update(f.t.Context(), fn); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) put(id online.ID, spec any) *store.Record {
	f.t.Helper()
	doc, err := json.Marshal(spec)
	if err != nil {
		f.t.Fatal(err)
	}
	var rec *store.Record
	f.update(func(tx store.Tx) error {
		rec, err = tx.PutSpec(store.Spec{ID: id, JSON: doc, By: "test", Why: "test", At: time.Now()})
		if err != nil {
			return err
		}
		return tx.PutOperation(&online.Operation{
			ID: fmt.Sprintf("op-%s-%d", id.Name, rec.Generation), Target: id, TargetUID: rec.UID, Action: "write",
			Generation: rec.Generation, State: online.OperationRunning, Start: time.Now(),
		})
	})
	return rec
}

func (f *fixture) asset(kind online.Kind, spec *online.AssetSpec) {
	f.put(ws.Asset(kind, "a", "1"), spec)
}

func (f *fixture) deploy(name string, edit func(*online.DeploymentSpec)) *store.Record {
	spec := online.DeploymentSpec{
		InstanceType: "Standard_DS3_v2", ScoringScript: "score.py",
		Code:        &online.AssetRef{Workspace: ws, Kind: online.KindCode, Name: "a", Version: "1"},
		Environment: &online.AssetRef{Workspace: ws, Kind: online.KindEnvironment, Name: "a", Version: "1"},
	}
	if edit != nil {
		edit(&spec)
	}
	spec.Default()
	return f.put(ws.Deployment("ep1", name), spec)
}

func (f *fixture) status(name string) (st online.DeploymentStatus) {
	_ = f.store.View(f.t.Context(), func(r store.Reader) error {
		d, err := store.Get[online.DeploymentSpec, online.DeploymentStatus](r, ws.Deployment("ep1", name))
		if err == nil {
			st = d.Status
		}
		return err
	})
	return st
}

func (f *fixture) operation(id string) *online.Operation {
	f.t.Helper()
	var op *online.Operation
	err := f.store.View(f.t.Context(), func(r store.Reader) (err error) { op, err = r.Operation(id); return err })
	if err != nil {
		f.t.Fatal(err)
	}
	return op
}

func TestLoopCreatesRoutesScalesAndDeletes(t *testing.T) {
	f := newFixture(t)
	f.run()
	e := f.put(ws.Endpoint("ep1"), online.EndpointSpec{AuthMode: online.AuthKey, Traffic: online.Traffic{"blue": 100}})
	f.update(func(tx store.Tx) error { return tx.PutSecret(e.UID, online.SecretPrimaryKey, "k1") })
	f.deploy("blue", nil)
	testkit.Until(f.t, "blue serves", func() bool {
		st := f.status("blue")
		return st.ObservedGeneration == 1 && st.State == online.StateSucceeded
	})
	if op := f.operation("op-blue-1"); op.State != online.OperationSucceeded || op.End.IsZero() {
		t.Fatalf("operation: %+v", op)
	}
	testkit.Until(f.t, "the table routes to blue", func() bool {
		table := f.tables.get()
		if table == nil {
			return false
		}
		ep := table.Match("EP1")
		if ep == nil || len(ep.Keys) != 1 {
			return false
		}
		d, miss := ep.Pick("", 7)
		return miss == route.Hit && len(d.Instances) == 1
	})
	f.deploy("blue", func(s *online.DeploymentSpec) { s.InstanceCount = 3 })
	testkit.Until(f.t, "blue has three instances", func() bool {
		st := f.status("blue")
		return st.ObservedGeneration == 2 && len(st.Instances) == 3 && st.Current.Generation == 1
	})
	testkit.Until(f.t, "three intervals are open", func() bool { return f.openIntervals() == 3 })
	f.update(func(tx store.Tx) error { return tx.MarkDeleting(ws.Endpoint("ep1"), "test", time.Now()) })
	testkit.Until(f.t, "everything is gone", func() bool {
		err := f.store.View(t.Context(), func(r store.Reader) error { _, err := r.Get(ws.Endpoint("ep1")); return err })
		return errors.Is(err, store.ErrNotFound) && f.openIntervals() == 0
	})
	testkit.Until(f.t, "the table is empty", func() bool { return f.tables.get().Match("ep1") == nil })
}

func (f *fixture) openIntervals() int {
	n := 0
	err := f.store.View(f.t.Context(), func(r store.Reader) error {
		all, err := r.Intervals(kindPrefix(online.KindDeployment), time.Now(), time.Now().AddDate(1, 0, 0))
		for _, i := range all {
			if i.End.IsZero() {
				n++
			}
		}
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

func TestLoopFailureIsTold(t *testing.T) {
	f := newFixture(t)
	f.envs.fail = true
	f.run()
	f.put(ws.Endpoint("ep1"), online.EndpointSpec{AuthMode: online.AuthKey})
	f.deploy("blue", nil)
	testkit.Until(f.t, "the operation fails", func() bool { return f.operation("op-blue-1").State == online.OperationFailed })
	if op := f.operation("op-blue-1"); op.Error.Code != online.CodeImageBuildFailure || !strings.Contains(op.Error.Message, "nosuchpackage") {
		t.Fatalf("operation: %+v", op)
	}
	if len(f.backend.sets) != 0 {
		t.Fatal("something was started without an environment")
	}
}

func TestLoopCapacityIsTold(t *testing.T) {
	f := newFixture(t)
	f.backend.full = 2
	f.run()
	f.put(ws.Endpoint("ep1"), online.EndpointSpec{AuthMode: online.AuthKey})
	f.deploy("blue", func(s *online.DeploymentSpec) { s.InstanceCount = 2 })
	testkit.Until(f.t, "two fit", func() bool { return f.operation("op-blue-1").State == online.OperationSucceeded })
	f.deploy("blue", func(s *online.DeploymentSpec) { s.InstanceCount = 3 })
	testkit.Until(f.t, "three do not", func() bool { return f.operation("op-blue-2").State == online.OperationFailed })
	if op := f.operation("op-blue-2"); op.Error.Code != online.CodeOutOfQuota || !strings.Contains(op.Error.Message, "room for 2") {
		t.Fatalf("operation: %+v", op)
	}
	if st := f.status("blue"); len(st.Instances) != 2 {
		t.Fatalf("what ran must go on: %+v", st)
	}
}

func TestLoopStartsNothingBeforeTheEngineHasSpoken(t *testing.T) {
	f := newFixture(t)
	f.backend.synced = make(chan struct{})
	f.put(ws.Endpoint("ep1"), online.EndpointSpec{AuthMode: online.AuthKey})
	f.deploy("blue", nil)
	f.run()
	time.Sleep(50 * time.Millisecond) // long enough for a loop that does not wait
	f.backend.mu.Lock()
	close(f.backend.synced)
	f.backend.mu.Unlock()
	testkit.Until(f.t, "blue serves", func() bool { return f.status("blue").State == online.StateSucceeded })
	if f.backend.early {
		t.Fatal("the loop acted before the engine's list was in")
	}
}

func TestLoopRestartStartsNothingTwiceAndEndsOrphans(t *testing.T) {
	f := newFixture(t)
	f.run()
	f.put(ws.Endpoint("ep1"), online.EndpointSpec{AuthMode: online.AuthKey})
	f.deploy("blue", nil)
	testkit.Until(f.t, "blue serves", func() bool { return f.status("blue").State == online.StateSucceeded })
	f.stop()
	f.backend.mu.Lock()
	started := f.backend.next
	f.backend.sets["lost-g1"] = compute.Set{ID: "lost-g1", UID: "lost", Deployment: ws.Deployment("ep1", "lost"), Count: 1,
		Instances: []compute.Instance{{ID: "lost-1", State: online.InstanceReady}}}
	f.backend.mu.Unlock()
	f.run()
	testkit.Until(f.t, "the orphan is gone", func() bool {
		f.backend.mu.Lock()
		defer f.backend.mu.Unlock()
		_, there := f.backend.sets["lost-g1"]
		return !there
	})
	if f.backend.next != started {
		t.Fatal("an instance was started again")
	}
}

func TestLoopManyChangesAtOnce(t *testing.T) {
	f := newFixture(t)
	f.run()
	f.put(ws.Endpoint("ep1"), online.EndpointSpec{AuthMode: online.AuthKey})
	const n = 100
	for round := 1; round <= 2; round++ {
		for i := range n {
			f.deploy(fmt.Sprintf("d%d", i), func(s *online.DeploymentSpec) { s.Request.MaxConcurrent = round })
		}
	}
	testkit.Until(f.t, "all are in force", func() bool {
		for i := range n {
			if st := f.status(fmt.Sprintf("d%d", i)); st.ObservedGeneration != 2 || st.State != online.StateSucceeded {
				return false
			}
		}
		return true
	})
	testkit.Until(f.t, "one set each is left", func() bool {
		f.backend.mu.Lock()
		defer f.backend.mu.Unlock()
		return len(f.backend.sets) == n
	})
}
