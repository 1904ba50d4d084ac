package environment

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"portico/internal/testkit"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestExecRunner(t *testing.T) {
	for _, c := range []struct {
		script string
		code   int
		signal string
	}{
		{"exit 0", 0, ""}, {"exit 7", 7, ""}, {"kill -9 $$", -1, "killed"},
	} {
		err := ExecRunner{}.Run(within(t), Command{Name: "x", Argv: []string{"/bin/sh", "-c", c.script}, Dir: t.TempDir()})
		var exit *ExitError
		switch {
		case c.code == 0 && c.signal == "":
			if err != nil {
				t.Errorf("%s: %v", c.script, err)
			}
		case !errors.As(err, &exit) || exit.Code != c.code || exit.Signal != c.signal:
			t.Errorf("%s: %v", c.script, err)
		}
	}
	err := ExecRunner{}.Run(within(t), Command{Name: "x", Argv: []string{"/no/such/program"}})
	var exit *ExitError
	if err == nil || errors.As(err, &exit) {
		t.Errorf("a program that is not there: %v", err)
	}
	var out testkit.Buffer
	err = ExecRunner{}.Run(within(t), Command{Name: "x", Argv: []string{"/usr/bin/env"}, Env: []string{"A=b"}, Output: &out})
	if err != nil || out.String() != "A=b\n" {
		t.Errorf("environment %q, %v", out.String(), err)
	}
}

// No process of a step outlives it: not when it is canceled, and not when it ends leaving one behind.
func TestExecRunnerLeavesNothing(t *testing.T) {
	for what, script := range map[string]string{
		"canceled":  "sleep 1000 & echo $! > pid; sleep 1000",
		"stubborn":  "trap '' TERM; sleep 1000 & echo $! > pid; while :; do sleep 1; done",
		"left over": "(trap '' HUP TERM; exec sleep 1000) & echo $! > pid",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel() // two of them wait for the grace of a stop
			dir := t.TempDir()
			ctx, cancel := context.WithCancel(within(t))
			defer cancel()
			done := make(chan error, 1)
			go func() {
				var out testkit.Buffer
				done <- ExecRunner{}.Run(ctx, Command{Name: "x", Argv: []string{"/bin/sh", "-c", script}, Dir: dir, Output: &out,
					Env: []string{"PATH=" + os.Getenv("PATH")}})
			}()
			pid := 0
			testkit.Until(t, "the child tells its pid", func() bool {
				data, _ := os.ReadFile(filepath.Join(dir, "pid"))
				pid, _ = strconv.Atoi(strings.TrimSpace(string(data)))
				return pid > 0
			})
			if what != "left over" {
				cancel()
			}
			if err := <-done; (err == nil) != (what == "left over") {
				t.Errorf("ended with %v", err)
			}
			// Where nobody reaps orphans the child stays a zombie; it runs no more then.
			testkit.Until(t, "the grandchild is gone", func() bool {
				stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
				return syscall.Kill(pid, 0) != nil || (err == nil && strings.Contains(string(stat), ") Z "))
			})
		})
	}
}
