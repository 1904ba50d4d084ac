package arm

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"portico/internal/online"
)

// Bounds of a request document.
const (
	MaxDepth   = 32 // nesting of objects and arrays
	MaxUnknown = 20 // unknown field paths that are named; more are only counted as one "..."
)

// Decode reads one JSON object into a wire struct. It gives the paths of fields that the struct does not have, so
// that the answer can name them, and an *online.Error when the text is not one JSON object (InvalidRequestContent)
// or when a field has a value of another type (BadArgument with the field's path as target).
//
// Field names are compared without regard to case, as Azure does. null equals absent. A name that appears twice is
// refused, since readers disagree about which one counts.
func Decode(data []byte, into any) (unknown []string, err error) {
	tree, err := parse(data)
	if err != nil {
		return nil, err
	}
	if _, ok := tree.(map[string]any); !ok {
		return nil, invalid("the body must be a JSON object, not %s", typeName(tree))
	}
	d := decoder{}
	d.value(tree, reflect.ValueOf(into).Elem(), "")
	slices.Sort(d.unknown)
	if d.more {
		d.unknown = append(d.unknown, "...")
	}
	if e := online.Join(d.faults); e != nil {
		return d.unknown, e
	}
	return d.unknown, nil
}

func invalid(format string, args ...any) error {
	return online.Errorf(online.CodeInvalidContent, "", format, args...)
}

// parse reads exactly one JSON value of bounded depth into maps, slices, strings, json.Number, bool and nil.
func parse(data []byte) (any, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, invalid("the body is empty; a JSON object is required")
	}
	if !utf8.Valid(data) {
		return nil, invalid("the body is not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := parseValue(dec, 0)
	if err == nil {
		if _, end := dec.Token(); end != io.EOF {
			err = fmt.Errorf("something follows the first JSON value")
		}
	}
	if err == nil {
		return v, nil
	}
	if e, ok := online.AsError(err); ok {
		return nil, e
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, invalid("the body ends in the middle of a JSON value")
	}
	return nil, invalid("the body is not valid JSON near byte %d", dec.InputOffset())
}

func parseValue(dec *json.Decoder, depth int) (any, error) {
	if depth > MaxDepth {
		return nil, invalid("the body nests deeper than %d levels", MaxDepth)
	}
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		object := map[string]any{}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return nil, err
			}
			key, ok := name.(string)
			if !ok {
				return nil, invalid("the body is not valid JSON near byte %d", dec.InputOffset())
			}
			if _, twice := object[key]; twice {
				return nil, invalid("the member %.40q appears twice in one object", key)
			}
			if object[key], err = parseValue(dec, depth+1); err != nil {
				return nil, err
			}
		}
		_, err := dec.Token()
		return object, err
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			v, err := parseValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.Token()
		return list, err
	}
	return token, nil
}

// decoder walks a tree and a struct together, collecting what does not fit.
type decoder struct {
	unknown []string
	more    bool
	faults  []*online.Error
}

func (d *decoder) fault(path, format string, args ...any) {
	d.faults = append(d.faults, online.Errorf(online.CodeBadArgument, path, format, args...))
}

