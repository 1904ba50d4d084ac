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
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fork is a child of a fork server: set up, without a plan, and not recorded, since it runs nothing that is the caller's.
type fork struct {
	child   *child
	user    *userLease
	cgroups []string
	talk    *net.UnixConn
	lines   *bufio.Reader
	root    *forkRoot
	told    bool // which pages it will write to
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

// setUpFork makes p a fork of what spec.From names. It does what setUp does for others, as much as it can at the same
// time: without a spare the child is being forked meanwhile, and the record is on its way to the disk.
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
	}
	recorded := func() error { return nil } // nothing is to be recorded yet
	isBorn := func() {
		p.child = k.child
		p.rec.PID, p.rec.StartTime, p.rec.Started = k.child.pid, startTime(k.child.pid), time.Now().UTC()
		recorded = meanwhile(func() error { return s.record(p) })
	}
	if p.rec.Spare {
		isBorn()
	}
	files, err := s.dressFork(p, k, spec, undo)
	defer files.closePassed()
	if err == nil && !p.rec.Spare {
		if err = s.raiseFork(f, k, isBorn); err != nil {
			err = fmt.Errorf("%w: %w", ErrForkServer, err)
		}
	}
	if unrecorded := recorded(); unrecorded != nil {
		return errors.Join(unrecorded, err)
	} else if p.child != nil {
		undo.add(func() { s.unrecord(p.rec.ID) })
	}
	if err != nil {
		return err
	}
	if err := k.becomes(p, spec, files); err != nil {
		return err
	}
	k.hangUp()
	f.became(k)
	go p.pump()
	return nil
}

// meanwhile does work while its caller goes on; the result waits for it.
func meanwhile(work func() error) (wait func() error) {
	done := make(chan error, 1)
	go func() { done <- work() }()
	return func() error { return <-done }
}

// dressFork makes what the plan of a fork needs: its views, limits, log, and the files that it inherits.
func (s *supervisor) dressFork(p *proc, k *fork, spec *ProcessSpec, undo *undoing) (*inherited, error) {
	limited := meanwhile(func() error { return s.platform.cgroups.limit(k.cgroups, spec.Limits) })
	err := k.show(spec.View, p.rec.Spare)
	if err = errors.Join(limited(), err); err != nil {
		return &inherited{}, err
	}
	if p.log, err = newLogWriter(spec.Log); err != nil {
		return &inherited{}, err
	}
	undo.add(p.log.close)
	files, err := s.openFiles(p, spec, undo)
	if err != nil {
		return &inherited{}, err
	}
	return files, nil
}

// show makes the views of a plan. A spare has its root and sees them at once; others get them with their root.
func (k *fork) show(views []View, spare bool) error {
	if k.root == nil {
		return nil
	}
	shown, err := give(views, k.user.uid)
	if err != nil {
		return err
	}
	if err := k.root.add(shown); err != nil || !spare {
		return err
	}
	return k.root.show()
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
func (s *supervisor) prepareFork(f *forkServer) (k *fork, err error) {
	k = &fork{}
	defer func() {
		if err != nil {
			k.discard(s)
		}
	}()
	if k.cgroups, err = s.platform.makeCgroups("fork."+newMark(), Limits{}); err != nil || !s.capable.Users {
		return k, err
	}
	if k.user, err = f.ids.take(); err != nil {
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
	if err := s.raiseFork(f, k, func() {}); err != nil {
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
		if k, err = s.prepareFork(f); err != nil {
			return nil, err
		}
	}
	if err := k.order(f); err != nil {
		k.discard(s)
		return nil, err
	}
	return k, nil
}

// raiseFork sets up the child of an ordered fork until it waits for its plan. isBorn is called once its number is known.
func (s *supervisor) raiseFork(f *forkServer, k *fork, isBorn func()) error {
	pid, err := k.born()
	if err != nil {
		return err
	}
	if k.child, err = s.children.adopt(pid); err != nil {
		return err
	}
	isBorn()
	if !inCgroups(pid, k.cgroups) {
		if err := enterCgroups(k.cgroups, pid); err != nil {
			return err
		}
	}
	identity := forkIdentity{Touch: f.written()}
	k.told = len(identity.Touch) > 0
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
