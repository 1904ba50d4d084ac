package host

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// forkServer is the supervisor's side of a process that forks others.
type forkServer struct {
	p       *proc
	spares  int
	control *net.UnixConn
	ready   chan struct{}
	// After ready:
	report json.RawMessage
	failed error

	taken chan struct{} // a spare was taken
	ended chan struct{} // the process is no more
	over  chan struct{} // nothing of it is left here

	mu       sync.Mutex
	waiting  []*fork
	prepared *fork // what the next one needs besides the child; nil: nothing
}

// fork is a child of a fork server: set up, without a plan, and not recorded, since it runs nothing that is the caller's.
type fork struct {
	child   *child
	user    *userLease
	cgroups []string
	talk    *net.UnixConn
	lines   *bufio.Reader
	root    *forkRoot
}

// newForkServer makes the control socket of p, which is a fork server.
func (s *supervisor) newForkServer(p *proc, spec ForkSpec, files *inherited, undo *undoing) error {
	if !s.capable.Forks {
		return errors.New("this machine cannot fork workers: see the reductions of its isolation")
	}
	ours, theirs, err := talkPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return err
	}
	undo.add(func() { _ = ours.Close() })
	files.files[3] = theirs
	p.forks = &forkServer{
		p: p, spares: spec.Spares, control: ours,
		ready: make(chan struct{}), taken: make(chan struct{}, 1), ended: make(chan struct{}), over: make(chan struct{}),
	}
	return nil
}

// talkPair makes two connected sockets, ours for messages with descriptors and credentials.
func talkPair(kind int) (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "fork"), os.NewFile(uintptr(fds[1]), "fork")
	defer near.Close()
	// The kernel then says from which process a message is, in our numbers.
	err = unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	if err == nil {
		var conn net.Conn
		if conn, err = net.FileConn(near); err == nil {
			return conn.(*net.UnixConn), far, nil
		}
	}
	_ = far.Close()
	return nil, nil, fmt.Errorf("make socket pair: %w", err)
}

// tend hears the fork server's report and then keeps spares ready until its end.
func (s *supervisor) tend(f *forkServer) {
	defer close(f.over)
	f.failed = f.hear()
	close(f.ready)
	if f.failed != nil {
		s.log.Info("nothing can be forked", "id", f.p.rec.ID, "reason", f.failed)
		_ = s.signal(f.p.rec.ID, syscall.SIGKILL, true) // it may have ended on its own
		<-f.ended
		return
	}
	for f.fill(s) {
		t := time.NewTimer(spareDelay)
		select {
		case <-t.C:
		case <-f.ended:
			t.Stop()
		}
	}
	f.mu.Lock()
	left := append(f.waiting, f.prepared)
	f.waiting, f.prepared = nil, nil
	f.mu.Unlock()
	for _, k := range left {
		if k != nil {
			k.discard(s)
		}
	}
}

// hear waits for the report.
func (f *forkServer) hear() error {
	if err := f.control.SetReadDeadline(time.Now().Add(forkReadyTimeout)); err != nil {
		return err
	}
	text := make([]byte, maxForkReport)
	n, err := f.control.Read(text)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the fork server was not ready after %s", forkReadyTimeout)
	case err != nil || n == 0:
		return errors.New("the fork server ended before it was ready")
	}
	f.report = text[:n]
	reason, err := unfit(f.report)
	if err != nil {
		return errors.New("the fork server's report is not the JSON that was expected, or too long")
	}
	if reason != "" {
		return errors.New(reason)
	}
	return nil
}

// fill makes the spares that are missing, prepares the next fork, and waits until one is taken; false at the end of the
// fork server.
func (f *forkServer) fill(s *supervisor) bool {
	for {
		f.mu.Lock()
		missing := f.spares - len(f.waiting)
		f.mu.Unlock()
		if missing <= 0 {
			break
		}
		k, err := s.newSpare(f)
		if err != nil {
			s.log.Warn("no spare was made", "id", f.p.rec.ID, "error", err)
			break // the next start tells its caller
		}
		f.mu.Lock()
		f.waiting = append(f.waiting, k)
		f.mu.Unlock()
	}
	if next, err := s.prepareFork(); err == nil { // an error is told when a fork is wanted
		f.mu.Lock()
		next, f.prepared = f.prepared, next
		f.mu.Unlock()
		if next != nil {
			next.discard(s)
		}
	}
	select {
	case <-f.taken:
		return true
	case <-f.ended:
		return false
	}
}

// take gives a spare that lives, and discards those that do not; nil: there is none.
func (f *forkServer) take(s *supervisor) *fork {
	k, dead := f.pick(s.children)
	for _, d := range dead {
		d.discard(s)
	}
	return k
}

