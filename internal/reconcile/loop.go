package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"portico/internal/compute"
	"portico/internal/online"
	"portico/internal/route"
	"portico/internal/store"
)

// Bounds of the loop.
const (
	// DefaultStartTimeout is how long a set may take from prepared to ready.
	DefaultStartTimeout = 30 * time.Minute
	// parallelKeys is how many resources are looked at at once.
	parallelKeys = 8
	// retryAfter is the wait after a step that failed for a passing reason, such as a full disk.
	retryAfter = time.Second
)

// Config is what the loop works with.
type Config struct {
	Store        store.Store
	Backend      compute.Backend
	Environments Environments
	Artifacts    Artifacts
	Catalogue    online.Catalogue
	Tables       TableSetter
	// BuildLog opens the storage-initializer log of a deployment for appending.
	BuildLog     func(uid string) (io.WriteCloser, error)
	Now          func() time.Time
	StartTimeout time.Duration // 0: DefaultStartTimeout
	Logger       *slog.Logger
}

// TableSetter takes the gateway's next routing table.
type TableSetter interface{ SetTable(*route.Table) }

// Loop brings specs about. Make one with New and Run it once.
type Loop struct {
	Config
	view   *view
	queue  *queue[string] // keys of endpoints and deployments
	preps  *preparations
	routes chan struct{}

	mu        sync.Mutex
	keys      map[string]online.ID     // of the queued keys
	byUID     map[string]online.ID     // deployments seen, to find the one that an engine's event is about
	refused   map[string]*online.Error // by set
	starting  map[string]starting      // by key of the deployment
	intervals map[string]bool          // instances whose interval is open
}

// starting is since when a generation's instances have been coming up. Its time is this process's own, with the
// monotonic reading that a wall clock which is set does not move.
type starting struct {
	generation int64
	since      time.Time
}

// New makes a loop.
func New(cfg Config) *Loop {
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = DefaultStartTimeout
	}
	l := &Loop{
		Config: cfg, view: newView(), queue: newQueue[string](), routes: make(chan struct{}, 1),
		keys: map[string]online.ID{}, byUID: map[string]online.ID{}, refused: map[string]*online.Error{}, starting: map[string]starting{}, intervals: map[string]bool{},
	}
	l.preps = &preparations{
		env: cfg.Environments, artifacts: cfg.Artifacts, log: cfg.BuildLog, now: cfg.Now,
		done: l.enqueue, sets: map[string]*preparation{},
	}
	return l
}

// Run works until ctx ends and everything it started has returned. It fails only when it cannot begin: the
// store or the engine cannot be watched.
func (l *Loop) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() {
		cancel()
		l.queue.close()
		wg.Wait()
		l.preps.wg.Wait()
	}()
	events, err := l.Backend.Watch(ctx)
	if err != nil {
		return fmt.Errorf("watch the engine: %w", err)
	}
	if err := l.sync(ctx, events); err != nil {
		return err
	}
	var since int64
	if err := l.Store.View(ctx, func(r store.Reader) error { since = r.Revision(); return nil }); err != nil {
		return fmt.Errorf("read the store's revision: %w", err)
	}
	changes, err := l.Store.Watch(ctx, since)
	if err != nil {
		return fmt.Errorf("watch the store: %w", err)
	}
	if err := l.enqueueAll(ctx); err != nil {
		return err
	}
	for range parallelKeys {
		wg.Go(func() { l.work(ctx) })
	}
	wg.Go(func() { l.publish(ctx) })
	l.dirtyRoutes()
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-events:
			if !ok {
				return l.ended(ctx, "the engine's watch")
			}
			l.observe(ctx, ev)
		case ch, ok := <-changes:
			if !ok {
				return l.ended(ctx, "the store's watch")
			}
			l.changed(ctx, ch)
		}
	}
}

func (l *Loop) ended(ctx context.Context, what string) error {
	if ctx.Err() == nil {
		return fmt.Errorf("%s ended", what)
	}
	return nil
}

