package inference

import (
	"context"
	"time"

	"portico/internal/compute"
)

// State is the life of a worker, and of the instance that its workers make.
type State uint8

// The states in their usual order. An instance becomes Ready when every worker has been ready at the same time,
// and stays so while at least one is; it is Unready from then on only while none is.
const (
	StateStarting    State = iota // the process was asked for, or the interpreter starts and imports
	StateInitRunning              // init() runs
	StateReady                    // may be called
	StateUnready                  // was ready before; no worker answers, one is being brought back
	StateBackOff                  // waits before it is started again
	StateFailed                   // ended, and starting again cannot help: see Exit
	StateDraining                 // takes no more calls, finishes what it has
	StateClosed                   // gone, or let go of
)

var stateNames = [...]string{"Starting", "InitRunning", "Ready", "Unready", "BackOff", "Failed", "Draining", "Closed"}

// String gives the state's name.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "State?"
}

// Status is an instance as it is at one moment.
type Status struct {
	State     State
	Since     time.Time     // when State was entered
	Started   time.Time     // when the newest process began
	Ready     time.Time     // when the instance last became ready; zero before that
	Restarts  int           // processes that were started again since the pool was made
	Exit      *compute.Exit // how the newest process that died ended; nil while none has
	Executing int           // requests that workers execute, or were handed
	Waiting   int           // requests that wait for a worker
	Workers   []WorkerStatus
}

// WorkerStatus is one worker of an instance.
type WorkerStatus struct {
	State    State
	Since    time.Time // when State was entered; a running init shows its progress by this
	PID      int
	Restarts int
	Finished uint64        // requests that the running process has finished
	Busy     time.Duration // time that the running process has spent on them
	Exit     *compute.Exit
}

// Event is one change. Status is the whole instance right after it.
type Event struct {
	Worker int           // which worker changed
	State  State         // the worker's state
	Exit   *compute.Exit // set when a process of this worker has ended
	Status Status
}

// set notes a worker's new state, or an exit, and tells everyone who watches.
func (w *worker) set(state State, exit *compute.Exit) {
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	w.setLocked(state, exit)
}

func (w *worker) setLocked(state State, exit *compute.Exit) {
	if w.state == state && exit == nil && !w.since.IsZero() {
		return
	}
	if w.state != state {
		w.state, w.since = state, time.Now()
	}
	if exit != nil {
		w.exit = exit
	}
	w.pool.judge()
	w.pool.tell(Event{Worker: w.spec.Index, State: state, Exit: exit})
}

// judge works out the instance's state from its workers'. The caller holds mu.
func (p *Pool) judge() {
	ready := p.countReady()
	state := StateReady
	switch {
	case p.ending != goingOn:
		state = StateClosed
	case p.draining:
		state = StateDraining
	case ready == len(p.workers), ready > 0 && p.everReady:
	default:
		state = p.missing()
	}
	if state == StateReady && p.state != StateReady {
		p.everReady, p.ready = true, time.Now()
	}
	if p.state != state {
		p.state, p.since = state, time.Now()
	}
}

// missing says what keeps the instance from being ready. The caller holds mu.
func (p *Pool) missing() State {
	var seen [StateClosed + 1]bool
	for _, w := range p.workers {
		seen[w.state] = true
	}
	coming := seen[StateStarting] || seen[StateInitRunning]
	switch {
	case seen[StateFailed]:
		return StateFailed
	case seen[StateBackOff]:
		return StateBackOff
	case p.everReady && coming:
		return StateUnready
	case seen[StateStarting]:
		return StateStarting
	}
	return StateInitRunning
}

// Status gives the instance as it is.
func (p *Pool) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status()
}

func (p *Pool) status() Status {
	s := Status{
		State: p.state, Since: p.since, Ready: p.ready, Waiting: p.waiters.length,
		Workers: make([]WorkerStatus, len(p.workers)),
	}
	for i, w := range p.workers {
		ws := WorkerStatus{State: w.state, Since: w.since, Restarts: w.restarts, Exit: w.exit}
		if w.inc != nil {
			ws.PID, ws.Finished, ws.Busy = w.inc.proc.PID(), w.inc.page.finished(), w.inc.page.busy()
			if started := w.inc.proc.Started(); started.After(s.Started) {
				s.Started = started
			}
			s.Executing += w.inc.executing()
		}
		if w.exit != nil && (s.Exit == nil || w.exit.At.After(s.Exit.At)) {
			s.Exit = w.exit
		}
		s.Restarts += w.restarts
		s.Workers[i] = ws
	}
	return s
}

// watchBacklog is how many events may wait for one receiver of Watch.
const watchBacklog = 256

// watcher is one receiver of events.
type watcher struct {
	pending []Event       // guarded by the pool's mu
	closed  bool          // likewise: nothing follows
	wake    chan struct{} // capacity 1
}

// Watch sends the present state of every worker, then every change, until ctx ends or the pool is closed and its
// end was told; then the channel is closed. When the receiver is more than a few hundred events late, older ones are
// dropped, those that tell of an exit last.
func (p *Pool) Watch(ctx context.Context) <-chan Event {
	w := &watcher{wake: make(chan struct{}, 1)}
	out := make(chan Event)
	p.mu.Lock()
	status := p.status()
	for _, one := range p.workers {
		// With the newest exit: a process may have ended between the making of the pool and this call.
		w.pending = append(w.pending, Event{Worker: one.spec.Index, State: one.state, Exit: one.exit, Status: status})
	}
	if w.closed = p.gone; !w.closed {
		p.watchers[w] = struct{}{}
	}
	p.mu.Unlock()
	w.wake <- struct{}{}
	go p.forward(ctx, w, out) // ends with ctx, or when the last event was received
	return out
}

func (p *Pool) forward(ctx context.Context, w *watcher, out chan<- Event) {
	defer close(out)
	defer func() {
		p.mu.Lock()
		delete(p.watchers, w)
		p.mu.Unlock()
	}()
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		}
		p.mu.Lock()
		events, closed := w.pending, w.closed
		w.pending = nil
		p.mu.Unlock()
		for _, event := range events {
			select {
			case out <- event:
			case <-ctx.Done():
				return
			}
		}
		if closed {
			return
		}
	}
}

// tell sends the event to everyone who watches. The caller holds mu.
func (p *Pool) tell(event Event) {
	if len(p.watchers) == 0 {
		return
	}
	event.Status = p.status()
	for w := range p.watchers {
		if len(w.pending) >= watchBacklog {
			w.shed()
		}
		w.pending = append(w.pending, event)
		w.nudge()
	}
}

// shed drops the oldest event that tells of no exit, or the oldest.
func (w *watcher) shed() {
	drop := 0
	for i, event := range w.pending {
		if event.Exit == nil {
			drop = i
			break
		}
	}
	w.pending = append(w.pending[:drop], w.pending[drop+1:]...)
}

func (w *watcher) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// closeWatchers lets every receiver have what it is owed and then end. The caller holds mu.
func (p *Pool) closeWatchers() {
	p.gone = true
	for w := range p.watchers {
		w.closed = true
		w.nudge()
	}
}
