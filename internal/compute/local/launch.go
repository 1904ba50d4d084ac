package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"portico/internal/compute"
	"portico/internal/host"
	"portico/internal/inference"
	"portico/internal/online"
)

// labelMemory holds a process's memory limit in MiB.
const labelMemory = "memory_mib"

// maxWorkerPids bounds the processes and threads of one worker.
const maxWorkerPids = 4096

// millisPerCPU is what one processor is in host.Limits.
const millisPerCPU = 1000

// launcher starts the worker processes of one instance. It is inference.Launcher.
type launcher struct {
	b        *Backend
	template *compute.Template
	instance string
	gpus     []int
	describe func(spec inference.WorkerSpec, start int) (host.ProcessSpec, error) // what the host is to start
}

// Launch implements inference.Launcher. The host makes the status page.
func (l *launcher) Launch(ctx context.Context, spec inference.WorkerSpec) (inference.Process, error) {
	if _, err := l.b.link.wait(ctx); err != nil {
		return nil, err
	}
	record := l.b.worker(l.instance, spec.Index)
	if p := l.b.link.take(spec.ID, record.Told); p != nil {
		if p.start > record.Starts { // its start succeeded after nobody waited for it any more
			l.b.started(l.instance, spec.Index, p.start)
		}
		if spec.Page == "" {
			return p, nil
		}
		if _, err := os.Stat(spec.Page); err == nil {
			return p, nil
		}
		// It died with its host, and its status page with both: a pool cannot take it up, only hear of it.
		l.b.exited(l.instance, p.Exit())
	}
	start := l.b.worker(l.instance, spec.Index).Starts + 1
	p, err := l.start(ctx, spec, start)
	// A failed start counts too, so that its repetition is seen as a restart.
	l.b.started(l.instance, spec.Index, start)
	if err != nil {
		return nil, err
	}
	return l.b.link.give(p), nil
}

func (l *launcher) start(ctx context.Context, spec inference.WorkerSpec, start int) (*process, error) {
	if err := l.prepare(spec); err != nil {
		return nil, err
	}
	process, err := l.describe(spec, start)
	if err != nil {
		return nil, err
	}
	if err := l.addVariables(ctx, process.Env); err != nil {
		return nil, err
	}
	return l.b.forks.startWorker(ctx, l, process)
}

// addVariables puts in what Config.Variables gives, except where there is a value already.
func (l *launcher) addVariables(ctx context.Context, env map[string]online.Secret) error {
	inImage := l.template.Server != nil && l.template.Server.Image != nil
	if l.b.cfg.Variables == nil || inImage { // they name services of this machine, which its network does not reach
		return nil
	}
	more, err := l.b.cfg.Variables(ctx, l.template, l.instance)
	if err != nil {
		return fmt.Errorf("make the variables of a worker: %w", err)
	}
	for name, value := range more {
		if _, taken := env[name]; !taken {
			env[name] = value
		}
	}
	return nil
}

// take gives the process of a worker that runs, or that ended after the start that was told last and that no pool
// has got yet. Nil: start one.
func (l *link) take(id string, told int) *process {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.processes[id]
	if p == nil || p.ended && (p.given || p.start <= told) {
		return nil
	}
	p.given = true
	return p
}

func (l *link) give(p *process) *process {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.given = true
	return p
}

// socket is where the host listens for a worker: it keeps all sockets in one directory. The path that the pool
// calls is a link to it.
func (l *launcher) socket(index int) string {
	return fmt.Sprintf("%s-w%d.sock", l.b.socketDir(l.instance), index)
}

// prepare makes what a new process finds and its pool needs: a way to its socket and an empty place to write.
func (l *launcher) prepare(spec inference.WorkerSpec) error {
	if spec.Socket != "" {
		if err := os.Remove(spec.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the old way to the socket: %w", err)
		}
		if err := os.Symlink(l.socket(spec.Index), spec.Socket); err != nil {
			return fmt.Errorf("make the way to the socket: %w", err)
		}
	}
	scratch := l.scratch(spec.Index)
	if err := os.RemoveAll(scratch); err != nil {
		return fmt.Errorf("empty the scratch directory: %w", err)
	}
	if err := os.MkdirAll(scratch, dirPrivate); err != nil {
		return fmt.Errorf("make the scratch directory: %w", err)
	}
	return nil
}

func (l *launcher) workerDir(index int) string {
	return filepath.Join(l.b.files.instanceDir(l.instance), "w"+strconv.Itoa(index))
}

// scratch is the only place on disk where a worker may write.
func (l *launcher) scratch(index int) string { return filepath.Join(l.workerDir(index), "tmp") }

