package environment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Command is one step of a build.
type Command struct {
	// Name says what the step is, for labels and logs: "venv", "install", "verify".
	Name string
	// Argv is the program, as an absolute path, and its arguments.
	Argv []string
	// Env is the whole environment of the process, "NAME=value" each. It may hold credentials of a package index.
	Env []string
	// Dir is the working directory; it is below one of Writable.
	Dir string
	// Visible are files and directories that the process must be able to read and that a sandbox may otherwise
	// hide. The usual system directories (/usr, /lib, /bin) are not listed.
	Visible []string
	// Writable are directories that the process creates files in. A Runner that runs it as another user hands them
	// to that user, with all that is below, before the process starts. Everything else may be read-only.
	Writable []string
	// Output receives standard output and standard error as they come. It is not used after Run returned.
	Output io.Writer
}

// Runner runs one step of a build to its end, with as little right as the machine allows. When ctx ends it ends the
// process with all its children, waits for them and answers ctx's error. A process that ended badly is an *ExitError;
// any other error means that it could not be run. Run is called concurrently by different builds.
type Runner interface {
	Run(ctx context.Context, c Command) error
}

// ExitError says how a step ended that did not end well.
type ExitError struct {
	Code   int    // exit status; -1 when a signal ended it
	Signal string // "killed", ...; empty when it exited by itself
}

// Error says it in words.
func (e *ExitError) Error() string {
	if e.Signal != "" {
		return "ended by a signal: " + e.Signal
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// stopGrace is how long a canceled step has to end its children after SIGTERM.
const stopGrace = 5 * time.Second

// ExecRunner runs steps as the server's own user, without a sandbox, each in a process group of its own. It serves
// where the server may not change users, and in tests.
type ExecRunner struct{}

// Run implements Runner.
func (ExecRunner) Run(ctx context.Context, c Command) error {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Env, cmd.Dir = c.Env, c.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	// The pipe is ours and not exec's, which would wait for whoever still holds it before the group can be ended.
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("run %s: %w", c.Name, err)
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("run %s: %w", c.Name, err)
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		out := c.Output
		if out == nil {
			out = io.Discard
		}
		// It ends with the last holder of the pipe, or at the deadline below; the step's own end is what counts.
		_, _ = io.Copy(out, r)
	}()
	err = cmd.Wait()
	// Whatever the step left in its group ends with it; mostly there is nothing and this answers ESRCH.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	_ = r.SetReadDeadline(time.Now().Add(stopGrace)) // for a child that left the group with the pipe
	<-copied
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return &ExitError{Code: -1, Signal: ws.Signal().String()}
		}
		return &ExitError{Code: exit.ExitCode()}
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", c.Name, err)
	}
	return nil
}