// pick takes the first spare that lives out of the waiting ones, and all before it, which are dead.
func (f *forkServer) pick(c *children) (k *fork, dead []*fork) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.ended:
		return nil, nil
	case f.taken <- struct{}{}:
	default:
	}
	for len(f.waiting) > 0 {
		k, f.waiting = f.waiting[0], f.waiting[1:]
		if c.lives(k.child) {
			return k, dead
		}
		dead = append(dead, k)
	}
	return nil, dead
}

// stop ends what belongs to a fork server that is no more. Its forks that run are processes like any other.
func (f *forkServer) stop() {
	if f == nil {
		return
	}
	close(f.ended)
	_ = f.control.Close()
	<-f.over
}

// reported waits for the report of a fork server and adds it to what is told of the process.
func (s *supervisor) reported(ctx context.Context, p *proc, process Process) (Process, error) {
	f := p.forks
	if f == nil {
		return Process{}, fmt.Errorf("%w: %s is no fork server", ErrBadRequest, process.ID)
	}
	select {
	case <-f.ready:
	case <-ctx.Done():
		return Process{}, ctx.Err()
	}
	if f.failed != nil {
		return Process{}, fmt.Errorf("%w: %w", ErrFork, f.failed)
	}
	process.Report = f.report
	return process, nil
}

// forkServerOf finds a fork server that is ready.
func (s *supervisor) forkServerOf(id string) (*forkServer, error) {
	s.mu.Lock()
	p := s.procs[id]
	s.mu.Unlock()
	if p == nil || p.forks == nil {
		return nil, fmt.Errorf("no fork server %s runs", id)
	}
	select {
	case <-p.forks.ready:
		return p.forks, p.forks.failed
	default:
		return nil, fmt.Errorf("the fork server %s is not ready", id)
	}
}

// setUpFork makes p a fork of what spec.From names. It does what setUp does for others. What the child is not needed for
// comes first: without a spare it is being forked meanwhile.
func (s *supervisor) setUpFork(p *proc, spec *ProcessSpec, undo *undoing) error {
	f, err := s.forkServerOf(spec.From)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForkServer, err)
	}
	k := f.take(s)
	p.rec.Spare = k != nil
	if k == nil {
		if k, err = s.orderFork(f); err != nil {
			return fmt.Errorf("%w: %w", ErrForkServer, err)
		}
	}
	undo.add(func() { k.discard(s) })
	p.user, p.rec.Cgroups, p.rec.From = k.user, k.cgroups, spec.From
	if k.root != nil {
		p.rec.UID = k.user.uid
		shown, err := give(spec.View, k.user.uid)
		if err != nil {
			return err
		}
		if err := k.root.add(shown); err != nil {
			return err
		}
	}
	if err := s.platform.cgroups.limit(k.cgroups, spec.Limits); err != nil {
		return err
	}
	if p.log, err = newLogWriter(spec.Log); err != nil {
		return err
	}
	undo.add(p.log.close)
	files, err := s.openFiles(p, spec, undo)
	if err != nil {
		return err
	}
	defer files.closePassed()
	if !p.rec.Spare {
		if err := s.raiseFork(f, k); err != nil {
			return fmt.Errorf("%w: %w", ErrForkServer, err)
		}
	} else if k.root != nil {
		if err := k.root.show(); err != nil {
			return err
		}
	}
	p.child = k.child
	p.rec.PID, p.rec.StartTime, p.rec.Started = k.child.pid, startTime(k.child.pid), time.Now().UTC()
	if err := s.recordStart(p, undo); err != nil {
		return err
	}
	if err := k.becomes(p, spec, files); err != nil {
		return err
	}
	k.hangUp()
	go p.pump()
	return nil
}

// becomes gives the fork its plan and waits until it is the process.
func (k *fork) becomes(p *proc, spec *ProcessSpec, files *inherited) error {
	plan := forkPlan{Argv: spec.Argv, Dir: spec.Dir, Env: map[string]string{}}
	for name, value := range spec.Env {
		plan.Env[name] = value.Reveal()
	}
	plan.Env[markVariable] = p.rec.Mark
	var passed []int
	for number, file := range files.files {
		if file != nil {
			plan.Files, passed = append(plan.Files, number), append(passed, int(file.Fd()))
		}
	}
	if err := k.talk.SetDeadline(time.Now().Add(forkTimeout)); err != nil {
		return err
	}
	if err := writeMessage(k.talk, plan, unix.UnixRights(passed...)); err != nil {
		return k.broke(err)
	}
	return k.hear()
}

// hear reads one answer of the fork: nil for its consent.
func (k *fork) hear() error {
	if err := readReport(k.lines); err != nil {
		return k.broke(err)
	}
	return nil
}

