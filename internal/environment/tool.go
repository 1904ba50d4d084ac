package environment

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"portico/internal/online"
)

const never = "never" // Config.Uv, Config.Conda: do not use any

// condaTools are the programs that read conda files, the fastest first.
var condaTools = []string{"micromamba", "mamba", "conda"}

// findTool gives the absolute path of a configured program, or of the first of names on PATH; empty when there is none.
func findTool(configured string, names []string, getenv func(string) (string, bool)) string {
	if configured == never {
		return ""
	}
	if configured != "" {
		if filepath.IsAbs(configured) && executable(configured) {
			return configured
		}
		return ""
	}
	path, _ := getenv("PATH")
	for _, name := range names {
		for _, dir := range filepath.SplitList(path) {
			if p := filepath.Join(dir, name); filepath.IsAbs(dir) && executable(p) {
				return p
			}
		}
	}
	return ""
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// workplace is where one build happens. All but venv, which is in tree, exist and belong to the user that the steps
// run as.
type workplace struct {
	tree  string // all that stays
	venv  string // the environment itself, at its final place: scripts in it name their interpreter by full path
	work  string // home, temporary files, input of the tool; removed afterwards
	cache string // downloads
}

func (w workplace) python() string { return filepath.Join(w.venv, "bin", "python") }

// step is one command of a build.
type step struct {
	name string
	what string // for the error: "installing the packages"
	argv []string
	uv   bool
}

const stepVenv = "venv" // the step after which the interpreter of an environment is settled

// minPipTarget is the oldest pip that installs into another environment by --python.
var minPipTarget = release{22, 3, 0}

const noPipAdvice = "Python %s at %s can make no environment with packages: it has no pip, and its venv module cannot " +
	"install one. On Debian and Ubuntu: apt install python3-venv. Or install uv"

// uvTool is uv with the options that every installation gets; the zero value means that there is none.
type uvTool struct {
	path    string
	options []string
}

// pipSteps makes an environment of base with the packages of file (empty: none). others are the interpreters whose
// pip may help.
func pipSteps(base interpreter, others []interpreter, uv uvTool, w workplace, file string) ([]step, error) {
	bare := step{name: stepVenv, what: "making the virtual environment",
		argv: []string{base.Path, "-I", "-m", "venv", "--without-pip", w.venv}}
	if !base.Venv {
		switch {
		case uv.path != "":
			bare.argv, bare.uv = []string{uv.path, "venv", "--no-project", "--no-config", "--python", base.Path, w.venv}, true
		case base.Virtual:
			bare.argv = []string{base.Path, "-I", "-m", "virtualenv", "--no-download", "--no-periodic-update", w.venv}
		default:
			return nil, online.Errorf(online.CodeImageBuildFailure, "",
				"Python %s has no venv module. On Debian and Ubuntu: apt install python3-venv. Or install uv", base.Version)
		}
	}
	if file == "" {
		return []step{bare}, nil
	}
	install := step{name: "install", what: "installing the packages"}
	if uv.path != "" {
		install.uv = true
		install.argv = append([]string{uv.path, "pip", "install", "--python", w.python(), "--no-progress", "--link-mode", "copy",
			"--compile-bytecode", "--requirements", file}, uv.options...)
		return []step{bare, install}, nil
	}
	pip := []string{"install", "--no-input", "--disable-pip-version-check", "--no-warn-script-location", "--progress-bar", "off",
		"--requirement", file}
	switch {
	case !base.Pip.less(minPipTarget):
		install.argv = append([]string{base.Path, "-I", "-m", "pip", "--python", w.python()}, pip...)
	case base.Venv && base.Ensure:
		bare.argv = []string{base.Path, "-I", "-m", "venv", w.venv}
		install.argv = append([]string{w.python(), "-I", "-m", "pip"}, pip...)
	case base.Virtual:
		bare.argv = []string{base.Path, "-I", "-m", "virtualenv", "--no-download", "--no-periodic-update", w.venv}
		install.argv = append([]string{w.python(), "-I", "-m", "pip"}, pip...)
	default:
		i := slices.IndexFunc(others, func(o interpreter) bool { return !o.Pip.less(minPipTarget) })
		if i < 0 {
			return nil, online.Errorf(online.CodeImageBuildFailure, "", noPipAdvice, base.Version, filepath.Base(base.Path))
		}
		install.argv = append([]string{others[i].Path, "-I", "-m", "pip", "--python", w.python()}, pip...)
	}
	return []step{bare, install}, nil
}

// condaSteps makes an environment of a conda file with a conda tool. Micromamba differs from the others by one word.
func condaSteps(tool string, w workplace, file string) []step {
	argv := []string{tool, "env", "create", "--yes", "--quiet", "--prefix", w.venv, "--file", file}
	if strings.Contains(filepath.Base(tool), "micromamba") {
		argv = []string{tool, "create", "--yes", "--quiet", "--prefix", w.venv, "--file", file}
	}
	return []step{{name: "install", what: "solving and installing the conda packages", argv: argv}}
}

// verifyStep proves that the interpreter of the environment starts and takes the environment for its own.
func verifyStep(w workplace) step {
	return step{name: "verify", what: "starting the environment's Python",
		argv: []string{w.python(), "-I", "-c", "import sys; sys.exit(sys.prefix != sys.argv[1])", w.venv}}
}

// variables are what the tools need to know besides the settings of the server.
func (w workplace) variables(base interpreter) []string {
	path := []string{filepath.Join(w.venv, "bin")}
	if base.Path != "" {
		path = append(path, filepath.Dir(base.Path))
	}
	path = append(path, "/usr/local/bin", "/usr/bin", "/bin")
	tmp := filepath.Join(w.work, "tmp")
	return []string{
		"PATH=" + strings.Join(path, ":"), "HOME=" + filepath.Join(w.work, "home"), "TMPDIR=" + tmp, "TMP=" + tmp, "TEMP=" + tmp,
		"XDG_CACHE_HOME=" + w.cache, "PIP_CACHE_DIR=" + filepath.Join(w.cache, "pip"), "PIP_NO_INPUT=1",
		// Hard links into a cache would let one environment change another, and sealing would change the cache.
		"UV_CACHE_DIR=" + filepath.Join(w.cache, "uv"), "UV_LINK_MODE=copy", "UV_PYTHON_DOWNLOADS=never", "UV_NO_PROGRESS=1",
		"CONDA_PKGS_DIRS=" + filepath.Join(w.cache, "conda"), "CONDA_ALWAYS_COPY=true", "MAMBA_ALWAYS_COPY=true",
		"MAMBA_ROOT_PREFIX=" + filepath.Join(w.work, "mamba"), "CONDA_ENVS_DIRS=" + filepath.Join(w.work, "envs"),
	}
}

// condaInput writes the file for a conda tool from what was read: nothing that was not understood gets through.
func condaInput(f *condaFile, requirementsFile string) string {
	var b strings.Builder
	b.WriteString("dependencies:\n")
	if len(f.Channels) > 0 {
		b.Reset()
		b.WriteString("channels:\n")
		for _, c := range f.Channels {
			fmt.Fprintf(&b, "  - %q\n", c)
		}
		b.WriteString("dependencies:\n")
	}
	fmt.Fprintf(&b, "  - %q\n", condaPython(f.Python))
	pip := false
	for _, m := range f.Packages {
		pip = pip || m.Name == "pip"
		fmt.Fprintf(&b, "  - %q\n", m.text)
	}
	if requirementsFile != "" {
		if !pip {
			b.WriteString("  - pip\n")
		}
		fmt.Fprintf(&b, "  - pip:\n      - %q\n", "-r "+requirementsFile)
	}
	return b.String()
}

// condaPython is the python pin of a conda file, or the oldest that the worker runs on.
func condaPython(wish [][]term) string {
	if len(wish) == 0 {
		return "python>=" + Minimum.minor()
	}
	var alternatives []string
	for _, terms := range wish {
		var parts []string
		for _, t := range terms {
			switch t.Op {
			case "=":
				parts = append(parts, t.Version+".*")
			case negatedPrefix:
				parts = append(parts, "!="+t.Version+".*")
			default:
				parts = append(parts, t.Op+t.Version)
			}
		}
		alternatives = append(alternatives, strings.Join(parts, ","))
	}
	return "python " + strings.Join(alternatives, "|")
}
