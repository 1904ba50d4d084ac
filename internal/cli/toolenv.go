package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"portico/internal/mlflow"
	"portico/workers"
)

// The environments of the tools are virtual environments in the user's cache, one for each list of packages and each interpreter.
// They are complete when their last file is there.
const (
	toolsFolder    = "portico/tools"
	toolsComplete  = "complete"
	minToolPython  = "3.11"
	maxToolPackage = 256 // characters of one requirement
)

// toolPythons are looked for in this order; the first that is new enough is taken.
var toolPythons = []string{"python3", "python3.14", "python3.13", "python3.12", "python3.11"}

// pinned is a requirement that names a package in an index, with nothing but versions.
var pinned = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)(\[[A-Za-z0-9,._-]+\])?\s*([<>=!~]=?=?\s*[A-Za-z0-9.*+!_-]+\s*,?\s*)*$`)

// toolPython gives the interpreter of an environment with the packages of a tool, building it when it is not there.
func (a *App) toolPython(ctx context.Context, t *modelTool) (string, error) {
	own, err := fs.ReadFile(workers.Tools(), "portico_tools/"+t.ownRequirements)
	if err != nil {
		return "", fmt.Errorf("read the tool's requirements: %w", err)
	}
	if t.name == "convert" {
		if t.fromModel, err = mlflowRequirements(t.source); err != nil {
			return "", err
		}
	}
	list, err := toolRequirements(string(own), t.fromModel, t.requirements)
	if err != nil {
		return "", err
	}
	base, version, err := findToolPython(ctx)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the folder for the tools' packages: %w; or use --python", err)
	}
	return a.buildToolEnvironment(ctx, toolEnvironment(filepath.Join(cache, toolsFolder), base, version, list), base, list)
}

// toolRequirements puts the packages together. What the model names takes the place of a package's own version, and when it names
// any, those that only the model uses are left to pip, since they must fit each other.
func toolRequirements(own string, fromModel, given []string) ([]string, error) {
	var tools, models []string // the two parts of the file
	into := &tools
	for line := range strings.Lines(own) {
		switch line = strings.TrimSpace(line); {
		case line == "# of the model":
			into = &models
		case line != "" && !strings.HasPrefix(line, "#"):
			*into = append(*into, line)
		}
	}
	for _, r := range given {
		if len(r) > maxToolPackage || strings.ContainsAny(r, "\r\n") || !pinned.MatchString(r) && !strings.Contains(r, " @ file://") {
			return nil, usagef("--requirement %.80q is not NAME==VERSION", r)
		}
	}
	named := map[string]bool{}
	var asked []string
	for _, r := range append(slices.Clone(given), fromModel...) {
		if name := packageName(r); !named[name] {
			named[name] = true
			asked = append(asked, r)
		}
	}
	list := slices.DeleteFunc(tools, func(r string) bool { return named[packageName(r)] })
	if len(asked) == 0 {
		list = append(list, models...)
	} else if !named["scikit-learn"] {
		list = append(list, "scikit-learn") // the converters import it
	}
	return append(list, asked...), nil
}

// packageName is the name of a requirement in its one form.
func packageName(requirement string) string {
	end := strings.IndexFunc(requirement, func(r rune) bool { return strings.ContainsRune("[<>=!~ ;@\t", r) })
	if end >= 0 {
		requirement = requirement[:end]
	}
	return strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(requirement))
}

// mlflowRequirements reads the packages that an MLflow model was saved with; none for another source. MLflow itself is not needed, and a
// line that is more than a name with versions is not taken.
func mlflowRequirements(source string) ([]string, error) {
	info, err := os.Stat(source)
	if err != nil || !info.IsDir() {
		return nil, nil //nolint:nilerr // the tool says what is wrong with the file
	}
	m, err := mlflow.Open(source)
	if errors.Is(err, mlflow.ErrNone) {
		return nil, usagef("%s: %v", source, err)
	}
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(source, filepath.FromSlash(m.Dir), "requirements.txt"))
	if err != nil {
		return nil, nil //nolint:nilerr // a model without the file is read with the tool's own packages
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if name := packageName(line); len(line) <= maxToolPackage && pinned.MatchString(line) && !strings.HasPrefix(name, "mlflow") {
			out = append(out, line)
		}
	}
	return out, nil
}

// findToolPython finds an interpreter for which the packages exist.
func findToolPython(ctx context.Context) (path, version string, err error) {
	for _, name := range toolPythons {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		const ask = `import sys; print("%d.%d" % sys.version_info[:2], sys.version_info >= (3, 11))`
		out, err := exec.CommandContext(ctx, path, "-I", "-c", ask).Output()
		if err != nil {
			continue
		}
		if version, ok := strings.CutSuffix(strings.TrimSpace(string(out)), " True"); ok {
			return path, version, nil
		}
	}
	return "", "", fmt.Errorf("no Python %s or newer is on this machine, for which the tools' packages exist; or use --python", minToolPython)
}

// toolEnvironment is the folder of the environment with these packages for this interpreter.
func toolEnvironment(root, base, version string, list []string) string {
	sum := sha256.Sum256([]byte(base + "\n" + version + "\n" + strings.Join(list, "\n")))
	return filepath.Join(root, hex.EncodeToString(sum[:12]))
}

// buildToolEnvironment gives the interpreter of a complete environment. Only wheels are installed, so that no package's code runs
// while it is built. Another process that wants the same one waits.
func (a *App) buildToolEnvironment(ctx context.Context, dir, base string, list []string) (string, error) {
	python := filepath.Join(dir, "bin", "python")
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return "", fmt.Errorf("make the folder for the tools' packages: %w", err)
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("lock the tools' packages: %w", err)
	}
	defer lock.Close() // which ends the lock, too
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock the tools' packages: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, toolsComplete)); err == nil {
		return python, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("remove an unfinished environment: %w", err)
	}
	fmt.Fprintf(a.Err, "Building the tool's Python environment in %s (once; a minute or two)\n", dir)
	if err := a.buildStep(ctx, base, "-I", "-m", "venv", dir); err != nil {
		return "", err
	}
	file := filepath.Join(dir, "requirements.txt")
	if err := os.WriteFile(file, []byte(strings.Join(list, "\n")+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write the requirements: %w", err)
	}
	if err := a.buildStep(ctx, python, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
		"--only-binary", ":all:", "--requirement", file); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, toolsComplete), nil, 0o600); err != nil {
		return "", fmt.Errorf("finish the environment: %w", err)
	}
	return python, nil
}

// buildVariables are what pip needs to reach its index: no others reach it.
var buildVariables = []string{"PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}

func (a *App) buildStep(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	for _, entry := range os.Environ() {
		if variable, _, _ := strings.Cut(entry, "="); slices.Contains(buildVariables, variable) || strings.HasPrefix(variable, "PIP_") {
			cmd.Env = append(cmd.Env, entry)
		}
	}
	tail := &tailWriter{limit: maxToolNoise}
	cmd.Stdout, cmd.Stderr = tail, tail
	cmd.WaitDelay = toolKillGrace
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("build the tool's Python environment: %w\n%s", err, strings.TrimSpace(string(tail.kept)))
	}
	return nil
}
