package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Bounds of starting a supervisor.
const (
	ensureTimeout    = 20 * time.Second      // until a started supervisor answers
	ensurePoll       = 10 * time.Millisecond // between two attempts to reach it
	hostLogMaxBytes  = 8 << 20               // host.log is put aside at this size
	hostLogTailBytes = 2 << 10               // of host.log, told when a supervisor dies while starting
)

// EnsureRunning attaches to the supervisor of cfg.DataDir and starts one when none answers: detached, in a session
// of its own, with its output in host/host.log and none of this process's environment. The supervisor outlives
// the caller; while the caller lives, a goroutine waits for it, so that it leaves no zombie.
func EnsureRunning(ctx context.Context, cfg Config) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, ensureTimeout)
	defer cancel()
	if c, err := Dial(ctx, cfg.DataDir); !errors.Is(err, ErrNotRunning) {
		return c, err
	}
	ended, err := spawn(cfg)
	if err != nil {
		return nil, fmt.Errorf("start the host: %w", err)
	}
	poll := time.NewTicker(ensurePoll)
	defer poll.Stop()
	for {
		// The order matters: when ours ended because another start won, that one answers or will.
		var exit error
		select {
		case exit = <-ended:
			ended = nil
		case <-poll.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("start the host: %w%s", ctx.Err(), hostLogTail(cfg.DataDir))
		}
		c, err := Dial(ctx, cfg.DataDir)
		if !errors.Is(err, ErrNotRunning) {
			return c, err
		}
		if exit != nil && !hostHolds(cfg.DataDir) {
			return nil, fmt.Errorf("start the host: it ended: %w%s", exit, hostLogTail(cfg.DataDir))
		}
	}
}

// spawn starts the supervisor's process. The channel gets how it ended, never nil.
func spawn(cfg Config) (<-chan error, error) {
	exe := cfg.Executable
	if exe == "" {
		var err error
		if exe, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	dir, err := canonical(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	cfg.DataDir = dir
	out, err := openHostLog(dir)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(exe, cfg.Arguments()...) //nolint:noctx // it outlives whoever starts it
	cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.Env = out, out, "/", supervisorEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		if err == nil {
			err = errors.New("exit status 0")
		}
		ended <- err
	}()
	return ended, nil
}

// supervisorEnv is all that a supervisor inherits: where programs and temporary files are, and what the Go tools that
// measure a program want of it.
func supervisorEnv() []string {
	var env []string
	for _, name := range []string{"PATH", "TMPDIR", "LANG", "TZ", "GOCOVERDIR", "GORACE"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

const hostLogName = "host.log"

// openHostLog opens the supervisor's own log for appending and puts a long one aside.
func openHostLog(dataDir string) (*os.File, error) {
	if err := os.MkdirAll(stateDir(dataDir), privateDir); err != nil {
		return nil, err
	}
	path := filepath.Join(stateDir(dataDir), hostLogName)
	if info, err := os.Stat(path); err == nil && info.Size() > hostLogMaxBytes {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// rollHostLog makes a supervisor that writes to its log (and not to a terminal) go on in a new one when it is long.
func rollHostLog(dataDir string) error {
	mine, err := os.Stderr.Stat()
	if err != nil || mine.Size() <= hostLogMaxBytes {
		return nil //nolint:nilerr // a closed standard error is no log that could grow
	}
	named, err := os.Stat(filepath.Join(stateDir(dataDir), hostLogName))
	if err != nil || !os.SameFile(mine, named) {
		return nil //nolint:nilerr // its output goes elsewhere, and whoever sent it there keeps it bounded
	}
	f, err := openHostLog(dataDir)
	if err != nil {
		return err
	}
	defer f.Close()
	for fd := 1; fd <= 2; fd++ {
		if err := replaceDescriptor(int(f.Fd()), fd); err != nil {
			return fmt.Errorf("go on in a new log: %w", err)
		}
	}
	return nil
}

// hostLogTail is the end of host.log as part of an error's text.
func hostLogTail(dataDir string) string {
	f, err := os.Open(filepath.Join(stateDir(dataDir), hostLogName))
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > hostLogTailBytes {
		_, _ = f.Seek(-hostLogTailBytes, io.SeekEnd)
	}
	text, err := io.ReadAll(io.LimitReader(f, hostLogTailBytes))
	if err != nil || len(text) == 0 {
		return ""
	}
	return "; its log ends: " + strings.TrimSpace(string(text))
}

// hostHolds says whether some process holds the data directory as its supervisor.
func hostHolds(dataDir string) bool {
	unlock, err := lockFile(filepath.Join(stateDir(dataDir), lockName), false)
	if err != nil {
		return errors.Is(err, ErrRunning)
	}
	unlock()
	return false
}

// lockName is the file in the state directory that the supervisor holds locked while it lives.
const lockName = "lock"