func (l *launcher) logDir(index int) string { return filepath.Join(l.workerDir(index), logName) }

// logName is the directory of a worker's output.
const logName = "log"

// argv is what a Python worker of this engine is called by.
func (l *launcher) argv() []string { return []string{l.template.Python, l.b.cfg.Runtime} }

// processSpec describes a worker of this engine.
func (l *launcher) processSpec(spec inference.WorkerSpec, start int) (host.ProcessSpec, error) {
	t, scratch := l.template, l.scratch(spec.Index)
	env := environment(t, l.instance, scratch, l.b.cfg.Machine.CPUs, l.gpus)
	argv, runtime := l.argv(), []string{l.b.cfg.Runtime}
	if t.Server != nil {
		runtime = nil // it does not use our worker
	}
	if t.ONNX != nil {
		worker, library, err := l.b.onnx()
		if err != nil {
			return host.ProcessSpec{}, err
		}
		argv, runtime = []string{worker}, []string{worker, library}
		env[inference.VariableONNXLibrary] = online.Secret(library)
	}
	view, err := views(t, runtime, scratch, l.gpus)
	if err != nil {
		return host.ProcessSpec{}, err
	}
	limits := limitsOf(t)
	return host.ProcessSpec{
		ID:     spec.ID,
		Labels: l.labels(spec.Index, start, limits),
		Argv:   argv,
		Env:    env,
		Dir:    appRoot(t, scratch),
		User:   host.UserSeparate,
		Limits: limits,
		View:   view,
		Socket: l.socket(spec.Index),
		Page:   spec.Page,
		Log:    host.LogSpec{Dir: l.logDir(spec.Index), FileBytes: l.b.cfg.LogFileBytes, Files: l.b.cfg.LogFiles},
	}, nil
}

// labels are by which a process is found again.
func (l *launcher) labels(index, start int, limits host.Limits) map[string]string {
	return map[string]string{
		labelKind: kindWorker, labelSet: l.template.Set, labelInstance: l.instance, labelWorker: strconv.Itoa(index),
		labelStart: strconv.Itoa(start), labelMemory: strconv.FormatInt(limits.MemoryBytes>>20, 10),
	}
}

// onnx finds what serves ONNX models.
func (b *Backend) onnx() (worker, library string, err error) {
	if b.cfg.ONNX == nil {
		return "", "", errors.New("this engine serves no ONNX models")
	}
	return b.cfg.ONNX()
}

// limitsOf shares an instance type among the workers of an instance. Memory is shared evenly, so that together
// they stay below the type. Processors are too, but a worker always gets one whole: it runs one request at a
// time, and a lone request should not wait for an idle neighbour's share.
func limitsOf(t *compute.Template) host.Limits {
	workers := int64(max(t.Workers, 1))
	return host.Limits{
		MemoryBytes: int64(t.Type.MemoryMiB) << 20 / workers,
		CPUMillis:   max(int64(t.Type.CPUs)*millisPerCPU/workers, millisPerCPU),
		Pids:        maxWorkerPids,
	}
}

// views are the paths that a worker sees beside the system's own. A host that cannot hide anything would not miss
// one, so they are looked for here; the error is for people who do not know the server's directories.
func views(t *compute.Template, runtime []string, scratch string, gpus []int) ([]host.View, error) {
	view := []host.View{{Path: scratch, Writable: true}}
	type part struct{ what, path string }
	parts := []part{{"the deployment's code", t.CodeDir}, {"the deployment's model", t.ModelDir}}
	for _, path := range runtime {
		parts = append(parts, part{"the worker's program", path})
	}
	for _, part := range parts {
		if part.path == "" {
			continue
		}
		if _, err := os.Stat(part.path); err != nil {
			return nil, fmt.Errorf("%s is not on this machine: %w", part.what, errors.Unwrap(err))
		}
		view = append(view, host.View{Path: filepath.Clean(part.path)})
	}
	if t.Python != "" {
		python, err := interpreterPaths(t.Python)
		if err != nil {
			return nil, err
		}
		for _, p := range python {
			view = append(view, host.View{Path: p})
		}
	}
	return append(view, gpuView(gpus)...), nil
}

// gpuView are the device files of an instance's own GPUs and those that all of them share, as far as the driver
// has made them. A read-only view of a device does not make the device read-only.
func gpuView(gpus []int) []host.View {
	if len(gpus) == 0 {
		return nil
	}
	paths := []string{"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"}
	for _, g := range gpus {
		paths = append(paths, "/dev/nvidia"+strconv.Itoa(g))
	}
	var view []host.View
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			view = append(view, host.View{Path: p})
		}
	}
	return view
}
