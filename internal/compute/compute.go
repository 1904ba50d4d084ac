package compute

import (
	"context"
	"errors"
	"io"
	"time"

	"portico/internal/online"
)

// What a Backend answers besides plain failures.
var (
	ErrNotFound  = errors.New("no such set or instance")
	ErrImmutable = errors.New("a set's template cannot change") // Ensure with another Template under a known id
	ErrCapacity  = errors.New("no capacity")                    // wraps the arithmetic in its message
)

// Template is everything that an instance can see. Two templates with equal Digest are the same.
type Template struct {
	Set          string // id of the set: unique for ever, [a-z0-9-], at most 63 characters
	Generation   int64
	Digest       string
	Endpoint     string
	Deployment   string
	DeploymentID online.ID
	UID          string // of the deployment
	Type         online.InstanceType

	Python        string // interpreter of the environment, absolute path
	EnvironmentID string // content id of the environment, for grouping
	CodeDir       string // AML_APP_ROOT; read-only
	ScoringScript string // AZUREML_ENTRY_SCRIPT, relative to CodeDir
	ModelDir      string // AZUREML_MODEL_DIR; empty without a model; read-only
	ModelDigest   string
	// MLflowModel is the folder with the MLmodel file, absolute and inside ModelDir, when the instance serves an
	// MLflow model; CodeDir and ScoringScript are empty then.
	MLflowModel string
	// ONNX is the model that the instance serves without Python; then there is no interpreter either. Nil: another kind.
	ONNX *ONNXModel
	// Headerless refuses scripts that read the header of requests.
	Headerless bool
	Variables  map[string]online.Secret
	// Server is set when the instance is a server that somebody else wrote, in place of workers; Python and CodeDir may
	// be empty then.
	Server *Server

	Workers        int // processes of one instance (WORKER_COUNT)
	MaxConcurrent  int // requests that the instance admits
	RequestTimeout time.Duration
	Batching       *online.Batching // nil: requests are scored one by one
	Liveness       online.Probe
	Readiness      online.Probe
	Startup        *online.Probe
}

// Server says how a server that somebody else wrote is started and asked.
type Server struct {
	Command []string // words with placeholders, see online.ExpandCommand; may be empty with an Image
	// Image is what the server runs in; nil: the machine's programs.
	Image  *Image
	Routes online.InferenceConfig
	// ModelMount is where the model appears, where the engine can show it at another path than its own.
	ModelMount string
}

// Image is the file system that a server runs in, in place of the machine's, with what its image says of it.
type Image struct {
	Tree       string // absolute; read-only
	Command    []string
	Env        []string // "NAME=value"; the deployment's variables come over them
	Dir        string   // working directory inside
	Home       string
	UID, GID   int // who the server believes to be
	StopSignal int // number of the signal that ends it; 0: SIGTERM
}

// ONNXModel is a model for ONNX Runtime.
type ONNXModel struct {
	File          string // absolute and inside the template's ModelDir
	Name, Version string // by which callers of the Open Inference Protocol name it
	Declared      string // what its configuration says of inputs and outputs, as JSON; empty: nothing
}

// Instance is one running (or waiting) copy of a template.
type Instance struct {
	ID       string // unique for ever
	Set      string
	State    online.InstanceState
	Address  string // how to reach it, when the engine's instances listen on TCP: host:port; empty for local ones
	Restarts int    // of its processes since it was created
	Started  time.Time
	Ready    time.Time // when it last became ready
	Exit     *Exit     // how its newest process that died ended
}

// Exit says how a process ended, in words for the person who deployed it.
type Exit struct {
	Code   int    // exit status; -1 when a signal ended it
	Signal string // "killed", "segmentation fault", ...
	Reason string // one sentence: "init raised ValueError: no such column", "killed by the system: out of memory"
	Tail   string // the last lines of its output
	At     time.Time
	// Permanent says that starting again cannot help: the script is missing, or has no run.
	Permanent bool
	// InInit says that it died before init returned.
	InInit bool
}

// Set is a set as the engine sees it.
type Set struct {
	ID         string
	Generation int64
	UID        string
	Deployment online.ID
	Digest     string
	Count      int // asked for
	Instances  []Instance
}

// ReadyCount is how many instances may be called.
func (s *Set) ReadyCount() int {
	n := 0
	for i := range s.Instances {
		if s.Instances[i].State == online.InstanceReady {
			n++
		}
	}
	return n
}

// Event is one observation. A stream begins with the sets that exist, then one event with Synced, then
// changes. Events may repeat and may be late, but the newest of a set wins by Sequence.
type Event struct {
	Synced   bool
	Sequence int64 // grows per set
	Set      Set
	Gone     bool // the set no longer exists
}

// LogQuery asks for the output of a deployment's instances.
type LogQuery struct {
	UID      string // of the deployment
	Instance string // one instance; empty: all of them, merged in order of time
	Tail     int    // last lines; 0: all that is kept
}

// Capacity is what the engine has and what is asked of it.
type Capacity struct {
	CPUs, MemoryMiB, GPUs             int
	UsedCPUs, UsedMemoryMiB, UsedGPUs int // sum of the instance types in force
}

// Backend is an engine. All methods are idempotent and safe for concurrent use; none waits for instances to
// become ready: progress is seen through Watch.
type Backend interface {
	// Ensure makes the set have count instances. When it shrinks, victims are drained first, then the newest.
	Ensure(ctx context.Context, t Template, count int, victims []string) error
	// Delete drains every instance (at most the request timeout plus a grace) and forgets the set.
	Delete(ctx context.Context, set string) error
	// Watch sends what exists, Synced, then changes, until ctx ends.
	Watch(ctx context.Context) (<-chan Event, error)
	// Logs gives lines of text; the reader must be closed.
	Logs(ctx context.Context, q LogQuery) (io.ReadCloser, error)
	Capacity(ctx context.Context) (Capacity, error)
}
