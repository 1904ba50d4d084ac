package mlflow

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"portico/internal/online"
)

// The files in which MLflow describes an environment, under the names that it gives them.
const (
	condaFile        = "conda.yaml"
	pythonFile       = "python_env.yaml"
	requirementsFile = "requirements.txt"
)

// describeEnvironment makes an environment of the model's own files: its conda file, else its virtual environment's
// description, else its requirements. MLflow writes the three with the same packages.
func describeEnvironment(tree fs.FS, flavor map[string]any, version string) (online.EnvironmentSpec, []string, error) {
	conda, python := named(flavor["env"])
	var doc map[string]any
	var err error
	switch {
	case exists(tree, conda):
		doc, err = readYAML(tree, conda)
	case exists(tree, python):
		doc, err = fromPythonFile(tree, python)
	case exists(tree, requirementsFile):
		release, _ := flavor["python_version"].(string)
		doc, err = fromRequirements(tree, release)
	default:
		err = fmt.Errorf("the model names no packages: it has no %s, %s or %s. Name an environment in the deployment",
			condaFile, pythonFile, requirementsFile)
	}
	if err != nil {
		return online.EnvironmentSpec{}, nil, bad("%v", err)
	}
	notes, err := complete(doc, version)
	if err != nil {
		return online.EnvironmentSpec{}, nil, bad("%v", err)
	}
	text, err := yaml.Marshal(doc)
	if err != nil {
		return online.EnvironmentSpec{}, nil, bad("the model's environment cannot be written: %v", err)
	}
	return online.EnvironmentSpec{CondaFile: string(text), OSType: "Linux"}, notes, nil
}

// named reads which files the flavor names: one text in MLflow 1, a mapping since.
func named(env any) (conda, python string) {
	conda, python = condaFile, pythonFile
	switch env := env.(type) {
	case string:
		conda = env
	case map[string]any:
		if name, ok := env["conda"].(string); ok {
			conda = name
		}
		if name, ok := env["virtualenv"].(string); ok {
			python = name
		}
	}
	return conda, python
}

func exists(tree fs.FS, name string) bool {
	if !fs.ValidPath(name) {
		return false
	}
	info, err := fs.Stat(tree, name)
	return err == nil && info.Mode().IsRegular()
}

func readYAML(tree fs.FS, name string) (map[string]any, error) {
	text, err := readFile(tree, name, maxEnvironmentBytes)
	if err != nil {
		return nil, err
	}
	doc := map[string]any{}
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("the model's %s cannot be read: %w", name, err)
	}
	return doc, nil
}

// pythonEnv is the form of a python_env.yaml. What it lists for building (pip, setuptools, wheel) is left out: an
// environment is built with the server's own tools.
type pythonEnv struct {
	Python       string   `yaml:"python"`
	Dependencies []string `yaml:"dependencies"`
}

func fromPythonFile(tree fs.FS, name string) (map[string]any, error) {
	text, err := readFile(tree, name, maxEnvironmentBytes)
	if err != nil {
		return nil, err
	}
	var env pythonEnv
	if err := yaml.Unmarshal(text, &env); err != nil {
		return nil, fmt.Errorf("the model's %s cannot be read: %w", name, err)
	}
	var lines []any
	for _, line := range env.Dependencies {
		other, isFile := strings.CutPrefix(strings.TrimSpace(line), "-r ")
		if !isFile {
			lines = append(lines, line)
			continue
		}
		text, err := readFile(tree, strings.TrimSpace(other), maxEnvironmentBytes)
		if err != nil {
			return nil, err
		}
		lines = append(lines, requirementLines(text)...)
	}
	return condaForm(env.Python, lines), nil
}

func fromRequirements(tree fs.FS, release string) (map[string]any, error) {
	text, err := readFile(tree, requirementsFile, maxEnvironmentBytes)
	if err != nil {
		return nil, err
	}
	return condaForm(release, requirementLines(text)), nil
}

func requirementLines(text []byte) []any {
	var lines []any
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(line, "\r\n"); strings.TrimSpace(line) != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

func condaForm(release string, pip []any) map[string]any {
	python := "python"
	if release != "" {
		python += "=" + release
	}
	return map[string]any{"dependencies": []any{python, map[string]any{"pip": pip}}}
}

var nameOfRequirement = regexp.MustCompile(`^\s*([A-Za-z0-9][A-Za-z0-9._-]*)`)

// names are the normal names of the packages that a list requires.
func names(list []any) map[string]bool {
	have := map[string]bool{}
	for _, item := range list {
		line, _ := item.(string)
		if _, after, found := strings.Cut(line, "::"); found { // a conda channel stands in front
			line = after
		}
		if m := nameOfRequirement.FindStringSubmatch(line); m != nil {
			have[strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(m[1]))] = true
		}
	}
	return have
}

// needed are the packages that load a model and that the small distribution of MLflow leaves to its users.
var needed = []string{"numpy", "pandas"}

// complete adds what loads a model where the model does not list it itself, and says so.
func complete(doc map[string]any, version string) (notes []string, err error) {
	list, ok := doc["dependencies"].([]any)
	if !ok && doc["dependencies"] != nil {
		return nil, fmt.Errorf("dependencies in the model's %s are not a list", condaFile)
	}
	var pip, rest []any
	for _, item := range list {
		group, ok := item.(map[string]any)
		if !ok {
			rest = append(rest, item)
			continue
		}
		lines, ok := group["pip"].([]any)
		if !ok || len(group) != 1 {
			return nil, fmt.Errorf("a dependency in the model's %s is neither a text nor a list under pip", condaFile)
		}
		pip = append(pip, lines...)
	}
	have := names(append(slices.Clone(rest), pip...))
	add := func(requirement, why string) {
		pip = append(pip, requirement)
		notes = append(notes, requirement+" is added to the model's packages: "+why)
	}
	if !have["mlflow"] && !have["mlflow-skinny"] {
		requirement := "mlflow-skinny"
		if version != "" {
			requirement += "==" + version
		}
		add(requirement, "it loads the model, and the model lists no mlflow")
	}
	if !have["mlflow"] {
		for _, name := range needed {
			if !have[name] {
				add(name, "mlflow-skinny needs it to load a model, and the model does not list it")
			}
		}
	}
	if len(pip) > 0 {
		rest = append(rest, map[string]any{"pip": pip})
	}
	doc["dependencies"] = rest
	return notes, nil
}
