package cli

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"portico/internal/online"
)

// A file is decoded by these rules, which the schema of Azure's own client has too: a key that the schema lacks
// is a fault, a value of the wrong type is a fault, and a key may appear once. All faults of a file are
// reported together, each with its line.
//
// The schema is the Go struct itself. Tags:
//
//	json:"name"        the key, also of the output
//	one:"a|b"          the allowed words, compared without regard to case, '_' and '-'
//	show:"only"        shown by the service; accepted in a file, so that the output of show can be edited and
//	                   applied again, and ignored
//
// Scalars given where text is wanted are kept as they are written: `MODEL_VERSION: 1.10` is the text "1.10".

// maxYAMLNodes bounds a document after its aliases are followed, so that a short file cannot unfold into gigabytes.
const maxYAMLNodes = 100_000

// fault is one thing that is wrong with a file or an override, with its place.
type fault struct {
	Origin  string // file name, or the override as it was typed
	Line    int    // 0 where the origin has no lines
	Column  int
	Path    string // of the key, dotted
	Message string
}

func (f fault) String() string {
	var b strings.Builder
	b.WriteString(f.Origin)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
	}
	b.WriteString(": ")
	if f.Path != "" && !strings.HasPrefix(f.Message, "unknown key") {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.Message)
	return b.String()
}

// fileError holds every fault of one file.
type fileError struct{ faults []fault }

func (e *fileError) Error() string {
	lines := make([]string, len(e.faults))
	for i, f := range e.faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// selfDecoder is a type that reads its own node, for values that may have several shapes.
type selfDecoder interface {
	decodeNode(d *decoder, n *yaml.Node, path string)
}

// decoder walks one document into Go values.
type decoder struct {
	origin string
	merge  bool // maps gain keys instead of being replaced, and null removes; for overrides
	nodes  int
	faults []fault
}

func (d *decoder) add(n *yaml.Node, path, format string, args ...any) {
	f := fault{Origin: d.origin, Path: path, Message: fmt.Sprintf(format, args...)}
	if !d.merge {
		f.Line, f.Column = n.Line, n.Column
	}
	d.faults = append(d.faults, f)
}

func (d *decoder) err() error {
	if len(d.faults) == 0 {
		return nil
	}
	return &fileError{d.faults}
}

// decodeYAML reads one document into out, a pointer to a struct. Only the keys that the document names are
// touched, so out may hold defaults or what is there already.
func decodeYAML(origin string, text []byte, out any) error {
	d := &decoder{origin: origin}
	var docs []yaml.Node
	if err := yaml.Load(text, &docs, yaml.WithAllDocuments()); err != nil {
		return &fileError{[]fault{yamlFault(origin, err)}}
	}
	switch {
	case len(docs) == 0 || len(docs[0].Content) == 0 && docs[0].Kind == yaml.DocumentNode:
		return &fileError{[]fault{{Origin: origin, Message: "the file is empty"}}}
	case len(docs) > 1:
		d.add(&docs[1], "", "the file holds %d documents; keep one", len(docs))
		return d.err()
	}
	d.value(&docs[0], reflect.ValueOf(out).Elem(), "", "")
	return d.err()
}

// yamlFault gives a syntax error of the YAML library its place.
func yamlFault(origin string, err error) fault {
	f := fault{Origin: origin, Message: strings.TrimPrefix(err.Error(), "yaml: ")}
	var all *yaml.LoadErrors
	var one *yaml.LoadError
	if errors.As(err, &all) && len(all.Errors) > 0 {
		one = all.Errors[0]
	} else if !errors.As(err, &one) {
		return f
	}
	f.Line, f.Column, f.Message = one.Mark.Line, max(one.Mark.Column, 1), one.Message
	return f
}

// resolve follows documents and aliases, and refuses what is too large.
func (d *decoder) resolve(n *yaml.Node, path string) (*yaml.Node, bool) {
	for n.Kind == yaml.DocumentNode || n.Kind == yaml.AliasNode {
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		} else {
			n = n.Content[0]
		}
	}
	d.nodes++
	if d.nodes > maxYAMLNodes {
		if d.nodes == maxYAMLNodes+1 {
			d.add(n, path, "the file unfolds to more than %d values", maxYAMLNodes)
		}
		return n, false
	}
	return n, true
}

