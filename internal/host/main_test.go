package host

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"portico/internal/online"
)

// The test binary is also the supervisor (argument "host"), the stage, and the programs that are supervised
// (argument "child").
func TestMain(m *testing.M) {
	if Stage() {
		return
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "host":
			os.Exit(hostMain(os.Args[2:]))
		case "child":
			os.Exit(childMain(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

func hostMain(args []string) int {
	fs := flag.NewFlagSet("host", flag.ExitOnError)
	var cfg Config
	fs.StringVar(&cfg.DataDir, "data-dir", "", "")
	fs.DurationVar(&cfg.OrphanTimeout, "orphan-timeout", 0, "")
	fs.DurationVar(&cfg.Grace, "grace", 0, "")
	ids := fs.String("user-ids", "60000-64999", "")
	_ = fs.Parse(args)
	var err error
	if cfg.UserFirst, cfg.UserLast, err = ParseUserIDs(*ids); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := Run(context.Background(), cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

const testTimeout = 90 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// rig is a data directory with a supervisor that ends with the test.
type rig struct {
	t   *testing.T
	ctx context.Context
	cfg Config
	*Client
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, ctx: testContext(t), cfg: Config{DataDir: t.TempDir(), Grace: 5 * time.Second}}
	r.attach()
	return r
}

// attach connects a client, starting a supervisor when there is none, and ends that after the test.
func (r *rig) attach() {
	r.t.Helper()
	c, err := EnsureRunning(r.ctx, r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.Client = c
	r.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
		defer cancel()
		if err := c.Shutdown(ctx, 0); err != nil && !errors.Is(err, ErrNotRunning) {
			r.t.Errorf("shutdown: %v", err)
		}
		_ = c.Close()
		if dir, err := SocketDir(r.cfg.DataDir); err == nil && filepath.Base(dir) != "run" {
			_ = os.RemoveAll(dir) // a killed supervisor leaves it outside the data directory
		}
		if r.t.Failed() {
			text, _ := os.ReadFile(filepath.Join(stateDir(r.cfg.DataDir), "host.log"))
			r.t.Logf("host.log:\n%s", text)
			logs, _ := filepath.Glob(filepath.Join(r.cfg.DataDir, "log", "*server*", "*"))
			for _, l := range logs {
				text, _ := os.ReadFile(l)
				r.t.Logf("%s:\n%s", l, text)
			}
		}
	})
}

// shell is a specification of a shell script that runs as the host's own user.
func (r *rig) shell(id, script string) ProcessSpec {
	return ProcessSpec{
		ID: id, Argv: []string{"/bin/sh", "-c", script}, User: UserOwn,
		Env: map[string]online.Secret{"PATH": "/usr/bin:/bin"},
		Log: LogSpec{Dir: filepath.Join(r.cfg.DataDir, "log", id)},
	}
}

// child is a specification of a part of this test binary.
func (r *rig) child(id string, args ...string) ProcessSpec {
	exe, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	s := r.shell(id, "")
	s.Argv = append([]string{exe, "child"}, args...)
	s.View = []View{{Path: exe}}
	return s
}

func (r *rig) start(spec ProcessSpec) Process {
	r.t.Helper()
	p, err := r.Start(r.ctx, spec)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// exit waits for the exit of a process.
func (r *rig) exit(id string) Exit {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	events, err := r.Watch(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	for ev := range events {
		if ev.Process.ID == id && !ev.Process.Running() {
			return *ev.Process.Exit
		}
	}
	r.t.Fatalf("no exit of %s was told", id)
	return Exit{}
}

// run starts a process and waits for its exit.
func (r *rig) run(spec ProcessSpec) Exit {
	r.t.Helper()
	r.start(spec)
	return r.exit(spec.ID)
}

// output is everything that is logged in a directory.
func (r *rig) output(id string) string {
	return readLog(r.t, filepath.Join(r.cfg.DataDir, "log", id), 0)
}

func alive(pid int) bool { return startTime(pid) != 0 }

func readLog(t *testing.T, dir string, tail int) string {
	t.Helper()
	f, err := ReadLog(dir, tail)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
