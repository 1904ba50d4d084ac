package environment

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"portico/internal/online"
	"portico/internal/testkit"
)

// run starts the environment's Python and gives what it prints.
func run(t *testing.T, python string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(within(t), python, args...)
	cmd.Env = []string{"LC_ALL=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", python, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestBuildWithPip(t *testing.T) {
	spied := &spy{}
	b := newBuilder(t, func(c *Config) {
		c.Runner = spied
		old := c.Getenv
		c.Getenv = func(n string) (string, bool) {
			if n == "AWS_SECRET_ACCESS_KEY" || n == "PORTICO_TOKEN" {
				return "leaked", true
			}
			return old(n)
		}
	})
	t.Setenv("PORTICO_LEAK", "leaked")
	conda := "name: one\nchannels: [conda-forge]\ndependencies:\n  - python>=3.9\n  - pip:\n    - uses-tiny\n"
	var progress testkit.Buffer
	env, err := b.Ensure(within(t), online.EnvironmentSpec{CondaFile: conda}, &progress)
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, env.Python, "-c", "import tiny, uses_tiny; print(tiny.VERSION, uses_tiny.VERSION)"); got != "1.0 0.5" {
		t.Errorf("the environment has %q", got)
	}
	if got := run(t, env.Python, "-c", "import sys; print(sys.prefix)"); got != env.Dir || env.Dir != env.Prefixes[0] {
		t.Errorf("sys.prefix %q, Dir %q, Prefixes %q", got, env.Dir, env.Prefixes)
	}
	base := run(t, env.Python, "-c", "import sys; print(sys.base_prefix)")
	if !slices.Contains(env.Prefixes, base) {
		t.Errorf("the base %q is not among %q", base, env.Prefixes)
	}
	lock, err := os.ReadFile(env.LockFile)
	if err != nil || !strings.Contains(string(lock), "\ntiny==1.0\nuses-tiny==0.5\n") {
		t.Errorf("lock file %q, %v", lock, err)
	}
	for _, stage := range []string{"venv: making", "install: ", "Successfully installed", "verify: ", "is ready: Python " + env.Version} {
		if !strings.Contains(progress.String(), stage) {
			t.Errorf("progress lacks %q:\n%s", stage, progress.String())
		}
	}
	if strings.Contains(progress.String(), b.cfg.Dir) {
		t.Errorf("progress shows a path of the server:\n%s", progress.String())
	}
	checkSealed(t, env.Dir)
	for _, c := range spied.seen {
		for _, kv := range c.Env {
			if strings.Contains(kv, "leaked") {
				t.Errorf("step %s saw %s", c.Name, kv)
			}
		}
		if !slices.ContainsFunc(c.Visible, func(p string) bool { return p == python(t).Prefixes[0] }) {
			t.Errorf("step %s does not show the base interpreter: %q", c.Name, c.Visible)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(b.cfg.Dir, workDir)); len(left) != 0 {
		t.Errorf("left in the work directory: %v", left)
	}

	// The same content in other words is the same environment, and nothing runs for it.
	before := len(spied.seen)
	other := "dependencies: [{pip: [ uses-tiny ]}, python>=3.9]\nname: two # another name\nchannels: [defaults]\n"
	again, err := b.Ensure(within(t), online.EnvironmentSpec{CondaFile: other}, nil)
	if err != nil || again.ID != env.ID || len(spied.seen) != before {
		t.Errorf("again: %s, %v, %d more commands; want %s", again.ID, err, len(spied.seen)-before, env.ID)
	}
	// So it is for a builder that starts later.
	b2, err := New(b.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer b2.Close()
	if again, err = b2.Ensure(within(t), online.EnvironmentSpec{CondaFile: conda}, nil); err != nil || again.Python != env.Python || len(spied.seen) != before {
		t.Errorf("after a restart: %+v, %v", again, err)
	}
	d, err := b2.Describe(env.ID)
	if err != nil || !slices.Equal(d.Packages, []string{"tiny==1.0", "uses-tiny==0.5"}) || d.Tool != "pip" || d.Bytes == 0 {
		t.Errorf("description %+v, %v", d, err)
	}
}

// checkSealed fails for whatever somebody could change or not read.
func checkSealed(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() == fs.ModeSymlink {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if p := info.Mode().Perm(); p&0o222 != 0 || p&0o444 != 0o444 || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != os.Getuid() {
			t.Errorf("%s belongs to %d", path, st.Uid)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestBuildWithUv(t *testing.T) {
	uv := findTool("", []string{"uv"}, os.LookupEnv)
	if uv == "" {
		t.Skip("uv is not on PATH")
	}
	b := newBuilder(t, func(c *Config) { c.Uv = uv })
	env, err := b.Ensure(within(t), online.EnvironmentSpec{Requirements: "tiny>1\n"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, env.Python, "-c", "import tiny; tiny.say()"); got != "tiny 2.0" {
		t.Errorf("the environment says %q", got)
	}
	if got := run(t, filepath.Join(env.Dir, "bin", "tiny-say")); got != "tiny 2.0" {
		t.Errorf("the script says %q", got)
	}
	checkSealed(t, env.Dir)
	_, err = b.Ensure(within(t), online.EnvironmentSpec{Requirements: "tiny==9"}, nil)
	if !online.IsCode(err, online.CodeImageBuildFailure) || !strings.Contains(err.Error(), "tiny==9") {
		t.Errorf("got %v", err)
	}
}

func TestEmptyEnvironmentAndScripts(t *testing.T) {
	b := newBuilder(t, nil)
	env, err := b.Ensure(within(t), online.EnvironmentSpec{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, env.Python, "-c", "import sys; print(sys.version_info >= (3, 9), sys.prefix)"); got != "True "+env.Dir {
		t.Errorf("got %q", got)
	}
	// Scripts name their interpreter by full path; it must be the one of the finished environment.
	env, err = b.Ensure(within(t), online.EnvironmentSpec{Requirements: "tiny==2.0"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, filepath.Join(env.Dir, "bin", "tiny-say")); got != "tiny 2.0" {
		t.Errorf("the script says %q", got)
	}
}

func TestUnresolvable(t *testing.T) {
	links := wheels(t)
	b := newBuilder(t, func(c *Config) {
		c.Getenv = getenv(links, map[string]string{"PIP_EXTRA_INDEX_URL": "http://user:hunter2@127.0.0.1:1/simple"})
	})
	var progress testkit.Buffer
	spec := online.EnvironmentSpec{CondaFile: "dependencies:\n - python=3.2\n - pip: [tiny==9.9, uses-tiny]\n"}
	_, err := b.Ensure(within(t), spec, &progress)
	if !online.IsCode(err, online.CodeImageBuildFailure) {
		t.Fatalf("got %v, want ImageBuildFailure", err)
	}
	for _, want := range []string{"tiny==9.9", "No matching distribution", "Python 3.2 was asked for", "installing the packages failed"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
	if all := err.Error() + progress.String(); strings.Contains(all, "hunter2") || strings.Contains(all, b.cfg.Dir) ||
		strings.Contains(all, links) {
		t.Errorf("a secret or a path is shown:\n%s", all)
	}
	id, err := b.Key(within(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(b.cfg.Dir, id)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something is left of the failed build: %v", err)
	}
}

func TestConcurrentCallersShareOneBuild(t *testing.T) {
	release := make(chan struct{})
	spied := &spy{before: func(ctx context.Context, c Command) error {
		if c.Name == "install" {
			select {
			case <-release:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}}
	b := newBuilder(t, func(c *Config) { c.Runner = spied })
	const callers = 16
	ctx := within(t)
	var wg sync.WaitGroup
	ids, logs := make([]string, callers), make([]testkit.Buffer, callers)
	for i := range callers {
		wg.Go(func() {
			env, err := b.Ensure(ctx, online.EnvironmentSpec{Requirements: "tiny"}, &logs[i])
			if err != nil {
				t.Error(err)
			}
			ids[i] = env.ID
		})
	}
	// One who gives up does not end it for the others.
	short, cancel := context.WithCancel(ctx)
	gone := make(chan error, 1)
	go func() {
		_, err := b.Ensure(short, online.EnvironmentSpec{Requirements: "tiny"}, nil)
		gone <- err
	}()
	id, err := b.Key(ctx, online.EnvironmentSpec{Requirements: "tiny"})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Until(t, "all wait for one build", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.flights[id] != nil && b.flights[id].waiters == callers+1
	})
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who gave up got %v", err)
	}
	close(release)
	wg.Wait()
	if n := len(spied.steps("install")); n != 1 {
		t.Errorf("%d builds", n)
	}
	for i := range callers {
		if ids[i] != id || !strings.Contains(logs[i].String(), "is ready") || !strings.Contains(logs[i].String(), "venv: making") {
			t.Errorf("caller %d: id %q, log:\n%s", i, ids[i], logs[i].String())
		}
	}
}

func TestLastCallerGone(t *testing.T) {
	started := make(chan struct{}, 1)
	ended := make(chan error, 1)
	b := newBuilder(t, func(c *Config) {
		c.Runner = runnerFunc(func(ctx context.Context, c Command) error {
			started <- struct{}{}
			c.Argv = []string{"/bin/sh", "-c", "sleep 1000 & sleep 1000"}
			err := ExecRunner{}.Run(ctx, c)
			ended <- err
			return err
		})
	})
	ctx, cancel := context.WithCancel(within(t))
	got := make(chan error, 1)
	go func() {
		_, err := b.Ensure(ctx, online.EnvironmentSpec{Requirements: "tiny"}, nil)
		got <- err
	}()
	<-started
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the step ended as if nothing had happened")
	}
	testkit.Until(t, "the directory is gone", func() bool {
		entries, err := os.ReadDir(b.cfg.Dir)
		return err == nil && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !hidden(e.Name()) })
	})
}

func TestLimits(t *testing.T) {
	stuck := runnerFunc(func(ctx context.Context, c Command) error {
		c.Argv = []string{"/bin/sh", "-c", "echo resolving; sleep 1000"}
		return ExecRunner{}.Run(ctx, c)
	})
	b := newBuilder(t, func(c *Config) { c.BuildTimeout, c.Runner = time.Second, stuck })
	_, err := b.Ensure(within(t), online.EnvironmentSpec{Requirements: "tiny"}, nil)
	if !online.IsCode(err, online.CodeImageBuildFailure) || !strings.Contains(err.Error(), "within 1s (build timeout). Last lines:\nresolving") {
		t.Errorf("got %v", err)
	}
	b = newBuilder(t, func(c *Config) { c.MaxBytes = 1000 })
	_, err = b.Ensure(within(t), online.EnvironmentSpec{}, nil)
	if !online.IsCode(err, online.CodeImageBuildFailure) || !strings.Contains(err.Error(), "bigger than") {
		t.Errorf("got %v", err)
	}
	if list, err := b.List(); err != nil || len(list) != 0 {
		t.Errorf("listed %v, %v", list, err)
	}
}

func TestBuildsAreBounded(t *testing.T) {
	var mu sync.Mutex
	running, most := 0, 0
	b := newBuilder(t, func(c *Config) {
		c.MaxBuilds = 1
		c.Runner = &spy{before: func(context.Context, Command) error {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			defer func() { mu.Lock(); running--; mu.Unlock() }()
			time.Sleep(50 * time.Millisecond) // long enough that a second one would be seen
			return nil
		}}
	})
	ctx := within(t)
	var wg sync.WaitGroup
	var logs [3]testkit.Buffer
	for i, reqs := range []string{"tiny==1.0", "tiny==2.0", "uses-tiny"} {
		wg.Go(func() {
			if _, err := b.Ensure(ctx, online.EnvironmentSpec{Requirements: reqs}, &logs[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most != 1 {
		t.Errorf("%d steps ran at once", most)
	}
	if all := logs[0].String() + logs[1].String() + logs[2].String(); strings.Count(all, "this one waits") != 2 {
		t.Errorf("the wait is not shown:\n%s", all)
	}
}

func TestClose(t *testing.T) {
	started := make(chan struct{})
	b := newBuilder(t, func(c *Config) {
		c.Runner = runnerFunc(func(ctx context.Context, _ Command) error {
			close(started)
			<-ctx.Done()
			return ctx.Err()
		})
	})
	got := make(chan error, 1)
	go func() {
		_, err := b.Ensure(context.Background(), online.EnvironmentSpec{Requirements: "tiny"}, nil)
		got <- err
	}()
	<-started
	b.Close()
	if err := <-got; !online.IsCode(err, online.CodeServiceUnavailable) {
		t.Errorf("got %v", err)
	}
	if _, err := b.Ensure(context.Background(), online.EnvironmentSpec{Requirements: "tiny"}, nil); !online.IsCode(err, online.CodeServiceUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}

func TestRunnerFailureIsNotThePersonsFault(t *testing.T) {
	broken := errors.New("no such helper")
	b := newBuilder(t, func(c *Config) {
		c.Runner = runnerFunc(func(context.Context, Command) error { return broken })
	})
	_, err := b.Ensure(within(t), online.EnvironmentSpec{Requirements: "tiny"}, nil)
	if _, isOnline := online.AsError(err); isOnline || !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type runnerFunc func(context.Context, Command) error

func (f runnerFunc) Run(ctx context.Context, c Command) error { return f(ctx, c) }

// asUser runs steps as a user id of their own, as the host does, without its sandbox.
type asUser struct{ uid uint32 }

func (r asUser) Run(ctx context.Context, c Command) error {
	for _, dir := range c.Writable {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, int(r.uid), int(r.uid))
		})
		if err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = c.Env, c.Dir, c.Output, c.Output
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: r.uid, Gid: r.uid}}
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		return &ExitError{Code: exit.ExitCode()}
	} else if err != nil {
		return err
	}
	return nil
}

// Steps that run as another user find their directories writable, and what they leave belongs to the server.
func TestBuildAsAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run steps as another user")
	}
	const nobody = 65534
	ctx := within(t)
	found, err := newPythons(Config{Getenv: os.LookupEnv}, slog.New(slog.DiscardHandler)).list(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	links := wheels(t)
	if err := os.Chmod(filepath.Dir(links), 0o755); err != nil { // the parent of all of this test's directories
		t.Fatal(err)
	}
	var base string
	for _, in := range found { // an interpreter below /root is out of that user's reach without the host's sandbox
		err := asUser{nobody}.Run(ctx, Command{Argv: []string{in.Path, "-I", "-c", "import os; os.listdir(" + "'" + links + "')"}, Dir: "/"})
		if err == nil && (in.Ensure || !in.Pip.less(minPipTarget)) {
			base = in.Path
			break
		}
	}
	if base == "" {
		t.Skip("no interpreter of this machine can be started by another user")
	}
	b := newBuilder(t, func(c *Config) {
		c.Runner, c.Pythons, c.Getenv = asUser{nobody}, []string{base}, getenv(links, nil)
	})
	env, err := b.Ensure(ctx, online.EnvironmentSpec{Requirements: "uses-tiny"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkSealed(t, env.Dir)
	if err := (asUser{nobody}).Run(ctx, Command{Argv: []string{env.Python, "-I", "-c", "import uses_tiny, tiny"}, Dir: "/"}); err != nil {
		t.Errorf("the other user cannot use it: %v", err)
	}
	touch := Command{Argv: []string{env.Python, "-I", "-c", "import sys; open(sys.prefix + '/x', 'w')"}, Dir: "/"}
	if err := (asUser{nobody}).Run(ctx, touch); err == nil {
		t.Error("the other user can write to it")
	}
}
