package host

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Bounds of starting a process.
const (
	stageTimeout      = time.Minute     // from fork to exec
	outputTimeout     = 2 * time.Second // to read what is left in the pipe of a process that ended
	outputBufferBytes = 16 << 10        // per process
	maxStageReport    = 64 << 10
)

// proc is a process while it is set up and while it runs.
type proc struct {
	rec    *record
	child  *child
	user   *userLease
	ready  chan struct{} // closed when it runs or could not be started
	failed error         // valid after ready
	logDir string
	log    *logWriter
	out    *os.File // read end of its output
	pumped chan struct{}
	page   *page
	root   *ownRoot    // nil for those that see the machine's
	forks  *forkServer // nil for all others
	// Of these two the supervisor's lock is held.
	running bool
	killed  bool // a client sent SIGKILL: not the kernel's doing
}

// start is the verb: the process that runs under the id, or a new one.
func (s *supervisor) start(ctx context.Context, spec ProcessSpec) (Process, error) {
	if err := spec.check(); err != nil {
		return Process{}, err
	}
	for {
		p, fresh, err := s.claim(&spec)
		if err != nil {
			return Process{}, err
		}
		if fresh {
			process, err := s.launch(ctx, p, &spec)
			if err == nil && spec.Forks != nil {
				return s.reported(ctx, p, process)
			}
			return process, err
		}
		select {
		case <-p.ready:
		case <-ctx.Done():
			return Process{}, ctx.Err()
		}
		s.mu.Lock()
		process, failed := p.rec.Process, p.failed
		s.mu.Unlock()
		if failed != nil {
			return Process{}, failed
		}
		if process.Exit == nil && spec.Forks != nil {
			return s.reported(ctx, p, process)
		}
		if process.Exit == nil {
			return process, nil
		}
	}
}

// claim finds the process of the id or takes the id for a new one.
func (s *supervisor) claim(spec *ProcessSpec) (p *proc, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return nil, false, ErrDraining
	}
	if p := s.procs[spec.ID]; p != nil {
		return p, false, nil
	}
	if len(s.procs) >= MaxProcesses {
		return nil, false, fmt.Errorf("%w: %d processes run", ErrLimit, MaxProcesses)
	}
	for _, other := range s.procs {
		if spec.Log.Dir != "" && other.logDir == spec.Log.Dir {
			return nil, false, fmt.Errorf("%w: %s already logs to that directory", ErrBadRequest, other.rec.ID)
		}
	}
	p = &proc{ready: make(chan struct{}), pumped: make(chan struct{}), logDir: spec.Log.Dir}
	p.rec = &record{
		Process: Process{
			ID: spec.ID, Labels: spec.Labels, Socket: spec.Socket, Page: spec.Page, LogDir: spec.Log.Dir, UID: os.Geteuid(),
		},
		BootID: s.boot, Mark: newMark(),
	}
	s.procs[spec.ID] = p
	s.attended.Add(1)
	return p, true, nil
}

func newMark() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// launch sets a claimed process up. Its end is attended to by a goroutine of its own from then on.
func (s *supervisor) launch(ctx context.Context, p *proc, spec *ProcessSpec) (Process, error) {
	err := s.setUp(ctx, p, spec)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(p.ready)
	if err != nil {
		delete(s.procs, spec.ID)
		p.failed = err
		s.attended.Done()
		s.log.Warn("process not started", "id", spec.ID, "error", err)
		return Process{}, err
	}
	s.log.Info("process started", "id", spec.ID, "pid", p.rec.PID, "uid", p.rec.UID)
	p.running = true
	s.publish(p.rec.Process)
	if s.draining { // it came too late for the signals that drain sent
		s.signalProc(p, syscall.SIGKILL)
	}
	s.endCutOff(p)
	if p.forks != nil {
		go s.tend(p.forks) // attend waits for it
	}
	go func() {
		defer s.attended.Done()
		s.attend(p)
	}()
	return p.rec.Process, nil
}

