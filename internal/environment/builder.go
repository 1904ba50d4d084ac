package environment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"portico/internal/online"
)

// Environment is a complete Python environment on this machine. It does not change any more.
type Environment struct {
	ID       string   // content id: equal ids are interchangeable
	Python   string   // absolute path of the interpreter to start
	Dir      string   // root of the environment (sys.prefix)
	Prefixes []string // directories that a sandbox must show, read-only, for Python to run: Dir and the base interpreter's
	LockFile string   // what is installed, in requirements form; readable, below no Prefix
	// Version is that of Python, "3.11.7".
	Version string
	// Warnings say in which way the environment differs from the wish. They belong to the spec that was asked for,
	// not to the environment.
	Warnings []string
}

// Builder builds environments and finds those that are built. It is safe for concurrent use.
type Builder struct {
	cfg      Config
	log      *slog.Logger
	settings settings
	uv       string // absolute path; empty: pip
	conda    string
	podman   podman // without a path: there is none
	pythons  *pythons
	slots    chan int      // the free ones; a slot is also the number of its download cache
	pulls    chan struct{} // those under way; they have turns of their own, since a registry may keep them waiting

	ctx    context.Context // of the builds: they outlive the caller who began them while others wait
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	flights map[string]*flight
	known   map[string]*known
}

// known remembers a complete environment, so that finding it again costs one stat.
type known struct {
	record  *record
	touched time.Time
}

// flight is a build that is under way, with those who wait for it.
type flight struct {
	cancel  context.CancelCauseFunc
	log     *buildLog
	waiters int // guarded by Builder.mu

	done   chan struct{}
	record *record // after done
	err    error
}

var (
	errAbandoned = errors.New("nobody waits for this build any more")
	errClosed    = errors.New("the builder was closed")
	errTooLong   = errors.New("the build took too long")
	errTooBig    = errors.New("the environment became too big")
)

// New opens the environments directory, removes what a crash left half-built, and begins to look for interpreters.
// Tools (uv, micromamba, ...) and the settings of the package index are those of this moment.
func New(cfg Config, log *slog.Logger) (*Builder, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Getenv == nil {
		cfg.Getenv = os.LookupEnv
	}
	for _, d := range []string{"", locksDir, workDir, cacheDir, trashDir, imagesDir} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("create the environments directory: %w", err)
		}
	}
	// Interpreters tell their prefix with links resolved; ours must compare equal.
	dir, err := filepath.EvalSymlinks(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the environments directory: %w", err)
	}
	cfg.Dir = dir
	b := &Builder{
		cfg: cfg, log: log, settings: readSettings(cfg.Getenv),
		uv:    findTool(cfg.Uv, []string{"uv"}, cfg.Getenv),
		conda: findTool(cfg.Conda, condaTools, cfg.Getenv), podman: newPodman(findTool(cfg.Podman, []string{"podman"}, cfg.Getenv), cfg),
		slots: make(chan int, cfg.MaxBuilds), pulls: make(chan struct{}, maxPulls), flights: map[string]*flight{}, known: map[string]*known{},
	}
	for _, t := range []struct{ what, asked, found string }{
		{"uv", cfg.Uv, b.uv}, {"conda", cfg.Conda, b.conda}, {"podman", cfg.Podman, b.podman.path},
	} {
		if t.asked != "" && t.asked != never && t.found == "" {
			return nil, fmt.Errorf("the configured %s program %q is not an absolute path of an executable", t.what, t.asked)
		}
	}
	for i := range cfg.MaxBuilds {
		b.slots <- i
	}
	b.pythons = newPythons(cfg, log)
	if err := b.sweep(); err != nil {
		return nil, err
	}
	b.ctx, b.cancel = context.WithCancelCause(context.Background())
	b.wg.Go(func() {
		if _, err := b.pythons.list(b.ctx, false); err != nil && b.ctx.Err() == nil {
			b.log.Warn("search for interpreters failed", "error", err)
		}
	})
	return b, nil
}

// Close ends the builds that are under way and waits for their processes. What was half-built is removed.
func (b *Builder) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel(errClosed)
	b.wg.Wait()
}

