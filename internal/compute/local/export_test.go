package local

import (
	"context"
	"log/slog"

	"portico/internal/compute"
	"portico/internal/inference"
)

// What the tests outside the package need to put another kind of instance into the engine.

// Body is what runs one instance.
type Body = body

// OpenWith is New with instances whose body make makes. processes launches the host's processes of the instance.
func OpenWith(ctx context.Context, cfg Config, log *slog.Logger, make func(t compute.Template, instance string, processes inference.Launcher) (Body, error)) (*Backend, error) {
	return open(ctx, cfg, log, func(b *Backend, i *instance) (body, error) {
		return make(i.set.record.Template, i.record.ID, i.launcher)
	})
}
