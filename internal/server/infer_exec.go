package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"portico/internal/compute"
	"portico/internal/inference"
	"portico/workers"
)

// execLauncher starts workers as children of this process, each in a process group of its own. It is
// inference.Launcher.
type execLauncher struct {
	argv   []string
	dir    string
	env    []string
	output *os.File

	starts chan func() // run on one thread that lives as long as the launcher: see diesWithParent
	thread sync.WaitGroup

	mu      sync.Mutex
	running map[string]*execProcess
}

func newExecLauncher(cfg InferConfig, argv []string) *execLauncher {
	l := &execLauncher{
		argv: argv, dir: cfg.AppRoot, env: inferEnvironment(cfg), output: cfg.Output,
		starts: make(chan func()), running: make(map[string]*execProcess),
	}
	l.thread.Go(func() {
		runtime.LockOSThread() // not unlocked: the thread ends with this function
		for start := range l.starts {
			start()
		}
	})
	return l
}

// close is called when every process has ended.
func (l *execLauncher) close() {
	close(l.starts)
	l.thread.Wait()
}

// inferEnvironment is what workers see: this process's own environment, the settings, and what was given.
func inferEnvironment(cfg InferConfig) []string {
	values := make(map[string]string)
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "PORTICO_") {
			values[name] = value
		}
	}
	values["AML_APP_ROOT"] = cfg.AppRoot
	values["WORKER_COUNT"] = strconv.Itoa(cfg.WorkerCount)
	for name, value := range map[string]string{
		"AZUREML_ENTRY_SCRIPT": cfg.EntryScript, "AZUREML_MODEL_DIR": cfg.ModelDir, "AZUREML_CONFIG_FILE": cfg.ConfigFile,
	} {
		if value != "" {
			values[name] = value
		}
	}
	if cfg.mlflowModel != "" {
		values[inference.VariableMLflow] = cfg.mlflowModel
	}
	if cfg.Batching.MaxSize > 1 {
		values[inference.VariableBatching] = "true"
	}
	if cfg.onnx != nil {
		for name, value := range cfg.onnx.variables() {
			values[name] = value
		}
	}
	if cfg.Debug {
		values["PORTICO_WORKER_DEBUG"] = "true" // read by the worker alone
	}
	for name, value := range cfg.Environment {
		values[name] = value.Reveal()
	}
	env := make([]string, 0, len(values))
	for name, value := range values {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

// settingVersion is the reference server's switch for the header x-ms-server-version.
const settingVersion = "SERVER_VERSION_LOG_RESPONSE_ENABLED"

// shownVersion is what answers say of the server; empty where that is switched off. Workers read the setting likewise, in
// the environment and below it in the first file of settings that holds something.
func (c *InferConfig) shownVersion() string {
	if c.onnx != nil {
		return "portico/" + Version
	}
	value := any("true")
	for _, path := range []string{c.ConfigFile, filepath.Join(c.AppRoot, "config.json"),
		filepath.Join(filepath.Dir(c.scriptPath()), "config.json")} {
		data, err := os.ReadFile(path)
		if path == "" || err != nil || len(data) == 0 {
			continue
		}
		var settings map[string]any // the worker has refused what is none
		if err := json.Unmarshal(data, &settings); err == nil && settings[settingVersion] != nil {
			value = settings[settingVersion]
		}
		break
	}
	for _, entry := range inferEnvironment(*c) {
		if name, set, _ := strings.Cut(entry, "="); name == settingVersion {
			value = set
		}
	}
	if !strings.EqualFold(strings.TrimSpace(fmt.Sprint(value)), "true") {
		return ""
	}
	return "portico/" + workers.Version
}

// scriptPath is where the scoring script lies.
func (c *InferConfig) scriptPath() string {
	if filepath.IsAbs(c.EntryScript) {
		return c.EntryScript
	}
	return filepath.Join(c.AppRoot, c.EntryScript)
}

// Launch implements inference.Launcher.
func (l *execLauncher) Launch(ctx context.Context, spec inference.WorkerSpec) (inference.Process, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.running[spec.ID]; p != nil && !p.ended() {
		return p, nil
	}
	var (
		p    *execProcess
		err  error
		done = make(chan struct{})
	)
	select {
	case l.starts <- func() { p, err = l.start(spec); close(done) }:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	<-done
	if err != nil {
		return nil, fmt.Errorf("start worker %s: %w", spec.ID, err)
	}
	l.running[spec.ID] = p
	return p, nil
}

func (l *execLauncher) start(spec inference.WorkerSpec) (*execProcess, error) {
	for _, path := range []string{spec.Socket, spec.Page} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	page, err := os.OpenFile(spec.Page, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer page.Close() // the child has its own
	if err := page.Truncate(inference.PageSize); err != nil {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: spec.Socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	socket, err := listener.File()
	if err := errors.Join(err, listener.Close()); err != nil { // the duplicate listens on
		return nil, err
	}
	defer socket.Close()                                                       // the child has its own
	cmd := exec.CommandContext(context.Background(), l.argv[0], l.argv[1:]...) // the pool ends it
	cmd.Env, cmd.Dir = l.env, l.dir
	cmd.ExtraFiles = []*os.File{socket, page} // descriptors 3 and 4
	cmd.Stdout, cmd.Stderr = l.output, l.output
	cmd.SysProcAttr = diesWithParent(&syscall.SysProcAttr{Setpgid: true})
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &execProcess{cmd: cmd, started: time.Now(), done: make(chan struct{})}
	go p.wait() // ends with the process
	return p, nil
}

// execProcess is a worker process. It is inference.Process.
type execProcess struct {
	cmd     *exec.Cmd
	started time.Time
	done    chan struct{}
	exit    compute.Exit // set before done is closed
}

func (p *execProcess) wait() {
	endGroup(p.cmd.Process.Pid)
	err := p.cmd.Wait()
	p.exit = compute.Exit{Code: -1, At: time.Now()}
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		p.exit.Signal = status.Signal().String()
	} else if ok {
		p.exit.Code = status.ExitStatus()
	} else if err != nil {
		p.exit.Reason = err.Error()
	}
	close(p.done)
}

func (p *execProcess) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// PID implements inference.Process.
func (p *execProcess) PID() int { return p.cmd.Process.Pid }

// Started implements inference.Process.
func (p *execProcess) Started() time.Time { return p.started }

// Done implements inference.Process.
func (p *execProcess) Done() <-chan struct{} { return p.done }

// Exit implements inference.Process.
func (p *execProcess) Exit() compute.Exit { return p.exit }

// Signal implements inference.Process.
func (p *execProcess) Signal(_ context.Context, sig syscall.Signal) error {
	if p.ended() {
		return nil
	}
	var err error
	if sig == syscall.SIGKILL {
		err = syscall.Kill(-p.cmd.Process.Pid, sig)
	} else {
		err = p.cmd.Process.Signal(sig)
	}
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}
