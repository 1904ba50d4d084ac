package local

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"portico/internal/compute"
	"portico/internal/host"
	"portico/internal/online"
)

// Bounds of fork servers.
const (
	DefaultSpares   = 1                // forks of one fork server that wait for a start
	maxForkServers  = 16               // at the same time; the one that was not used for longest goes
	forkStarts      = 2                // fork servers that are started at the same time
	forkPatience    = 10 * time.Second // a start waits for its fork server, then it goes without
	forkStartWithin = 3 * time.Minute  // the host gives up before
	forkRetry       = 10 * time.Minute // a fork server that could not be started, or died too often, is tried again
	maxForkDeaths   = 3                // within forkRetry
	forkIdle        = 30 * time.Minute // without a start and without a set, a fork server ends
	forkMemory      = 4 << 30          // bytes of a fork server
	forkPids        = 64
	forkLogBytes    = 256 << 10
	forkLogFiles    = 2
)

const (
	kindForkServer = "fork-server"
	forkServerVerb = "fork-server" // the worker's first argument
)

// How a worker was started, in the log.
const (
	wayFork  = "fork"
	waySpare = "spare"
	waySpawn = "spawn"
)

// interpreterVariables begin names that an interpreter or a library of C reads when it is loaded, unseen by what notes
// the variables that Python code reads.
var interpreterVariables = []string{
	"PYTHON", "LD_", "LC_", "LANG", "GLIBC_", "MALLOC_", "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_", "BLIS_", "NUMEXPR_", "TF_",
}

// forkReport is what a fork server says when it is ready.
type forkReport struct {
	Modules   []string          `json:"modules"`   // top-level names that are imported
	Variables []string          `json:"variables"` // environment variables that were read meanwhile
	Failed    map[string]string `json:"failed"`    // modules that are installed and could not be imported
}

// forkServers keeps the fork servers of this engine: one for each environment, workspace and list of imports.
type forkServers struct {
	b      *Backend
	starts chan struct{}

	mu      sync.Mutex
	servers map[string]*forkServer // by id
}

// forkServer is a fork server that was asked for, or that an earlier engine left.
type forkServer struct {
	used   time.Time
	deaths []time.Time
	try    *forkTry // nil: none was made, or it died
}

// forkTry is one start of a fork server.
type forkTry struct {
	done   chan struct{}
	report forkReport
	err    error // why nothing can be forked
	at     time.Time
	// The process:
	pid   int
	start uint64
}

func newForkServers(b *Backend) *forkServers {
	return &forkServers{b: b, starts: make(chan struct{}, forkStarts), servers: map[string]*forkServer{}}
}

// of finds the fork server for a worker of a template, starting it where there is none. An empty id comes with the
// reason why the worker must be started without.
func (f *forkServers) of(ctx context.Context, t *compute.Template, env map[string]online.Secret) (id, why string) {
	if f.b.cfg.NoForks {
		return "", "it is switched off"
	}
	client, err := f.b.link.wait(ctx)
	if err != nil || !client.Info().Capabilities.Forks {
		return "", "this machine cannot fork workers"
	}
	if name := setFor(t, env, func(string) bool { return false }); name != "" {
		return "", fmt.Sprintf("the variable %s acts when the interpreter starts", name)
	}
	spec, err := f.describe(t)
	if err != nil {
		return "", err.Error()
	}
	try := f.ask(spec)
	patience := time.NewTimer(forkPatience)
	defer patience.Stop()
	select {
	case <-try.done:
	case <-patience.C:
		return "", "its fork server is not ready yet"
	case <-ctx.Done():
		return "", "its fork server is not ready yet"
	}
	if try.err != nil {
		return "", try.err.Error()
	}
	read := func(name string) bool { return slices.Contains(try.report.Variables, name) }
	if name := setFor(t, env, read); name != "" {
		return "", fmt.Sprintf("installed packages read the variable %s when they are imported", name)
	}
	if name := hidden(codeDirs(t), try.report.Modules); name != "" {
		return "", fmt.Sprintf("the code folder has a module %s of its own, which is also an installed one", name)
	}
	return spec.ID, ""
}

// engineVariables are those of environment that every worker has, whatever its deployment. Thread pools are sized
// again after the fork.
var engineVariables = append([]string{
	"AML_APP_ROOT", "AZUREML_ENTRY_SCRIPT", "AZUREML_MODEL_DIR", "CUDA_VISIBLE_DEVICES", "HOME", "HOSTNAME",
	"PORTICO_MLFLOW_MODEL", "TMPDIR", "WORKER_COUNT",
}, threadVariables...)

// setFor gives a variable that a worker has and that acts when modules are imported; empty: there is none.
func setFor(t *compute.Template, env map[string]online.Secret, acts func(string) bool) string {
	defaults := forkEnvironment(t)
	var found []string
	for name, value := range env {
		if slices.Contains(engineVariables, name) || defaults[name] == value {
			continue
		}
		early := slices.ContainsFunc(interpreterVariables, func(p string) bool { return strings.HasPrefix(name, p) })
		if early || acts(name) {
			found = append(found, name)
		}
	}
	if len(found) == 0 {
		return ""
	}
	return slices.Min(found)
}

