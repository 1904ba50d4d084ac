package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes of `portico run` when the command itself could not be run: those of the shell.
const (
	exitCannotRun = 126
	exitNoCommand = 127
)

// startError says why a command was not run.
type startError struct {
	code int
	msg  string
}

func (e *startError) Error() string { return e.msg }

// ExitCode is read by ExitCode.
func (e *startError) ExitCode() int { return e.code }

func (a *App) runCommand() *cobra.Command {
	var f clientFlags
	c := &cobra.Command{
		Use: "run [flags] -- COMMAND [ARGS...]", Short: "Run a command in the environment that env prints",
		Args: cobra.MinimumNArgs(1),
		Long: "Run a command, a notebook server say, in the environment in which Azure's own clients reach this server.\n" +
			"The command takes the place of this program: signals and the exit code are its own. Exit code 127: there is\n" +
			"no such command; 126: it could not be started.",
		Example: "  portico run -- python train_and_deploy.py\n  portico run --intercept -- jupyter lab",
	}
	f.bind(c)
	c.Flags().SetInterspersed(false) // what follows the command is the command's
	c.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := f.open(cmd.Context(), a)
		if err != nil {
			return err
		}
		path, err := exec.LookPath(args[0])
		switch {
		case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
			return &startError{exitNoCommand, fmt.Sprintf("%s: there is no such command", args[0])}
		case err != nil:
			return &startError{exitCannotRun, fmt.Sprintf("%s: %v", args[0], err)}
		}
		err = syscall.Exec(path, args, apply(os.Environ(), e.variables()))
		return &startError{exitCannotRun, fmt.Sprintf("%s: %v", path, err)}
	}
	return c
}

// apply gives an environment with variables set and taken away.
func apply(environ []string, changes []variable) []string {
	touched := map[string]bool{}
	for _, v := range changes {
		touched[v.name] = true
	}
	var out []string
	for _, entry := range environ {
		if name, _, _ := strings.Cut(entry, "="); !touched[name] {
			out = append(out, entry)
		}
	}
	for _, v := range changes {
		if !v.unset {
			out = append(out, v.name+"="+v.value)
		}
	}
	return out
}
