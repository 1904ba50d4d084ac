package server

import (
	"context"
	"log/slog"
)

// Version is set by the linker.
var Version = "dev"

// Serve runs `portico serve` until ctx ends: management API, loops and gateway over one data directory. It
// returns after everything it started has stopped.
func Serve(ctx context.Context, cfg Config, values []Value, logger *slog.Logger) error {
	return nil
}

// RunHost runs `portico host` over a data directory until ctx ends.
func RunHost(ctx context.Context, cfg Config, logger *slog.Logger) error {
	return nil
}

// Backup writes everything a server keeps in dataDir to one new file, while the server runs or not.
func Backup(ctx context.Context, cfg Config, file string, logger *slog.Logger) error { return nil }

// Restore makes dataDir, which must be empty or absent, from a backup file.
func Restore(ctx context.Context, cfg Config, file string, logger *slog.Logger) error { return nil }