// broke says more of a conversation that ended, where the child's end is the reason.
func (k *fork) broke(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	select {
	case d := <-k.child.died:
		k.child.died <- d
		return fmt.Errorf("a fork ended while it was set up: %s", describe(d.status))
	case <-time.After(outputTimeout):
		return err
	}
}

// hangUp lets go of what only the setting up needed.
func (k *fork) hangUp() {
	if k.talk != nil {
		_ = k.talk.Close()
	}
	k.root.close()
}

// discard ends a fork that did not become a process.
func (k *fork) discard(s *supervisor) {
	k.hangUp()
	if k.child != nil {
		_ = s.children.signal(k.child, syscall.SIGKILL, false)
		<-k.child.died // SIGKILL is not refused
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if len(k.cgroups) > 0 && endMembers(ctx, &record{Cgroups: k.cgroups}) != nil {
		return // the user id stays taken: a stranger must not meet what is left
	}
	removeCgroups(ctx, k.cgroups)
	if k.user != nil {
		k.user.release()
	}
}

// prepareFork makes what a fork needs besides the child: a user id, cgroups and a root file system.
func (s *supervisor) prepareFork() (k *fork, err error) {
	k = &fork{}
	defer func() {
		if err != nil {
			k.discard(s)
		}
	}()
	if k.cgroups, err = s.platform.makeCgroups("fork."+newMark(), Limits{}); err != nil || !s.capable.Users {
		return k, err
	}
	if k.user, err = s.platform.users.take(); err != nil {
		return k, err
	}
	if k.root, err = newForkRoot(s.mounts, k.user.uid); err != nil {
		return k, fmt.Errorf("file system: %w", err)
	}
	return k, nil
}

// newSpare has the fork server fork, and sets the child up until it waits for its plan.
func (s *supervisor) newSpare(f *forkServer) (*fork, error) {
	k, err := s.orderFork(f)
	if err != nil {
		return nil, err
	}
	if err := s.raiseFork(f, k); err != nil {
		k.discard(s)
		return nil, err
	}
	return k, nil
}

// orderFork has the fork server fork, and does not wait for the child.
func (s *supervisor) orderFork(f *forkServer) (k *fork, err error) {
	f.mu.Lock()
	k = f.prepared
	f.prepared = nil
	f.mu.Unlock()
	if k == nil {
		if k, err = s.prepareFork(); err != nil {
			return nil, err
		}
	}
	if err := k.order(f); err != nil {
		k.discard(s)
		return nil, err
	}
	return k, nil
}

// raiseFork sets up the child of an ordered fork until it waits for its plan.
func (s *supervisor) raiseFork(f *forkServer, k *fork) error {
	pid, err := k.born()
	if err != nil {
		return err
	}
	if k.child, err = s.children.adopt(pid); err != nil {
		return err
	}
	if !inCgroups(pid, k.cgroups) {
		if err := enterCgroups(k.cgroups, pid); err != nil {
			return err
		}
	}
	identity := forkIdentity{}
	if k.user != nil {
		identity.UID = k.user.uid
		if err := mapUser(pid, f.p.rec.PID, identity.UID); err != nil {
			return err
		}
	}
	if err := writeMessage(k.talk, identity, nil); err != nil {
		return k.broke(err)
	}
	if err := k.hear(); err != nil {
		return err
	}
	if err := checkFork(pid, identity.UID); err != nil {
		return err
	}
	if k.root != nil {
		if err := k.root.giveTo(pid); err != nil {
			return fmt.Errorf("file system: %w", err)
		}
	}
	return k.talk.SetDeadline(time.Time{})
}

// order asks the fork server for a child.
func (k *fork) order(f *forkServer) error {
	ours, theirs, err := talkPair(unix.SOCK_STREAM)
	if err != nil {
		return err
	}
	k.talk, k.lines = ours, bufio.NewReaderSize(ours, maxStageReport)
	defer theirs.Close() // else its end would not be seen
	rights := []int{int(theirs.Fd())}
	tasks, err := openTasks(k.cgroups)
	defer closeFiles(tasks)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		rights = append(rights, int(t.Fd()))
	}
	deadline := time.Now().Add(forkTimeout)
	if err := errors.Join(ours.SetDeadline(deadline), f.control.SetWriteDeadline(deadline)); err != nil {
		return err
	}
	order, err := json.Marshal(forkOrder{Isolate: k.user != nil})
	if err != nil {
		return err
	}
	if _, _, err := f.control.WriteMsgUnix(order, unix.UnixRights(rights...), nil); err != nil {
		return fmt.Errorf("order a fork: %w", err)
	}
	return nil
}

