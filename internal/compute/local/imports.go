package local

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"portico/internal/compute"
	"portico/internal/mlflow"
)

// Bounds of looking for imports.
const (
	maxImports     = 500     // modules that a fork server is asked to import
	maxSources     = 64      // files of the code folder that are read for them
	maxSourceBytes = 1 << 20 // of one file
)

// An import statement may stand anywhere in its line's block; names in texts that look like one do no harm, since only
// installed modules are imported.
var (
	importRule = regexp.MustCompile(`^\s*import\s+(.+)$`)
	fromRule   = regexp.MustCompile(`^\s*from\s+([A-Za-z_][\w.]*)\s+import\s+(.*)$`)
	moduleRule = regexp.MustCompile(`^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$`)
)

// codeDirs are where a worker looks for modules before it looks at what is installed.
func codeDirs(t *compute.Template) []string {
	if t.MLflowModel != "" {
		return []string{filepath.Join(t.MLflowModel, "code")}
	}
	dirs := []string{filepath.Dir(filepath.Join(t.CodeDir, t.ScoringScript)), t.CodeDir}
	if source := t.Variables["AZUREML_SOURCE_DIRECTORY"].Reveal(); source != "" {
		dirs = append(dirs, filepath.Join(t.CodeDir, source))
	}
	return slices.Compact(dirs)
}

// importsOf names the modules that the code of a template imports, as far as its text tells: those of the scoring
// script and of the files beside it that it imports in turn, or what an MLflow model needs. Sorted.
func importsOf(t *compute.Template) []string {
	var names []string
	if t.MLflowModel != "" {
		names = append(names, "mlflow.pyfunc")
		if model, err := mlflow.Open(t.MLflowModel); err == nil {
			for _, flavor := range model.Flavors {
				if flavor != mlflow.Flavor && moduleRule.MatchString(flavor) {
					names = append(names, "mlflow."+flavor)
				}
			}
		}
		return bounded(names)
	}
	dirs := codeDirs(t)
	queue := []string{filepath.Join(t.CodeDir, t.ScoringScript)}
	for read := 0; read < len(queue) && read < maxSources; read++ {
		for _, name := range importsIn(queue[read]) {
			own := source(dirs, name)
			switch {
			case own == "":
				names = append(names, name)
			case !slices.Contains(queue, own):
				queue = append(queue, own)
			}
		}
	}
	return bounded(names)
}

func bounded(names []string) []string {
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), maxImports)]
}

// source is the file of a module that the code folder has; empty: it has none of that name.
func source(dirs []string, name string) string {
	path := strings.ReplaceAll(name, ".", "/")
	for _, dir := range dirs {
		for _, file := range []string{path + ".py", path + "/__init__.py"} {
			if info, err := os.Stat(filepath.Join(dir, file)); err == nil && info.Mode().IsRegular() {
				return filepath.Join(dir, file)
			}
		}
	}
	return ""
}

// importsIn names what one file imports. A file that cannot be read imports nothing: its worker says why.
func importsIn(path string) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSourceBytes))
	if err != nil {
		return nil
	}
	var names []string
	add := func(name string) {
		name, _, _ = strings.Cut(strings.TrimSpace(name), " ") // "numpy as np"
		if moduleRule.MatchString(name) {
			names = append(names, name)
		}
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if m := importRule.FindStringSubmatch(line); m != nil {
			for _, name := range strings.Split(m[1], ",") {
				add(name)
			}
		}
		m := fromRule.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		add(m[1])
		for _, name := range strings.Split(strings.Trim(m[2], "() \\"), ",") { // a module of a package, or something in it
			if name = strings.TrimSpace(name); name != "" {
				add(m[1] + "." + name)
			}
		}
	}
	return names
}

// hidden gives a module that is installed and that the code folder has one of the same name for; empty: none.
func hidden(dirs, installed []string) string {
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			name, _, isFile := strings.Cut(e.Name(), ".")
			if !slices.Contains(installed, name) {
				continue
			}
			if e.IsDir() {
				if _, err := os.Stat(filepath.Join(dir, e.Name(), "__init__.py")); err != nil {
					continue // without that an installed module wins
				}
				return name
			}
			if isFile && slices.Contains([]string{".py", ".pyc", ".so"}, filepath.Ext(e.Name())) {
				return name
			}
		}
	}
	return ""
}
