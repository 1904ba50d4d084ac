package local_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"portico/internal/compute"
	"portico/internal/compute/computetest"
	"portico/internal/compute/local"
	"portico/internal/host"
	"portico/internal/inference"
	"portico/internal/vault"
	"portico/workers"
)

// The test binary is also the supervisor (argument "host"), its stage, and an inference server (argument "infer").
func TestMain(m *testing.M) {
	if host.Stage() {
		return
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "host":
			os.Exit(hostMain(os.Args[2:]))
		case "infer":
			os.Exit(inferMain(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

func hostMain(args []string) int {
	flags := flag.NewFlagSet("host", flag.ExitOnError)
	cfg := host.Config{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flags.StringVar(&cfg.DataDir, "data-dir", "", "")
	flags.DurationVar(&cfg.OrphanTimeout, "orphan-timeout", 0, "")
	flags.DurationVar(&cfg.Grace, "grace", 0, "")
	users := flags.String("user-ids", "", "")
	err := flags.Parse(args)
	if err == nil && *users != "" {
		cfg.UserFirst, cfg.UserLast, err = host.ParseUserIDs(*users)
	}
	if err == nil {
		err = host.Run(context.Background(), cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// python is the real interpreter behind python3: what is first on PATH may be a script.
var python = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	return strings.TrimSpace(string(out)), err
})

const testTimeout = 90 * time.Second

// lab is a data directory with a host.
type lab struct {
	cfg     local.Config
	python  string
	open    func(t *testing.T, l *lab) *local.Backend
	journal *journal
	log     *slog.Logger
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	interpreter, err := python()
	if err != nil {
		t.Fatalf("find Python: %v", err)
	}
	runtime, err := workers.Write(filepath.Join(dir, "runtime"))
	if err != nil {
		t.Fatalf("write the worker: %v", err)
	}
	keys, err := vault.OpenOrCreate(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatalf("open the vault: %v", err)
	}
	l := &lab{
		journal: &journal{},
		cfg:     local.Config{Host: host.Config{DataDir: dir, Grace: time.Second}, Runtime: runtime, Sealer: keys},
		python:  interpreter,
	}
	l.log = slog.New(slog.NewTextHandler(l.journal, nil))
	l.open = func(t *testing.T, l *lab) *local.Backend {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		b, err := local.New(ctx, l.cfg, l.log)
		if err != nil {
			t.Fatalf("open the engine: %v", err)
		}
		return b
	}
	t.Cleanup(func() {
		l.end(t)
		if t.Failed() {
			t.Logf("the engine's log:\n%s", l.journal.String())
			text, _ := os.ReadFile(filepath.Join(dir, "host", "host.log"))
			t.Logf("the host's log:\n%s", text)
		}
	})
	return l
}

// journal keeps what an engine logs.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// end ends the host with everything and looks whether a process is left.
func (l *lab) end(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	client, err := host.Dial(ctx, l.cfg.Host.DataDir)
	if err == nil {
		err = client.Shutdown(ctx, 0)
		client.Close()
	}
	if err != nil && !errors.Is(err, host.ErrNotRunning) {
		t.Errorf("shut the host down: %v", err)
	}
	if sockets, err := host.SocketDir(l.cfg.Host.DataDir); err != nil || os.RemoveAll(sockets) != nil {
		t.Errorf("remove the directory of sockets, which may lie elsewhere: %v", err)
	}
	// The host's client hears of its end a moment before the process is gone.
	deadline := time.Now().Add(testTimeout)
	for {
		left := processesOf(l.cfg.Host.DataDir)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left behind: %q", left)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// processesOf gives the command lines that name the directory, but for this process's own. Where there is no /proc
// it gives none.
func processesOf(dir string) []string {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var out []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err == nil && pid != os.Getpid() && bytes.Contains(text, []byte(dir)) {
			out = append(out, string(bytes.ReplaceAll(text, []byte{0}, []byte{' '})))
		}
	}
	return out
}

// Python implements computetest.Lab.
func (l *lab) Python() string { return l.python }

// Open implements computetest.Lab.
func (l *lab) Open(t *testing.T) computetest.Engine { return engine{l.open(t, l)} }

// Kill implements computetest.Lab.
func (l *lab) Kill(t *testing.T, instance string) {
	t.Helper()
	for _, p := range l.processes(t) {
		if p.Labels["instance"] == instance && p.Running() {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Fatalf("kill %d: %v", p.PID, err)
			}
			return
		}
	}
	t.Fatalf("no process of %s runs", instance)
}

// processes lists what the host has.
func (l *lab) processes(t *testing.T) []host.Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	client, err := host.Dial(ctx, l.cfg.Host.DataDir)
	if err != nil {
		t.Fatalf("reach the host: %v", err)
	}
	defer client.Close()
	all, err := client.List(ctx)
	if err != nil {
		t.Fatalf("list processes: %v", err)
	}
	return slices.DeleteFunc(all, func(p host.Process) bool { return p.Labels["kind"] == "fork-server" })
}

// engine calls instances through their pools, as the gateway does.
type engine struct{ *local.Backend }

// Call implements computetest.Engine.
func (e engine) Call(ctx context.Context, i compute.Instance, body []byte) (int, []byte, error) {
	u, ok := e.Upstream(i.ID)
	if !ok {
		return 0, nil, compute.ErrNotFound
	}
	return call(ctx, u, body)
}

func call(ctx context.Context, u inference.Upstream, body []byte) (int, []byte, error) {
	answer, err := u.Do(ctx, &inference.Call{
		ID: uuid.NewString(), Method: "POST", Path: "/score", Body: body, Deadline: time.Now().Add(testTimeout),
		Header: []inference.Field{{Name: "Content-Type", Value: "application/json"}},
	})
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer.Status, text, err
}

func TestLocal(t *testing.T) {
	computetest.Run(t, func(t *testing.T) computetest.Lab { return newLab(t) })
}