func (d *decoder) value(n *yaml.Node, v reflect.Value, path, words string) {
	n, ok := d.resolve(n, path)
	if !ok {
		return
	}
	if v.CanAddr() {
		if s, ok := v.Addr().Interface().(selfDecoder); ok {
			if isNull(n) {
				d.clear(v)
				return
			}
			s.decodeNode(d, n, path)
			return
		}
	}
	if isNull(n) {
		d.clear(v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(n, v.Elem(), path, words)
	case reflect.Struct:
		d.fields(n, v, path)
	case reflect.Map:
		d.entries(n, v, path)
	case reflect.Slice:
		d.items(n, v, path)
	default:
		d.scalar(n, v, path, words)
	}
}

// clear resets a value to absent. In a file null is the same as leaving the key out.
func (d *decoder) clear(v reflect.Value) {
	if d.merge {
		v.SetZero()
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// unfold turns the text of an override into the mapping or list that is wanted: --set 'tags={a: b}'.
func (d *decoder) unfold(n *yaml.Node, kind yaml.Kind) *yaml.Node {
	if !d.merge || n.Kind != yaml.ScalarNode {
		return n
	}
	var doc yaml.Node
	if yaml.Load([]byte(n.Value), &doc) != nil || len(doc.Content) == 0 || doc.Content[0].Kind != kind {
		return n
	}
	return doc.Content[0]
}

func (d *decoder) fields(n *yaml.Node, v reflect.Value, path string) {
	n = d.unfold(n, yaml.MappingNode)
	if n.Kind != yaml.MappingNode {
		d.add(n, path, "must be a mapping with the keys %s, not %s", strings.Join(keysOf(v.Type()), ", "), describe(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if d.repeated(key, path, seen) {
			continue
		}
		field, ok := fieldByKey(v.Type(), key.Value)
		if !ok {
			d.add(key, join(path, key.Value), "%s", unknownKey(v.Type(), join(path, key.Value), key.Value))
			continue
		}
		if field.Tag.Get("show") == "only" {
			continue
		}
		d.value(val, v.FieldByIndex(field.Index), join(path, key.Value), field.Tag.Get("one"))
	}
}

func (d *decoder) entries(n *yaml.Node, v reflect.Value, path string) {
	n = d.unfold(n, yaml.MappingNode)
	if n.Kind != yaml.MappingNode {
		d.add(n, path, "must be a mapping of names to values, not %s", describe(n))
		return
	}
	if v.IsNil() || !d.merge {
		v.Set(reflect.MakeMap(v.Type()))
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		at := join(path, key.Value)
		if key.Kind != yaml.ScalarNode {
			d.add(key, path, "a key must be a plain word")
			continue
		}
		if d.repeated(key, path, seen) {
			continue
		}
		resolved, ok := d.resolve(val, at)
		if !ok {
			return
		}
		if isNull(resolved) {
			if d.merge {
				v.SetMapIndex(reflect.ValueOf(key.Value), reflect.Value{})
			} else {
				d.add(val, at, "has no value; give one or remove the key (an empty text is written \"\")")
			}
			continue
		}
		elem := reflect.New(v.Type().Elem()).Elem()
		d.value(val, elem, at, "")
		v.SetMapIndex(reflect.ValueOf(key.Value), elem)
	}
}

// repeated reports a key that its mapping has already.
func (d *decoder) repeated(key *yaml.Node, path string, seen map[string]int) bool {
	if first, ok := seen[key.Value]; ok {
		d.add(key, join(path, key.Value), "appears twice; it is also on line %d", first)
		return true
	}
	seen[key.Value] = key.Line
	return false
}

func (d *decoder) items(n *yaml.Node, v reflect.Value, path string) {
	n = d.unfold(n, yaml.SequenceNode)
	if n.Kind != yaml.SequenceNode {
		d.add(n, path, "must be a list, not %s", describe(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.value(item, out.Index(i), fmt.Sprintf("%s[%d]", path, i), "")
	}
	v.Set(out)
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path, words string) {
	if n.Kind != yaml.ScalarNode {
		d.add(n, path, "must be %s, not %s", wanted(v.Kind()), describe(n))
		return
	}
	switch v.Kind() {
	case reflect.String:
		text := n.Value
		if words != "" {
			word, ok := matchWord(words, text)
			if !ok {
				d.add(n, path, "%q is not one of %s%s", text, strings.ReplaceAll(words, "|", ", "),
					didYouMean(text, strings.Split(words, "|")))
				return
			}
			text = word
		}
		v.SetString(text)
	case reflect.Int:
		// 32 bits hold every count, second and millisecond that the service knows, and cannot overflow a duration.
		i, err := strconv.ParseInt(n.Value, 10, 32)
		if errors.Is(err, strconv.ErrRange) {
			d.add(n, path, "%s is out of range", describe(n))
			return
		}
		if err != nil || !d.merge && n.ShortTag() == "!!str" {
			d.add(n, path, "must be a whole number, not %s", describe(n))
			return
		}
		v.SetInt(i)
	case reflect.Float64:
		f, err := strconv.ParseFloat(n.Value, 64)
		if err != nil || !d.merge && n.ShortTag() == "!!str" {
			d.add(n, path, "must be a number, not %s", describe(n))
			return
		}
		v.SetFloat(f)
	case reflect.Bool:
		// 'True' in quotes is how Azure's own examples write it.
		b, err := strconv.ParseBool(strings.ToLower(n.Value))
		if err != nil || len(n.Value) == 1 {
			d.add(n, path, "must be true or false, not %s", describe(n))
			return
		}
		v.SetBool(b)
	default:
		panic("strict: a schema holds a " + v.Kind().String())
	}
}

func wanted(k reflect.Kind) string {
	switch k {
	case reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Bool:
		return "true or false"
	}
	return "text"
}

func describe(n *yaml.Node) string {
	const most = 40
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	text := n.Value
	if len(text) > most {
		text = text[:most] + "..."
	}
	return strconv.Quote(text)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// keyOf is the name that a field has in files and output; empty for a field that has none.
func keyOf(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "-" {
		return ""
	}
	return name
}

// keysOf lists the keys that a person may write.
func keysOf(t reflect.Type) []string {
	var keys []string
	for _, f := range reflect.VisibleFields(t) {
		if k := keyOf(f); k != "" && f.Tag.Get("show") != "only" {
			keys = append(keys, k)
		}
	}
	return keys
}

func fieldByKey(t reflect.Type, key string) (reflect.StructField, bool) {
	for _, f := range reflect.VisibleFields(t) {
		if k := keyOf(f); k != "" && k == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// unknownKey words the refusal of a key: with the key that was meant, or with the place where it belongs.
func unknownKey(t reflect.Type, path, key string) string {
	msg := "unknown key " + path
	if s := online.Nearest(key, keysOf(t)); s != "" {
		return msg + "; did you mean " + s + "?"
	}
	for _, f := range reflect.VisibleFields(t) {
		ft := f.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if ft.Kind() != reflect.Struct {
			continue
		}
		if _, ok := fieldByKey(ft, key); ok {
			return msg + "; it belongs under " + keyOf(f)
		}
	}
	return msg + "; known here are " + strings.Join(keysOf(t), ", ")
}

// decodeInto reads a mapping into a value that a selfDecoder holds.
func decodeInto[T any](d *decoder, n *yaml.Node, out *T, path string) *T {
	d.fields(n, reflect.ValueOf(out).Elem(), path)
	return out
}