var (
	refusedType = reflect.TypeFor[Refused]()
	textType    = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func (d *decoder) value(node any, v reflect.Value, path string) {
	if node == nil {
		return // null equals absent
	}
	if v.Kind() == reflect.Pointer {
		fresh := reflect.New(v.Type().Elem())
		d.value(node, fresh.Elem(), path)
		v.Set(fresh)
		return
	}
	if v.Type() == refusedType {
		v.SetBool(!empty(node))
		return
	}
	if v.Addr().Type().Implements(textType) {
		d.text(node, v, path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.object(node, v, path)
	case reflect.Map:
		d.mapping(node, v, path)
	case reflect.Slice:
		list, ok := node.([]any)
		if !ok {
			d.mismatch(node, "an array", path)
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(list), len(list)))
		for i, item := range list {
			d.value(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
	default:
		d.scalar(node, v, path)
	}
}

func (d *decoder) text(node any, v reflect.Value, path string) {
	s, ok := node.(string)
	if !ok {
		d.mismatch(node, "a string", path)
		return
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
		d.fault(path, "%s", err.Error())
	}
}

func (d *decoder) object(node any, v reflect.Value, path string) {
	object, ok := node.(map[string]any)
	if !ok {
		d.mismatch(node, "an object", path)
		return
	}
	taken := map[int]bool{}
	for _, name := range sortedKeys(object) {
		i := field(v.Type(), name)
		if i < 0 {
			d.ignore(join(path, name))
			continue
		}
		if taken[i] {
			d.fault(join(path, name), "the field appears twice with different case")
			continue
		}
		taken[i] = true
		d.value(object[name], v.Field(i), join(path, wireName(v.Type().Field(i))))
	}
}

func (d *decoder) mapping(node any, v reflect.Value, path string) {
	object, ok := node.(map[string]any)
	if !ok {
		d.mismatch(node, "an object", path)
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(object)))
	for _, name := range sortedKeys(object) {
		if object[name] == nil {
			continue
		}
		item := reflect.New(v.Type().Elem()).Elem()
		node := object[name]
		if item.Kind() == reflect.String {
			node = textOf(node)
		}
		d.value(node, item, join(path, name))
		v.SetMapIndex(reflect.ValueOf(name), item)
	}
}

// textOf gives a number or a switch in a map of texts (tags, properties, environment variables) as the text that
// Azure reads it as. Clients send both: Python code holds the values as they are, and azure-ai-ml 1.35 has a number
// among the properties of a code version.
func textOf(node any) any {
	switch n := node.(type) {
	case json.Number:
		return n.String()
	case bool:
		if n {
			return "True"
		}
		return "False"
	}
	return node
}

func (d *decoder) scalar(node any, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.String:
		if s, ok := node.(string); ok {
			v.SetString(s)
			return
		}
		d.mismatch(node, "a string", path)
	case reflect.Bool:
		if b, ok := node.(bool); ok {
			v.SetBool(b)
			return
		}
		d.mismatch(node, "true or false", path)
	case reflect.Int, reflect.Int64:
		if n, ok := integer(node); ok {
			v.SetInt(n)
			return
		}
		d.mismatch(node, "a whole number", path)
	case reflect.Float64:
		if n, ok := node.(json.Number); ok {
			if f, err := n.Float64(); err == nil {
				v.SetFloat(f)
				return
			}
		}
		d.mismatch(node, "a number", path)
	default:
		panic("arm: a wire struct has a field of kind " + v.Kind().String())
	}
}

// integer reads whole numbers, also those that a client wrote as 90.0 or 9e1.
func integer(node any) (int64, bool) {
	n, ok := node.(json.Number)
	if !ok {
		return 0, false
	}
	if i, err := n.Int64(); err == nil {
		return i, true
	}
	const exact = 1 << 53
	f, err := n.Float64()
	if err != nil || f != math.Trunc(f) || math.Abs(f) > exact {
		return 0, false
	}
	return int64(f), true
}

func (d *decoder) mismatch(node any, want, path string) {
	d.fault(path, "a value of this field must be %s, not %s", want, typeName(node))
}

func (d *decoder) ignore(path string) {
	if len(d.unknown) == MaxUnknown {
		d.more = true
		return
	}
	const longest = 120
	if len(path) > longest {
		path = strings.ToValidUTF8(path[:longest], "") + "..."
	}
	d.unknown = append(d.unknown, path)
}

func typeName(node any) string {
	switch node.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "an array"
	case string:
		return "a string"
	case bool:
		return "true or false"
	case json.Number:
		return "a number"
	}
	return "null"
}

// field finds the struct field with a wire name: exactly, else without regard to case.
func field(t reflect.Type, name string) int {
	folded := -1
	for i := range t.NumField() {
		switch wire := wireName(t.Field(i)); {
		case wire == name:
			return i
		case strings.EqualFold(wire, name):
			folded = i
		}
	}
	return folded
}

func wireName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// Refused is a field that Azure knows and nothing here acts on yet: true when it was set to anything but a null,
// false, zero, "", [] or {}. The conversion to the domain then answers NotImplemented with its name.
type Refused bool

func empty(node any) bool {
	switch n := node.(type) {
	case map[string]any:
		return len(n) == 0
	case []any:
		return len(n) == 0
	case string:
		return n == ""
	case bool:
		return !n
	case json.Number:
		f, err := n.Float64()
		return err == nil && f == 0
	}
	return node == nil
}

// refuse adds a NotImplemented for each field that is set.
func refuse(faults []*online.Error, fields ...refusal) []*online.Error {
	for _, f := range fields {
		if f.set {
			faults = append(faults, online.Errorf(online.CodeNotImplemented, f.path,
				"%s is not implemented yet; leave it out", f.path))
		}
	}
	return faults
}

type refusal struct {
	set  Refused
	path string
}

// word gives the spelling of an enum value that the service answers with: the allowed word that equals s without
// regard to case. Anything else is returned as it is, for the domain to refuse by name.
func word(s string, allowed ...string) string {
	for _, w := range allowed {
		if strings.EqualFold(s, w) {
			return w
		}
	}
	return s
}
