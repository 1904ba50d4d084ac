package local

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"portico/internal/compute"
	"portico/internal/inference"
	"portico/internal/online"
)

// body is what runs one instance and answers its calls: *inference.Pool, or *inference.Server.
type body interface {
	inference.Upstream
	Watch(ctx context.Context) <-chan inference.Event
	Drain(ctx context.Context) error
	Close(ctx context.Context) error
	Detach()
}

// instance is one copy of a set's template. Its goroutine is keep; the fields that change are guarded by
// Backend.mu.
type instance struct {
	set      *set
	body     body
	launcher *launcher
	leave    chan struct{} // closed when it is to drain and end

	record instanceRecord
	state  online.InstanceState
}

func (i *instance) show() compute.Instance {
	r := &i.record
	return compute.Instance{
		ID: r.ID, Set: r.Set, State: i.state, Restarts: r.restarts(), Started: r.Started, Ready: r.Ready, Exit: r.Exit,
	}
}

// shown is the state that people see of an instance whose pool is in a state.
func shown(s inference.State) online.InstanceState {
	switch s {
	case inference.StateStarting, inference.StateInitRunning:
		return online.InstanceStarting
	case inference.StateReady:
		return online.InstanceReady
	case inference.StateUnready:
		return online.InstanceUnready
	case inference.StateFailed, inference.StateClosed:
		return online.InstanceStopped
	case inference.StateDraining:
		return online.InstanceDraining
	default: // StateBackOff
		return online.InstancePending
	}
}

// instanceSuffixBytes is the randomness that makes the ids of instances unique for ever.
const instanceSuffixBytes = 5

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func newInstanceID(set string) string {
	var b [instanceSuffixBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	return set + "-" + idEncoding.EncodeToString(b[:])
}

// socketNameBytes of an instance's digest name its directory of sockets: a socket's path must be short.
const socketNameBytes = 10

// socketDir is the directory of an instance's sockets and status pages.
func (b *Backend) socketDir(instance string) string {
	digest := sha256.Sum256([]byte(instance))
	return filepath.Join(b.sockets, idEncoding.EncodeToString(digest[:socketNameBytes]))
}

// newBody is the body of an instance of this engine.
func (b *Backend) newBody(i *instance) (body, error) {
	if i.set.record.Template.Server != nil {
		return b.newServer(i), nil
	}
	return b.newPool(i)
}

// newPool is the body of an instance of our own workers.
func (b *Backend) newPool(i *instance) (body, error) {
	dir := b.socketDir(i.record.ID)
	if err := os.MkdirAll(dir, dirPrivate); err != nil {
		return nil, fmt.Errorf("make directory of sockets: %w", err)
	}
	t := &i.set.record.Template
	var batching inference.Batching
	if t.Batching != nil {
		batching = inference.Batching(*t.Batching)
	}
	return inference.NewPool(inference.PoolConfig{
		Instance: i.record.ID, Dir: dir, Workers: t.Workers, MaxConcurrent: t.MaxConcurrent,
		Batching:    batching,
		HangTimeout: b.cfg.HangTimeout, StopGrace: b.cfg.StopGrace, BackOff: restartBackOff, KillTurn: i.set.killTurn,
	}, i.launcher, b.log.With("set", i.record.Set))
}

// restartBackOff is the wait before a worker that ended is started again: none, 0.5 s, 1 s, 2 s ... 60 s. One that
// was ready for a minute begins anew.
var restartBackOff = inference.BackOff{First: 500 * time.Millisecond, Max: time.Minute, Reset: time.Minute}

// drainMargin is added to the request timeout when an instance drains: the time that a late answer needs to pass.
const drainMargin = time.Second

// keep follows an instance until it has ended or the engine lets go of it.
func (b *Backend) keep(ctx context.Context, i *instance) {
	events := i.body.Watch(ctx)
	starts := newStartWatch(&i.set.record.Template, i.launcher.current)
	defer starts.stop()
	for {
		select {
		case ev, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			b.observe(i, ev)
			starts.observe(ev)
		case <-starts.late():
			starts.endLate(ctx)
		case <-i.leave:
			b.retire(ctx, i)
			return
		case <-ctx.Done():
			b.letGo(i)
			return
		}
	}
}

// current is the process of a worker.
func (l *launcher) current(worker int) *process { return l.b.link.current(l.workerID(worker)) }

// observe takes in what the pool says.
func (b *Backend) observe(i *instance, ev inference.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i.record.Draining {
		return
	}
	r, st := i.record, ev.Status
	i.state = shown(st.State)
	if ev.Exit != nil {
		i.record.Exit = ev.Exit
	}
	if i.state == online.InstanceReady && !st.Ready.IsZero() {
		i.record.Ready = st.Ready
	}
	if i.record.Exit != r.Exit || !i.record.Ready.Equal(r.Ready) {
		b.save(i)
	}
	b.publish(i.set)
}

// save writes an instance's record. What cannot be written is lost only if the server dies before the next save
// succeeds; the instance itself does not suffer. The caller holds mu.
func (b *Backend) save(i *instance) {
	if err := b.files.putInstance(&i.record); err != nil {
		b.log.Error("an instance's record was not written", "instance", i.record.ID, "error", err)
	}
}

// worker gives the counts of one worker.
func (b *Backend) worker(instance string, index int) workerRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := b.instances[instance]; i != nil {
		return i.record.Workers[index]
	}
	return workerRecord{}
}

