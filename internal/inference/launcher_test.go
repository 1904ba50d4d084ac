package inference

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"portico/internal/compute"
	"portico/internal/testkit"
	"portico/workers"
)

// processes is a Launcher of real Python workers that outlive the pools of a test.
type processes struct {
	t       testing.TB
	runtime string
	code    string
	env     []string

	mu       sync.Mutex
	running  map[string]*process
	launches int
	broken   error // what Launch answers instead
}

type process struct {
	cmd     *exec.Cmd
	started time.Time
	done    chan struct{}
	exit    compute.Exit
	output  *testkit.Buffer
	taken   atomic.Bool // its exit was given to somebody
}

// newProcesses lays out a scoring script. Every process is ended with the test.
func newProcesses(t testing.TB, script string, env ...string) *processes {
	t.Helper()
	runtime, err := workers.Write(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	code := t.TempDir()
	if err := os.WriteFile(filepath.Join(code, "score.py"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	l := &processes{t: t, runtime: runtime, code: code, env: env, running: make(map[string]*process)}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, p := range l.running {
			_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
			<-p.done
		}
	})
	return l
}

func (l *processes) Launch(_ context.Context, spec WorkerSpec) (Process, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return nil, l.broken
	}
	if p := l.running[spec.ID]; p != nil && (!stopped(p.done) || !p.taken.Load()) {
		return p, nil
	}
	l.launches++
	p, err := l.start(spec)
	if err != nil {
		return nil, err
	}
	l.running[spec.ID] = p
	return p, nil
}

func (l *processes) start(spec WorkerSpec) (*process, error) {
	if err := errors.Join(remove(spec.Socket), remove(spec.Page)); err != nil {
		return nil, err
	}
	if err := os.WriteFile(spec.Page, make([]byte, PageSize), 0o600); err != nil {
		return nil, err
	}
	page, err := os.OpenFile(spec.Page, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer page.Close()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: spec.Socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	ln.SetUnlinkOnClose(false)
	socket, err := ln.File()
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	p := &process{done: make(chan struct{}), output: &testkit.Buffer{}, started: time.Now()}
	p.cmd = exec.Command(python(l.t), filepath.Clean(l.runtime))
	p.cmd.Env = append([]string{"AML_APP_ROOT=" + l.code, "AZUREML_ENTRY_SCRIPT=score.py", "PATH=/usr/bin:/bin"}, l.env...)
	p.cmd.ExtraFiles = []*os.File{socket, page}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // the state says more than the error
		status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
		p.exit = compute.Exit{Code: status.ExitStatus(), At: time.Now(), Tail: p.output.String()}
		if status.Signaled() {
			p.exit.Signal = status.Signal().String()
		}
		close(p.done)
	}()
	return p, nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (p *process) PID() int              { return p.cmd.Process.Pid }
func (p *process) Started() time.Time    { return p.started }
func (p *process) Done() <-chan struct{} { return p.done }

func (p *process) Exit() compute.Exit {
	p.taken.Store(true)
	return p.exit
}

func (p *process) Signal(_ context.Context, sig syscall.Signal) error {
	if stopped(p.done) {
		return nil
	}
	pid := p.PID()
	if sig == syscall.SIGKILL {
		pid = -pid
	}
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

func (l *processes) process(id string) *process {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running[id]
}

var python = func() func(testing.TB) string {
	path := sync.OnceValues(func() (string, error) {
		out, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
		return strings.TrimSpace(string(out)), err
	})
	return func(t testing.TB) string {
		t.Helper()
		p, err := path()
		if err != nil {
			t.Fatalf("python3 is needed: %v", err)
		}
		return p
	}
}()

// newPool makes a pool that is closed with the test.
func newPool(t testing.TB, l Launcher, cfg PoolConfig) *Pool {
	t.Helper()
	if cfg.Instance == "" {
		cfg.Instance = "i"
	}
	if cfg.Dir == "" {
		cfg.Dir = shortDir(t)
	}
	cfg.Workers, cfg.MaxConcurrent = max(cfg.Workers, 1), max(cfg.MaxConcurrent, 1)
	if cfg.RestartWait == 0 { // a machine under load takes long to start a process
		cfg.RestartWait = callTimeout
	}
	p, err := NewPool(cfg, l, slog.New(slog.NewTextHandler(testLog{t}, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return p
}

// shortDir is a temporary directory whose path leaves room for a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pool")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// waitState waits until the instance is in the state.
func waitState(t testing.TB, p *Pool, want State) Status {
	t.Helper()
	return waitStatus(t, p, want.String(), func(s Status) bool { return s.State == want })
}

func waitStatus(t testing.TB, p *Pool, what string, ok func(Status) bool) Status {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if s := p.Status(); ok(s) {
			return s
		}
	}
	t.Fatalf("never %s; it is %+v", what, p.Status())
	return Status{}
}

// callTimeout is for calls that must succeed.
const callTimeout = 60 * time.Second

func newCall(body string, timeout time.Duration) *Call {
	return &Call{
		ID: "0b9c5a1e-7f3e-4a37-9d3b-0123456789ab", Method: "POST", Path: "/score", Body: []byte(body),
		Header:   []Field{{Name: "content-type", Value: "application/json"}},
		Deadline: time.Now().Add(timeout),
	}
}

// score makes a call and gives status and body.
func score(ctx context.Context, u Upstream, body string, timeout time.Duration) (int, string, error) {
	answer, err := u.Do(ctx, newCall(body, timeout))
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(answer.Body); err != nil {
		return answer.Status, b.String(), fmt.Errorf("read: %w", err)
	}
	return answer.Status, b.String(), nil
}

func discardLog() *slog.Logger { return slog.New(slog.DiscardHandler) }
