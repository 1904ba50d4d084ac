package environment

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// interpreter is a Python of this machine.
type interpreter struct {
	Path     string // of the real executable, never a shim
	Version  release
	Prefixes []string // directories that a process needs to run it, links resolved and unresolved
	Pip      release  // version of the pip that it can import; zero: none
	Venv     bool     // has the venv module
	Ensure   bool     // venv can install pip by itself
	Virtual  bool     // can import virtualenv
}

// Minimum is the oldest Python that the scoring worker runs on.
var Minimum = release{3, 9, 0}

const (
	probeTimeout = 10 * time.Second // of asking one interpreter
	maxProbes    = 64               // candidates asked in one search
	maxProbeText = 64 << 10         // bytes of an answer
	researchGap  = 30 * time.Second // between two searches when a wish was not met
)

// probeScript makes an interpreter tell about itself. sys.executable is what a shim (pyenv, asdf) ends up in.
const probeScript = `
import importlib.util as u, json, sys
def has(n):
    try: return u.find_spec(n) is not None
    except Exception: return False
def wheels():
    try:
        import ensurepip
        return bool(ensurepip.version())
    except Exception: return False
pip = ""
if has("pip"):
    try:
        from importlib.metadata import version
        pip = version("pip")
    except Exception: pip = ""
print(json.dumps({"impl": sys.implementation.name, "version": list(sys.version_info[:3]),
 "final": sys.version_info[3] == "final", "threads": bool(getattr(sys, "_is_gil_enabled", lambda: True)()),
 "executable": sys.executable, "base": getattr(sys, "_base_executable", "") or sys.executable,
 "prefixes": [sys.base_prefix, sys.base_exec_prefix], "virtual": sys.prefix != sys.base_prefix,
 "pip": pip, "venv": has("venv"), "ensure": has("ensurepip") and wheels(), "virtualenv": has("virtualenv")}))
`

type probeAnswer struct {
	Impl       string
	Version    []int
	Final      bool
	Threads    bool
	Executable string
	Base       string
	Prefixes   []string
	Virtual    bool
	Pip        string
	Venv       bool
	Ensure     bool
	Virtualenv bool
}

// pythons finds interpreters and remembers them.
type pythons struct {
	cfg Config
	log *slog.Logger

	turn  chan struct{} // holds one token; who has it may search and read what follows
	found []interpreter // in order of preference
	at    time.Time     // of the last search
}

func newPythons(cfg Config, log *slog.Logger) *pythons {
	p := &pythons{cfg: cfg, log: log, turn: make(chan struct{}, 1)}
	p.turn <- struct{}{}
	return p
}

// list gives the interpreters of this machine, in order of preference: those that were configured, then PATH, then
// the version stores. fresh asks for a new search unless the last one was a moment ago.
func (p *pythons) list(ctx context.Context, fresh bool) ([]interpreter, error) {
	select {
	case <-p.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { p.turn <- struct{}{} }()
	if !p.at.IsZero() && (!fresh || time.Since(p.at) < researchGap) {
		return p.found, nil
	}
	var found []interpreter
	seen := map[string]bool{}
	candidates := p.candidates()
	if len(candidates) > maxProbes {
		candidates = candidates[:maxProbes]
	}
	for _, c := range candidates {
		// A shim is a script whose answer differs by name: only links to real files are known to be the same.
		real, err := filepath.EvalSymlinks(c)
		if err != nil || seen[real+"\x00"+scriptName(real, c)] {
			continue
		}
		seen[real+"\x00"+scriptName(real, c)] = true
		in, err := probe(ctx, c, p.cfg.Getenv)
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if slices.Contains(p.cfg.Pythons, c) {
				p.log.WarnContext(ctx, "configured interpreter is not usable", "path", c, "error", err)
			}
			continue
		}
		if !slices.ContainsFunc(found, func(o interpreter) bool { return o.Path == in.Path }) {
			found = append(found, in)
		}
	}
	p.found, p.at = found, time.Now()
	return found, nil
}

// scriptName tells shims of one script apart by the name they are called by.
func scriptName(real, called string) string {
	if f, err := os.Open(real); err == nil {
		defer f.Close()
		head := make([]byte, 2)
		if n, _ := f.Read(head); n == 2 && string(head) == "#!" {
			return filepath.Base(called)
		}
	}
	return ""
}

var pythonFile = regexp.MustCompile(`^python3(\.\d+)?$`)

