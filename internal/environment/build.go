package environment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"portico/internal/durable"
	"portico/internal/online"
)

const (
	lockPoll  = 200 * time.Millisecond // between two looks at a lock that another process holds
	sizeCheck = 5 * time.Second        // between two measurements of a growing environment
	// maxCacheBytes is how big one download cache may be after a build; a bigger one is emptied.
	maxCacheBytes = 8 << 30
)

// plan is how a spec will be built on this machine.
type plan struct {
	id       string
	wish     *wish
	content  content
	base     interpreter // of the pip engine
	others   []interpreter
	reqs     *requirements
	conda    string // program of the conda engine
	warnings []string
}

// plan decides on engine and interpreter.
func (b *Builder) plan(ctx context.Context, spec online.EnvironmentSpec) (*plan, error) {
	w, err := readSpec(spec)
	if err != nil {
		return nil, err
	}
	p := &plan{wish: w, reqs: w.Reqs, warnings: slices.Clone(w.Notes)}
	p.content = content{Builder: builderVersion, Platform: platform(), Options: w.Reqs.Options, Packages: w.Reqs.Packages}
	// Curated environments name packages of the Python index only and are the same on every machine.
	if w.Conda != nil && b.conda != "" && w.Source == sourceConda {
		p.conda = b.conda
		p.content.Engine, p.content.Python, p.content.Channels = engineConda, condaPython(w.Conda.Python), w.Conda.Channels
		for _, m := range w.Conda.Packages {
			p.content.Conda = append(p.content.Conda, m.text)
		}
		p.id = p.content.id()
		return p, nil
	}
	if w.Conda != nil {
		mapped, notes, err := w.Conda.mapped()
		if err != nil {
			return nil, err
		}
		p.warnings = append(p.warnings, notes...)
		p.reqs = &requirements{Options: w.Reqs.Options, Packages: append(mapped, w.Reqs.Packages...)}
	}
	var warning string
	if p.base, warning, p.others, err = b.interpreter(ctx, w.python()); err != nil {
		return nil, err
	}
	if warning != "" {
		p.warnings = append(p.warnings, warning)
	}
	p.content.Engine, p.content.Python, p.content.Packages = enginePip, p.base.Version.minor(), p.reqs.Packages
	p.id = p.content.id()
	return p, nil
}

// interpreter chooses one, and searches the machine again before it says that there is none.
func (b *Builder) interpreter(ctx context.Context, wish [][]term) (interpreter, string, []interpreter, error) {
	var in interpreter
	var warning string
	var err error
	for _, fresh := range []bool{false, true} {
		var found []interpreter
		if found, err = b.pythons.list(ctx, fresh); err != nil {
			return interpreter{}, "", nil, err
		}
		if in, warning, err = choose(found, wish, b.cfg.PythonPolicy); err == nil {
			return in, warning, found, nil
		}
	}
	return interpreter{}, "", nil, err
}

// run builds p under its lock, in a slot, within the time.
func (b *Builder) run(ctx context.Context, p *plan, log *buildLog) (*record, error) {
	r, err := b.locked(ctx, p.id, log, func(slot int) (*record, error) { return b.build(ctx, p, slot, log) })
	if err == nil {
		log.say("environment", fmt.Sprintf("%s is ready: Python %s, %d packages, %d MiB, %.1fs",
			r.ID, r.PythonVersion, r.Packages, r.Bytes>>20, r.Seconds))
		return r, nil
	}
	return nil, b.failure(ctx, err, log)
}

// failure is how a build that failed, or was stopped, is told.
func (b *Builder) failure(ctx context.Context, err error, log *buildLog) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errClosed):
		return online.Errorf(online.CodeServiceUnavailable, "", "the server is shutting down; the build was stopped")
	case cause != nil:
		return cause
	}
	first, _, _ := strings.Cut(err.Error(), "\n") // the lines of the tool are in the log already
	log.say("failed", first)
	return err
}

