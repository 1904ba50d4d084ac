package side

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	startLimit = 3 * time.Minute // building a deployment's environment included
	stopLimit  = 40 * time.Second
	pollPeriod = 50 * time.Millisecond
)

// Process is a server that was started and will be stopped.
type Process struct {
	cmd  *exec.Cmd
	done chan error
	log  string
	gone bool // it may end with any status when it is stopped
}

// Launch starts cmd in a session of its own, as a service manager would; what it prints goes to NAME.log in dir.
func Launch(dir, name string, cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan error, 1), log: filepath.Join(dir, name+".log")}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// Where the kernel shares processors among sessions (sched_autogroup), a server that stayed in ours would share ours,
	// and those whose workers leave it would not: every row is to have the same terms.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { p.done <- cmd.Wait() }()
	return p, nil
}

// PID is the first process of the server.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Stop ends the process and waits for it.
func (p *Process) Stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w\n%s", p.cmd.Path, err, p.tail())
	}
	select {
	case err := <-p.done:
		// What it started and left behind ends with it. There may be nothing.
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		if err != nil && !p.gone {
			return fmt.Errorf("%s: %w\n%s", p.cmd.Path, err, p.tail())
		}
		return nil
	case <-time.After(stopLimit):
		return errors.Join(fmt.Errorf("%s did not stop within %s", p.cmd.Path, stopLimit),
			syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL), <-p.done)
	}
}

// AnyExit says that the server need not end with status 0 when it is stopped: not every peer does.
func (p *Process) AnyExit() *Process {
	p.gone = true
	return p
}

// tail gives the end of what the process said.
func (p *Process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// Wait polls until ok, the process ends, or the limit passes.
func (p *Process) Wait(ctx context.Context, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case err := <-p.done:
			p.done <- err
			if err == nil {
				err = errors.New("exit status 0")
			}
			return fmt.Errorf("%s: it ended: %w\n%s", what, err, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w\n%s", what, ctx.Err(), p.tail())
		}
	}
	return nil
}

// FreeAddress gives an address on the loopback that nobody listens on.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a local socket that is closed at once
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}
