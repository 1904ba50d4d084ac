package environment

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// childDir makes the test binary build one environment there and stop half-way, for a parent that kills it.
const childDir = "PORTICO_TEST_BUILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		buildUntilKilled(dir)
	}
	os.Exit(m.Run())
}

// wheel writes a pure Python distribution that requires others. files are added to it.
func wheel(t *testing.T, dir, name, version string, requires []string, files map[string]string) {
	t.Helper()
	info := name + "-" + version + ".dist-info/"
	meta := "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n"
	for _, r := range requires {
		meta += "Requires-Dist: " + r + "\n"
	}
	all := map[string]string{
		name + "/__init__.py": fmt.Sprintf("VERSION = %q\n", version), info + "METADATA": meta,
		info + "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
	}
	for n, text := range files {
		all[n] = text
	}
	var zipped bytes.Buffer
	z := zip.NewWriter(&zipped)
	list := ""
	add := func(name, text string) {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write([]byte(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for n, text := range all {
		add(n, text)
		sum := sha256.Sum256([]byte(text))
		list += fmt.Sprintf("%s,sha256=%s,%d\n", n, base64.RawURLEncoding.EncodeToString(sum[:]), len(text))
	}
	add(info+"RECORD", list+info+"RECORD,,\n")
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+"-"+version+"-py3-none-any.whl"), zipped.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// wheels is an index without a network: tiny 1.0 and 2.0, and uses-tiny, which wants tiny below 2.
func wheels(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	wheel(t, dir, "tiny", "1.0", nil, nil)
	wheel(t, dir, "tiny", "2.0", nil, map[string]string{
		"tiny-2.0.dist-info/entry_points.txt": "[console_scripts]\ntiny-say = tiny:say\n",
		"tiny/say.py":                         "",
		"tiny/__init__.py":                    "VERSION = '2.0'\ndef say():\n    print('tiny', VERSION)\n",
	})
	wheel(t, dir, "uses_tiny", "0.5", []string{"tiny<2"}, nil)
	return dir
}

// getenv gives the settings of a test: the wheels of dir and nothing from a network.
func getenv(dir string, more map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		if v, ok := more[name]; ok {
			return v, true
		}
		switch name {
		case "PATH", "HOME", "PYENV_ROOT":
			return os.LookupEnv(name)
		case "PIP_NO_INDEX":
			return "1", true
		case "PIP_FIND_LINKS":
			return dir, true
		}
		return "", false
	}
}

// host finds one interpreter of this machine for the tests of this package, once: a search runs many programs.
var host = sync.OnceValues(func() (interpreter, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p := newPythons(Config{Getenv: os.LookupEnv}, slog.New(slog.DiscardHandler))
	found, err := p.list(ctx, false)
	if err != nil {
		return interpreter{}, err
	}
	in, _, err := choose(found, nil, PolicyNearest)
	return in, err
})

func python(t *testing.T) interpreter {
	t.Helper()
	in, err := host()
	if err != nil {
		t.Fatalf("these tests need Python %s or newer with the venv module: %v", Minimum.minor(), err)
	}
	return in
}

// newBuilder is a builder over real processes, with pip.
func newBuilder(t *testing.T, change func(*Config)) *Builder {
	t.Helper()
	cfg := Config{
		Dir: filepath.Join(t.TempDir(), "environments"), Runner: ExecRunner{}, Uv: never, Conda: never,
		Pythons: []string{python(t).Path}, OnlyPythons: true, Getenv: getenv(wheels(t), nil),
	}
	if change != nil {
		change(&cfg)
	}
	b, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Close()
		if err := removeTree(cfg.Dir); err != nil { // t.TempDir cannot remove what is sealed unless it is root's
			t.Error(err)
		}
	})
	return b
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// spy records commands and may stand in the way of one step.
type spy struct {
	mu     sync.Mutex
	seen   []Command
	before func(ctx context.Context, c Command) error
}

func (s *spy) Run(ctx context.Context, c Command) error {
	s.mu.Lock()
	s.seen = append(s.seen, c)
	s.mu.Unlock()
	if s.before != nil {
		if err := s.before(ctx, c); err != nil {
			return err
		}
	}
	return ExecRunner{}.Run(ctx, c)
}

func (s *spy) steps(name string) []Command {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Command
	for _, c := range s.seen {
		if c.Name == name {
			out = append(out, c)
		}
	}
	return out
}