// locked runs a build of an id that nobody else builds, in a slot, unless it is complete.
func (b *Builder) locked(ctx context.Context, id string, log *buildLog, build func(slot int) (*record, error)) (*record, error) {
	lock, err := waitLock(ctx, b.lockPath(id), func() { log.say("queue", "another process is building this environment") })
	if err != nil {
		return nil, err
	}
	defer lock.release()
	// It may have been built while the lock was awaited.
	if r, err := b.complete(id); r != nil || err != nil {
		return r, err
	}
	var slot int
	select {
	case slot = <-b.slots:
	default:
		log.say("queue", fmt.Sprintf("%d environments are being built; this one waits", b.cfg.MaxBuilds))
		select {
		case slot = <-b.slots:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	defer func() { b.slots <- slot }()
	r, err := build(slot)
	if err != nil {
		if removeErr := b.discard(id); removeErr != nil {
			b.log.Warn("half-built environment was not removed", "environment", id, "error", removeErr)
		}
		return nil, err
	}
	return r, nil
}

func waitLock(ctx context.Context, path string, busy func()) (*fileLock, error) {
	for first := true; ; first = false {
		l, err := tryLock(path)
		if l != nil || err != nil {
			return l, err
		}
		if first {
			busy()
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

// build makes the environment in its final place, step by step. It is complete when its record is written.
func (b *Builder) build(ctx context.Context, p *plan, slot int, log *buildLog) (*record, error) {
	start := time.Now()
	for _, w := range p.warnings {
		log.say("note", w)
	}
	if err := b.discard(p.id); err != nil { // an old one whose interpreter is gone
		return nil, err
	}
	place, done, err := b.workplace(p.id, slot)
	if err != nil {
		return nil, err
	}
	defer done()
	steps, tool, err := b.steps(p, place)
	if err != nil {
		return nil, err
	}
	version := p.base.Version.String()
	if p.conda != "" {
		version = condaPython(p.wish.Conda.Python)
	}
	log.say("environment", fmt.Sprintf("building %s from %s with Python %s and %s", p.id, p.wish.Source, version, tool))
	if err := b.runSteps(ctx, p, place, steps, tool, log); err != nil {
		return nil, err
	}
	r := &record{
		ID: p.id, Builder: builderVersion, Created: start.UTC().Truncate(time.Second), Source: p.wish.Source,
		Engine: p.content.Engine, Tool: tool, PythonVersion: version, Base: p.base.Path, Prefixes: p.base.Prefixes,
	}
	log.say("seal", "making the environment read-only")
	return r, b.finish(r, place, start)
}

// finish lists, seals and records what the steps made.
func (b *Builder) finish(r *record, place workplace, start time.Time) error {
	packages, conda, err := installed(place.venv)
	if err != nil {
		return err
	}
	if r.Engine == engineConda {
		r.PythonVersion = condaVersionOf(conda, r.PythonVersion)
	}
	if r.Bytes, err = seal(place.tree); err != nil {
		return err
	}
	if r.Bytes > b.cfg.MaxBytes {
		return b.tooBig()
	}
	r.Packages = len(packages)
	if err := durable.Replace(filepath.Join(b.cfg.Dir, r.ID, lockFile), []byte(lockText(r, packages, conda)), fileMode); err != nil {
		return fmt.Errorf("write %s: %w", lockFile, err)
	}
	r.Seconds = time.Since(start).Seconds()
	return b.writeRecord(r)
}

// workplace makes the directories of one build; done removes what is temporary.
func (b *Builder) workplace(id string, slot int) (workplace, func(), error) {
	p := workplace{
		tree: filepath.Join(b.cfg.Dir, id, treeDir), venv: filepath.Join(b.cfg.Dir, id, venvDir),
		work: b.workPath(id), cache: filepath.Join(b.cfg.Dir, cacheDir, strconv.Itoa(slot)),
	}
	// Another process of the same directory may use the same slot's cache; then this build does without.
	lock, err := tryLock(b.lockPath("cache-" + strconv.Itoa(slot)))
	if err != nil {
		return p, nil, err
	}
	if b.cfg.NoCache || lock == nil {
		p.cache = filepath.Join(p.work, "cache")
	}
	done := func() {
		if err := removeTree(p.work); err != nil {
			b.log.Warn("work directory of a build was not removed", "environment", id, "error", err)
		}
		if lock == nil {
			return
		}
		defer lock.release()
		if treeSize(p.cache) > maxCacheBytes {
			if err := removeTree(p.cache); err != nil {
				b.log.Warn("download cache was not emptied", "error", err)
			}
		}
	}
	if err := removeTree(p.work); err != nil {
		done()
		return p, nil, err
	}
	for _, d := range []string{p.tree, p.cache, p.work, filepath.Join(p.work, "home"), filepath.Join(p.work, "tmp")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			done()
			return p, nil, fmt.Errorf("prepare the build: %w", err)
		}
	}
	return p, done, nil
}

// steps writes the input of the tool and gives the commands.
func (b *Builder) steps(p *plan, place workplace) ([]step, string, error) {
	reqs := ""
	if len(p.reqs.Packages) > 0 {
		reqs = filepath.Join(place.work, "requirements.txt")
		if err := durable.Replace(reqs, []byte(p.reqs.text()), fileMode); err != nil {
			return nil, "", fmt.Errorf("write requirements: %w", err)
		}
	}
	if p.conda != "" {
		file := filepath.Join(place.work, "environment.yaml")
		if err := durable.Replace(file, []byte(condaInput(p.wish.Conda, reqs)), fileMode); err != nil {
			return nil, "", fmt.Errorf("write the conda file: %w", err)
		}
		return append(condaSteps(p.conda, place, file), verifyStep(place)), filepath.Base(p.conda), nil
	}
	steps, err := pipSteps(p.base, p.others, uvTool{b.uv, b.settings.uvOptions()}, place, reqs)
	if err != nil {
		return nil, "", err
	}
	tool := "pip"
	switch {
	case reqs == "":
		tool = "venv"
	case b.uv != "":
		tool = "uv"
	}
	return append(steps, verifyStep(place)), tool, nil
}

// runSteps runs the commands within the build's time and size.
func (b *Builder) runSteps(ctx context.Context, p *plan, place workplace, steps []step, tool string, log *buildLog) error {
	ctx, stop := context.WithTimeoutCause(ctx, b.cfg.BuildTimeout, errTooLong)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		watchSize(ctx, cancel, b.cfg.MaxBytes, place.tree, place.work)
	}()
	defer func() {
		cancel(nil)
		<-watched
	}()
	command := Command{
		Dir: filepath.Join(place.work, "tmp"), Writable: []string{place.tree, place.work, place.cache}, Visible: b.visible(p, steps),
	}
	var made *foundation
	for _, s := range steps {
		log.say(s.name, s.what)
		out := &stepOutput{log: log, stage: s.name}
		command.Name, command.Argv, command.Output = s.name, s.argv, out
		command.Env = b.settings.environ(s.uv, place.variables(p.base)...)
		err := b.cfg.Runner.Run(ctx, command)
		tail := out.end()
		if err != nil {
			return b.stepError(ctx, p, s, tool, err, tail)
		}
		if s.name == stepVenv {
			f, err := readFoundation(place.venv)
			if err != nil {
				return err
			}
			made = &f
		}
	}
	return checkFoundation(place.venv, made)
}

// stepError says why a step did not end well.
func (b *Builder) stepError(ctx context.Context, p *plan, s step, tool string, err error, tail string) error {
	var exit *ExitError
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errTooLong):
		return online.Errorf(online.CodeImageBuildFailure, "", "%s did not end within %s (build timeout). Last lines:\n%s",
			s.what, b.cfg.BuildTimeout, tail)
	case errors.Is(cause, errTooBig):
		return b.tooBig()
	case cause != nil:
		return cause
	case errors.As(err, &exit):
		return b.failed(p, s, tool, exit, tail)
	}
	return fmt.Errorf("build environment %s: %w", p.id, err)
}

// failed says why a step ended badly, with all that a person needs to mend the spec.
func (b *Builder) failed(p *plan, s step, tool string, exit *ExitError, tail string) *online.Error {
	python := "Python " + p.base.Version.String()
	if p.conda != "" {
		python = condaPython(p.wish.Conda.Python)
	}
	text := fmt.Sprintf("the environment could not be built: %s failed (%s, %s, %s)", s.what, python, tool, exit.Error())
	if tail == "" {
		text += "; it printed nothing"
	} else {
		text += ". Last lines:\n" + tail
	}
	for _, w := range p.warnings {
		text += "\nNote: " + w
	}
	return online.Errorf(online.CodeImageBuildFailure, "", "%s", text)
}

func (b *Builder) tooBig() *online.Error {
	return online.Errorf(online.CodeImageBuildFailure, "", "the environment became bigger than %d MiB, "+
		"which is this server's limit for one; remove packages that the script does not need", b.cfg.MaxBytes>>20)
}

// watchSize ends a build that outgrows its limit before it fills the disk.
func watchSize(ctx context.Context, cancel context.CancelCauseFunc, limit int64, dirs ...string) {
	tick := time.NewTicker(sizeCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if treeSize(dirs...) > limit {
				cancel(errTooBig)
				return
			}
		}
	}
}

