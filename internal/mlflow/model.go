package mlflow

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"portico/internal/online"
)

const (
	// File is the name of the file by which a folder is an MLflow model.
	File = "MLmodel"
	// Flavor is the one that MLflow serves; every MLflow library writes it beside its own.
	Flavor = "python_function"
	// FlavorONNX is the one whose model needs neither MLflow nor Python.
	FlavorONNX = "onnx"
)

const (
	maxModelBytes       = 4 << 20 // of an MLmodel file; signatures make it grow
	maxEnvironmentBytes = 1 << 20 // of a file that describes an environment
	target              = "properties.model"
)

// ErrNone says that a tree holds no MLflow model.
var ErrNone = errors.New("no MLmodel file in the folder or in its only sub-folder")

// Model is what an MLmodel file says, as far as it is acted on.
type Model struct {
	// Dir is the folder of the MLmodel file, slash-separated and relative to the tree: "." or one name.
	Dir     string
	Flavors []string // sorted
	Version string   // of the MLflow that saved it; empty in old files
	// ONNX is the file of the model's onnx flavor, relative to Dir; empty without that flavor.
	ONNX string
	// Python says that the model has the flavor that MLflow serves.
	Python bool

	environment online.EnvironmentSpec
	notes       []string
	fault       error // why there is no environment
}

// Environment is what the model asks for, with notes for the person who deploys it. The error is an *online.Error that
// says why none can be made of the model's files.
func (m *Model) Environment() (online.EnvironmentSpec, []string, error) {
	return m.environment, m.notes, m.fault
}

// modelFile is the form of an MLmodel file.
type modelFile struct {
	Flavors map[string]map[string]any `yaml:"flavors"`
	Version string                    `yaml:"mlflow_version"`
}

// Open reads the model in a folder on disk; links that leave the folder are not followed. See Read for the errors.
func Open(dir string) (*Model, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the model: %w", err)
	}
	defer func() { _ = root.Close() }() // only read
	return Read(root.FS())
}

// Read finds and reads the model of a tree. ErrNone: there is none. An *online.Error says what is wrong with one.
func Read(tree fs.FS) (*Model, error) {
	dir, err := find(tree)
	if err != nil {
		return nil, err
	}
	below, err := fs.Sub(tree, dir)
	if err != nil {
		return nil, fmt.Errorf("open the model: %w", err)
	}
	text, err := readFile(below, File, maxModelBytes)
	if err != nil {
		return nil, bad("%v", err)
	}
	var f modelFile
	if err := yaml.Unmarshal(text, &f); err != nil {
		return nil, bad("the file %s cannot be read: %v", path.Join(dir, File), err)
	}
	m := &Model{Dir: dir, Flavors: slices.Sorted(maps.Keys(f.Flavors)), Version: f.Version}
	if m.ONNX, err = onnxFile(f.Flavors[FlavorONNX]); err != nil {
		return nil, err
	}
	flavor, ok := f.Flavors[Flavor]
	if m.Python = ok; !ok && m.ONNX != "" {
		return m, nil
	}
	if !ok {
		return nil, bad("the model has no %s flavor, which serves it without code; its flavors are: %s. Save it with "+
			"that flavor, or deploy it with a scoring script", Flavor, orNone(m.Flavors))
	}
	m.environment, m.notes, m.fault = describeEnvironment(below, flavor, m.Version)
	return m, nil
}

// onnxFile is the file that an onnx flavor names.
func onnxFile(flavor map[string]any) (string, error) {
	if flavor == nil {
		return "", nil
	}
	name, ok := flavor["data"].(string)
	if !ok {
		name = "model.onnx"
	}
	if !fs.ValidPath(name) {
		return "", bad("the model names the file %.80q, which is not inside it", name)
	}
	return name, nil
}

// find looks for the MLmodel file in the tree's root and, when the root has exactly one folder, in that.
func find(tree fs.FS) (string, error) {
	entries, err := fs.ReadDir(tree, ".")
	if err != nil {
		return "", fmt.Errorf("look for an MLmodel file: %w", err)
	}
	var folders []string
	for _, e := range entries {
		if e.Name() == File && e.Type().IsRegular() {
			return ".", nil
		}
		if e.IsDir() {
			folders = append(folders, e.Name())
		}
	}
	if len(folders) == 1 {
		if info, err := fs.Stat(tree, path.Join(folders[0], File)); err == nil && info.Mode().IsRegular() {
			return folders[0], nil
		}
	}
	return "", ErrNone
}

// readFile reads a file that may have most bytes.
func readFile(tree fs.FS, name string, most int64) ([]byte, error) {
	if !fs.ValidPath(name) {
		return nil, fmt.Errorf("the model names the file %.80q, which is not inside it", name)
	}
	f, err := tree.Open(name)
	if err != nil {
		return nil, fmt.Errorf("the model's file %s cannot be opened: %w", name, cause(err))
	}
	defer func() { _ = f.Close() }() // only read
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("the model's file %s cannot be read: %w", name, cause(err))
	}
	if int64(len(text)) > most {
		return nil, fmt.Errorf("the model's file %s is larger than %d bytes", name, most)
	}
	return text, nil
}

// cause drops the server's own paths from an error.
func cause(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}

func bad(format string, args ...any) *online.Error {
	return online.Errorf(online.CodeBadArgument, target, format, args...)
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