// Key is the content id that Ensure would give this spec on this machine now.
func (b *Builder) Key(ctx context.Context, spec online.EnvironmentSpec) (string, error) {
	p, err := b.plan(ctx, spec)
	if err != nil {
		return "", err
	}
	return p.id, nil
}

// Ensure gives the environment of spec, building it when there is none with the same content. Callers with the same
// content share one build; it is canceled when the last of them gave up. Lines of progress go to progress (nil: none)
// while Ensure runs and never after. The error is an *online.Error for what a person can mend: CodeBadArgument for
// the spec, CodeImageBuildFailure with the tool's last lines, CodeServiceUnavailable after Close; else ctx's error or
// a failure of the machine.
func (b *Builder) Ensure(ctx context.Context, spec online.EnvironmentSpec, progress io.Writer) (Environment, error) {
	if progress == nil {
		progress = io.Discard
	}
	p, err := b.plan(ctx, spec)
	if err != nil {
		return Environment{}, err
	}
	r, err := b.complete(p.id)
	if err != nil {
		return Environment{}, err
	}
	if r != nil {
		say := newBuildLog(strings.NewReplacer())
		for _, w := range p.warnings {
			say.say("note", w)
		}
		say.say("environment", p.id+" is built already")
		lines, _, _ := say.since(0)
		if err := writeLines(progress, lines); err != nil {
			return Environment{}, err
		}
		return b.environment(r, p), nil
	}
	f, err := b.join(p.id, func(ctx context.Context, log *buildLog) (*record, error) { return b.run(ctx, p, log) })
	if err != nil {
		return Environment{}, err
	}
	defer b.leave(p.id, f)
	if r, err = follow(ctx, f, progress); err != nil {
		return Environment{}, err
	}
	return b.environment(r, p), nil
}

func (b *Builder) environment(r *record, p *plan) Environment {
	dir := filepath.Join(b.cfg.Dir, r.ID)
	venv := filepath.Join(dir, venvDir)
	return Environment{
		ID: r.ID, Python: filepath.Join(venv, "bin", "python"), Dir: venv, Prefixes: append([]string{venv}, r.Prefixes...),
		LockFile: filepath.Join(dir, lockFile), Version: r.PythonVersion, Warnings: slices.Clone(p.warnings),
	}
}

// complete gives the record of an environment that is there and whose interpreter is there; nil when there is none.
func (b *Builder) complete(id string) (*record, error) {
	b.mu.Lock()
	k := b.known[id]
	b.mu.Unlock()
	// The link of a virtual environment to its base breaks when that interpreter is uninstalled: stat follows it.
	part := filepath.Join(venvDir, "bin", "python")
	if isImage(id) {
		part = treeDir
	}
	if _, err := os.Stat(filepath.Join(b.cfg.Dir, id, part)); err != nil {
		b.forget(id)
		return nil, nil //nolint:nilerr // then there is none
	}
	now := time.Now()
	if k == nil {
		r, _, err := b.readRecord(id)
		if online.IsCode(err, online.CodeNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		k = &known{record: r}
	} else if now.Sub(k.touched) < touchEvery {
		return k.record, nil
	}
	if err := os.Chtimes(filepath.Join(b.cfg.Dir, id, recordFile), now, now); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			b.forget(id)
			return nil, nil
		}
		b.log.Warn("time of last use was not recorded", "environment", id, "error", err)
	}
	b.mu.Lock()
	b.known[id] = &known{record: k.record, touched: now}
	b.mu.Unlock()
	return k.record, nil
}

func (b *Builder) forget(id string) {
	b.mu.Lock()
	delete(b.known, id)
	b.mu.Unlock()
}

