package local_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"portico/internal/compute"
	"portico/internal/server"
)

// The test binary as `portico infer` in a container (argument "infer"): one instance on TCP that knows nothing of the
// engine. When a worker ends, the whole server does, and leaves a message that says why, as containers do.

// inferConfig is the file that it is given.
type inferConfig struct {
	Server   server.InferConfig
	ExitFile string
}

// The files of an instance in its scratch directory.
func readyFile(scratch string) string { return filepath.Join(scratch, "ready.json") }
func exitFile(scratch string) string  { return filepath.Join(scratch, "exit.json") }

func inferMain(path string) int {
	var cfg inferConfig
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	deaths := &deathHandler{end: stop}
	err = server.RunInfer(ctx, cfg.Server, slog.New(deaths))
	exit := deaths.exit.Load()
	var failure *server.InferFailure
	if errors.As(err, &failure) {
		exit = &failure.Exit
	}
	if exit != nil {
		message, encoding := json.Marshal(exit)
		if err := errors.Join(encoding, os.WriteFile(cfg.ExitFile, message, 0o644)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// deathHandler reads the server's log: it ends a server that serves when the log tells of the end of a worker. One
// that does not serve yet ends by itself.
type deathHandler struct {
	end     context.CancelFunc
	serving atomic.Bool
	exit    atomic.Pointer[compute.Exit]
}

// Enabled implements slog.Handler.
func (*deathHandler) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements slog.Handler.
func (d *deathHandler) WithAttrs([]slog.Attr) slog.Handler { return d }

// WithGroup implements slog.Handler.
func (d *deathHandler) WithGroup(string) slog.Handler { return d }

// Handle implements slog.Handler.
func (d *deathHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "serving" {
		d.serving.Store(true)
	}
	if r.Message != "a worker ended" || !d.serving.Load() {
		return nil
	}
	exit := &compute.Exit{At: time.Now()}
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "code":
			exit.Code = int(a.Value.Int64())
		case "signal":
			exit.Signal = a.Value.String()
		case "reason":
			exit.Reason = a.Value.String()
		}
		return true
	})
	d.exit.CompareAndSwap(nil, exit)
	d.end()
	return nil
}