// candidates lists paths that may be interpreters, the preferred first.
func (p *pythons) candidates() []string {
	out := slices.Clone(p.cfg.Pythons)
	if p.cfg.OnlyPythons {
		return out
	}
	env := func(name string) string { v, _ := p.cfg.Getenv(name); return v }
	var dirs []string
	for _, d := range filepath.SplitList(env("PATH")) {
		if filepath.IsAbs(d) {
			dirs = append(dirs, d)
		}
	}
	home := env("HOME")
	stores := []string{"/opt/python/*/bin"}
	pyenv, uv := env("PYENV_ROOT"), env("UV_PYTHON_INSTALL_DIR")
	if pyenv == "" && home != "" {
		pyenv = filepath.Join(home, ".pyenv")
	}
	if pyenv != "" {
		stores = append(stores, filepath.Join(pyenv, "versions", "3.*", "bin"))
	}
	if uv == "" && home != "" {
		uv = filepath.Join(home, ".local", "share", "uv", "python")
	}
	if uv != "" {
		stores = append(stores, filepath.Join(uv, "cpython-3*", "bin"))
	}
	for _, pattern := range stores {
		if !filepath.IsAbs(pattern) {
			continue
		}
		if more, err := filepath.Glob(pattern); err == nil {
			dirs = append(dirs, more...)
		}
	}
	dirs = append(dirs, "/usr/local/bin", "/usr/bin", "/opt/homebrew/bin")
	for _, d := range dirs {
		// python3 first: it is what the owner of the machine means by "Python".
		entries, err := filepath.Glob(filepath.Join(d, "python3*"))
		if err != nil {
			continue
		}
		slices.Sort(entries)
		for _, e := range entries {
			if pythonFile.MatchString(filepath.Base(e)) {
				out = append(out, e)
			}
		}
	}
	return out
}

// probe asks one candidate. Interpreters of a virtual environment answer for the one below it.
func probe(ctx context.Context, path string, getenv func(string) (string, bool)) (interpreter, error) {
	a, err := ask(ctx, path, getenv)
	if err != nil {
		return interpreter{}, err
	}
	if a.Virtual {
		base := a.Base
		if base == a.Executable || !filepath.IsAbs(base) {
			return interpreter{}, fmt.Errorf("it belongs to a virtual environment whose base is not known")
		}
		if a, err = ask(ctx, base, getenv); err != nil {
			return interpreter{}, err
		}
		if a.Virtual {
			return interpreter{}, fmt.Errorf("it belongs to a virtual environment whose base is another one")
		}
	}
	if a.Impl != "cpython" || len(a.Version) != 3 || !a.Final || !a.Threads || !filepath.IsAbs(a.Executable) {
		return interpreter{}, fmt.Errorf("it is not a released CPython with the usual lock")
	}
	in := interpreter{
		Path: a.Executable, Version: release(a.Version), Venv: a.Venv, Ensure: a.Ensure, Virtual: a.Virtualenv,
	}
	if in.Version.less(Minimum) {
		return interpreter{}, fmt.Errorf("it is Python %s; at least %s is needed", in.Version, Minimum.minor())
	}
	in.Pip = looseRelease(a.Pip)
	for _, prefix := range append(a.Prefixes, filepath.Dir(filepath.Dir(a.Executable))) {
		if filepath.IsAbs(prefix) {
			in.Prefixes = append(in.Prefixes, prefix)
			if real, err := filepath.EvalSymlinks(prefix); err == nil {
				in.Prefixes = append(in.Prefixes, real)
			}
		}
	}
	if real, err := filepath.EvalSymlinks(a.Executable); err == nil {
		in.Prefixes = append(in.Prefixes, filepath.Dir(filepath.Dir(real)))
	}
	slices.Sort(in.Prefixes)
	in.Prefixes = slices.DeleteFunc(slices.Compact(in.Prefixes), func(d string) bool { return d == "/" })
	return in, nil
}

// ask runs the probe script. It is the server itself that runs it: the interpreters are those that the owner of the
// machine put on it, and -I keeps working directory, user packages and PYTHON* variables out.
func ask(ctx context.Context, path string, getenv func(string) (string, bool)) (*probeAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-I", "-c", probeScript)
	cmd.Env = []string{"LC_ALL=C.UTF-8"}
	for _, name := range []string{"PATH", "HOME", "PYENV_ROOT"} { // what a shim needs
		if v, ok := getenv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	var out bounded
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("it does not run: %w", err)
	}
	text := bytes.TrimSpace(out.Bytes())
	if i := bytes.LastIndexByte(text, '\n'); i >= 0 {
		text = text[i+1:] // site customisations may print before
	}
	var a probeAnswer
	if err := json.Unmarshal(text, &a); err != nil {
		return nil, fmt.Errorf("it does not answer as Python does: %w", err)
	}
	return &a, nil
}

// bounded keeps the first bytes that are written to it and drops the rest.
type bounded struct{ bytes.Buffer }

// Write never fails, so that the writer does not die of a full buffer.
func (b *bounded) Write(p []byte) (int, error) {
	if room := maxProbeText - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// looseRelease reads the leading numbers of a version: 23.2.1, 24.0rc1, 26.
func looseRelease(s string) release {
	var r release
	for i, part := range strings.SplitN(s, ".", len(r)+1) {
		if i == len(r) {
			break
		}
		n := 0
		for _, c := range part {
			if c < '0' || c > '9' || n > 1<<20 {
				break
			}
			n = n*10 + int(c-'0')
		}
		r[i] = n
	}
	return r
}

// platform names what compiled packages depend on besides Python.
func platform() string { return runtime.GOOS + "-" + runtime.GOARCH }