// forkEnvironment is all that a fork server inherits: nothing of a deployment, and one thread for each library.
func forkEnvironment(t *compute.Template) map[string]online.Secret {
	env := map[string]online.Secret{
		"PATH":                    online.Secret(filepath.Dir(t.Python) + ":" + systemPath),
		"LANG":                    "C.UTF-8",
		"PYTHONUNBUFFERED":        "1",
		"PYTHONDONTWRITEBYTECODE": "1",
		"HOME":                    "/tmp", // a fork has one of its own
		"TMPDIR":                  "/tmp",
	}
	for _, name := range threadVariables {
		env[name] = "1"
	}
	return env
}

// describe says what the fork server of a template is to be. Its id says the same in short.
func (f *forkServers) describe(t *compute.Template) (host.ProcessSpec, error) {
	view := []host.View{{Path: filepath.Clean(f.b.cfg.Runtime)}}
	python, err := interpreterPaths(t.Python)
	if err != nil {
		return host.ProcessSpec{}, err
	}
	for _, p := range python {
		view = append(view, host.View{Path: p})
	}
	names := importsOf(t)
	w := t.DeploymentID.Workspace
	digest := sha256.New()
	for _, part := range slices.Concat([]string{
		f.b.cfg.Runtime, t.Python, t.EnvironmentID, strings.ToLower(w.Subscription), strings.ToLower(w.ResourceGroup),
		strings.ToLower(w.Name), fmt.Sprint(f.b.cfg.Spares),
	}, names) {
		fmt.Fprintf(digest, "%d:%s", len(part), part)
	}
	id := kindForkServer + "-" + idEncoding.EncodeToString(digest.Sum(nil)[:socketNameBytes])
	return host.ProcessSpec{
		ID: id, Labels: map[string]string{labelKind: kindForkServer},
		Argv: slices.Concat([]string{t.Python, f.b.cfg.Runtime, forkServerVerb}, names),
		Env:  forkEnvironment(t), User: host.UserSeparate, View: view,
		Limits: host.Limits{MemoryBytes: forkMemory, Pids: forkPids},
		Forks:  &host.ForkSpec{Spares: f.b.cfg.Spares},
		Log: host.LogSpec{
			Dir: filepath.Join(f.logs(), id), FileBytes: forkLogBytes, Files: forkLogFiles,
		},
	}, nil
}

// logs holds a directory for the output of each fork server.
func (f *forkServers) logs() string { return filepath.Join(f.b.cfg.Host.DataDir, "host", "forks") }

// ask gives the start of a fork server that is under way or done, or begins one.
func (f *forkServers) ask(spec host.ProcessSpec) *forkTry {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.servers[spec.ID]
	if s == nil {
		f.makeRoom()
		s = &forkServer{}
		f.servers[spec.ID] = s
	}
	s.used = time.Now()
	if s.try != nil && !s.try.stale() {
		return s.try
	}
	try := &forkTry{done: make(chan struct{})}
	s.try = try
	f.b.running.Go(func() { f.start(spec, try) })
	return try
}

// stale says that a start failed so long ago that another is worth its while.
func (try *forkTry) stale() bool {
	select {
	case <-try.done:
		return try.err != nil && time.Since(try.at) > forkRetry
	default:
		return false
	}
}

// makeRoom ends the fork server that was not used for longest when there are too many. The caller holds mu.
func (f *forkServers) makeRoom() {
	for len(f.servers) >= maxForkServers {
		oldest := ""
		for id, s := range f.servers {
			if oldest == "" || s.used.Before(f.servers[oldest].used) {
				oldest = id
			}
		}
		f.drop(oldest)
	}
}

// drop ends a fork server; what it forked goes on. The caller holds mu.
func (f *forkServers) drop(id string) {
	delete(f.servers, id)
	f.b.running.Go(func() {
		client, err := f.b.link.wait(f.b.life)
		if err != nil {
			return
		}
		err = client.Signal(f.b.life, id, syscall.SIGKILL, true)
		if err != nil && !errors.Is(err, host.ErrNotFound) && f.b.life.Err() == nil {
			f.b.log.Warn("a fork server was not ended", "process", id, "error", err)
		}
	})
}

