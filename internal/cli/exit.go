package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"portico/internal/online"
)

// Exit codes. They are documented in docs/cli.md and never change their meaning.
const (
	ExitOK          = 0   // done
	ExitFailed      = 1   // the service refused, an operation failed, or the model answered an error
	ExitUsage       = 2   // the command line or a file is wrong; nothing was sent
	ExitNotFound    = 3   // the named resource does not exist
	ExitUnreachable = 4   // no server was found, or it did not answer
	ExitInterrupted = 130 // stopped by Ctrl-C or SIGTERM; what the server was told goes on
)

// usageError is a mistake in the command line. Its text says what to type instead.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// unreachableError says that there is no server to talk to, and how to get one.
type unreachableError struct {
	msg   string
	cause error
}

func (e *unreachableError) Error() string { return e.msg }
func (e *unreachableError) Unwrap() error { return e.cause }

// shownError has been told to the user already; only the exit code is left.
type shownError struct{ code int }

func (e *shownError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// interruptedError carries what the user must know about work that goes on without this command.
type interruptedError struct{ msg string }

func (e *interruptedError) Error() string { return e.msg }

// ExitCode is the code that a command which returned err ends with.
func ExitCode(err error) int {
	var (
		usage       *usageError
		file        *fileError
		unreachable *unreachableError
		shown       *shownError
		interrupted *interruptedError
	)
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &shown):
		return shown.code
	case errors.As(err, &usage), errors.As(err, &file):
		return ExitUsage
	case errors.As(err, &interrupted), errors.Is(err, context.Canceled):
		return ExitInterrupted
	case errors.As(err, &unreachable):
		return ExitUnreachable
	}
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode() // a program that keeps the codes of the one it stands for
	}
	if e, ok := online.AsError(err); ok && (e.Code == online.CodeNotFound ||
		strings.HasSuffix(string(e.Code), "NotFound")) {
		return ExitNotFound
	}
	return ExitFailed
}

// writeError tells a person what went wrong: code, message, the field or resource it is about, and each detail. Its
// first word is label.
func writeError(w io.Writer, label string, err error) {
	var shown *shownError
	if errors.As(err, &shown) {
		return
	}
	var file *fileError
	if errors.As(err, &file) {
		for _, f := range file.faults {
			fmt.Fprintf(w, "%s: %s\n", label, f)
		}
		return
	}
	e, ok := online.AsError(err)
	if !ok {
		fmt.Fprintf(w, "%s: %s\n", label, err)
		return
	}
	fmt.Fprintf(w, "%s: (%s) %s\n", label, e.Code, e.Message)
	if e.Target != "" {
		fmt.Fprintf(w, "  target: %s\n", e.Target)
	}
	for _, d := range e.Details {
		writeDetail(w, d, "  ")
	}
}

func writeDetail(w io.Writer, e online.Error, indent string) {
	fmt.Fprintf(w, "%s- (%s) %s", indent, e.Code, strings.ReplaceAll(strings.TrimRight(e.Message, "\n"), "\n",
		"\n"+indent+"  "))
	if e.Target != "" {
		fmt.Fprintf(w, "\n%s  target: %s", indent, e.Target)
	}
	fmt.Fprintln(w)
	for _, d := range e.Details {
		writeDetail(w, d, indent+"  ")
	}
}
