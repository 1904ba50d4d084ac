package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"portico/internal/compute"
	"portico/internal/durable"
	"portico/internal/http1"
	"portico/internal/inference"
	"portico/internal/online"
	"portico/workers"
)

// InferConfig is what `portico infer` runs: one instance of a scoring script, behind a listener of its own. Zero
// values take the defaults named in the comments.
type InferConfig struct {
	EntryScript string // scoring script, absolute or relative to AppRoot, else to the working directory
	ConfigFile  string // JSON file of settings that may name the script in its place; config.json beside the code
	AppRoot     string // code folder; the working directory
	ModelDir    string // AZUREML_MODEL_DIR; none. Without a script an MLflow or ONNX model in it is served; may be an .onnx file
	DataDir     string // where ONNX Runtime is installed; needed for ONNX models
	Host        string // 127.0.0.1
	Port        int    // 0 takes a free one
	HealthPort  int    // a second listener with the same routes; 0: none
	WorkerCount int    // processes; 1
	Python      string // interpreter; python3 on PATH
	ReadyFile   string // gets the address once requests are served; none

	MaxConcurrent   int // requests that are admitted, executing or waiting; DefaultInferConcurrent
	Batching        inference.Batching
	RequestTimeout  time.Duration // bound of a request that names no shorter one; DefaultInferTimeout
	MaxRequestBytes int64         // of a body; DefaultInferBytes
	DrainTimeout    time.Duration // for requests under way when it is stopped; DefaultInferDrain

	Reload    bool // take up changed files of the code and the model
	Debug     bool // answers hold the traceback of what run() raised
	AccessLog bool // a line in Output for each request
	Banner    bool // settings and routes in Output before anything else, as the reference server prints them

	// Environment is added to this process's own environment for the workers. PORTICO_* of the latter are left out.
	Environment map[string]online.Secret
	Output      *os.File // what the workers print; standard output

	mlflowModel string     // folder of the MLmodel file; empty: another kind is served
	onnx        *inferONNX // nil: another kind is served
	notes       []string   // what of the model's configuration is not acted on
}

// Defaults of an InferConfig.
const (
	DefaultInferConcurrent = 256
	DefaultInferTimeout    = time.Hour // the reference server's SCORING_TIMEOUT_MS
	DefaultInferBytes      = 100 << 20
	DefaultInferDrain      = 30 * time.Second
)

// InferFailure ends `portico infer`: the instance could not become ready.
type InferFailure struct{ Exit compute.Exit }

// Error gives the reason.
func (e *InferFailure) Error() string { return "the instance cannot serve: " + e.Exit.Reason }

// ExitCode is the status that the process ends with: 3, as the reference server's.
func (e *InferFailure) ExitCode() int { return 3 }

