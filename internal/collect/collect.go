package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"portico/internal/arm"
	"portico/internal/artifact"
	"portico/internal/online"
	"portico/internal/route"
	"portico/internal/telemetry"
)

// Bounds of data collection.
const (
	// MaxEventBytes is the largest event that a worker may send.
	MaxEventBytes = 8 << 20
	// MaxLineBytes is the most data that stands in a line; more lies in a blob beside (Azure's 4 MB).
	MaxLineBytes = 4 << 20
	// DefaultQueueBytes bounds what waits to be written, of all deployments; one may hold half of it.
	DefaultQueueBytes = 64 << 20
	maxQueued         = 8192 // captures that wait to be written
	syncPeriod        = 5 * time.Second
	complaintPeriod   = time.Minute // between two lines in the log about what cannot be written
)

// Blobs is where lines go: *artifact.Ledger.
type Blobs interface {
	Append(name string, line []byte) error
	Create(name string, content []byte) error
	Sync() error
}

// Recorder counts events.
type Recorder interface {
	Collected(telemetry.Collected)
}

// Config of a Collector.
type Config struct {
	Blobs      Blobs
	Recorder   Recorder
	Key        []byte // makes the credentials of instances
	QueueBytes int64
	Now        func() time.Time
	Logger     *slog.Logger
}

// Collector writes collected data. It is safe for concurrent use; Close ends it.
type Collector struct {
	cfg     Config
	targets atomic.Pointer[map[string]*target] // by UID of the deployment
	ready   chan struct{}                      // closed when targets are known
	first   sync.Once

	held  atomic.Int64 // bytes that wait to be written
	queue chan *telemetry.Capture
	end   chan struct{}
	done  sync.WaitGroup

	mu         sync.Mutex
	complained time.Time
}

// target is a deployment that collects something. Its count of bytes outlives the table.
type target struct {
	endpoint, deployment string
	source               string // the deployment's ARM id
	collector            *online.DataCollector
	held                 *atomic.Int64
}

// New makes a collector and starts it.
func New(cfg Config) *Collector {
	if cfg.QueueBytes <= 0 {
		cfg.QueueBytes = DefaultQueueBytes
	}
	c := &Collector{cfg: cfg, ready: make(chan struct{}), queue: make(chan *telemetry.Capture, maxQueued), end: make(chan struct{})}
	c.targets.Store(&map[string]*target{})
	c.done.Go(c.write)
	c.done.Go(c.sync)
	return c
}

// SetTable takes over which deployments collect what.
func (c *Collector) SetTable(t *route.Table) {
	old, next := *c.targets.Load(), map[string]*target{}
	for _, e := range t.Endpoints() {
		for _, d := range e.Deployments {
			if len(d.Collector.Enabled()) == 0 {
				continue
			}
			one := &target{endpoint: e.Name, deployment: d.Name, source: arm.FormatID(d.ID), collector: d.Collector, held: new(atomic.Int64)}
			if before := old[d.UID]; before != nil {
				one.held = before.held
			}
			next[d.UID] = one
		}
	}
	c.targets.Store(&next)
	c.first.Do(func() { close(c.ready) })
}

// Close writes what waits and ends. Nothing may be offered any more.
func (c *Collector) Close() error {
	close(c.end)
	c.done.Wait()
	return c.cfg.Blobs.Sync()
}

// take claims room for bytes that are to be written; give returns it.
func (c *Collector) take(t *target, n int64) bool {
	if t.held.Add(n) > c.cfg.QueueBytes/2 {
		t.held.Add(-n)
		return false
	}
	if c.held.Add(n) > c.cfg.QueueBytes {
		c.give(t, n)
		return false
	}
	return true
}

func (c *Collector) give(t *target, n int64) {
	t.held.Add(-n)
	c.held.Add(-n)
}

// count tells the recorder what became of an event.
func (c *Collector) count(t *target, instance, collection, reason string) {
	c.cfg.Recorder.Collected(telemetry.Collected{Endpoint: t.endpoint, Deployment: t.deployment, Instance: instance,
		Collection: collection, Reason: reason})
}

// cached stands for the instance of an answer that the gateway gave again, without any.
const cached = "cached"

// keep writes an event of an instance to a collection, and counts it. The error tells the sender.
func (c *Collector) keep(t *target, one *online.Collection, instance string, e *event) error {
	now := c.cfg.Now()
	if instance == "" {
		instance = cached
	}
	folder := path.Join(one.Blobs, t.collector.Folder(now))
	e.SpecVersion, e.Source, e.Type = "1.0", t.source, typePrefix+one.Name
	if beside := e.place(); beside != nil {
		name := path.Join(folder, instance, e.ID)
		if err := c.cfg.Blobs.Create(name, beside); err != nil {
			return c.lost(t, one, instance, err)
		}
		_, inside, _ := strings.Cut(name, "/") // the container stands for the workspace's datastore
		e.DataRef, e.DataInBlob = "azureml://datastores/workspaceblobstore/paths/"+inside, "true"
	}
	line, err := e.line()
	if err == nil {
		err = c.cfg.Blobs.Append(path.Join(folder, instance+".jsonl"), line)
	}
	if err != nil {
		return c.lost(t, one, instance, err)
	}
	c.count(t, instance, one.Name, "")
	return nil
}

// lost counts an event that could not be written, and says so in the log now and then.
func (c *Collector) lost(t *target, one *online.Collection, instance string, err error) error {
	reason := telemetry.UncollectedWrite
	if errors.Is(err, artifact.ErrFull) {
		reason = telemetry.UncollectedStorage
	}
	c.count(t, instance, one.Name, reason)
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.cfg.Now(); now.Sub(c.complained) >= complaintPeriod {
		c.complained = now
		c.cfg.Logger.Error("collected data cannot be written", "endpoint", t.endpoint, "deployment", t.deployment,
			"collection", one.Name, "error", err)
	}
	return fmt.Errorf("write an event of %s: %w", one.Name, err)
}

// sync brings what was written to the disk in time.
func (c *Collector) sync() {
	tick := time.NewTicker(syncPeriod)
	defer tick.Stop()
	for {
		select {
		case <-c.end:
			return
		case <-tick.C:
			if err := c.cfg.Blobs.Sync(); err != nil {
				c.cfg.Logger.Error("collected data cannot be brought to the disk", "error", err)
			}
		}
	}
}

// awaitTargets waits for the first table: a worker may send before the server has read its records.
func (c *Collector) awaitTargets(ctx context.Context) bool {
	select {
	case <-c.ready:
		return true
	case <-ctx.Done():
		return false
	}
}

// find gives a deployment that collects something, or nil.
func (c *Collector) find(uid string) *target { return (*c.targets.Load())[uid] }
