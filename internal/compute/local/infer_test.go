package local_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"portico/internal/compute"
	"portico/internal/inference"
)

// The test binary as a minimal inference server (argument "infer"): one instance on TCP, as it would run in a pod.
// It knows nothing of the engine: it is given a file, listens, answers, and ends when a worker does, leaving a
// message that says why, as containers do.

// inferConfig is the file that it is given.
type inferConfig struct {
	Python, Worker         string
	Workers, MaxConcurrent int
	Timeout                time.Duration
	AddressFile, ExitFile  string
}

func inferMain(path string) int {
	if err := infer(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func infer(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var cfg inferConfig
	if err := json.Unmarshal(text, &cfg); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "infer-")
	if len(dir) > 60 { // too long for sockets
		dir, err = os.MkdirTemp("/tmp", "infer-")
	}
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	pool, err := inference.NewPool(inference.PoolConfig{
		Instance: "infer", Dir: dir, Workers: cfg.Workers, MaxConcurrent: cfg.MaxConcurrent,
	}, &forkLauncher{python: cfg.Python, worker: cfg.Worker}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: inferHandler(pool, cfg.Timeout)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	if err := os.WriteFile(cfg.AddressFile+".new", []byte(listener.Addr().String()), 0o644); err != nil {
		return err
	}
	if err := os.Rename(cfg.AddressFile+".new", cfg.AddressFile); err != nil {
		return err
	}
	exit := firstExit(ctx, pool)
	if exit != nil {
		message, err := json.Marshal(exit)
		if err == nil {
			err = os.WriteFile(cfg.ExitFile, message, 0o644)
		}
		if err != nil {
			return err
		}
	}
	end, cancel := context.WithTimeout(context.Background(), cfg.Timeout)
	defer cancel()
	err = errors.Join(server.Shutdown(end), pool.Close(end))
	serving.Wait()
	return err
}

// firstExit waits for the end of a worker; nil when ctx ended first.
func firstExit(ctx context.Context, pool *inference.Pool) *compute.Exit {
	for ev := range pool.Watch(ctx) {
		if ev.Exit != nil {
			return ev.Exit
		}
	}
	return nil
}

func inferHandler(pool *inference.Pool, timeout time.Duration) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		if pool.Status().State != inference.StateReady {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("POST /score", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		answer, err := pool.Do(r.Context(), &inference.Call{
			ID: uuid.NewString(), Method: "POST", Path: "/score", Body: body, Deadline: time.Now().Add(timeout),
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		w.WriteHeader(answer.Status)
		_, _ = io.Copy(w, answer.Body)
	})
	return mux
}

// forkLauncher starts workers as children of this process, with its output.
type forkLauncher struct{ python, worker string }

func (l *forkLauncher) Launch(_ context.Context, spec inference.WorkerSpec) (inference.Process, error) {
	_ = os.Remove(spec.Socket)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: spec.Socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	defer listener.Close()
	socket, err := listener.File()
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	if err := os.WriteFile(spec.Page+".new", make([]byte, inference.PageSize), 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(spec.Page+".new", spec.Page); err != nil {
		return nil, err
	}
	page, err := os.OpenFile(spec.Page, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer page.Close()
	cmd := exec.Command(l.python, l.worker)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdout, os.Stderr, []*os.File{socket, page}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, started: time.Now(), done: make(chan struct{})}
	go c.wait()
	return c, nil
}

// child is a worker of the minimal inference server.
type child struct {
	cmd     *exec.Cmd
	started time.Time
	done    chan struct{}
	exit    compute.Exit
}

func (c *child) wait() {
	_ = c.cmd.Wait() // how it ended is in the state
	c.exit = compute.Exit{Code: c.cmd.ProcessState.ExitCode(), At: time.Now()}
	if status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		c.exit.Signal = status.Signal().String()
	}
	close(c.done)
}

func (c *child) PID() int              { return c.cmd.Process.Pid }
func (c *child) Started() time.Time    { return c.started }
func (c *child) Done() <-chan struct{} { return c.done }
func (c *child) Exit() compute.Exit    { return c.exit }

func (c *child) Signal(_ context.Context, sig syscall.Signal) error {
	err := c.cmd.Process.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// files of an instance in its scratch directory.
func addressFile(scratch string) string { return filepath.Join(scratch, "address") }
func exitFile(scratch string) string    { return filepath.Join(scratch, "exit") }