// join gives the flight that does some work, starting it when there is none.
func (b *Builder) join(id string, work func(context.Context, *buildLog) (*record, error)) (*flight, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, online.Errorf(online.CodeServiceUnavailable, "", "the server is shutting down; environments are not built now")
	}
	if f := b.flights[id]; f != nil {
		f.waiters++
		return f, nil
	}
	ctx, cancel := context.WithCancelCause(b.ctx)
	f := &flight{cancel: cancel, waiters: 1, done: make(chan struct{}), log: newBuildLog(b.hiding(id))}
	b.flights[id] = f
	b.wg.Go(func() {
		defer cancel(nil)
		f.record, f.err = work(ctx, f.log)
		b.mu.Lock()
		if b.flights[id] == f {
			delete(b.flights, id)
		}
		b.mu.Unlock()
		close(f.done)
	})
	return f, nil
}

// leave takes one waiter away. A newcomer after the last one starts a flight of its own, which waits for the lock
// that this one holds until its processes are gone.
func (b *Builder) leave(id string, f *flight) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.waiters--; f.waiters == 0 {
		f.cancel(errAbandoned)
		if b.flights[id] == f {
			delete(b.flights, id)
		}
	}
}

// follow copies the lines of a build to one who waits for it. Each waiter writes for itself: a slow reader holds up
// nobody else.
func follow(ctx context.Context, f *flight, progress io.Writer) (*record, error) {
	next := 0
	for {
		lines, n, changed := f.log.since(next)
		next = n
		if err := writeLines(progress, lines); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		case <-f.done:
			lines, _, _ := f.log.since(next)
			if err := writeLines(progress, lines); err != nil {
				return nil, err
			}
			return f.record, f.err
		}
	}
}

func writeLines(w io.Writer, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	if _, err := io.WriteString(w, strings.Join(lines, "")); err != nil {
		return fmt.Errorf("write the progress of the build: %w", err)
	}
	return nil
}

// hiding replaces the server's own paths in what a tool prints, and what it shows to registries.
func (b *Builder) hiding(id string) *strings.Replacer {
	var pairs []string
	if isImage(id) {
		for _, secret := range b.podman.secrets() {
			pairs = append(pairs, secret, "[redacted]")
		}
	}
	pairs = append(pairs,
		filepath.Join(b.cfg.Dir, id, venvDir), "<environment>", b.workPath(id), "<build>", b.cfg.Dir, "<environments>")
	for _, name := range []string{"PIP_FIND_LINKS", "UV_FIND_LINKS"} {
		for _, p := range pathList(b.settings.vars[name]) {
			if p = strings.TrimPrefix(p, "file://"); filepath.IsAbs(p) && p != "/" {
				pairs = append(pairs, p, "<"+name+">")
			}
		}
	}
	return strings.NewReplacer(pairs...)
}

func (b *Builder) lockPath(name string) string { return filepath.Join(b.cfg.Dir, locksDir, name) }
func (b *Builder) workPath(id string) string   { return filepath.Join(b.cfg.Dir, workDir, id) }

// sweep removes what a crash left: environments without a record, work directories, trash. What another process is
// building is locked and stays.
func (b *Builder) sweep() error {
	for _, dir := range []string{"", workDir} {
		entries, err := os.ReadDir(filepath.Join(b.cfg.Dir, dir))
		if err != nil {
			return fmt.Errorf("look for half-built environments: %w", err)
		}
		for _, e := range entries {
			if !idRule.MatchString(e.Name()) {
				continue
			}
			if err := b.sweepOne(e.Name()); err != nil {
				return err
			}
		}
	}
	return removeTreeContents(filepath.Join(b.cfg.Dir, trashDir))
}

func (b *Builder) sweepOne(id string) error {
	_, err := os.Stat(filepath.Join(b.cfg.Dir, id, recordFile))
	built := err == nil
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for half-built environments: %w", err)
	}
	if _, err := os.Stat(b.workPath(id)); built && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	l, err := tryLock(b.lockPath(id))
	if err != nil || l == nil {
		return err
	}
	defer l.release()
	if err := removeTree(b.workPath(id)); err != nil {
		return err
	}
	if built {
		return nil
	}
	b.log.Info("half-built environment removed", "environment", id)
	return b.discard(id)
}

func removeTreeContents(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("empty %s: %w", filepath.Base(dir), err)
	}
	for _, e := range entries {
		if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