// born waits until the child is there; its number is the kernel's word.
func (k *fork) born() (pid int, err error) {
	text, credentials := make([]byte, maxStageReport), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	n, m, _, _, err := k.talk.ReadMsgUnix(text, credentials)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("wait for a fork: the fork server hung up (%w)", err)
	}
	if err := readReport(bufio.NewReader(bytes.NewReader(text[:n]))); err != nil {
		return 0, err
	}
	messages, err := unix.ParseSocketControlMessage(credentials[:m])
	if err != nil || len(messages) != 1 {
		return 0, errors.New("wait for a fork: the kernel does not say who it is")
	}
	sender, err := unix.ParseUnixCredentials(&messages[0])
	if err != nil {
		return 0, fmt.Errorf("wait for a fork: %w", err)
	}
	return int(sender.Pid), nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// openTasks opens the files of version 1 by which a process of one thread moves itself. Moving another process waits
// for every processor, which costs more than all the rest of a fork; version 2 has no other way.
func openTasks(cgroups []string) ([]*os.File, error) {
	var files []*os.File
	for _, dir := range cgroups {
		f, err := os.OpenFile(filepath.Join(dir, "tasks"), os.O_WRONLY, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return files, fmt.Errorf("open cgroup: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// inCgroups says whether a process is in all of dirs.
func inCgroups(pid int, dirs []string) bool {
	if len(dirs) == 0 {
		return true
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && bytes.Count(text, []byte("/"+filepath.Base(dirs[0])+"\n")) == len(dirs)
}

// mapUser gives the user namespace that a fork made for itself its only id. Namespaces that are ours or the fork
// server's would be a fork that did not do as it was told.
func mapUser(pid, server, uid int) error {
	for _, name := range []string{"user", "mnt", "ipc"} {
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		if err != nil {
			return fmt.Errorf("look at the fork: %w", withoutPath(err))
		}
		for _, other := range []string{"self", strconv.Itoa(server)} {
			if theirs, err := os.Readlink(fmt.Sprintf("/proc/%s/ns/%s", other, name)); err != nil || theirs == its {
				return fmt.Errorf("the fork has no %s namespace of its own", name)
			}
		}
	}
	line := fmt.Appendf(nil, "%d %d 1\n", uid, uid)
	for _, file := range []string{"uid_map", "gid_map"} {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, file), line, 0); err != nil {
			return fmt.Errorf("map the user id: %w", withoutPath(err))
		}
	}
	return nil
}

// checkFork looks from outside whether a fork is what it says: one thread that leads its session, and, with a user id,
// that user alone without any privilege or a way to one.
func checkFork(pid, uid int) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return fmt.Errorf("look at the fork: %w", withoutPath(err))
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return fmt.Errorf("look at the fork: %w", withoutPath(err))
	}
	after := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // state, parent, group, session
	me := strconv.Itoa(pid)
	if len(after) < 4 || after[2] != me || after[3] != me {
		return errors.New("the fork does not lead a session")
	}
	want := map[string][]string{"Threads:": {"1"}}
	if uid != 0 {
		id := strconv.Itoa(uid)
		want["Uid:"], want["Gid:"] = slices.Repeat([]string{id}, 4), slices.Repeat([]string{id}, 4)
		want["Groups:"], want["NoNewPrivs:"] = []string{}, []string{"1"}
		for _, set := range []string{"CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"} {
			want[set] = []string{"0000000000000000"}
		}
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if values, ok := want[fields[0]]; ok {
			if !slices.Equal(fields[1:], values) {
				return fmt.Errorf("the fork has %s, which it was to give up", strings.TrimSpace(line))
			}
			delete(want, fields[0])
		}
	}
	if len(want) > 0 {
		return errors.New("the kernel does not tell what the fork may do")
	}
	return nil
}

// adopt takes up a process that is our child without our having started it.
func (c *children) adopt(pid int) (*child, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Nothing is buried while the lock is held: the number is its own.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, errors.New("the fork ended at once")
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) || c.live[pid] != nil {
		return nil, errors.New("the fork is not the supervisor's child")
	}
	ch := &child{pid: pid, died: make(chan death, 1)}
	c.live[pid] = ch
	return ch, nil
}

// lives says that a child is not buried: a number that was given to another process is not its.
func (c *children) lives(ch *child) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.live[ch.pid] == ch
}

// tryNamespaces says whether this process, which has no privileges, may make the namespaces that a fork needs.
func tryNamespaces() error {
	flags := uintptr(unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | int(unix.SIGCHLD))
	pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, flags, 0, 0, 0, 0, 0)
	if e != 0 {
		return fmt.Errorf("user namespaces: %w", e)
	}
	if pid == 0 {
		for { // nothing of the runtime may be used here
			_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	_, err := unix.Wait4(int(pid), nil, 0, nil)
	return err
}
