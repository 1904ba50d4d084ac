package environment

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"portico/internal/online"
)

func script(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, cfg Config, env map[string]string) []interpreter {
	t.Helper()
	cfg.Getenv = func(n string) (string, bool) { v, ok := env[n]; return v, ok }
	found, err := newPythons(cfg, slog.New(slog.DiscardHandler)).list(within(t), false)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// A shim is a script that starts another program: what counts is the real interpreter behind it.
func TestShimsAreResolved(t *testing.T) {
	real := python(t)
	bin := t.TempDir()
	shim := filepath.Join(bin, "python3")
	script(t, shim, fmt.Sprintf("echo a shim talks; exec %q \"$@\"", real.Path))
	if err := os.Symlink("python3", filepath.Join(bin, "python"+real.Version.minor())); err != nil {
		t.Fatal(err)
	}
	found := find(t, Config{}, map[string]string{"PATH": bin + ":/usr/bin:/bin"})
	if len(found) == 0 || found[0].Path != real.Path || found[0].Version != real.Version {
		t.Fatalf("found %+v, want %s first", found, real.Path)
	}
	if n := len(slices.DeleteFunc(slices.Clone(found), func(in interpreter) bool { return in.Path != real.Path })); n != 1 {
		t.Errorf("%s is there %d times", real.Path, n)
	}
}

// A virtual environment stands for its base: an environment must not depend on one that a person may delete.
func TestVirtualEnvironmentIsNotABase(t *testing.T) {
	real := python(t)
	venv := filepath.Join(t.TempDir(), "venv")
	run(t, real.Path, "-I", "-m", "venv", "--without-pip", venv)
	found := find(t, Config{Pythons: []string{filepath.Join(venv, "bin", "python")}, OnlyPythons: true}, nil)
	if len(found) != 1 || strings.HasPrefix(found[0].Path, venv) || found[0].Version != real.Version {
		t.Errorf("found %+v", found)
	}
}

func TestVersionStoresAreSearched(t *testing.T) {
	real := python(t)
	for _, c := range []struct{ dir, variable string }{
		{"versions/3.99.1/bin", "PYENV_ROOT"}, {"cpython-3.99.1-linux/bin", "UV_PYTHON_INSTALL_DIR"},
	} {
		store := t.TempDir()
		script(t, filepath.Join(store, c.dir, "python3"), fmt.Sprintf("exec %q \"$@\"", real.Path))
		p := newPythons(Config{Getenv: func(n string) (string, bool) { return store, n == c.variable }}, slog.New(slog.DiscardHandler))
		if !slices.Contains(p.candidates(), filepath.Join(store, c.dir, "python3")) {
			t.Errorf("%s is not searched", c.variable)
		}
	}
}

func TestUnusableInterpreters(t *testing.T) {
	answer := func(change string) string {
		return `echo '{"impl":"cpython","version":[3,11,2],"final":true,"threads":true,"executable":"/x/bin/python3",` +
			`"prefixes":["/x"]` + change + `}'`
	}
	for what, text := range map[string]string{
		"fails":         "exit 1",
		"says nothing":  "exit 0",
		"says garbage":  "echo hello",
		"floods":        "yes | head -c 10000000",
		"too old":       answer(`,"version":[3,8,18]`),
		"not cpython":   answer(`,"impl":"pypy"`),
		"prerelease":    answer(`,"final":false`),
		"without a gil": answer(`,"threads":false`),
		"odd version":   answer(`,"version":[3]`),
		"no path":       answer(`,"executable":""`),
		"orphan venv":   answer(`,"virtual":true,"base":"/x/bin/python3"`),
	} {
		path := filepath.Join(t.TempDir(), "python3")
		script(t, path, text)
		if found := find(t, Config{Pythons: []string{path}, OnlyPythons: true}, map[string]string{"PATH": "/usr/bin:/bin"}); len(found) != 0 {
			t.Errorf("%s: found %+v", what, found)
		}
	}
	path := filepath.Join(t.TempDir(), "python3")
	script(t, path, answer(""))
	if found := find(t, Config{Pythons: []string{path}, OnlyPythons: true}, nil); len(found) != 1 {
		t.Errorf("the answer that the others change is not usable itself: %+v", found)
	}
}

func TestNoInterpreter(t *testing.T) {
	b := newBuilder(t, func(c *Config) { c.Pythons = nil })
	_, err := b.Ensure(context.Background(), online.EnvironmentSpec{}, nil)
	if !online.IsCode(err, online.CodeImageBuildFailure) || !strings.Contains(err.Error(), "no Python 3.9") {
		t.Errorf("got %v", err)
	}
}

func TestToolChoice(t *testing.T) {
	w := workplace{venv: "/e/env/venv", work: "/e/work"}
	good, old := release{24, 0, 0}, release{20, 0, 0}
	other := []interpreter{{Path: "/other", Pip: good}}
	for _, c := range []struct {
		name   string
		base   interpreter
		others []interpreter
		uv     string
		want   string // the commands, shortened; "!" and a part of the error
	}{
		{"pip", interpreter{Path: "/p", Venv: true, Pip: good, Ensure: true}, nil, "", "/p -m venv --without-pip|/p -m pip --python"},
		{"old pip", interpreter{Path: "/p", Venv: true, Pip: old, Ensure: true}, nil, "", "/p -m venv /e/env/venv|/e/env/venv/bin/python -m pip install"},
		{"no pip", interpreter{Path: "/p", Venv: true, Ensure: true}, nil, "", "/p -m venv /e/env/venv|/e/env/venv/bin/python -m pip install"},
		{"Debian with virtualenv", interpreter{Path: "/p", Venv: true, Virtual: true}, other, "", "/p -m virtualenv|/e/env/venv/bin/python -m pip install"},
		{"Debian with another pip", interpreter{Path: "/p", Venv: true}, other, "", "/p -m venv --without-pip|/other -m pip --python"},
		{"bare Debian", interpreter{Path: "/p", Venv: true}, nil, "", "!apt install python3-venv"},
		{"bare Debian with uv", interpreter{Path: "/p", Venv: true}, nil, "/uv", "/p -m venv --without-pip|/uv pip install"},
		{"no venv at all", interpreter{Path: "/p", Pip: good}, nil, "", "!apt install python3-venv"},
		{"no venv, uv", interpreter{Path: "/p"}, nil, "/uv", "/uv venv|/uv pip install"},
	} {
		steps, err := pipSteps(c.base, c.others, uvTool{path: c.uv}, w, "/e/build/requirements.txt")
		if fault, bad := strings.CutPrefix(c.want, "!"); bad {
			if !online.IsCode(err, online.CodeImageBuildFailure) || !strings.Contains(err.Error(), fault) {
				t.Errorf("%s: got %v, want %q", c.name, err, fault)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for i, want := range strings.Split(c.want, "|") {
			if got := strings.ReplaceAll(strings.Join(steps[i].argv, " "), " -I", ""); !strings.HasPrefix(got, want) {
				t.Errorf("%s: step %d is %q, want %q", c.name, i, got, want)
			}
		}
	}
	if _, err := pipSteps(interpreter{Path: "/p", Venv: true}, nil, uvTool{}, w, ""); err != nil {
		t.Errorf("an environment without packages needs no pip: %v", err)
	}
}