// sync takes in what the engine already runs, and closes the intervals of what ended while nobody looked.
func (l *Loop) sync(ctx context.Context, events <-chan compute.Event) error {
	for synced := false; !synced; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ev, ok := <-events:
			if !ok {
				return l.ended(ctx, "the engine's watch")
			}
			if synced = ev.Synced; !synced {
				l.view.apply(ev)
			}
		}
	}
	return l.resumeIntervals(ctx)
}

// enqueueAll looks at every resource and at whatever the engine runs, known or not.
func (l *Loop) enqueueAll(ctx context.Context) error {
	for _, sets := range l.view.all() {
		for _, s := range sets {
			l.enqueue(s.Deployment)
		}
	}
	return l.Store.View(ctx, func(r store.Reader) error {
		for _, kind := range []online.Kind{online.KindEndpoint, online.KindDeployment} {
			recs, err := r.List(kindPrefix(kind), store.Page{})
			if err != nil {
				return fmt.Errorf("list %s: %w", kind, err)
			}
			for _, rec := range recs {
				l.note(rec)
				l.enqueue(rec.ID)
			}
		}
		return nil
	})
}

func (l *Loop) note(rec *store.Record) {
	if rec.ID.Kind == online.KindDeployment {
		l.mu.Lock()
		l.byUID[rec.UID] = rec.ID
		l.mu.Unlock()
	}
}

func (l *Loop) enqueue(id online.ID) {
	key := id.Key()
	l.mu.Lock()
	l.keys[key] = id
	l.mu.Unlock()
	l.queue.add(key)
}

func (l *Loop) observe(ctx context.Context, ev compute.Event) {
	if ev.Synced {
		return
	}
	before, fresh := l.view.apply(ev)
	if !fresh {
		return
	}
	l.recordIntervals(ctx, before, ev)
	l.dirtyRoutes()
	l.mu.Lock()
	id, known := l.byUID[ev.Set.UID]
	l.mu.Unlock()
	if !known {
		id = ev.Set.Deployment // an orphan: looking at it ends it
	}
	l.enqueue(id)
}

func (l *Loop) changed(ctx context.Context, ch store.Change) {
	if ch.Lost {
		if err := l.enqueueAll(ctx); err != nil && ctx.Err() == nil {
			l.Logger.Error("cannot list after falling behind the store", "error", err)
		}
		l.dirtyRoutes()
		return
	}
	switch ch.ID.Kind {
	case online.KindDeployment:
		l.mu.Lock()
		l.byUID[ch.UID] = ch.ID
		l.mu.Unlock()
		l.enqueue(ch.ID)
		if ch.Type == store.ChangeRemoved {
			l.enqueue(ch.ID.Workspace.Endpoint(ch.ID.Parent)) // it may wait for its last deployment
		}
	case online.KindEndpoint:
		l.enqueue(ch.ID)
	}
	shown := ch.ID.Kind == online.KindDeployment || ch.ID.Kind == online.KindEndpoint || ch.ID.Kind == online.KindPrincipal
	if ch.Type == store.ChangeSecret || shown {
		l.dirtyRoutes()
	}
}

func (l *Loop) work(ctx context.Context) {
	for {
		key, ok := l.queue.take(ctx)
		if !ok {
			return
		}
		l.mu.Lock()
		id := l.keys[key]
		l.mu.Unlock()
		if err := l.reconcile(ctx, id); err != nil && ctx.Err() == nil {
			l.Logger.Error("reconcile failed, trying again", "resource", key, "error", err)
			l.queue.after(key, retryAfter)
		}
		l.queue.done(key)
	}
}

func (l *Loop) reconcile(ctx context.Context, id online.ID) error {
	if id.Kind == online.KindEndpoint {
		return l.endpoint(ctx, id)
	}
	return l.deployment(ctx, id)
}

// kindPrefix matches every key of a kind.
func kindPrefix(k online.Kind) string { return lower(k) + "/" }

func isGone(err error) bool { return errors.Is(err, store.ErrNotFound) }
