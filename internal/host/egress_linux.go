package host

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The way out of a network of its own is a program, slirp4netns, that turns what leaves the network into connections of
// this machine. It belongs to the process: it is in its cgroup, and ends with it.

// Bounds of a way out.
const (
	egressTimeout   = 10 * time.Second // from its start to a network that is configured
	egressTailBytes = 2 << 10          // kept of what it says
	egressMTU       = "65520"
	// egressResolver is the address at which it answers for the machine's resolver.
	egressResolver = "10.0.2.3"
)

// egress is a running way out.
type egress struct {
	child *child
	life  *os.File      // it ends when this is closed
	over  chan struct{} // closed when it is buried and nothing of it is left here
	said  *tailBuffer
	ended string // how; under the supervisor's lock
}

// tailBuffer keeps the last of what is written to it.
type tailBuffer struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer.
func (b *tailBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	if extra := len(b.text) - egressTailBytes; extra > 0 {
		b.text = append(b.text[:0], b.text[extra:]...)
	}
	return len(p), nil
}

func (b *tailBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(strings.Fields(string(b.text)), " ")
}

// egressProgram finds the program.
func egressProgram() (string, error) {
	path, err := exec.LookPath("slirp4netns")
	if err != nil {
		return "", errors.New("slirp4netns is not installed")
	}
	return path, nil
}

// openEgress gives the network of a stage that waits for its plan a way out. The loopback of this machine is not reached
// by it.
func (s *supervisor) openEgress(p *proc) (err error) {
	program, err := egressProgram()
	if err != nil {
		return err
	}
	var opened []*os.File
	pipe := func() (r, w *os.File) {
		if err == nil {
			if r, w, err = os.Pipe(); err == nil {
				opened = append(opened, r, w)
			}
		}
		return r, w
	}
	readyOurs, ready := pipe()
	exit, life := pipe()
	out, said := pipe()
	null, nullErr := os.Open(os.DevNull)
	if err = errors.Join(err, nullErr); err != nil {
		closeFiles(opened)
		return err
	}
	e := &egress{life: life, over: make(chan struct{}), said: &tailBuffer{}}
	attr := &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=" + os.Getenv("PATH"), markVariable + "=" + p.rec.Mark},
		Files: []uintptr{null.Fd(), said.Fd(), said.Fd(), ready.Fd(), exit.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	args := []string{
		"slirp4netns", "--configure", "--mtu=" + egressMTU, "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp",
		"--ready-fd=3", "--exit-fd=4", fmt.Sprintf("--userns-path=/proc/%d/ns/user", p.rec.PID), "--netns-type=path",
		fmt.Sprintf("/proc/%d/ns/net", p.rec.PID), "tap0",
	}
	s.forks.do(func() {
		e.child, err = s.children.fork(func() (int, error) { return syscall.ForkExec(program, args, attr) })
	})
	closeFiles([]*os.File{null, said, ready, exit}) // what is left open here would hide their ends
	if err != nil {
		closeFiles([]*os.File{readyOurs, life, out})
		return fmt.Errorf("start slirp4netns: %w", err)
	}
	p.root.egress = e
	go func() {
		defer close(e.over)
		_, _ = io.Copy(e.said, out) // until its end
		_ = out.Close()
		d := <-e.child.died
		s.egressEnded(p, e, d)
	}()
	defer readyOurs.Close()
	if err := enterCgroups(p.rec.Cgroups, e.child.pid); err != nil {
		return err
	}
	_ = readyOurs.SetReadDeadline(time.Now().Add(egressTimeout))
	if _, err := readyOurs.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("slirp4netns is not ready (%w): %s", err, e.said)
	}
	return nil
}

// egressEnded notes the end of a way out.
func (s *supervisor) egressEnded(p *proc, e *egress, d death) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.ended = describe(d.status)
	s.endCutOff(p)
}

// endCutOff ends a process that lost its way out: it would fail in ways that nobody can explain. One that does not count
// as running yet is asked about again then.
func (s *supervisor) endCutOff(p *proc) {
	if p.root == nil || p.root.egress == nil || p.root.egress.ended == "" || !p.running || !s.children.lives(p.child) {
		return
	}
	s.log.Warn("the way out of a process's network ended, and the process is ended", "id", p.rec.ID,
		"how", p.root.egress.ended, "said", p.root.egress.said.String())
	s.signalProc(p, syscall.SIGKILL)
}

// close ends it and waits for that. The supervisor's lock is not held.
func (e *egress) close(c *children) {
	if e == nil {
		return
	}
	_ = e.life.Close()
	_ = c.signal(e.child, syscall.SIGKILL, true)
	<-e.over // SIGKILL is not refused
}