// started notes that a worker was started. The exits of earlier starts have been told: a pool starts nothing
// before it has taken note of the end of what was there.
func (b *Backend) started(instance string, index, start int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.instances[instance]
	if i == nil {
		return
	}
	w := &i.record.Workers[index]
	if w.Stopped && start > w.Starts {
		w.Stopped, w.Resumed = false, w.Resumed+1
	}
	w.Starts, w.Told = start, start-1
	if i.record.Started.IsZero() {
		i.record.Started = time.Now()
	}
	b.save(i)
	b.publish(i.set)
}

// exited notes an exit that no pool can tell.
func (b *Backend) exited(instance string, exit compute.Exit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := b.instances[instance]; i != nil {
		i.record.Exit = &exit
		b.save(i)
		b.publish(i.set)
	}
}

// retire drains an instance that is shown as Draining already, ends it and forgets it, but for its output.
func (b *Backend) retire(ctx context.Context, i *instance) {
	limit, cancel := context.WithTimeout(ctx, i.set.record.Template.RequestTimeout+drainMargin)
	err := i.body.Drain(limit)
	cancel()
	if ctx.Err() != nil {
		b.letGo(i)
		return // the next engine finds it draining
	}
	if err != nil {
		b.log.Warn("an instance is ended with requests left", "instance", i.record.ID, "error", err)
	}
	if err := i.body.Close(b.life); err != nil {
		b.log.Error("an instance did not end", "instance", i.record.ID, "error", err)
	}
	b.forgetWorkers(b.life, i)
	b.ended(i)
}

// letGo leaves an instance to the next engine, or to Stop.
func (b *Backend) letGo(i *instance) {
	if b.life.Err() != nil {
		i.body.Detach()
	}
}

