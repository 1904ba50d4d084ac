package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"portico/internal/compute"
	"portico/internal/inference"
	"portico/internal/online"
	"portico/workers"
)

// InferConfig is what `portico infer` runs: one instance of a scoring script, behind a listener of its own. Zero
// values take the defaults named in the comments.
type InferConfig struct {
	EntryScript string // scoring script, relative to AppRoot; required
	AppRoot     string // code folder; the working directory
	ModelDir    string // AZUREML_MODEL_DIR of the workers; none
	Host        string // 127.0.0.1
	Port        int    // 0 takes a free one
	WorkerCount int    // processes; 1
	Python      string // interpreter; python3 on PATH
	ReadyFile   string // gets the address once requests are served; none

	MaxConcurrent   int           // requests that are admitted, executing or waiting; DefaultInferConcurrent
	RequestTimeout  time.Duration // bound of a request that names no shorter one; DefaultInferTimeout
	MaxRequestBytes int64         // of a body; DefaultInferBytes
	DrainTimeout    time.Duration // for requests under way when it is stopped; DefaultInferDrain

	// Environment is added to this process's own environment for the workers. PORTICO_* of the latter are left out.
	Environment map[string]online.Secret
	Output      *os.File // what the workers print; standard output
}

// Defaults of an InferConfig.
const (
	DefaultInferConcurrent = 256
	DefaultInferTimeout    = time.Hour // the reference server's SCORING_TIMEOUT_MS
	DefaultInferBytes      = 100 << 20
	DefaultInferDrain      = 30 * time.Second
)

// Bounds of the listener.
const (
	inferHeaderTimeout = 10 * time.Second
	inferIdleTimeout   = 2 * time.Minute // longer than inference.HTTPUpstream keeps an idle connection
	inferHeaderBytes   = 64 << 10
)

// InferFailure ends `portico infer`: the instance could not become ready.
type InferFailure struct{ Exit compute.Exit }

// Error gives the reason.
func (e *InferFailure) Error() string { return "the instance cannot serve: " + e.Exit.Reason }

// ExitCode is the status that the process ends with: 3, as the reference server's.
func (e *InferFailure) ExitCode() int { return 3 }

func (c *InferConfig) fill() error {
	if c.EntryScript == "" {
		return errors.New("start inference server: an entry script is required")
	}
	if c.AppRoot == "" {
		c.AppRoot = "."
	}
	for _, path := range []*string{&c.AppRoot, &c.ModelDir} {
		if *path == "" {
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("start inference server: %w", err)
		}
		*path = absolute
	}
	orElse(&c.Host, "127.0.0.1")
	orElse(&c.Python, "python3")
	orElse(&c.WorkerCount, 1)
	orElse(&c.MaxConcurrent, DefaultInferConcurrent)
	orElse(&c.RequestTimeout, DefaultInferTimeout)
	orElse(&c.MaxRequestBytes, DefaultInferBytes)
	orElse(&c.DrainTimeout, DefaultInferDrain)
	orElse(&c.Output, os.Stdout)
	return nil
}

func orElse[T comparable](value *T, fallback T) {
	var zero T
	if *value == zero {
		*value = fallback
	}
}

// RunInfer serves one instance until ctx ends, then drains it: no new connections, requests under way finish within
// DrainTimeout, workers end. An instance whose init fails before it was ever ready is an *InferFailure.
func RunInfer(ctx context.Context, cfg InferConfig, logger *slog.Logger) (err error) {
	if err := cfg.fill(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "portico-infer-") // 0700: sockets and pages are this user's alone
	if err != nil {
		return fmt.Errorf("start inference server: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	runtime, err := workers.Write(filepath.Join(dir, "runtime"))
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(cfg.Host, strconv.Itoa(cfg.Port)))
	if err != nil {
		return fmt.Errorf("start inference server: %w", err)
	}
	defer listener.Close() // a second time after the server closed it; then it says so, and nobody needs to know
	launcher := newExecLauncher(cfg, runtime)
	defer launcher.close()
	pool, err := inference.NewPool(inference.PoolConfig{
		Instance: "infer", Dir: dir, Workers: cfg.WorkerCount, MaxConcurrent: cfg.MaxConcurrent,
	}, launcher, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Close(context.WithoutCancel(ctx))) }()
	if err := awaitReady(ctx, pool); err != nil {
		if ctx.Err() != nil {
			return nil // stopped before it had begun
		}
		return err
	}
	return serveInstance(ctx, cfg, pool, listener, logger)
}

// awaitReady waits until every worker is ready. A process that ends before that is the script's fault.
func awaitReady(ctx context.Context, pool *inference.Pool) error {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	for event := range pool.Watch(watching) {
		if event.Exit != nil {
			return &InferFailure{Exit: *event.Exit}
		}
		if event.Status.State == inference.StateReady {
			return nil
		}
	}
	return ctx.Err()
}

func serveInstance(
	ctx context.Context, cfg InferConfig, pool *inference.Pool, listener net.Listener, logger *slog.Logger,
) error {
	handler := &inferHandler{pool: pool, timeout: cfg.RequestTimeout, maxBytes: cfg.MaxRequestBytes, log: logger}
	srv := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: inferHeaderTimeout,
		IdleTimeout:       inferIdleTimeout,
		MaxHeaderBytes:    inferHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	address := listener.Addr().String()
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }() // received below, always
	if cfg.ReadyFile != "" {
		if err := announceInfer(cfg.ReadyFile, address); err != nil {
			return errors.Join(err, srv.Close(), ignoreClosed(<-failed))
		}
	}
	logger.Info("serving", "address", address, "workers", cfg.WorkerCount)
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	logger.Info("draining")
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.DrainTimeout)
	defer cancel()
	err := srv.Shutdown(drain)
	if err != nil {
		logger.Warn("requests are cut off", "error", err)
		err = srv.Close()
	}
	return errors.Join(err, ignoreClosed(<-failed))
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// announceInfer tells whoever started this where requests are served.
func announceInfer(path, address string) error {
	doc, err := json.Marshal(struct {
		PID        int    `json:"pid"`
		Address    string `json:"address"`
		ScoringURL string `json:"scoring_url"`
	}{os.Getpid(), address, "http://" + address + "/score"})
	if err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	if err := writeFile(path, append(doc, '\n'), 0o644); err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	return nil
}
