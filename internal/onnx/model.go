package onnx

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"portico/internal/online"
)

// Extension is that of a model's file.
const Extension = ".onnx"

const target = "properties.model"

// ErrNone says that a tree holds no ONNX model.
var ErrNone = errors.New("no " + Extension + " file in the folder or in its only sub-folder, and no <model>/<version>/ with one")

// Model is a model that was found.
type Model struct {
	// File is the model's file, slash-separated and relative to the tree.
	File string
	// Name and Version are those of a model repository; empty for others.
	Name, Version string
	// Config is the configuration in the repository; nil: there is none.
	Config *Config
}

// Open looks in a folder on disk; links that leave it are not followed. See Read for the errors.
func Open(dir string) (*Model, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the model: %w", err)
	}
	defer func() { _ = root.Close() }() // only read
	return Read(root.FS())
}

// Read finds the model of a tree: the only .onnx file of its root or of its only sub-folder, or a model repository,
// <model>/<version>/model.onnx, of which the highest version that its configuration chooses counts. ErrNone: there is
// none. An *online.Error says why one cannot be served.
func Read(tree fs.FS) (*Model, error) {
	dir := "."
	for {
		entries, err := fs.ReadDir(tree, dir)
		if err != nil {
			return nil, fmt.Errorf("look for an ONNX model: %w", err)
		}
		if file, err := onlyModel(dir, entries); file != "" || err != nil {
			return &Model{File: file}, err
		}
		m, err := readRepository(tree, dir, entries)
		if m != nil || err != nil {
			return m, err
		}
		folders := folders(entries)
		if dir != "." || len(folders) != 1 {
			return nil, ErrNone
		}
		dir = folders[0]
	}
}

func folders(entries []fs.DirEntry) []string {
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// onlyModel is the .onnx file of a folder.
func onlyModel(dir string, entries []fs.DirEntry) (string, error) {
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() && strings.EqualFold(path.Ext(e.Name()), Extension) {
			names = append(names, e.Name())
		}
	}
	switch len(names) {
	case 0:
		return "", nil
	case 1:
		return path.Join(dir, names[0]), nil
	}
	return "", online.Errorf(online.CodeBadArgument, target,
		"the model's folder holds several ONNX models: %s; register one of them", strings.Join(names, ", "))
}

// readRepository reads a model repository; nil: the folder is none.
func readRepository(tree fs.FS, root string, entries []fs.DirEntry) (*Model, error) {
	var found []*Model
	for _, name := range folders(entries) {
		inner, err := fs.ReadDir(tree, path.Join(root, name))
		if err != nil {
			return nil, fmt.Errorf("look for an ONNX model: %w", err)
		}
		versions := numbers(folders(inner))
		if len(versions) == 0 {
			continue
		}
		m, err := readModel(tree, path.Join(root, name), versions)
		if err != nil {
			return nil, err
		}
		found = append(found, m)
	}
	switch {
	case len(found) == 0:
		return nil, nil
	case len(found) > 1:
		return nil, online.Errorf(online.CodeNotImplemented, target,
			"the model repository holds %d models; one for each deployment is implemented", len(found))
	case found[0].File == "":
		return nil, online.Errorf(online.CodeNotImplemented, target, "the model repository has no %s file in %s/%s; "+
			"models of other frameworks are not implemented", Extension, found[0].Name, found[0].Version)
	}
	return found[0], nil
}

// readModel reads the model of a repository that is in dir, as its configuration says.
func readModel(tree fs.FS, dir string, versions []string) (*Model, error) {
	config, err := readConfig(tree, dir)
	if err != nil {
		return nil, err
	}
	if config != nil {
		chosen := slices.DeleteFunc(slices.Clone(versions), func(v string) bool { return !config.versions(number(v)) })
		if len(chosen) == 0 {
			return nil, refuse(online.CodeBadArgument, "version_policy chooses none of the versions that are there: %s", strings.Join(versions, ", "))
		}
		versions = chosen
	}
	version := slices.MaxFunc(versions, func(a, b string) int { return cmp.Compare(number(a), number(b)) })
	m := &Model{Name: path.Base(dir), Version: version, Config: config}
	files, err := fs.ReadDir(tree, path.Join(dir, version))
	if err != nil {
		return nil, fmt.Errorf("look for an ONNX model: %w", err)
	}
	if config == nil || config.filename == "" {
		m.File, err = onlyModel(path.Join(dir, version), files)
		return m, err
	}
	if !slices.ContainsFunc(files, func(e fs.DirEntry) bool { return e.Name() == config.filename && e.Type().IsRegular() }) {
		return nil, refuse(online.CodeBadArgument, "default_model_filename %q is not a file of version %s", config.filename, version)
	}
	m.File = path.Join(dir, version, config.filename)
	return m, nil
}

// numbers are the names that are versions.
func numbers(names []string) []string {
	return slices.DeleteFunc(names, func(name string) bool {
		_, err := strconv.ParseInt(name, 10, 64)
		return err != nil || name[0] == '+' || name[0] == '-'
	})
}

// number is a version as a number.
func number(version string) int64 {
	n, _ := strconv.ParseInt(version, 10, 64) // numbers lets no other through
	return n
}
