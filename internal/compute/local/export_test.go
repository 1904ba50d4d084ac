package local

import (
	"context"
	"log/slog"
	"time"

	"portico/internal/compute"
	"portico/internal/host"
	"portico/internal/inference"
)

// What the tests outside the package need to put another kind of instance into the engine.

// Body is what runs one instance.
type Body = body

// Instance is what a Body is made for.
type Instance struct {
	ID       string
	Template compute.Template
	Launcher inference.Launcher
	Scratch  string // the place to write of its first process; emptied before each start
}

// OpenWith is New with other instances: newBody makes them, and describe changes what the host starts for them.
func OpenWith(
	ctx context.Context, cfg Config, log *slog.Logger,
	describe func(Instance, *host.ProcessSpec) error, newBody func(Instance) (Body, error),
) (*Backend, error) {
	return open(ctx, cfg, log, func(_ *Backend, i *instance) (body, error) {
		l := i.launcher
		seen := Instance{ID: i.record.ID, Template: i.set.record.Template, Launcher: l, Scratch: l.scratch(0)}
		l.describe = func(spec inference.WorkerSpec, start int) (host.ProcessSpec, error) {
			p, err := l.processSpec(spec, start)
			if err == nil {
				err = describe(seen, &p)
			}
			return p, err
		}
		return newBody(seen)
	})
}

// PruneForks does what housekeeping does to fork servers, as if it were now.
func (b *Backend) PruneForks(now time.Time) { b.forks.prune(now, b.wantedForks()) }
