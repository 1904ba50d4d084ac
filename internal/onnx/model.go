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
// <model>/<version>/model.onnx, of which the highest version counts. ErrNone: there is none. An *online.Error says why one
// cannot be served.
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
		version := newest(folders(inner))
		if version == "" {
			continue
		}
		dir := path.Join(root, name, version)
		files, err := fs.ReadDir(tree, dir)
		if err != nil {
			return nil, fmt.Errorf("look for an ONNX model: %w", err)
		}
		file, err := onlyModel(dir, files)
		if err != nil {
			return nil, err
		}
		found = append(found, &Model{File: file, Name: name, Version: version})
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

// newest is the highest version among names of folders; empty: none is a version.
func newest(names []string) string {
	versions := slices.DeleteFunc(names, func(name string) bool {
		_, err := strconv.ParseUint(name, 10, 63)
		return err != nil || name[0] == '+'
	})
	if len(versions) == 0 {
		return ""
	}
	return slices.MaxFunc(versions, func(a, b string) int {
		// Both are numbers of 63 bits.
		x, _ := strconv.ParseUint(a, 10, 63)
		y, _ := strconv.ParseUint(b, 10, 63)
		return cmp.Compare(x, y)
	})
}
