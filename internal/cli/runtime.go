package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"portico/internal/onnx"
)

// dataDir is the data directory of a flag, of the environment, or the default, absolute.
func dataDir(flag string, getenv func(string) string) (string, error) {
	dir := flag
	if dir == "" {
		dir = getenv(envDataDir)
	}
	if dir == "" {
		dir = defaultDataDir
	}
	dir, err := expandHome(dir)
	if err != nil {
		return "", err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", fmt.Errorf("find the data directory: %w", err)
	}
	return dir, nil
}

func (a *App) runtimeCommand() *cobra.Command {
	c := &cobra.Command{Use: "runtime", Short: "The libraries that serve models without Python, in a data directory"}
	return group(c, a.runtimeInstall(), a.runtimeList())
}

// bindDataDir adds the flag that names the data directory.
func bindDataDir(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "data-dir", "", "data directory (default $"+envDataDir+" or "+defaultDataDir+")")
	must(c.MarkFlagDirname("data-dir"))
}

func (a *App) runtimeInstall() *cobra.Command {
	var dir, from, python string
	c := &cobra.Command{
		Use: "install onnx", Short: "Install ONNX Runtime", Args: cobra.ExactArgs(1), ValidArgs: []string{"onnx"},
		Long: "Install ONNX Runtime " + onnx.LibraryVersion + " into the data directory. The package is fetched by the pip of this\n" +
			"machine, with its configuration, or taken from a file. What is installed has the SHA-256 that this program names.",
		Example: "  portico runtime install onnx\n" +
			"  portico runtime install onnx --from onnxruntime-" + onnx.LibraryVersion + "-cp312-cp312-manylinux_2_28_x86_64.whl",
	}
	bindDataDir(c, &dir)
	c.Flags().StringVar(&from, "from", "", "the library, or the Python package onnxruntime as a file, for a machine without network")
	c.Flags().StringVar(&python, "python", "python3", "Python whose pip fetches the package")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if args[0] != "onnx" {
			return usagef("there is no runtime %.40q; there is onnx", args[0])
		}
		dir, err := dataDir(dir, a.Getenv)
		if err != nil {
			return err
		}
		path, err := onnx.Install(cmd.Context(), dir, from, python, a.Err)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.Out, "ONNX Runtime %s is installed: %s\n", onnx.LibraryVersion, path)
		return err
	}
	return c
}

// shownRuntime is a row of runtime list.
type shownRuntime struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	State   string `json:"state"`
	Path    string `json:"path"`
}

func (a *App) runtimeList() *cobra.Command {
	var dir string
	p := &printer{out: a.Out}
	c := &cobra.Command{Use: "list", Short: "Say which runtimes are installed", Args: cobra.NoArgs}
	bindDataDir(c, &dir)
	c.Flags().StringVarP(&p.format, "output", "o", "table", "output format: "+strings.Join(formats, ", "))
	c.Flags().StringVar(&p.query, "query", "", "JMESPath expression that selects from the result")
	c.RunE = func(*cobra.Command, []string) error {
		if err := p.check(); err != nil {
			return err
		}
		dir, err := dataDir(dir, a.Getenv)
		if err != nil {
			return err
		}
		row := shownRuntime{Name: "onnx", Version: onnx.LibraryVersion, State: "installed"}
		row.Path, err = onnx.Library(dir)
		switch {
		case errors.Is(err, onnx.ErrMissing):
			row.State = "missing"
		case err != nil:
			row.State = err.Error()
		}
		return p.print([]shownRuntime{row}, []column{{"Name", "name"}, {"Version", "version"}, {"State", "state"}, {"Path", "path"}})
	}
	return c
}