// visible are the paths that the steps read besides the system's.
func (b *Builder) visible(p *plan, steps []step) []string {
	out := slices.Clone(b.settings.paths)
	for _, tool := range []string{b.uv, p.conda} {
		if tool == "" {
			continue
		}
		out = append(out, tool)
		if real, err := filepath.EvalSymlinks(tool); err == nil {
			out = append(out, real)
		}
	}
	if p.conda != "" { // conda and mamba are Python programs inside a prefix of their own
		if real, err := filepath.EvalSymlinks(p.conda); err == nil && filepath.Base(filepath.Dir(real)) == "bin" {
			out = append(out, filepath.Dir(filepath.Dir(real)))
		}
	}
	out = append(out, p.base.Prefixes...)
	for _, o := range p.others { // another one's pip may be the one that installs
		if slices.ContainsFunc(steps, func(s step) bool { return s.argv[0] == o.Path }) {
			out = append(out, o.Prefixes...)
		}
	}
	slices.Sort(out)
	return slices.DeleteFunc(slices.Compact(out), func(d string) bool { return d == "/" })
}

// condaVersionOf finds the Python that conda installed.
func condaVersionOf(packages []string, unknown string) string {
	for _, line := range packages {
		var version string
		if n, err := fmt.Sscanf(line, "python=%s", &version); n == 1 && err == nil {
			for i, c := range version {
				if c == '=' {
					return version[:i]
				}
			}
		}
	}
	return unknown
}