// stop ends an instance's processes and keeps the instance: the next engine starts it again.
func (b *Backend) stop(ctx context.Context, i *instance) error {
	limit, cancel := context.WithTimeout(ctx, i.set.record.Template.RequestTimeout+drainMargin)
	defer cancel()
	if err := i.body.Drain(limit); err != nil {
		b.log.Warn("an instance is ended with requests left", "instance", i.record.ID, "error", err)
	}
	err := i.body.Close(ctx)
	if err != nil {
		err = fmt.Errorf("end instance %s: %w", i.record.ID, err)
	}
	b.forgetWorkers(b.life, i)
	// Made again when the instance is started again; a directory of data that is given up leaves nothing elsewhere.
	if err := os.RemoveAll(b.socketDir(i.record.ID)); err != nil {
		b.log.Warn("a directory of sockets was not removed", "instance", i.record.ID, "error", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for w := range i.record.Workers {
		i.record.Workers[w].Stopped = true
	}
	b.save(i)
	return err
}

func (b *Backend) forgetWorkers(ctx context.Context, i *instance) {
	for w := range i.record.Workers {
		if p := i.launcher.current(w); p != nil {
			// A pool that was closed before it had taken up a running worker does not know of it.
			if err := p.end(ctx, b.cfg.StopGrace); err != nil {
				b.log.Error("a process did not end", "process", p.id, "error", err)
			}
		}
		b.link.forget(ctx, i.launcher.workerID(w))
		if err := os.RemoveAll(i.launcher.scratch(w)); err != nil {
			b.log.Warn("a scratch directory was not removed", "instance", i.record.ID, "error", err)
		}
	}
	if err := os.RemoveAll(b.socketDir(i.record.ID)); err != nil {
		b.log.Warn("a directory of sockets was not removed", "instance", i.record.ID, "error", err)
	}
}

// ended notes the end of an instance and, when it was the last one of a set that is being deleted, the set's.
func (b *Backend) ended(i *instance) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i.record.Ended = time.Now()
	b.save(i)
	delete(b.instances, i.record.ID)
	b.upstreams.Delete(i.record.ID)
	i.set.drop(i)
	record := i.record
	b.past[record.ID] = &record
	b.removeExpired(time.Now())
	if !b.finishSet(i.set) {
		b.publish(i.set)
	}
}

// workerID is how the pool names a worker's process.
func (l *launcher) workerID(index int) string { return fmt.Sprintf("%s-w%d", l.instance, index) }

// startWatch ends processes whose init takes longer than the probes allow.
type startWatch struct {
	budget  time.Duration
	reason  string
	timer   *time.Timer
	current func(worker int) *process
	waiting map[int]bool // workers whose init has not returned
}

func newStartWatch(t *compute.Template, current func(worker int) *process) *startWatch {
	probe, name := t.Liveness, "liveness"
	if t.Startup != nil {
		probe, name = *t.Startup, "startup"
	}
	if probe == (online.Probe{}) {
		probe = online.DefaultProbe()
	}
	w := &startWatch{budget: startBudget(probe), timer: time.NewTimer(0), current: current, waiting: map[int]bool{}}
	w.timer.Stop()
	w.reason = fmt.Sprintf("init did not return within %s, which is what the %s probe allows "+
		"(initial delay %s, then %d failures %s apart)",
		w.budget, name, probe.InitialDelay, probe.FailureThreshold, probe.Period)
	return w
}

// startBudget is how long a process may take until init has returned: the first probe that counts comes after the
// initial delay, and so many of them, one period apart, must fail. A probe cannot succeed before init has returned.
func startBudget(p online.Probe) time.Duration {
	return p.InitialDelay + time.Duration(p.FailureThreshold)*p.Period
}

func (w *startWatch) stop() { w.timer.Stop() }

func (w *startWatch) late() <-chan time.Time { return w.timer.C }

// observe notes which processes are starting.
func (w *startWatch) observe(ev inference.Event) {
	for index, worker := range ev.Status.Workers {
		w.waiting[index] = worker.State == inference.StateStarting || worker.State == inference.StateInitRunning
	}
	w.rearm()
}

// left is how long a worker's init may still take. One that has no process yet has all of it.
func (w *startWatch) left(worker int) (time.Duration, *process) {
	p := w.current(worker)
	if p == nil || p.hasEnded() {
		return w.budget, nil
	}
	return w.budget - time.Since(p.since), p
}

// rearm sets the timer to the first worker that will be late.
func (w *startWatch) rearm() {
	w.timer.Stop()
	first := time.Duration(-1)
	for index, waits := range w.waiting {
		if !waits {
			continue
		}
		if left, _ := w.left(index); first < 0 || left < first {
			first = max(left, 0)
		}
	}
	if first >= 0 {
		w.timer.Reset(first)
	}
}

// endLate ends the processes that are late.
func (w *startWatch) endLate(ctx context.Context) {
	for index, waits := range w.waiting {
		if left, p := w.left(index); waits && left <= 0 && p != nil {
			// Whatever comes of it, the pool's next event says whether this worker is waited for again.
			w.waiting[index] = false
			if err := p.condemn(ctx, w.reason); err != nil && ctx.Err() == nil {
				w.waiting[index] = true
			}
		}
	}
	w.rearm()
}