func (c *InferConfig) fill() error {
	if c.AppRoot == "" {
		c.AppRoot = "."
	}
	if err := c.findScript(); err != nil {
		return err
	}
	for _, path := range []*string{&c.AppRoot, &c.ModelDir, &c.ConfigFile} {
		if *path == "" {
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("start inference server: %w", err)
		}
		*path = absolute
	}
	if info, err := os.Stat(c.AppRoot); err != nil || !info.IsDir() {
		return fmt.Errorf("start inference server: the code folder %s does not exist", c.AppRoot)
	}
	if err := c.findModel(); err != nil {
		return err
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

// findScript takes a script that is not in the code folder but in the working directory, as the reference server does.
func (c *InferConfig) findScript() error {
	if c.EntryScript == "" || filepath.IsAbs(c.EntryScript) {
		return nil
	}
	if _, err := os.Stat(filepath.Join(c.AppRoot, c.EntryScript)); err == nil {
		return nil
	}
	if _, err := os.Stat(c.EntryScript); err != nil {
		return nil //nolint:nilerr // the worker says that it does not exist, and where
	}
	absolute, err := filepath.Abs(c.EntryScript)
	if err != nil {
		return fmt.Errorf("start inference server: %w", err)
	}
	c.EntryScript = absolute
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
	defer layBallast()()
	dir, err := inferDir()
	if err != nil {
		return fmt.Errorf("start inference server: make a temporary folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	argv, err := cfg.worker(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(cfg.ModelDir); cfg.ModelDir != "" && err != nil {
		logger.Warn("the model folder cannot be read", "error", err)
	}
	for _, note := range cfg.notes {
		logger.Warn("the model's configuration", "note", note)
	}
	listeners, err := listenInfer(ctx, cfg)
	if err != nil {
		return err
	}
	defer closeAll(listeners) // a second time after the server closed them; then it says so, and nobody needs to know
	if cfg.Banner {
		if err := printBanner(cfg, listeners); err != nil {
			return err
		}
	}
	launcher := newExecLauncher(cfg, argv)
	defer launcher.close()
	if adopts() {
		reaping, end := context.WithCancel(context.WithoutCancel(ctx)) // until the last worker has ended
		var wg sync.WaitGroup
		wg.Go(func() { launcher.reap(reaping) })
		defer wg.Wait()
		defer end()
	}
	g := &generations{cfg: cfg, dir: dir, launcher: launcher, log: logger}
	defer func() { err = errors.Join(err, g.close(ctx)) }()
	pool, err := g.make(ctx)
	g.current.Store(pool)
	if err != nil {
		if ctx.Err() != nil {
			return nil // stopped before it had begun
		}
		return err
	}
	return serveInstance(ctx, cfg, g, listeners, logger)
}

// inferDirMax is how long a folder for temporary files may be, in bytes, so that the paths of sockets below fit.
const inferDirMax = 60

// inferDir makes a folder for sockets, pages and the workers' program, 0700: they are this user's alone.
func inferDir() (string, error) {
	base := os.TempDir()
	if len(base) > inferDirMax {
		base = "/tmp"
	}
	return os.MkdirTemp(base, "portico-infer-")
}

// worker is the command line of a worker process.
func (c *InferConfig) worker(dir string) ([]string, error) {
	if c.onnx != nil {
		return []string{c.onnx.worker}, nil
	}
	runtime, err := workers.Write(filepath.Join(dir, "runtime"))
	return []string{c.Python, runtime}, err
}

// listenInfer opens the listeners: one, or two when health has a port of its own.
func listenInfer(ctx context.Context, cfg InferConfig) ([]net.Listener, error) {
	ports := []int{cfg.Port}
	if cfg.HealthPort != 0 && cfg.HealthPort != cfg.Port {
		ports = append(ports, cfg.HealthPort)
	}
	var listeners []net.Listener
	for _, port := range ports {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(cfg.Host, strconv.Itoa(port)))
		if err != nil {
			closeAll(listeners)
			return nil, fmt.Errorf("start inference server: %w", err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// printBanner tells what is served where, in the words of the reference server.
func printBanner(cfg InferConfig, listeners []net.Listener) error {
	health := listeners[len(listeners)-1].Addr()
	or := func(value string) string {
		if value == "" {
			return "None"
		}
		return value
	}
	_, err := fmt.Fprintf(cfg.Output, "\nPortico inference server %s\n\n"+
		"Server Settings\n---------------\nEntry Script Name: %s\nModel Directory: %s\nConfig File: %s\nWorker Count: %d\n"+
		"Worker Timeout (seconds): %d\nServer Port: %d\nHealth Port: %d\n\n"+
		"Server Routes\n---------------\nLiveness Probe: GET   %s/\nScore:          POST  %s/score\n\n",
		Version, or(cfg.EntryScript), or(cfg.ModelDir), or(cfg.ConfigFile), cfg.WorkerCount,
		int(cfg.RequestTimeout.Seconds()), portOf(listeners[0].Addr()), portOf(health), health, listeners[0].Addr())
	if err != nil {
		return fmt.Errorf("start inference server: print settings: %w", err)
	}
	return nil
}

func portOf(address net.Addr) int {
	if tcp, ok := address.(*net.TCPAddr); ok {
		return tcp.Port
	}
	return 0
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

// serveInstance serves until ctx ends, and drains.
func serveInstance(
	ctx context.Context, cfg InferConfig, g *generations, listeners []net.Listener, logger *slog.Logger,
) (err error) {
	background, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	handler := &inferHandler{
		instance: g, mlflow: cfg.mlflowModel != "", protocol: cfg.onnx != nil, timeout: cfg.RequestTimeout, maxBytes: cfg.MaxRequestBytes,
		log: logger, version: cfg.shownVersion(),
	}
	if cfg.AccessLog {
		logging, stop := context.WithCancel(context.WithoutCancel(ctx)) // it outlives the last request
		defer stop()
		handler.access = &accessLog{out: cfg.Output, pid: os.Getpid()}
		wg.Go(func() { handler.access.run(logging) })
	}
	srv := http1.NewServer(handler, http1.Config{
		BodyTimeout: cfg.RequestTimeout, Log: logger,
		Refusal: func(_ int, message string) (string, []byte) {
			return "application/json", []byte(errorDocument("message", message))
		},
	})
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		wg.Go(func() { failed <- srv.Serve(l, nil) })
	}
	defer func() { // after a drain there is nothing left to do
		cut, stop := context.WithCancel(context.WithoutCancel(ctx))
		stop()
		err = errors.Join(err, srv.Drain(cut))
	}()
	address := listeners[0].Addr().String()
	if cfg.ReadyFile != "" {
		if err := announceInfer(cfg.ReadyFile, address); err != nil {
			return err
		}
	}
	if cfg.Reload {
		wg.Go(func() { g.reload(background) })
	}
	logger.Info("serving", "address", address, "workers", cfg.WorkerCount)
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	logger.Info("draining")
	drain, cancelDrain := context.WithTimeout(context.WithoutCancel(ctx), cfg.DrainTimeout)
	defer cancelDrain()
	if err := srv.Drain(drain); err != nil {
		logger.Warn("requests are cut off", "error", err)
	}
	return nil
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
	if err := durable.Replace(path, append(doc, '\n'), 0o644); err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	return nil
}
