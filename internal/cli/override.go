package cli

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// applyOverrides carries out --set KEY=VALUE on a document, in order. KEY is the dotted path of the YAML
// schema; the schema decides the type of VALUE, so that `--set tags.version=1.10` stays text and
// `--set instance_count=two` is refused. A mapping gains the key; VALUE null removes it. A mapping or list may be
// given whole in YAML's short form: --set 'tags={team: a, stage: b}'.
func applyOverrides(sets []string, out any) error {
	var all []fault
	for _, set := range sets {
		key, value, ok := strings.Cut(set, "=")
		if !ok || key == "" {
			all = append(all, fault{Origin: "--set " + set,
				Message: "must be KEY=VALUE, for example --set instance_count=2"})
			continue
		}
		d := &decoder{origin: "--set " + set, merge: true}
		d.value(overrideNode(strings.Split(key, "."), value), reflect.ValueOf(out).Elem(), "", "")
		all = append(all, d.faults...)
	}
	if len(all) > 0 {
		return &fileError{all}
	}
	return nil
}

// applyEdits carries out --add PATH=VALUE, which appends to a list, and --remove PATH (a key, or a whole list) or
// PATH=N (an element, counted from 0) on a document.
func applyEdits(adds, removes []string, out any) error {
	for _, add := range adds {
		path, value, ok := strings.Cut(add, "=")
		if !ok {
			return &fileError{[]fault{{Origin: "--add " + add, Message: "must be PATH=VALUE"}}}
		}
		list, err := listAt(out, path, "--add "+add)
		if err != nil {
			return err
		}
		if err := setList(out, path, append(list, value)); err != nil {
			return err
		}
	}
	for _, remove := range removes {
		path, position, one := strings.Cut(remove, "=")
		if !one {
			if err := applyOverrides([]string{path + "=null"}, out); err != nil {
				return err
			}
			continue
		}
		origin := "--remove " + remove
		list, err := listAt(out, path, origin)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(position)
		if err != nil || n < 0 || n >= len(list) {
			return &fileError{[]fault{{Origin: origin, Message: fmt.Sprintf("the list has no element %q; it has %d, counted from 0",
				position, len(list))}}}
		}
		if err := setList(out, path, slices.Delete(list, n, n+1)); err != nil {
			return err
		}
	}
	return nil
}

// listAt gives the list at a dotted path of a document; one that is not there is empty.
func listAt(doc any, path, origin string) ([]any, error) {
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode the document: %w", err)
	}
	var at any
	if err := json.Unmarshal(text, &at); err != nil {
		return nil, fmt.Errorf("decode the document: %w", err)
	}
	for key := range strings.SplitSeq(path, ".") {
		object, _ := at.(map[string]any)
		at = object[key]
	}
	switch t := at.(type) {
	case nil:
		return nil, nil
	case []any:
		return t, nil
	}
	return nil, &fileError{[]fault{{Origin: origin, Message: path + " is not a list; use --set or --remove on its keys"}}}
}

func setList(out any, path string, list []any) error {
	text, err := json.Marshal(list) // JSON is YAML's short form
	if err != nil {
		return fmt.Errorf("encode the list: %w", err)
	}
	return applyOverrides([]string{path + "=" + string(text)}, out)
}

func overrideNode(keys []string, value string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}
	if value == "null" {
		n.Tag = "!!null"
	}
	for i := len(keys) - 1; i >= 0; i-- {
		n = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{
			{Kind: yaml.ScalarNode, Tag: "!!str", Value: keys[i]}, n,
		}}
	}
	return n
}

// parseShares reads "blue=90 green=10", the value of --traffic and --mirror-traffic; commas separate too. Names are
// lower-cased, as Azure's client does.
func parseShares(flag string, args []string) (map[string]int, error) {
	shares := map[string]int{}
	for _, pair := range strings.FieldsFunc(strings.Join(args, " "), func(r rune) bool { return r == ' ' || r == ',' }) {
		name, value, ok := strings.Cut(pair, "=")
		var percent int
		if n, err := fmt.Sscanf(strings.TrimSuffix(value, "%"), "%d", &percent); !ok || name == "" || err != nil ||
			n != 1 ||
			fmt.Sprint(percent) != strings.TrimSuffix(value, "%") {
			return nil, usagef("%s: %q is not NAME=PERCENT, for example %s \"blue=90 green=10\"", flag, pair, flag)
		}
		name = strings.ToLower(name)
		if _, ok := shares[name]; ok {
			return nil, usagef("%s: %s is named twice", flag, name)
		}
		shares[name] = percent
	}
	return shares, nil
}
