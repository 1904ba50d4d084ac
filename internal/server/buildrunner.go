package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"portico/internal/environment"
	"portico/internal/host"
	"portico/internal/online"
)

// Bounds of one step of an environment build.
const (
	buildLogBytes    = 64 << 20
	buildMemoryBytes = 8 << 30
	buildPids        = 512
	buildStopGrace   = 5 * time.Second
	buildLogPoll     = 50 * time.Millisecond
)

// buildRunner runs the steps of environment builds as processes of the host: under a user id of their own and
// without sight of the data directory, where the machine allows it.
//
// It reaches the host anew for each step, so that a build also works after the host was replaced.
type buildRunner struct {
	host host.Config
	dir  string // for the output of running steps
}

// Run implements environment.Runner.
func (r *buildRunner) Run(ctx context.Context, c environment.Command) error {
	client, err := host.EnsureRunning(ctx, r.host)
	if err != nil {
		return fmt.Errorf("run %s: %w", c.Name, err)
	}
	defer func() { _ = client.Close() }() // the host goes on without it
	id := "build-" + uuid.NewString()
	logs := filepath.Join(r.dir, id)
	defer os.RemoveAll(logs)
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	events, err := client.Watch(watching)
	if err != nil {
		return fmt.Errorf("run %s: %w", c.Name, err)
	}
	if _, err := client.Start(ctx, buildSpec(id, logs, c)); err != nil {
		return fmt.Errorf("run %s: %w", c.Name, err)
	}
	defer client.Forget(watching, id) //nolint:errcheck // an exit that stays on the host's list is only noise
	out := follow(watching, logs, c.Output)
	exit, err := wait(ctx, client, id, events)
	out.finish()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("run %s: %w", c.Name, err)
	case exit.OOMKilled:
		return &environment.ExitError{Code: -1, Signal: fmt.Sprintf("killed, out of memory (%d MiB)", buildMemoryBytes>>20)}
	case exit.Signal != 0:
		return &environment.ExitError{Code: -1, Signal: syscall.Signal(exit.Signal).String()}
	case exit.Code != 0:
		return &environment.ExitError{Code: exit.Code}
	}
	return nil
}

func buildSpec(id, logs string, c environment.Command) host.ProcessSpec {
	env := map[string]online.Secret{}
	for _, kv := range c.Env {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = online.Secret(value)
	}
	var views []host.View
	for _, p := range c.Visible {
		views = append(views, host.View{Path: filepath.Clean(p)})
	}
	for _, p := range c.Writable {
		views = append(views, host.View{Path: filepath.Clean(p), Writable: true})
	}
	return host.ProcessSpec{
		ID: id, Labels: map[string]string{"portico": "build", "step": c.Name},
		Argv: c.Argv, Env: env, Dir: filepath.Clean(c.Dir), User: host.UserSeparate, View: views,
		Limits: host.Limits{MemoryBytes: buildMemoryBytes, Pids: buildPids},
		Log:    host.LogSpec{Dir: logs, FileBytes: buildLogBytes, Files: 2},
	}
}

// wait waits for the end of a step; when ctx ends it ends the step first.
func wait(ctx context.Context, client *host.Client, id string, events <-chan host.Event) (*host.Exit, error) {
	done := ctx.Done()
	var kill <-chan time.Time
	for {
		select {
		case ev, ok := <-events:
			if !ok {
				return nil, errors.New("the host is gone")
			}
			if ev.Process.ID == id && ev.Process.Exit != nil {
				return ev.Process.Exit, nil
			}
		case <-done:
			done = nil
			signal(ctx, client, id, syscall.SIGTERM)
			kill = time.After(buildStopGrace)
		case <-kill:
			signal(ctx, client, id, syscall.SIGKILL)
		}
	}
}

func signal(ctx context.Context, client *host.Client, id string, sig syscall.Signal) {
	// A step that has just ended by itself is no longer there to be signalled; its exit follows.
	_ = client.Signal(context.WithoutCancel(ctx), id, sig, true)
}

// follower copies a step's output while it runs.
type follower struct {
	dir    string
	out    io.Writer
	copied int64
	stop   context.CancelFunc
	done   chan struct{}
}

func follow(ctx context.Context, dir string, out io.Writer) *follower {
	ctx, stop := context.WithCancel(ctx)
	f := &follower{dir: dir, out: out, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		for {
			r, err := host.FollowLog(ctx, dir, 0)
			if err == nil {
				f.copied, _ = io.Copy(out, r) // output that cannot be shown does not stop a build
				r.Close()
				return
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(buildLogPoll): // nothing is printed yet
			}
		}
	}()
	return f
}

// finish stops following and copies what was printed last.
func (f *follower) finish() {
	f.stop()
	<-f.done
	r, err := host.ReadLog(f.dir, 0)
	if err != nil {
		return
	}
	defer r.Close()
	if _, err := io.CopyN(io.Discard, r, f.copied); err == nil {
		_, _ = io.Copy(f.out, r)
	}
}
