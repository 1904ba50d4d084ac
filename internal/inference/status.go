package inference

import (
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
