package cli

import (
	"fmt"
	"reflect"
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
