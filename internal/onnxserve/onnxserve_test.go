package onnxserve_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"

	"portico/internal/onnx/onnxtest"
	"portico/internal/onnxrt"
	"portico/internal/onnxserve"
)

// The library can be loaded once in a process.
var (
	once    sync.Once
	library *onnxrt.Library
	failure error
)

func open(tb testing.TB, name string) *onnxserve.Model {
	tb.Helper()
	return named(tb, name, name, "1")
}

// named is a model that callers know by another name.
func named(tb testing.TB, file, name, version string) *onnxserve.Model {
	tb.Helper()
	path := onnxtest.Library(tb)
	once.Do(func() { library, failure = onnxrt.Open(path) })
	if failure != nil {
		tb.Fatal(failure)
	}
	session, err := library.Load(onnxtest.Model(tb, file), onnxrt.Options{Threads: 1, Optimization: onnxrt.OptimizeAll})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(session.Close)
	m, err := onnxserve.NewModel(name, version, session, onnxserve.Declared{})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func executor(tb testing.TB, name string) *onnxserve.Executor {
	tb.Helper()
	m := open(tb, name)
	e, err := m.NewExecutor(0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(e.Close)
	return e
}

func post(e *onnxserve.Executor, path, body string) (int, string) {
	a := e.Handle(&onnxserve.Request{Method: []byte("POST"), Path: []byte(path), Body: []byte(body)})
	return a.Status, string(a.Body)
}

func get(e *onnxserve.Executor, path string) (int, string) {
	a := e.Handle(&onnxserve.Request{Method: []byte("GET"), Path: []byte(path)})
	return a.Status, string(a.Body)
}

// near compares JSON documents whose numbers may differ in the last places of a float32.
func near(a, b any) bool {
	switch x := a.(type) {
	case float64:
		y, ok := b.(float64)
		return ok && math.Abs(x-y) <= 1e-6*math.Max(1, math.Abs(y))
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !near(x[i], y[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for k := range x {
			if !near(x[k], y[k]) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(a, b)
}

func decode(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

// expected is what onnxruntime's own Python package answers; see testdata/make.py.
func expected(t *testing.T) map[string]any {
	t.Helper()
	text, err := os.ReadFile("testdata/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, ok := decode(t, string(text)).(map[string]any)
	if !ok {
		t.Fatal("expected.json is no object")
	}
	return doc
}

func TestScoreAnswersAsTheReferenceDoes(t *testing.T) {
	want := expected(t)
	rows, err := json.Marshal(want["rows"])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"iris", "iris-maps", "iris-texts"} {
		e := executor(t, name)
		for _, form := range []string{
			`{"input_data": %s}`,
			`{"params": {}, "other": [{"a": "\u00e9"}], "input_data": {"X": %s}}`,
			`{"input_data": {"columns": ["a", "b", "c", "d"], "index": [0, 1, 2], "data": %s}, "params": null}`,
			` { "input_data" : { "data" : %s , "columns" : [ ] } } `,
		} {
			status, body := post(e, "/score", fmt.Sprintf(form, rows))
			if status != 200 || !near(decode(t, body), want[name]) {
				t.Errorf("%s %s: %d %s\nwant %v", name, form, status, body, want[name])
			}
		}
	}
	e := executor(t, "columns")
	for _, data := range []string{
		`{"columns": ["color", "size"], "index": [0, 1], "data": [["blue", 1.5], ["red", 3.5]]}`,
		`{"data": [["blue", 1.5], ["red", 3.5]], "columns": ["color", "size"]}`,
		`[{"size": 1.5, "color": "blue"}, {"color": "red", "size": 3.5}]`,
		`{"size": [1.5, 3.5], "color": ["blue", "red"]}`,
		`{"size": [[1.5], [3.5]], "color": [["blue"], ["r\u0065d"]]}`,
	} {
		status, body := post(e, "/score", `{"input_data": `+data+`}`)
		if status != 200 || !near(decode(t, body), want["columns"]) {
			t.Errorf("%s: %d %s\nwant %v", data, status, body, want["columns"])
		}
	}
}

func TestScoreRefuses(t *testing.T) {
	for _, c := range []struct{ model, body, want string }{
		{"iris", ``, "must be a JSON object with input_data"},
		{"iris", `[1]`, "must be a JSON object with input_data"},
		{"iris", `{}`, "'input_data' parameter"},
		{"iris", `{"data": [[1,2,3,4]]}`, "'input_data' parameter"},
		{"iris", `{"input_data": [[1,2,3,4]`, "ends where"},
		{"iris", `{"input_data": [[1,2,3,4]]} x`, "expected the end at byte 28"},
		{"iris", `{"input_data": [[1,2,3,4]], "input_data": [[1,2,3,4]]}`, "twice"},
		{"iris", `{"input_data": [[1,2,3,4]], "params": {"a": 1}}`, "takes no params"},
		{"iris", `{"input_data": [[1,2,3]]}`, `Input "X": expected shape [?, 4], got [1, 3].`},
		{"iris", `{"input_data": [1,2,3,4]}`, `Input "X": expected shape [?, 4], got [4].`},
		{"iris", `{"input_data": 1}`, `Input "X": expected shape [?, 4], got [].`},
		{"iris", `{"input_data": [[1,2,3,4],[1]]}`, "not a regular list"},
		{"iris", `{"input_data": [[1,2,3,[4]]]}`, "not a regular list"},
		{"iris", `{"input_data": [[1,2,3,"4"]]}`, `Input "X": expected float32, got "\"4\"".`},
		{"iris", `{"input_data": [[1,2,3,true]]}`, `Input "X": expected float32, got "true".`},
		{"iris", `{"input_data": [[1,2,3,01]]}`, "leading zeros"},
		{"iris", `{"input_data": [[1,2,3,-]]}`, "expected a value"},
		{"iris", `{"input_data": [[1,2,3,4.]]}`, "expected a digit"},
		{"iris", `{"input_data": [[1,2,3,4]],}`, "expected a name"},
		{"iris", `{"input_data": {"Y": [[1,2,3,4]]}}`, `no input "Y"; its inputs are: X.`},
		{"iris", `{"input_data": {"X": [[1,2,3,4]], "X": [[1,2,3,4]]}}`, "given twice"},
		{"iris", `{"input_data": {}}`, `Input "X" is missing: expected float32 [?, 4].`},
		{"iris", `{"input_data": ` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, "dimensions"},
		{"iris", `{"x": ` + strings.Repeat("[", 1e5) + `}`, "nested"},
		{"columns", `{"input_data": [[1, "red"]]}`, "object of their names (size, color)"},
		{"columns", `{"input_data": {"size": [1]}}`, `Input "color" is missing`},
		{"columns", `{"input_data": {"columns": ["size"], "data": [[1]]}}`, `Input "color" is missing`},
		{"columns", `{"input_data": {"columns": ["size", "color"], "data": [[1]]}}`, "1 values for 2 columns"},
		{"columns", `{"input_data": {"columns": ["size", "color"], "data": [[1, "a", 2]]}}`, "more values than the 2"},
		{"columns", `{"input_data": {"columns": ["size", "hue"], "data": []}}`, `no input "hue"`},
		{"columns", `{"input_data": {"data": [[1, "a"]]}}`, "columns must list"},
		{"columns", `{"input_data": [{"size": 1}]}`, `no input "color"`},
		{"columns", `{"input_data": [{"size": 1, "color": "a"}, 2]}`, "no object"},
		{"columns", `{"input_data": {"size": [1], "color": [2]}}`, `Input "color": expected string, got "2".`},
		{"types", `{"input_data": {"int8": [[1, 128]]}}`, `Input "int8": expected int8, got "128".`},
		{"types", `{"input_data": {"uint8": [[1, -1]]}}`, `Input "uint8": expected uint8, got "-1".`},
		{"types", `{"input_data": {"int64": [[1, 1.5]]}}`, `Input "int64": expected int64, got "1.5".`},
		{"types", `{"input_data": {"int64": [[1, null]]}}`, `Input "int64": expected int64, got "null".`},
		{"types", `{"input_data": {"bool": [[1, 0]]}}`, `Input "bool": expected bool, got "1".`},
		{"types", `{"input_data": {"uint64": [[0, 18446744073709551616]]}}`, `Input "uint64": expected uint64`},
		{"types", `{"input_data": {"string": [["a", "\ud800"]]}}`, "half a character"},
		{"types", `{"input_data": {"string": [["a", "` + "\xff" + `"]]}}`, "not UTF-8"},
	} {
		status, body := post(executor(t, c.model), "/score", c.body)
		doc, ok := decode(t, body).(map[string]any)
		message, _ := doc["message"].(string)
		if status != 400 || !ok || !strings.Contains(message, c.want) {
			t.Errorf("%s %.80s: %d %s\nwant %s", c.model, c.body, status, body, c.want)
		}
	}
	// What the model itself finds out, because the shapes alone do not say it.
	if status, body := post(executor(t, "add"), "/score", `{"input_data": {"a": [[1,2]], "b": [[1,2,3]]}}`); status < 400 ||
		!strings.Contains(body, "model") {
		t.Errorf("%d %s", status, body)
	}
}

// typed is one request with every type, and what comes back.
var typed = map[string][2]string{
	"float32": {"[[1.5, -1e-3]]", "[[1.5, -0.001]]"}, "float64": {"[[0.1, 1e300]]", "[[0.1, 1e+300]]"},
	"float16": {"[[0.1, 65504]]", "[[0.099975586, 65504.0]]"}, "bfloat16": {"[[0.1, 3e38]]", "[[0.100097656, 3.0040553e+38]]"},
	"int8": {"[[-128, 127]]", "[[-128, 127]]"}, "int16": {"[[-32768, 32767.0]]", "[[-32768, 32767]]"},
	"int32":  {"[[-2147483648, 2147483647]]", "[[-2147483648, 2147483647]]"},
	"int64":  {"[[-9223372036854775808, 9223372036854775807]]", "[[-9223372036854775808, 9223372036854775807]]"},
	"uint8":  {"[[0, 255]]", "[[0, 255]]"},
	"uint16": {"[[0, 65535]]", "[[0, 65535]]"}, "uint32": {"[[0, 4294967295]]", "[[0, 4294967295]]"},
	"uint64": {"[[-0, 18446744073709551615]]", "[[0, 18446744073709551615]]"}, "bool": {"[[true, false]]", "[[true, false]]"},
	"string": {`[["", "\u00e4\ud83d\ude00\u0000\n\"\\"]]`, `[["", "ä😀\u0000\n\"\\"]]`},
}

func TestEveryTypeComesBack(t *testing.T) {
	var inputs, outputs []string
	for name, values := range typed {
		inputs = append(inputs, `"`+name+`": `+values[0])
		outputs = append(outputs, `"`+name+`_out": `+values[1])
	}
	e := executor(t, "types")
	for range 2 { // the second time with the memory of the first
		status, body := post(e, "/score", `{"input_data": {`+strings.Join(inputs, ", ")+`}}`)
		if status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		for _, want := range outputs {
			if !strings.Contains(body, want) {
				t.Errorf("no %s in %s", want, body)
			}
		}
	}
}

func TestShapes(t *testing.T) {
	e := executor(t, "add")
	for _, c := range [][2]string{
		{`{"a": [[1, 2], [3, 4]], "b": [[10, 20], [30, 40]]}`, `[[11.0, 22.0], [33.0, 44.0]]`},
		{`{"a": [[1]], "b": [[NaN]]}`, `[[null]]`},
		{`{"a": [[1]], "b": [[null]]}`, `[[null]]`},
		{`{"a": [[1, 1]], "b": [[Infinity, -Infinity]]}`, `[[null, null]]`},
		{`{"a": [[]], "b": [[]]}`, `[[]]`},
		{`{"a": [], "b": []}`, `[]`},
		{`{"columns": ["a", "b"], "data": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]}`, `[[4.0, 6.0], [12.0, 14.0]]`},
		{`[{"a": [1], "b": [2]}]`, `[[3.0]]`},
	} {
		status, body := post(e, "/score", `{"input_data": `+c[0]+`}`)
		if status != 200 || body != c[1] {
			t.Errorf("%s: %d %s, want %s", c[0], status, body, c[1])
		}
	}
	if status, body := post(executor(t, "scalar"), "/score", `{"input_data": 1.25}`); status != 200 || body != "-1.25" {
		t.Errorf("%d %s", status, body)
	}
	status, body := post(executor(t, "sequence"), "/score", `{"input_data": [[1, 2], [3, 4]]}`)
	if status != 200 || body != `{"parts": [[1.0, 2.0], [3.0, 4.0]], "y": [[-1.0, -2.0], [-3.0, -4.0]]}` {
		t.Errorf("%d %s", status, body)
	}
}

func TestAModelThatTakesASequenceIsRefused(t *testing.T) {
	open(t, "iris") // loads the library
	session, err := library.Load(onnxtest.Model(t, "takes-sequence"), onnxrt.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if _, err := onnxserve.NewModel("m", "1", session, onnxserve.Declared{}); err == nil || !strings.Contains(err.Error(), `"x" is no tensor`) {
		t.Error(err)
	}
	if _, err := library.Load("/nonexistent.onnx", onnxrt.Options{Threads: 1}); err == nil {
		t.Error("a model that is not there was loaded")
	}
}

func TestSwagger(t *testing.T) {
	e := executor(t, "columns")
	for version, form := range map[string]string{"": `"swagger":"2.0"`, "2": `"swagger":"2.0"`, "3": `"openapi":"3.0.3"`, "3.1": `"openapi":"3.1.0"`} {
		r := onnxserve.Request{Method: []byte("GET"), Path: []byte("/swagger.json")}
		if version != "" {
			r.Query = []byte("version=" + version)
		}
		a := e.Handle(&r)
		decode(t, string(a.Body))
		if a.Status != 200 || !strings.Contains(string(a.Body), form) || !strings.Contains(string(a.Body), `color: string [?, 1]`) {
			t.Errorf("%s: %d %s", version, a.Status, a.Body)
		}
	}
	a := e.Handle(&onnxserve.Request{Method: []byte("GET"), Path: []byte("/swagger.json"), Query: []byte("version=9")})
	if a.Status != 404 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// TestLargeRequestsAreNotKept: the memory of one is gone when it is over, and small ones go on as before.
func TestLargeRequestsAreNotKept(t *testing.T) {
	numbers, texts := executor(t, "add"), executor(t, "columns")
	row := "[1" + strings.Repeat(", 2", 1<<19) + "]"
	large := map[*onnxserve.Executor]string{
		numbers: `{"input_data": {"a": [` + row + `], "b": [` + row + `]}}`,
		texts: `{"input_data": {"size": [1` + strings.Repeat(", 2", 1<<18) + `], "color": ["red"` +
			strings.Repeat(`, "red"`, 1<<18) + `]}}`,
	}
	small := map[*onnxserve.Executor]string{
		numbers: `{"input_data": {"a": [[1]], "b": [[2]]}}`, texts: `{"input_data": {"size": [2], "color": ["red"]}}`,
	}
	for e, body := range large {
		_, want := post(e, "/score", small[e])
		for range 2 {
			if status, answer := post(e, "/score", body); status != 200 || e.Held() < 4<<20 {
				t.Errorf("%d %.80s, with %d bytes held", status, answer, e.Held())
			}
			e.Shrink()
			if e.Held() > 3<<20 {
				t.Errorf("%d bytes stay", e.Held())
			}
			if status, answer := post(e, "/score", small[e]); status != 200 || answer != want {
				t.Errorf("%d %s, want %s", status, answer, want)
			}
		}
	}
}

func TestConcurrentExecutorsKeepAnswersApart(t *testing.T) {
	m := open(t, "add")
	var wg sync.WaitGroup
	for g := range 8 {
		e, err := m.NewExecutor(0)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		wg.Go(func() {
			for i := range 2000 {
				n := g*10000 + i
				cells := strings.Repeat(fmt.Sprintf(", %d", n), i%5)
				want := fmt.Sprintf("[[%d.0%s]]", n+1, strings.ReplaceAll(cells, fmt.Sprint(n), fmt.Sprintf("%d.0", n+1)))
				ones := strings.Repeat(", 1", i%5)
				status, body := post(e, "/score", fmt.Sprintf(`{"input_data": {"a": [[%d%s]], "b": [[1%s]]}}`, n, cells, ones))
				if status != 200 || body != want {
					t.Errorf("%d %s, want %s", status, body, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkScore(b *testing.B) {
	e := executor(b, "iris")
	r := onnxserve.Request{Method: []byte("POST"), Path: []byte("/score"), Body: []byte(`{"input_data": [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3], [7.7, 3.0, 6.1, 2.3]]}`)}
	b.ReportAllocs()
	for b.Loop() {
		if a := e.Handle(&r); a.Status != 200 {
			b.Fatalf("%d %s", a.Status, a.Body)
		}
	}
}

func BenchmarkInfer(b *testing.B) {
	e := executor(b, "iris")
	r := onnxserve.Request{Method: []byte("POST"), Path: []byte("/v2/models/iris/infer"), Body: []byte(`{"inputs": [{"name": "X", "datatype": "FP32", "shape": [3, 4], "data": [5.1, 3.5, 1.4, 0.2, 6.2, 2.9, 4.3, 1.3, 7.7, 3.0, 6.1, 2.3]}]}`)}
	b.ReportAllocs()
	for b.Loop() {
		if a := e.Handle(&r); a.Status != 200 {
			b.Fatalf("%d %s", a.Status, a.Body)
		}
	}
}
