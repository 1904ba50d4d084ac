package local

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"portico/internal/compute"
	"portico/internal/host"
	"portico/internal/online"
)

// Sealer encrypts what lies on disk. purpose is bound to the text: opening under another purpose fails.
type Sealer interface {
	Seal(purpose string, clear []byte) ([]byte, error)
	Open(purpose string, sealed []byte) ([]byte, error)
}

// Overcommit says whether instance types may add up to more than the machine has.
type Overcommit string

// The policies. GPUs are never overcommitted under either.
const (
	OvercommitAllow  Overcommit = "allow"  // types are ceilings: instances share what there is
	OvercommitStrict Overcommit = "strict" // types are reservations: what does not fit is refused
)

// Defaults and bounds of a Config.
const (
	DefaultMaxInstances = 500              // instances of all sets together, draining ones included
	DefaultKeepEnded    = 24 * time.Hour   // how long the output of an ended instance is kept
	DefaultKeepPerUID   = 20               // ended instances kept of one deployment, newest first
	DefaultHangTimeout  = 30 * time.Second // see Config.HangTimeout
	DefaultStopGrace    = 5 * time.Second  // see Config.StopGrace
	DefaultLogFileBytes = 8 << 20          // one file of a worker's output
	DefaultLogFiles     = 4                // files of output kept for each worker
)

// Config is what an engine is made from. Zero values take the defaults named above.
type Config struct {
	// Host is the supervisor; Host.DataDir is the engine's data directory too. One is started when none runs.
	Host host.Config
	// Runtime is the Python worker: the path that workers.Write gave.
	Runtime string
	// ONNX finds what ONNX models are served with: the worker program and the library. It is asked at each start of a
	// worker. Nil: there are no such models.
	ONNX func() (worker, library string, err error)
	// Variables gives more variables of a template's workers, asked for at each start of one; a person's own win. Nil:
	// none. It must not call the engine.
	Variables func(ctx context.Context, t *compute.Template, instance string) (map[string]online.Secret, error)
	// Sealer seals the variables of deployments, which are kept so that a worker can be restarted before
	// anybody has called Ensure.
	Sealer Sealer

	Overcommit   Overcommit // empty: OvercommitAllow
	Machine      Machine    // what there is to share; zero: what DiscoverMachine finds
	MaxInstances int

	HangTimeout time.Duration // how long a canceled request may go on before its worker is killed
	StopGrace   time.Duration // from SIGTERM to SIGKILL of a worker that is stopped

	NoForks bool // every worker is a new interpreter
	Spares  int  // forks that wait for a start, for each fork server; 0: none, at most host.MaxSpares

	KeepEnded    time.Duration // how long the output of an instance is kept after its end
	KeepPerUID   int           // how many ended instances of one deployment are kept, whatever their age
	LogFileBytes int64         // a worker's output is rotated at this size
	LogFiles     int           // files of output kept for each worker
}

func (c *Config) complete() error {
	if c.Host.DataDir == "" || c.Runtime == "" || c.Sealer == nil {
		return errors.New("a data directory, the worker's directory and a sealer are needed")
	}
	var err error
	if c.Host.DataDir, err = filepath.Abs(c.Host.DataDir); err != nil {
		return fmt.Errorf("resolve data directory: %w", err)
	}
	switch c.Overcommit {
	case "":
		c.Overcommit = OvercommitAllow
	case OvercommitAllow, OvercommitStrict:
	default:
		return fmt.Errorf("overcommit %.40q is not one of %s, %s", c.Overcommit, OvercommitAllow, OvercommitStrict)
	}
	if c.Spares < 0 || c.Spares > host.MaxSpares {
		return fmt.Errorf("%d spares: use 0 to %d", c.Spares, host.MaxSpares)
	}
	setDefault(&c.MaxInstances, DefaultMaxInstances)
	setDefault(&c.HangTimeout, DefaultHangTimeout)
	setDefault(&c.StopGrace, DefaultStopGrace)
	setDefault(&c.KeepEnded, DefaultKeepEnded)
	setDefault(&c.KeepPerUID, DefaultKeepPerUID)
	setDefault(&c.LogFileBytes, DefaultLogFileBytes)
	setDefault(&c.LogFiles, DefaultLogFiles)
	if c.Machine == (Machine{}) {
		if c.Machine, err = DiscoverMachine(); err != nil {
			return err
		}
	}
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
