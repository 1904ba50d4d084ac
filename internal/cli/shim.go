package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// shimCommand installs and removes the entry by which scripts reach this program as az.
func (a *App) shimCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "shim", Short: "Let scripts that are written for az run against Portico",
		Long: "A shim is a link named az that is this program. Called by that name it speaks az's command line, so scripts\n" +
			"written for `az ml` run as they stand in a shell whose PATH begins with the link's folder.",
	}
	install := &cobra.Command{
		Use: "install DIR", Short: "Put az into a folder", Args: cobra.ExactArgs(1),
		Example: "  portico shim install ~/.portico/shim\n  export PATH=~/.portico/shim:$PATH",
		RunE:    func(_ *cobra.Command, args []string) error { return a.installShim(args[0]) },
	}
	remove := &cobra.Command{
		Use: "remove DIR", Short: "Take az out of a folder again", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.removeShim(args[0]) },
	}
	return group(c, install, remove)
}

// shimPaths gives the link of a folder and this program's own file.
func shimPaths(dir string) (link, program string, err error) {
	if dir, err = expandHome(dir); err != nil {
		return "", "", err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", "", fmt.Errorf("resolve the folder: %w", err)
	}
	if program, err = os.Executable(); err == nil {
		program, err = filepath.EvalSymlinks(program)
	}
	if err != nil {
		return "", "", fmt.Errorf("find this program's file: %w", err)
	}
	return filepath.Join(dir, AzName), program, nil
}

// isShim says whether a path is a link to this program. An az of somebody else is never touched.
func isShim(link, program string) (bool, error) {
	info, err := os.Lstat(link)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", link, err)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(link)
		if err != nil {
			return false, fmt.Errorf("read %s: %w", link, err)
		}
		// A link to a program that was moved or replaced since is still ours by its name.
		if target == program || filepath.Base(target) == filepath.Base(program) {
			return true, nil
		}
	}
	return false, usagef("%s is there already and is not a link to %s; choose another folder", link, program)
}

func (a *App) installShim(dir string) error {
	link, program, err := shimPaths(dir)
	if err != nil {
		return err
	}
	if _, err := isShim(link, program); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return fmt.Errorf("make the folder of the shim: %w", err)
	}
	// Renaming replaces an older link at once, so that a running script always finds one.
	temp := fmt.Sprintf("%s.%d", link, os.Getpid())
	if err := os.Symlink(program, temp); err != nil {
		return fmt.Errorf("make the shim: %w", err)
	}
	if err := os.Rename(temp, link); err != nil {
		return fmt.Errorf("make the shim: %w", errors.Join(err, os.Remove(temp)))
	}
	fmt.Fprintln(a.Out, link)
	fmt.Fprintf(a.Err, "In the shell that runs the scripts: export PATH=%s:$PATH\n", filepath.Dir(link))
	return nil
}

func (a *App) removeShim(dir string) error {
	link, program, err := shimPaths(dir)
	if err != nil {
		return err
	}
	ours, err := isShim(link, program)
	if err != nil {
		return err
	}
	if !ours {
		return usagef("there is no shim in %s", filepath.Dir(link))
	}
	if err := os.Remove(link); err != nil {
		return fmt.Errorf("remove the shim: %w", err)
	}
	return nil
}
