package environment

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"portico/internal/online"
)

// foundation is what ties a virtual environment to the interpreter below it. Who starts a worker follows both to
// know what its sandbox must show, so a package that was installed must not have changed them.
type foundation struct {
	python string // what bin/python is in the end
	config string // text of pyvenv.cfg; empty when there is none
}

const maxVenvConfig = 64 << 10 // bytes of pyvenv.cfg

func readFoundation(venv string) (foundation, error) {
	var f foundation
	root, err := os.OpenRoot(venv)
	if err != nil {
		return f, fmt.Errorf("look at the environment: %w", err)
	}
	defer func() { _ = root.Close() }() // it was only read through
	if f.python, err = filepath.EvalSymlinks(filepath.Join(venv, "bin", "python")); err != nil {
		return f, fmt.Errorf("look at the environment's Python: %w", err)
	}
	const name = "pyvenv.cfg"
	info, err := root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() {
		return f, ignoreMissing(err)
	}
	file, err := root.Open(name)
	if err != nil {
		return f, fmt.Errorf("look at the environment: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxVenvConfig))
	if err != nil {
		return f, fmt.Errorf("look at the environment: %w", err)
	}
	f.config = string(text)
	return f, nil
}

func ignoreMissing(err error) error {
	if err == nil || os.IsNotExist(err) {
		return nil
	}
	return fmt.Errorf("look at the environment: %w", err)
}

var errFoundation = online.Errorf(online.CodeImageBuildFailure, "",
	"a package changed which interpreter the environment runs; such an environment is not used")

// checkFoundation compares what is there after the installation with what the venv step made. A conda environment
// has its interpreter inside and no virtual environment's configuration.
func checkFoundation(venv string, made *foundation) error {
	now, err := readFoundation(venv)
	switch {
	case err != nil:
		return err
	case made != nil && now != *made:
		return errFoundation
	case made == nil && (now.config != "" || !strings.HasPrefix(now.python, venv+string(filepath.Separator))):
		return errFoundation
	}
	// A link in place of the configuration would be read by others through it.
	if info, err := os.Lstat(filepath.Join(venv, "pyvenv.cfg")); err == nil && info.Mode().Type() == fs.ModeSymlink {
		return errFoundation
	}
	return nil
}
