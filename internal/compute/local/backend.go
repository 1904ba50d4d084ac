package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"portico/internal/compute"
	"portico/internal/host"
	"portico/internal/inference"
)

var errClosed = errors.New("the engine is closed")

// housekeeping is how often the output of instances that ended long ago is looked for.
const housekeeping = 10 * time.Minute

// Backend is the engine of this machine. It implements compute.Backend.
type Backend struct {
	cfg      Config
	log      *slog.Logger
	files    *files
	link     *link
	forks    *forkServers
	hub      *hub
	sockets  string // directory of sockets
	makeBody func(*instance) (body, error)

	// The lives of the engine's goroutines, which begin in calls that end before them. halting ends with life, or
	// before it when Stop wants to end the instances itself.
	life, halting context.Context
	end, halt     context.CancelFunc
	running       sync.WaitGroup
	keepers       sync.WaitGroup // one per instance

	upstreams sync.Map // instance id -> inference.Upstream, read for every request

	mu        sync.Mutex
	closed    bool
	sets      map[string]*set
	instances map[string]*instance
	past      map[string]*instanceRecord // ended, their output is kept
}

// New opens the engine: it reaches the host (starting one if none runs), learns what runs and takes it up again.
// Instances of which no process is left are started. Exactly one of Close and Stop must be called.
func New(ctx context.Context, cfg Config, logger *slog.Logger) (*Backend, error) {
	return open(ctx, cfg, logger, (*Backend).newBody)
}

// open is New with another kind of body.
func open(
	ctx context.Context, cfg Config, logger *slog.Logger, makeBody func(*Backend, *instance) (body, error),
) (*Backend, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("configure the local engine: %w", err)
	}
	records, err := newFiles(cfg.Host.DataDir, cfg.Sealer)
	if err != nil {
		return nil, err
	}
	b := &Backend{
		cfg: cfg, log: logger, files: records, link: newLink(cfg.Host, logger), hub: newHub(),
		sets: map[string]*set{}, instances: map[string]*instance{}, past: map[string]*instanceRecord{},
	}
	b.forks = newForkServers(b)
	b.link.forks = b.forks.observe
	b.makeBody = func(i *instance) (body, error) { return makeBody(b, i) }
	if b.sockets, err = host.SocketDir(cfg.Host.DataDir); err != nil {
		return nil, fmt.Errorf("find the directory of sockets: %w", err)
	}
	b.life, b.end = context.WithCancel(context.WithoutCancel(ctx))
	b.halting, b.halt = context.WithCancel(b.life)
	session, err := b.link.open(ctx, b.life)
	if err != nil {
		b.end()
		return nil, err
	}
	b.running.Go(func() { b.link.keep(b.life, session) })
	if err := b.resume(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	b.running.Go(b.housekeep)
	return b, nil
}

// resume takes up the sets and instances of an earlier engine.
func (b *Backend) resume() error {
	sets, err := b.files.sets()
	if err != nil {
		return err
	}
	instances, err := b.files.instances()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range sets {
		b.sets[r.Template.Set] = newSet(*r)
	}
	for _, r := range instances {
		s := b.sets[r.Set]
		switch {
		case !r.Ended.IsZero():
			b.past[r.ID] = r
			continue
		case s == nil:
			// Its set is gone: what is left of it ended with the last server, or ends below.
			r.Ended = time.Now()
			b.past[r.ID] = r
			if err := b.files.putInstance(r); err != nil {
				return err
			}
			continue
		}
		r.Draining = r.Draining || s.record.Deleting
		if err := b.run(s, *r); err != nil {
			return err
		}
	}
	b.removeExpired(time.Now())
	b.endStrangers()
	for _, s := range b.sets {
		if b.finishSet(s) {
			continue
		}
		// A server that died between writing a count and acting on it left the difference.
		if !s.record.Deleting {
			if err := b.scale(s, s.staying(), nil); err != nil {
				return err
			}
		}
		b.publish(s)
	}
	return nil
}

