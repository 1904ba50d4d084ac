package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// maxInterpreterBytes bounds the first line of a script, as Linux does.
const maxInterpreterBytes = 256

// findProgram finds a program in the root of its own: a name is looked for in PATH, as a shell does.
func findProgram(plan stagePlan) (string, error) {
	name := plan.Argv[0]
	if plan.Root == nil || strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(plan.Env["PATH"]) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("execute %s: it is in no directory of PATH", strconv.Quote(name))
}

// whyNotExecuted adds to the kernel's reason what it does not tell: that a file which is there was not executed for what it
// begins with, or for its mode.
func whyNotExecuted(program string, reason error) string {
	info, err := os.Stat(program)
	switch {
	case err != nil:
		return ""
	case !info.Mode().IsRegular():
		return "; it is not a file"
	case info.Mode()&0o111 == 0:
		return "; the file is not executable (chmod +x)"
	}
	f, err := os.Open(program)
	if err != nil {
		return ""
	}
	defer f.Close()
	begin, err := io.ReadAll(io.LimitReader(f, maxInterpreterBytes))
	if err != nil {
		return ""
	}
	first, _, _ := bytes.Cut(begin, []byte("\n"))
	script, isScript := bytes.CutPrefix(first, []byte("#!"))
	switch {
	case isScript && bytes.HasSuffix(script, []byte("\r")):
		return "; its first line ends with a carriage return, as Windows writes lines: save the script with Unix line ends"
	case isScript && errors.Is(reason, syscall.ENOENT):
		return fmt.Sprintf("; the file is there, and the interpreter of its first line, %q, is not", bytes.TrimSpace(script))
	case errors.Is(reason, syscall.ENOENT):
		return "; the file is there, and the program that loads its libraries is not"
	case errors.Is(reason, syscall.ENOEXEC):
		return "; it is no program for this machine, and no script that begins with #!"
	}
	return ""
}
