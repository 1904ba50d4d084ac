package environment

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"portico/internal/online"
)

// condaFile is what a conda environment file says, checked.
type condaFile struct {
	Channels []string
	Python   [][]term // alternatives of the python pin; empty: any
	Packages []matchSpec
	Pip      *requirements
	Notes    []string // what was read and left aside, in words for a person
}

const condaTarget = "condaFile"

// parseConda reads the YAML text of a conda file. Whatever it does not act on is an error or a note.
func parseConda(text string) (*condaFile, error) {
	if len(text) > MaxSpecBytes {
		return nil, badSpec(condaTarget, "the conda file has %d bytes; at most %d are allowed", len(text), MaxSpecBytes)
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, badSpec(condaTarget, "the conda file is empty")
		}
		return nil, badSpec(condaTarget, "the conda file is not valid YAML: %v", err)
	}
	var next yaml.Node
	if err := dec.Decode(&next); !errors.Is(err, io.EOF) {
		return nil, badSpec(condaTarget, "the conda file holds more than one YAML document")
	}
	root := &doc
	if root.Kind == yaml.DocumentNode && len(root.Content) == 1 {
		root = root.Content[0]
	}
	if root.Kind != yaml.MappingNode {
		return nil, badSpec(condaTarget, "the conda file must be a mapping with the key 'dependencies'")
	}
	f := &condaFile{Pip: &requirements{}}
	seen := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if seen[key.Value] {
			return nil, badSpec(condaTarget, "line %d: the key %.40q is there twice", key.Line, key.Value)
		}
		seen[key.Value] = true
		if err := f.readKey(key, value); err != nil {
			return nil, err
		}
	}
	if !seen["dependencies"] {
		return nil, badSpec(condaTarget, "the conda file has no 'dependencies'")
	}
	return f, nil
}

func (f *condaFile) readKey(key, value *yaml.Node) error {
	switch key.Value {
	case "name", "prefix":
		// They say what the environment is called, and where it was, on the machine that wrote the file.
		return nil
	case "channels":
		list, err := texts(value, "channels")
		if err != nil {
			return err
		}
		for _, c := range list {
			if strings.ContainsAny(c, "\x00\n\r") || c == "" {
				return badSpec(condaTarget, "line %d: channel %.60q is not valid", value.Line, c)
			}
		}
		f.Channels = list
		return nil
	case "dependencies":
		return f.readDependencies(value)
	case "variables":
		return badSpec(condaTarget, "line %d: 'variables' are not set in a deployment; "+
			"put them under the deployment's environment_variables", key.Line)
	}
	return badSpec(condaTarget, "line %d: the key %.40q is not known in a conda file; known are name, channels, dependencies",
		key.Line, key.Value)
}

func (f *condaFile) readDependencies(value *yaml.Node) error {
	if value.Kind == yaml.ScalarNode && value.Tag == "!!null" {
		return nil
	}
	if value.Kind != yaml.SequenceNode {
		return badSpec(condaTarget, "line %d: 'dependencies' must be a list", value.Line)
	}
	if len(value.Content) > MaxDependencies {
		return badSpec(condaTarget, "%d dependencies; at most %d are allowed", len(value.Content), MaxDependencies)
	}
	pipSeen, pythonSeen := false, false
	for _, item := range value.Content {
		switch item.Kind {
		case yaml.ScalarNode:
			m, err := parseMatchSpec(item.Value)
			if err != nil {
				return badSpec(condaTarget, "line %d: %v", item.Line, err)
			}
			if m.Name != "python" {
				f.Packages = append(f.Packages, m)
				continue
			}
			if pythonSeen {
				return badSpec(condaTarget, "line %d: python is pinned twice", item.Line)
			}
			pythonSeen = true
			if err := f.setPython(m, item.Line); err != nil {
				return err
			}
		case yaml.MappingNode:
			if pipSeen || len(item.Content) != 2 || item.Content[0].Value != "pip" {
				return badSpec(condaTarget, "line %d: a dependency is a text, or once the mapping 'pip:' with a list", item.Line)
			}
			pipSeen = true
			lines, err := texts(item.Content[1], "pip")
			if err != nil {
				return err
			}
			if f.Pip, err = parseRequirements(strings.Join(lines, "\n"), condaTarget); err != nil {
				return err
			}
		default:
			return badSpec(condaTarget, "line %d: a dependency is a text, or the mapping 'pip:'", item.Line)
		}
	}
	return nil
}

func (f *condaFile) setPython(m matchSpec, line int) error {
	for _, alternative := range m.Versions {
		for _, t := range alternative {
			if _, _, err := parseRelease(t.Version); err != nil {
				return badSpec(condaTarget, "line %d: %v", line, err)
			}
		}
	}
	f.Python = m.Versions
	if m.Build != "" {
		f.Notes = append(f.Notes, "the build string of "+m.text+" is not used: the interpreter is one of this machine")
	}
	return nil
}

// texts reads a list of scalars.
func texts(n *yaml.Node, what string) ([]string, error) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil, nil
	}
	if n.Kind != yaml.SequenceNode {
		return nil, badSpec(condaTarget, "line %d: '%s' must be a list", n.Line, what)
	}
	if len(n.Content) > MaxDependencies {
		return nil, badSpec(condaTarget, "line %d: '%s' has %d entries; at most %d are allowed",
			n.Line, what, len(n.Content), MaxDependencies)
	}
	out := make([]string, len(n.Content))
	for i, item := range n.Content {
		if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
			return nil, badSpec(condaTarget, "line %d: '%s' must hold texts only", item.Line, what)
		}
		out[i] = strings.TrimSpace(item.Value)
	}
	return out, nil
}

// mapped gives the requirements of the Python index that stand for the conda packages. Packages that have no such
// name are gathered into one error, since a person wants to see all of them at once.
func (f *condaFile) mapped() (reqs, notes []string, err error) {
	var unknown []string
	for _, m := range f.Packages {
		name, known := indexName(m.Name)
		if !known {
			unknown = append(unknown, m.Name)
			continue
		}
		r, err := m.requirement(name)
		if err != nil {
			return nil, nil, badSpec(condaTarget, "%v", err)
		}
		reqs = append(reqs, r)
		if m.Build != "" {
			notes = append(notes, "the build string of "+m.text+" is not used: the package comes from the Python index")
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		unknown = slices.Compact(unknown)
		more := ""
		if len(unknown) > maxNamed {
			more = fmt.Sprintf(" and %d more", len(unknown)-maxNamed)
			unknown = unknown[:maxNamed]
		}
		return nil, nil, badSpec(condaTarget, "no conda tool is on this machine, and these conda packages have no known name "+
			"on the Python index: %s%s. Move Python packages into the file's 'pip:' list, remove libraries that wheels bring "+
			"along (libgcc, mkl, cudatoolkit), or install micromamba on the server", strings.Join(unknown, ", "), more)
	}
	if len(f.Channels) > 0 && len(reqs) > 0 {
		notes = append(notes, "no conda tool is on this machine: the conda packages come from the Python index, "+
			"the channels are not used")
	}
	return reqs, notes, nil
}

// maxNamed bounds the packages that one error lists.
const maxNamed = 12

// badSpec is the error for a spec that can never be built as it is.
func badSpec(target, format string, args ...any) *online.Error {
	return online.Errorf(online.CodeBadArgument, target, format, args...)
}
