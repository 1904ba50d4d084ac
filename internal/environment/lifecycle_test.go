package environment

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico/internal/online"
	"portico/internal/testkit"
)

// buildUntilKilled is the child of TestKilledInTheMiddle: it fills half an environment, says so, and waits.
func buildUntilKilled(dir string) {
	in, err := host()
	if err == nil {
		var b *Builder
		b, err = New(Config{
			Dir: dir, Uv: never, Conda: never, Pythons: []string{in.Path}, OnlyPythons: true,
			Getenv: func(string) (string, bool) { return "", false },
			Runner: runnerFunc(func(ctx context.Context, c Command) error {
				if c.Name == "venv" {
					return ExecRunner{}.Run(ctx, c)
				}
				fmt.Println("HALF")
				<-ctx.Done()
				return ctx.Err()
			}),
		}, slog.New(slog.DiscardHandler))
		if err == nil {
			_, err = b.Ensure(context.Background(), online.EnvironmentSpec{Requirements: "tiny"}, nil)
		}
	}
	fmt.Println("ended:", err)
	os.Exit(1)
}

func TestKilledInTheMiddle(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "environments")
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill := func() {
		if !killed {
			killed = true
			_ = child.Process.Kill()
			_ = child.Wait()
		}
	}
	defer kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "HALF\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}

	// While the other process builds, nothing of it is removed, and a build of the same content waits for it.
	b := newBuilder(t, func(c *Config) { c.Dir = dir })
	spec := online.EnvironmentSpec{Requirements: "tiny"}
	id, err := b.Key(within(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, id, venvDir, "bin", "python")
	if _, err := os.Lstat(half); err != nil {
		t.Fatalf("the other's build was disturbed: %v", err)
	}
	if list, err := b.List(); err != nil || len(list) != 0 {
		t.Errorf("half an environment is listed: %v, %v", list, err)
	}
	var progress testkit.Buffer
	got := make(chan error, 1)
	ctx := within(t)
	go func() {
		_, err := b.Ensure(ctx, spec, &progress)
		got <- err
	}()
	testkit.Until(t, "the wait for the other process is shown", func() bool {
		return strings.Contains(progress.String(), "another process is building")
	})
	if err := b.Remove(id); !online.IsCode(err, online.CodeNotFound) {
		t.Errorf("removing half an environment: %v", err)
	}
	kill()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if _, err := b.Describe(id); err != nil {
		t.Error(err)
	}
}

func TestSweepAfterCrash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "environments")
	half := "py311-" + strings.Repeat("a", 24)
	for _, d := range []string{half + "/env/venv/bin", ".work/" + half + "/tmp", ".trash/x/sealed"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, ".trash/x/sealed"), 0o555); err != nil {
		t.Fatal(err)
	}
	b := newBuilder(t, func(c *Config) { c.Dir = dir })
	for _, d := range []string{half, ".work/" + half, ".trash/x"} {
		if _, err := os.Stat(filepath.Join(b.cfg.Dir, d)); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", d, err)
		}
	}
}

func TestListDescribeRemove(t *testing.T) {
	b := newBuilder(t, nil)
	older, err := b.Ensure(within(t), online.EnvironmentSpec{Requirements: "tiny==1.0"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	newer, err := b.Ensure(within(t), online.EnvironmentSpec{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(b.cfg.Dir, older.ID, recordFile), long, long); err != nil {
		t.Fatal(err)
	}
	list, err := b.List()
	if err != nil || len(list) != 2 || list[0].ID != older.ID || list[1].ID != newer.ID || list[0].LastUsed.Sub(long).Abs() > time.Second {
		t.Fatalf("listed %+v, %v", list, err)
	}
	b2, err := New(b.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer b2.Close()
	if _, err := b2.Ensure(within(t), online.EnvironmentSpec{Requirements: "tiny==1.0"}, nil); err != nil {
		t.Fatal(err)
	}
	if list, err = b.List(); err != nil || list[1].ID != older.ID || time.Since(list[1].LastUsed) > time.Minute {
		t.Errorf("after use: %+v, %v", list, err)
	}
	if err := b.Remove(older.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(b.cfg.Dir, older.ID)); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	for _, id := range []string{older.ID, "../..", ".locks", ""} {
		if err := b.Remove(id); !online.IsCode(err, online.CodeNotFound) {
			t.Errorf("Remove(%q): %v", id, err)
		}
		if _, err := b.Describe(id); !online.IsCode(err, online.CodeNotFound) {
			t.Errorf("Describe(%q): %v", id, err)
		}
	}
	// What was removed is built again on demand, by the builder that knew it too.
	for _, x := range []*Builder{b, b2} {
		env, err := x.Ensure(within(t), online.EnvironmentSpec{Requirements: "tiny==1.0"}, nil)
		if err != nil || env.ID != older.ID {
			t.Errorf("again: %v, %v", env.ID, err)
		}
	}
}

// When the interpreter that an environment stands on was uninstalled, the environment is built again.
func TestBaseInterpreterGone(t *testing.T) {
	b := newBuilder(t, nil)
	env, err := b.Ensure(within(t), online.EnvironmentSpec{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Dir(env.Python)
	if err := os.Chmod(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(env.Python); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(t.TempDir(), "gone"), env.Python); err != nil {
		t.Fatal(err)
	}
	again, err := b.Ensure(within(t), online.EnvironmentSpec{}, nil)
	if err != nil || again.ID != env.ID {
		t.Fatalf("%+v, %v", again, err)
	}
	run(t, again.Python, "-c", "pass")
}

func BenchmarkEnsureBuilt(bench *testing.B) {
	in, err := host()
	if err != nil {
		bench.Skip(err)
	}
	b, err := New(Config{
		Dir: filepath.Join(bench.TempDir(), "environments"), Runner: ExecRunner{}, Uv: never, Conda: never,
		Pythons: []string{in.Path}, OnlyPythons: true,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		bench.Fatal(err)
	}
	defer removeTree(b.cfg.Dir)
	defer b.Close()
	spec := online.EnvironmentSpec{CondaFile: "dependencies:\n  - python>=3.9\n"}
	for bench.Loop() {
		if _, err := b.Ensure(bench.Context(), spec, nil); err != nil {
			bench.Fatal(err)
		}
	}
}

// An installed package must not lead those who start workers to other places of the machine.
func TestFoundationIsGuarded(t *testing.T) {
	for what, change := range map[string]string{
		"another interpreter":   `rm "$v/bin/python" && ln -s /bin/sh "$v/bin/python"`,
		"another home":          `echo "home = /etc" > "$v/pyvenv.cfg"`,
		"a link for its config": `mv "$v/pyvenv.cfg" "$v/x" && ln -s x "$v/pyvenv.cfg"`,
		"no config":             `rm "$v/pyvenv.cfg"`,
	} {
		b := newBuilder(t, func(c *Config) {
			c.Runner = runnerFunc(func(ctx context.Context, c Command) error {
				switch c.Name {
				case "install":
					c.Argv = []string{"/bin/sh", "-ec", "v=" + c.Writable[0] + "/venv; " + change}
				case "verify":
					return nil
				}
				return ExecRunner{}.Run(ctx, c)
			})
		})
		_, err := b.Ensure(within(t), online.EnvironmentSpec{Requirements: "tiny"}, nil)
		if !online.IsCode(err, online.CodeImageBuildFailure) || !strings.Contains(err.Error(), "changed which interpreter") {
			t.Errorf("%s: got %v", what, err)
		}
	}
}
