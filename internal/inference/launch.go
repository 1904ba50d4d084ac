package inference

import (
	"context"
	"syscall"
	"time"

	"portico/internal/compute"
)

// WorkerSpec names one worker process of an instance. The pool fills it in; a Launcher adds everything else
// (interpreter, environment, limits), which the pool need not know.
type WorkerSpec struct {
	ID     string // unique on this machine and the same after a restart of the server: "<instance>-w<index>"
	Index  int    // 0 .. Workers-1
	Socket string // path at which the worker must be reachable: fd 3 of the process is a listener bound to it
	Page   string // path of its status page: fd 4 of the process
}

// VariableMLflow is the environment variable that makes a worker serve the MLflow model in the folder that it names,
// in place of a scoring script.
const VariableMLflow = "PORTICO_MLFLOW_MODEL"

// VariableHeaderless makes a worker, when it is set, refuse a script that reads the header of requests: its answers are given again
// to requests whose headers nobody compares.
const VariableHeaderless = "PORTICO_HEADERLESS"

// Environment variables by which a worker of ONNX models learns what it serves and with what.
const (
	VariableONNXLibrary = "PORTICO_ONNX_LIBRARY" // file of ONNX Runtime
	VariableONNXModel   = "PORTICO_ONNX_MODEL"   // file of the model
	VariableONNXName    = "PORTICO_ONNX_NAME"    // of the model, for callers
	VariableONNXVersion = "PORTICO_ONNX_VERSION" // likewise
	// VariableONNXDeclared holds what the configuration of a model repository says of inputs and outputs, as JSON.
	VariableONNXDeclared = "PORTICO_ONNX_DECLARED"
)

// Launcher starts worker processes. It is safe for concurrent use.
type Launcher interface {
	// Launch starts the worker, or gives the one that runs already under spec.ID. For a new process it makes
	// a fresh listener at spec.Socket and a fresh file (a new inode) of PageSize zero bytes at spec.Page
	// before the process starts; for one that runs it leaves both as they are. An exit that nobody has taken
	// note of yet counts as running: Launch gives that Process, whose Done is closed, and the next Launch
	// starts anew. Ending ctx ends the waiting, never a process.
	Launch(ctx context.Context, spec WorkerSpec) (Process, error)
}

// Process is a worker process that was launched. It is safe for concurrent use.
type Process interface {
	// PID is for messages; 0 when it is not known.
	PID() int
	// Started is when the process began.
	Started() time.Time
	// Signal sends sig to the process. SIGKILL reaches its whole group, so that nothing of it is left. Signalling
	// a process that has ended is no error.
	Signal(ctx context.Context, sig syscall.Signal) error
	// Done is closed when the process has ended and Exit is known.
	Done() <-chan struct{}
	// Exit says how it ended, in the launcher's words: Code, Signal, Tail, At, and Reason where the engine
	// knows more than the signal (out of memory). The pool adds what the status page says. Valid after Done.
	Exit() compute.Exit
}