// endStrangers ends processes whose instance is not known. The caller holds mu.
func (b *Backend) endStrangers() {
	strangers := b.link.strangers(func(id string) bool { return b.instances[id] != nil })
	for _, p := range strangers {
		b.running.Go(func() {
			b.log.Warn("a process of an unknown instance is ended", "process", p.id)
			if err := p.condemn(b.life, "its instance is not known"); err != nil {
				return
			}
			select {
			case <-p.done:
				b.link.forget(b.life, p.id)
			case <-b.life.Done():
			}
		})
	}
}

func (b *Backend) housekeep() {
	tick := time.NewTicker(housekeeping)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			b.mu.Lock()
			b.removeExpired(now)
			b.mu.Unlock()
			b.forks.prune(now, b.wantedForks())
		case <-b.life.Done():
			return
		}
	}
}

// removeExpired removes ended instances whose output is no longer kept. The caller holds mu.
func (b *Backend) removeExpired(now time.Time) {
	var ended []*instanceRecord
	for _, r := range b.past {
		ended = append(ended, r)
	}
	for _, id := range expired(ended, now, b.cfg.KeepEnded, b.cfg.KeepPerUID) {
		if err := b.files.removeInstance(id); err != nil {
			b.log.Warn("the output of an ended instance was not removed", "instance", id, "error", err)
			continue
		}
		delete(b.past, id)
	}
}

// Close lets go of everything: instances go on without this engine, and the next one takes them up.
func (b *Backend) Close() error {
	if !b.shut() {
		return nil
	}
	b.end()
	b.keepers.Wait()
	b.running.Wait()
	b.hub.close()
	return nil
}

// Stop ends the processes of every instance, each drained first for at most its request timeout, and closes the
// engine. Sets and instances stay on record: the next engine starts them again. When ctx ends, processes are
// killed.
func (b *Backend) Stop(ctx context.Context) error {
	if !b.shut() {
		return nil
	}
	b.halt()
	b.keepers.Wait()
	b.mu.Lock()
	left := slices.Collect(maps.Values(b.instances))
	b.mu.Unlock()
	var ending sync.WaitGroup
	errs := make([]error, len(left))
	for n, i := range left {
		ending.Go(func() { errs[n] = b.stop(ctx, i) })
	}
	ending.Wait()
	b.end()
	b.running.Wait()
	b.hub.close()
	return errors.Join(errs...)
}

// shut marks the engine as closed; false when it was before.
func (b *Backend) shut() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	already := b.closed
	b.closed = true
	return !already
}

// Upstream gives what calls an instance; false when none of that id runs. It is for every request: it takes no lock.
func (b *Backend) Upstream(instance string) (inference.Upstream, bool) {
	u, ok := b.upstreams.Load(instance)
	if !ok {
		return nil, false
	}
	return u.(inference.Upstream), true
}

// Watch implements compute.Backend.
func (b *Backend) Watch(ctx context.Context) (<-chan compute.Event, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errClosed
	}
	var sets []compute.Set
	for _, s := range b.sets {
		sets = append(sets, s.show())
	}
	slices.SortFunc(sets, func(x, y compute.Set) int { return strings.Compare(x.ID, y.ID) })
	return b.hub.watch(ctx, sets), nil
}

// Capacity implements compute.Backend.
func (b *Backend) Capacity(context.Context) (compute.Capacity, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d, m := b.demand(), b.cfg.Machine
	return compute.Capacity{
		CPUs: m.CPUs, MemoryMiB: m.MemoryMiB, GPUs: m.GPUs,
		UsedCPUs: d.cpus, UsedMemoryMiB: d.memoryMiB, UsedGPUs: d.gpus,
	}, nil
}

// demand adds up the types of all instances, draining ones included. The caller holds mu.
func (b *Backend) demand() demand {
	var d demand
	for _, i := range b.instances {
		d = d.plus(i.record.Type, 1)
	}
	return d
}

func (b *Backend) takenGPUs() []int {
	var taken []int
	for _, i := range b.instances {
		taken = append(taken, i.record.GPUs...)
	}
	return taken
}