func (f *forkServers) start(spec host.ProcessSpec, try *forkTry) {
	defer func() {
		try.at = time.Now()
		close(try.done)
	}()
	ctx, cancel := context.WithTimeout(f.b.life, forkStartWithin)
	defer cancel()
	select {
	case f.starts <- struct{}{}:
		defer func() { <-f.starts }()
	case <-ctx.Done():
		try.err = errors.New("its fork server could not be started in time")
		return
	}
	client, err := f.b.link.wait(ctx)
	var p host.Process
	if err == nil {
		p, err = client.Start(ctx, spec)
	}
	try.pid, try.start = p.PID, p.StartTime
	if err == nil {
		err = json.Unmarshal(p.Report, &try.report)
	}
	if err != nil {
		try.err = fmt.Errorf("nothing can be forked: %w", err)
		f.b.log.Info("a fork server is not used", "process", spec.ID, "reason", err)
		return
	}
	f.b.log.Info("a fork server is ready", "process", spec.ID, "pid", p.PID, "modules", len(try.report.Modules))
	for module, reason := range try.report.Failed {
		f.b.log.Info("a fork server could not import a module", "process", spec.ID, "module", module, "reason", reason)
	}
}

// observe takes in what the host says of a fork server.
func (f *forkServers) observe(p host.Process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.servers[p.ID]
	if p.Running() {
		if s == nil { // of an earlier engine: kept until it is clear that nobody wants it
			f.servers[p.ID] = &forkServer{used: time.Now()}
		}
		return
	}
	if s == nil {
		f.b.running.Go(func() { f.b.link.forget(f.b.life, p.ID) })
		return
	}
	if s.is(p) && s.fail(p.Exit.Lost) {
		f.b.log.Warn("a fork server ended", "process", p.ID, "code", p.Exit.Code, "signal", p.Exit.Signal)
	}
}

// is says whether a process is the one of the present try, not one that it has replaced. The caller holds
// forkServers.mu.
func (s *forkServer) is(p host.Process) bool {
	if s.try == nil {
		return false
	}
	select {
	case <-s.try.done:
		return s.try.pid == p.PID && s.try.start == p.StartTime
	default:
		return false
	}
}

// fail notes that a fork server that was ready forks no more: the next worker starts another, unless this happens too
// often. innocent: it is not the fork server's own doing. False: it was not ready, and its start says why. The caller
// holds forkServers.mu.
func (s *forkServer) fail(innocent bool) bool {
	if s.try == nil {
		return false
	}
	select {
	case <-s.try.done:
	default:
		return false
	}
	if s.try.err != nil {
		return false
	}
	s.try = nil
	if innocent {
		return true
	}
	s.deaths = slices.DeleteFunc(append(s.deaths, time.Now()), func(t time.Time) bool { return time.Since(t) > forkRetry })
	if len(s.deaths) >= maxForkDeaths {
		s.try = &forkTry{done: make(chan struct{}), at: time.Now(), err: fmt.Errorf("its fork server failed %d times", len(s.deaths))}
		close(s.try.done)
	}
	return true
}

// refused notes that the host could not fork, whatever was to be forked.
func (f *forkServers) refused(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.servers[id]; s != nil {
		s.fail(false)
	}
}

// prune ends fork servers that nobody needs, and removes the output of those that are gone; wanted are those of the sets
// that exist.
func (f *forkServers) prune(now time.Time, wanted map[string]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, s := range f.servers {
		if !wanted[id] && now.Sub(s.used) > forkIdle {
			f.drop(id)
		}
	}
	left, err := os.ReadDir(f.logs())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.b.log.Warn("the output of fork servers cannot be listed", "error", err)
	}
	for _, e := range left {
		if f.servers[e.Name()] != nil || wanted[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(f.logs(), e.Name())); err != nil {
			f.b.log.Warn("the output of a fork server was not removed", "process", e.Name(), "error", err)
		}
	}
}

// wantedForks names the fork servers of the sets that exist.
func (b *Backend) wantedForks() map[string]bool {
	b.mu.Lock()
	sets := slices.Collect(maps.Values(b.sets))
	b.mu.Unlock()
	wanted := map[string]bool{}
	for _, s := range sets {
		if spec, err := b.forks.describe(&s.record.Template); err == nil {
			wanted[spec.ID] = true
		}
	}
	return wanted
}

// startWorker starts a worker's process: as a fork where its environment allows that, else as a new interpreter.
func (f *forkServers) startWorker(ctx context.Context, l *launcher, spec host.ProcessSpec) (*process, error) {
	way, why := waySpawn, "it is no worker of the engine's own"
	if slices.Equal(spec.Argv, l.argv()) {
		spec.From, why = f.of(ctx, l.template, spec.Env)
	}
	p, err := f.b.link.start(ctx, spec)
	if spec.From != "" && errors.Is(err, host.ErrFork) {
		if errors.Is(err, host.ErrForkServer) { // else it is the deployment's own matter, and none of its neighbours'
			f.refused(spec.From)
		}
		why, spec.From = err.Error(), ""
		p, err = f.b.link.start(ctx, spec)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case p.spare:
		way = waySpare
	case spec.From != "":
		way = wayFork
	}
	if why == "" {
		f.b.log.Info("a worker is started", "process", spec.ID, "way", way)
	} else {
		f.b.log.Info("a worker is started", "process", spec.ID, "way", way, "reason", why)
	}
	return p, nil
}