// setUp does all that can fail, and undoes it when it does.
func (s *supervisor) setUp(ctx context.Context, p *proc, spec *ProcessSpec) (err error) {
	select {
	case s.starting <- struct{}{}:
		defer func() { <-s.starting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	undo := &undoing{}
	defer func() {
		if err != nil {
			undo.run()
		}
	}()
	if spec.From != "" {
		if err = s.setUpFork(p, spec, undo); err != nil && !errors.Is(err, ErrFork) {
			err = fmt.Errorf("%w: %w", ErrFork, err)
		}
		return err
	}
	startErr := func(err error) error { return fmt.Errorf("%w: %w", ErrStart, err) }
	plan := &stagePlan{Argv: spec.Argv, Dir: spec.Dir, Env: map[string]string{markVariable: p.rec.Mark}}
	for k, v := range spec.Env {
		plan.Env[k] = v.Reveal()
	}
	if spec.User == UserSeparate {
		if err := s.separate(p, spec, plan, undo); err != nil {
			return startErr(err)
		}
	}
	if p.log, err = newLogWriter(spec.Log); err != nil {
		return startErr(err)
	}
	undo.add(p.log.close)
	if p.rec.Cgroups, err = s.platform.makeCgroups(spec.ID+"."+p.rec.Mark[:8], spec.Limits); err != nil {
		return startErr(err)
	}
	undo.add(func() { s.platform.removeCgroups(p.rec.Cgroups) })
	files, err := s.openFiles(p, spec, undo)
	if err != nil {
		return startErr(err)
	}
	defer files.close()
	if err := files.addStage(); err != nil {
		return startErr(err)
	}
	if spec.Forks != nil {
		if err := s.newForkServer(p, *spec.Forks, files, undo); err != nil {
			return startErr(err)
		}
	}
	if err := s.runStage(p, plan, files, undo); err != nil {
		return startErr(err)
	}
	return nil
}

// separate gives the process a user id and a file system, as far as the machine allows.
func (s *supervisor) separate(p *proc, spec *ProcessSpec, plan *stagePlan, undo *undoing) error {
	if spec.Root != nil && !s.capable.Roots {
		return fmt.Errorf("images cannot run on this machine: %s", s.capable.NoRoots)
	}
	if !s.capable.Users {
		return nil
	}
	lease, err := s.platform.users.take()
	if err != nil {
		return err
	}
	undo.add(lease.release)
	p.user, p.rec.UID, plan.UID = lease, lease.uid, lease.uid
	shown, err := give(spec.View, lease.uid)
	if err != nil {
		return err
	}
	if spec.Root != nil {
		root := *spec.Root
		root.Egress = root.Egress && s.capable.NoEgress == ""
		if p.root, err = s.makeRoot(&root, spec.Dir, lease.uid, shown); err != nil {
			return fmt.Errorf("root: %w", err)
		}
		undo.add(p.root.close)
		plan.UID = 0
		return nil
	}
	if s.capable.Mounts {
		plan.Sandbox, plan.View = s.platform.sandboxDir, shown
	}
	return nil
}

// give says what views mean, and gives what is writable to a user id.
func give(views []View, uid int) ([]binding, error) {
	shown, err := bindings(views)
	if err != nil {
		return nil, err
	}
	for _, b := range shown {
		if b.Writable {
			if err := giveTo(b.From, uid); err != nil {
				return nil, fmt.Errorf("view %s: %w", b.At, withoutPath(err))
			}
		}
	}
	return shown, nil
}

// inherited is what a process gets as its descriptors 0 to stageFD; nil is closed in it.
type inherited struct {
	files [stageFD + 1]*os.File
	stage *os.File // our end of the pair
}

// closePassed closes our copies of what was passed on.
func (f *inherited) closePassed() {
	for i, file := range f.files {
		if file != nil {
			_ = file.Close() // output and errors are one file: closing it again does nothing
		}
		f.files[i] = nil
	}
}

func (f *inherited) close() {
	f.closePassed()
	if f.stage != nil {
		_ = f.stage.Close()
	}
}

// addStage makes the pair over which the stage is spoken to.
func (f *inherited) addStage() (err error) {
	f.stage, f.files[stageFD], err = socketPair()
	return err
}

func (s *supervisor) openFiles(p *proc, spec *ProcessSpec, undo *undoing) (f *inherited, err error) {
	opened := &inherited{}
	defer func() {
		if err != nil {
			opened.close()
		}
	}()
	f = opened
	if f.files[0], err = os.Open(os.DevNull); err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.out = out
	undo.add(func() { _ = out.Close() })
	f.files[1], f.files[2] = in, in
	if spec.Socket != "" {
		if f.files[3], err = s.openSocket(spec.Socket); err != nil {
			return nil, fmt.Errorf("socket: %w", err)
		}
		undo.add(func() { removeSocket(spec.Socket) })
	}
	if spec.Page != "" {
		if p.page, err = newPage(spec.Page); err != nil {
			return nil, fmt.Errorf("status page: %w", err)
		}
		undo.add(p.page.remove)
		if f.files[4], err = p.page.inherit(); err != nil {
			return nil, fmt.Errorf("status page: %w", err)
		}
	}
	return f, nil
}

// openSocket makes a fresh listening socket at path.
func (s *supervisor) openSocket(path string) (*os.File, error) {
	dir, err := SocketDir(s.cfg.DataDir)
	if err != nil {
		return nil, err
	}
	if filepath.Dir(path) != dir || path == filepath.Join(dir, controlName) {
		return nil, errors.New("it must lie in the socket directory")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := listenUnix(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.Close() }()
	return l.File()
}

// listenUnix listens on a Unix socket that only we and root may connect to, and that outlives its listener.
func listenUnix(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil { // its directory is private: nobody came before this
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

func removeSocket(path string) {
	if path != "" {
		_ = os.Remove(path) // gone is what we want; the directory is private
	}
}

// fork starts the stage of p. What is in more follows what it inherits anyway.
func (s *supervisor) fork(p *proc, sys *syscall.SysProcAttr, files *inherited, more []*os.File) error {
	attr := &syscall.ProcAttr{Dir: "/", Env: []string{}, Sys: sys}
	for _, f := range files.files {
		fd := ^uintptr(0)
		if f != nil {
			fd = f.Fd()
		}
		attr.Files = append(attr.Files, fd)
	}
	for _, f := range more {
		attr.Files = append(attr.Files, f.Fd())
	}
	exe, err := stageProgram()
	if err != nil {
		return err
	}
	s.forks.do(func() {
		p.child, err = s.children.fork(func() (int, error) { return syscall.ForkExec(exe, []string{stageName}, attr) })
	})
	if err != nil {
		return fmt.Errorf("fork: %w", err)
	}
	files.closePassed() // what is left open here would hide the end of the pair and of the pipe
	p.rec.PID, p.rec.StartTime, p.rec.Started = p.child.pid, startTime(p.child.pid), time.Now().UTC()
	return nil
}

// runStage forks the stage, records it, and lets it become the program.
func (s *supervisor) runStage(p *proc, plan *stagePlan, files *inherited, undo *undoing) error {
	sys, trees := stageAttr(plan.Sandbox != ""), []*os.File(nil)
	if p.root != nil {
		sys, trees = p.root.attr(), p.root.enter(plan)
		// A program that opens its output by name must be allowed to.
		if err := files.files[1].Chown(p.rec.UID, p.rec.UID); err != nil {
			return fmt.Errorf("output: %w", err)
		}
	}
	if err := s.fork(p, sys, files, trees); err != nil {
		return err
	}
	undo.add(func() { s.abandon(p) })
	if p.root != nil {
		undo.add(func() { p.root.egress.close(s.children) })
		if err := p.root.started(p.rec.PID); err != nil {
			return err
		}
		if p.root.out {
			if err := s.openEgress(p); err != nil {
				return fmt.Errorf("way out of its network: %w", err)
			}
		}
	}
	if err := enterCgroups(p.rec.Cgroups, p.rec.PID); err != nil {
		return err
	}
	if err := s.record(p); err != nil {
		return err
	}
	undo.add(func() { s.unrecord(p.rec.ID) })
	if err := s.converse(p, plan, files.stage); err != nil {
		return err
	}
	go p.pump()
	return nil
}

// record makes the start durable, before anything of the caller's runs.
func (s *supervisor) record(p *proc) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal.append(entry{Start: p.rec})
}

// converse gives the stage its plan and waits until it is the program.
func (s *supervisor) converse(p *proc, plan *stagePlan, stage *os.File) error {
	if err := stage.SetDeadline(time.Now().Add(stageTimeout)); err != nil {
		return fmt.Errorf("set deadline of the stage: %w", err)
	}
	line, err := json.Marshal(plan)
	if err != nil {
		return fmt.Errorf("encode plan: %w", err)
	}
	r := bufio.NewReader(io.LimitReader(stage, maxStageReport))
	if _, err := stage.Write(append(line, '\n')); err != nil {
		return s.stageEnded(p, r, err)
	}
	if err := readReport(r); err != nil {
		return s.stageEnded(p, nil, err)
	}
	if _, err := stage.Write([]byte{stageGo}); err != nil {
		return s.stageEnded(p, r, err)
	}
	if err := readReport(r); !errors.Is(err, io.EOF) {
		return s.stageEnded(p, nil, err)
	}
	// Exec closes the pair without a word. So does a kill in the last instant before it, which nobody can tell
	// from one in the first instant of the program: both are exits.
	return nil
}

// readReport reads one report of the stage: nil for success, io.EOF when the pair was closed.
func readReport(r *bufio.Reader) error {
	line, err := r.ReadBytes('\n')
	if err != nil {
		if errors.Is(err, syscall.ECONNRESET) {
			err = io.EOF
		}
		return err
	}
	var report stageReport
	if err := json.Unmarshal(line, &report); err != nil {
		return fmt.Errorf("read the stage's report: %w", err)
	}
	if report.Error != "" {
		return errors.New(report.Error)
	}
	return nil
}

// stageEnded prefers what the stage said over how the conversation broke.
func (s *supervisor) stageEnded(p *proc, r *bufio.Reader, err error) error {
	if r != nil {
		if said := readReport(r); said != nil && !errors.Is(said, io.EOF) {
			return said
		}
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	select {
	case d := <-p.child.died:
		p.child.died <- d
		return fmt.Errorf("the process ended while it was set up: %s", describe(d.status))
	case <-time.After(outputTimeout):
		return errors.New("the setting up of the process broke off")
	}
}

func describe(ws syscall.WaitStatus) string {
	if ws.Signaled() {
		return "signal " + ws.Signal().String()
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}

// abandon ends a stage that failed and waits for it.
func (s *supervisor) abandon(p *proc) {
	_ = s.children.signal(p.child, syscall.SIGKILL, true)
	<-p.child.died // SIGKILL is not refused
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	_ = endMembers(ctx, p.rec)
}

func (s *supervisor) unrecord(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.journal.append(entry{Forget: id}); err != nil {
		s.log.Error("failed start not struck from the journal", "id", id, "error", err)
	}
}

// undoing is a list of steps that take back what was done, newest first.
type undoing struct{ steps []func() }

func (u *undoing) add(step func()) { u.steps = append(u.steps, step) }

func (u *undoing) run() {
	for i := len(u.steps) - 1; i >= 0; i-- {
		u.steps[i]()
	}
}
