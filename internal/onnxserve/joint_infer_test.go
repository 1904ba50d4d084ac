package onnxserve_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"portico/internal/onnxserve"
)

func score(body string) onnxserve.Request {
	return onnxserve.Request{Method: []byte("POST"), Path: []byte("/score"), Body: []byte(body)}
}

// infer is a request by the protocol. What follows the JSON, if anything, are tensors in binary form.
func infer(model, body string, tensors ...string) onnxserve.Request {
	r := onnxserve.Request{Method: []byte("POST"), Path: []byte("/v2/models/" + model + "/infer"), Body: []byte(body + strings.Join(tensors, ""))}
	if len(tensors) > 0 {
		r.JSONLength = []byte(fmt.Sprint(len(body)))
	}
	return r
}

// floats are numbers as they lie in memory.
func floats(values ...float32) string {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return string(b)
}

// alone answers each request by itself.
func alone(e *onnxserve.Executor, requests []onnxserve.Request) []asked {
	out := make([]asked, len(requests))
	for i := range requests {
		a := e.Handle(&requests[i])
		out[i] = asked{a.Status, string(a.Body), a.Ran, a.JSONLength, a.Kind}
	}
	return out
}

// oneRun says whether both requests always have the same run. Two runs may take the same time once, by accident.
func oneRun(t *testing.T, e *onnxserve.Executor, requests []onnxserve.Request, i, j int) bool {
	t.Helper()
	for range 4 {
		if got := joint(t, e, requests); got[i].ran != got[j].ran || got[i].ran == 0 {
			return false
		}
	}
	return true
}

// same says whether a request got from a batch what it gets alone. The last places of a float32 may differ.
func same(t *testing.T, got, want asked) bool {
	t.Helper()
	if got.status != want.status || got.kind != want.kind || got.length != want.length {
		return false
	}
	if got.body == want.body {
		return true
	}
	if got.length == 0 {
		return near(decode(t, got.body), decode(t, want.body))
	}
	a, b := []byte(got.body[got.length:]), []byte(want.body[want.length:])
	if got.body[:got.length] != want.body[:want.length] || len(a) != len(b) || len(a)%4 != 0 {
		return false
	}
	for ; len(a) > 0; a, b = a[4:], b[4:] {
		x, y := math.Float32frombits(binary.LittleEndian.Uint32(a)), math.Float32frombits(binary.LittleEndian.Uint32(b))
		if x != y && (y < 1e-9 || !near(float64(x), float64(y))) {
			return false
		}
	}
	return true
}

// flower is an inference request for a model of iris.
func flower(more string, rows ...string) string {
	return fmt.Sprintf(`{"inputs": [{"name": "X", "datatype": "FP32", "shape": [%d, 4], "data": [%s]}]%s}`, len(rows), strings.Join(rows, ", "), more)
}

// TestJointInferencesMeetAndPart: requests of the protocol and of /score are joined, and each gets what it gets alone: the
// outputs that it names, with its id, in the form that it wants.
func TestJointInferencesMeetAndPart(t *testing.T) {
	const one, two, three = "5.1, 3.5, 1.4, 0.2", "6.2, 2.9, 4.3, 1.3", "7.7, 3.0, 6.1, 2.3"
	iris := func(model, second string) []onnxserve.Request {
		return []onnxserve.Request{
			infer(model, flower(`, "id": "a\"b"`, one)),
			infer(model, flower(`, "id": "c"`, two, three)),
			infer(model, flower(`, "outputs": [{"name": "`+second+`"}]`, three)),
			infer(model, flower(`, "outputs": [{"name": "`+second+`", "parameters": {"binary_data": true}}], "parameters": {"x": 1}`, two)),
			infer(model, flower(`, "parameters": {"binary_data_output": true}`, three, one)),
			infer(model, `{"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}]}`, floats(5.1, 3.5, 1.4, 0.2)),
			score(`{"input_data": [[` + two + `]]}`),
		}
	}
	pair := func(a, b string, rows int, more string) onnxserve.Request {
		return infer("add", fmt.Sprintf(`{"inputs": [{"name": "a", "datatype": "FP32", "shape": [%[1]d, 2], "data": %[2]s},
			{"name": "b", "datatype": "FP32", "shape": [%[1]d, 2], "data": %[3]s}]%[4]s}`, rows, a, b, more))
	}
	columns := func(size, color string) onnxserve.Request {
		return infer("columns", fmt.Sprintf(`{"inputs": [{"name": "color", "datatype": "BYTES", "shape": [%[1]d, 1], "data": %[3]s},
			{"name": "size", "datatype": "FP32", "shape": [%[1]d, 1], "data": %[2]s}]}`, strings.Count(size, ",")+1, size, color))
	}
	for name, requests := range map[string][]onnxserve.Request{
		"iris": iris("iris", "probabilities"), "iris-maps": iris("iris-maps", "output_probability"), "iris-texts": iris("iris-texts", "output_probability"),
		"texts": {
			infer("iris-texts", flower(`, "outputs": [{"name": "output_label"}]`, one, two)),
			infer("iris-texts", flower(`, "outputs": [{"name": "output_label", "parameters": {"binary_data": true}}]`, two, three, one)),
			infer("iris-texts", flower(`, "outputs": [{"name": "output_label"}]`, three)),
		},
		"add":     {pair("[1, 2]", "[3, 4]", 1, ""), pair("[[1, 2], [5, 6]]", "[1, 1, 1, 1]", 2, `, "id": "x"`), score(`{"input_data": {"a": [[7, 8]], "b": [[1, NaN]]}}`)},
		"columns": {columns("[1.5]", `["blue"]`), columns("[3.5, 1]", `["red", "green"]`), score(`{"input_data": [{"size": 1.5, "color": "blue"}]}`)},
		"sequence": {
			infer("sequence", `{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}`), score(`{"input_data": [[3, 4]]}`),
			infer("sequence", `{"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 5, 6]}], "outputs": [{"name": "y"}]}`),
		},
	} {
		t.Run(name, func(t *testing.T) {
			model := map[string]string{"texts": "iris-texts"}[name]
			if model == "" {
				model = name
			}
			e := executor(t, model)
			want := alone(e, requests)
			joint(t, e, requests) // that it answers row by row is known after this
			for i, got := range joint(t, e, requests) {
				if want[i].status != 200 || !same(t, got, want[i]) {
					t.Errorf("%s: %d %q, alone %d %q", requests[i].Body, got.status, got.body, want[i].status, want[i].body)
				}
			}
			got := joint(t, e, requests)
			for i := range got {
				if got[i].ran != got[0].ran || got[i].ran == 0 {
					t.Errorf("%s had a run of its own", requests[i].Body)
				}
			}
		})
	}
}

// TestJointInferenceFaultsAreOfOne: what is wrong with one request is answered to its caller alone, as if he were alone.
func TestJointInferenceFaultsAreOfOne(t *testing.T) {
	const x = `{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}`
	e := executor(t, "iris")
	other := infer("iris", flower("", "1, 2, 3, 4"))
	other.Method = []byte("GET")
	requests := []onnxserve.Request{
		infer("iris", flower("", "5.1, 3.5, 1.4, 0.2")),
		infer("iris", flower("", `5.1, 3.5, 1.4, "x"`)),                            // a value
		infer("iris", strings.Replace(flower("", "1, 2, 3"), "1, 4]", "1, 3]", 1)), // a shape
		infer("iris", strings.Replace(flower("", "1, 2, 3, 4"), "FP32", "FP64", 1)),
		infer("iris", flower("", "1, 2, 3")),
		infer("iris", flower(`, "outputs": [{"name": "nope"}]`, "1, 2, 3, 4")),
		infer("iris", flower(`, "id": 7`, "1, 2, 3, 4")),
		infer("iris", `{"inputs": []}`), infer("iris", `{`), infer("iris", ``),
		infer("rose", flower("", "1, 2, 3, 4")), other, score(`{"input_data": [[1]]}`),
		infer("iris", `{"inputs": [`+x+`, `+x+`]}`),
		infer("iris", `{"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 12}}]}`, floats(1, 2, 3)),
		infer("iris", flower("", "1, 2, 3, 4"), "rest"),
		infer("iris", flower(`, "id": "last"`, "7.7, 3.0, 6.1, 2.3")),
		{Method: []byte("POST"), Path: []byte("/v2/models/iris/versions/2/infer"), Body: []byte(flower("", "1, 2, 3, 4"))},
	}
	want := alone(e, requests)
	for range 3 {
		got := joint(t, e, requests)
		for i := range got {
			if !same(t, got[i], want[i]) || (want[i].status == 200) != (i == 0 || i == 16) {
				t.Errorf("%s: %d %s, alone %d %s", requests[i].Body, got[i].status, got[i].body, want[i].status, want[i].body)
			}
		}
	}
	if got := joint(t, e, requests); got[0].ran != got[16].ran {
		t.Error("the good ones were not joined")
	}
}

// TestJointOutputsThatAreNoRows: an output that has not one result for each row keeps apart who asks for it, and no other.
// partly.onnx has y, of the rows of x, and total, their sum.
func TestJointOutputsThatAreNoRows(t *testing.T) {
	e := executor(t, "partly")
	ask := func(n int, outputs string) onnxserve.Request {
		return infer("partly", fmt.Sprintf(`{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [%d, 1]}]%s}`, n, outputs))
	}
	const y, total = `, "outputs": [{"name": "y"}]`, `, "outputs": [{"name": "total"}]`
	requests := []onnxserve.Request{ask(1, y), ask(2, total), ask(3, y), ask(4, ""), score(`{"input_data": [[5, 1]]}`), ask(6, y)}
	want := alone(e, requests)
	if want[1].status != 200 || !strings.Contains(want[1].body, `"shape":[],"data":[3.0]`) {
		t.Fatalf("%d %s", want[1].status, want[1].body)
	}
	for range 4 {
		for i, got := range joint(t, e, requests) {
			if !same(t, got, want[i]) {
				t.Errorf("%s: %d %s, alone %s", requests[i].Body, got.status, got.body, want[i].body)
			}
		}
	}
	if !oneRun(t, e, requests, 0, 2) || !oneRun(t, e, requests, 0, 5) {
		t.Error("those who ask for y alone were not joined")
	}
	if oneRun(t, e, requests, 0, 1) || oneRun(t, e, requests, 0, 3) || oneRun(t, e, requests, 1, 3) {
		t.Error("those who ask for the sum were joined")
	}
}

// TestJointRunsThatFail: a model that fails on joined rows, but on none of them alone, is not asked so again.
func TestJointRunsThatFail(t *testing.T) {
	e := executor(t, "single")
	good := infer("single", `{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}`)
	bad := infer("single", `{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]}`)
	want := alone(e, []onnxserve.Request{good, bad})
	if want[0].status != 200 || want[1].status == 200 {
		t.Fatalf("%+v", want)
	}
	for _, requests := range [][]onnxserve.Request{{good, bad, good}, {good, good}, {good, good, good, good}} {
		for i, got := range joint(t, e, requests) {
			expected := want[0]
			if len(requests) == 3 && i == 1 {
				expected = want[1]
			}
			if got.status != expected.status || got.body != expected.body {
				t.Errorf("%d: %d %s, want %d %s", i, got.status, got.body, expected.status, expected.body)
			}
		}
		if failed := e.FailedJoined(); failed != (len(requests) != 3) {
			t.Errorf("after %d requests: it is known to fail: %v", len(requests), failed)
		}
	}
}

// TestJointRunsAreBounded: requests of other shapes, and more rows than the model may see, take further runs.
func TestJointRunsAreBounded(t *testing.T) {
	m, err := declare(t, "add", `{"max_batch_size": 3}`)
	if err != nil {
		t.Fatal(err)
	}
	e, err := m.NewExecutor(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	ask := func(rows, width int) onnxserve.Request {
		cells := "1" + strings.Repeat(", 2", rows*width-1)
		return infer("add", fmt.Sprintf(`{"inputs": [{"name": "a", "datatype": "FP32", "shape": [%[1]d, %[2]d], "data": [%[3]s]},
			{"name": "b", "datatype": "FP32", "shape": [%[1]d, %[2]d], "data": [%[3]s]}]}`, rows, width, cells))
	}
	requests := []onnxserve.Request{ask(1, 2), ask(2, 3), ask(1, 2), ask(1, 3), ask(1, 2), ask(2, 2), ask(4, 2), ask(1, 2), ask(3, 3)}
	want := alone(e, requests)
	if !strings.Contains(want[6].body, "at most 3 rows (max_batch_size), got 4") {
		t.Fatal(want[6].body)
	}
	var got []asked
	for range 3 {
		got = joint(t, e, requests)
		for i := range got {
			if !same(t, got[i], want[i]) {
				t.Errorf("%s: %d %s, alone %s", requests[i].Body, got[i].status, got[i].body, want[i].body)
			}
		}
	}
	for _, group := range [][]int{{0, 2, 4}, {1, 3}, {5, 7}} {
		for _, i := range group {
			if got[i].ran != got[group[0]].ran || got[i].ran == 0 {
				t.Errorf("request %d was not joined with request %d", i, group[0])
			}
		}
	}
	if oneRun(t, e, requests, 0, 1) || oneRun(t, e, requests, 0, 5) {
		t.Error("different groups had one run")
	}
}

// FuzzJoint: what two requests get together is what they get alone.
func FuzzJoint(f *testing.F) {
	const one = `{"inputs": [{"name": "a", "shape": [1, 1], "datatype": "FP32", "data": [1]}, {"name": "b", "shape": [1, 1], "datatype": "FP32", "data": [2]}]`
	f.Add(one+`}`, one+`, "id": "x", "outputs": [{"name": "sum"}]}`, true, true)
	f.Add(`{"input_data": {"a": [[1]], "b": [[2], [3]]}}`, one+`, "parameters": {"binary_data_output": true}}`, false, true)
	f.Add(`{"inputs": [{"name": "a", "shape": [0, 1], "datatype": "FP32", "data": []}]}`, `{"input_data": [{"a": [1], "b": [2]}]}`, true, false)
	e := executor(f, "add")
	f.Fuzz(func(t *testing.T, first, second string, firstInfers, secondInfers bool) {
		var requests []onnxserve.Request
		for i, body := range []string{first, second} {
			if []bool{firstInfers, secondInfers}[i] {
				requests = append(requests, infer("add", body))
			} else {
				requests = append(requests, score(body))
			}
		}
		want := alone(e, requests)
		for i, got := range joint(t, e, requests) {
			if !same(t, got, want[i]) {
				t.Errorf("%q: %d %q, alone %d %q", requests[i].Body, got.status, got.body, want[i].status, want[i].body)
			}
		}
	})
}

// TestJointRunsGiveWhatIsNamed: outputs that nobody asks for are not made, whichever they are.
func TestJointRunsGiveWhatIsNamed(t *testing.T) {
	e := executor(t, "iris")
	const second = `, "outputs": [{"name": "probabilities"}]`
	requests := []onnxserve.Request{infer("iris", flower(second, "5.1, 3.5, 1.4, 0.2")), infer("iris", flower(second, "7.7, 3.0, 6.1, 2.3", "6.2, 2.9, 4.3, 1.3"))}
	want := alone(e, requests)
	for range 3 {
		for i, got := range joint(t, e, requests) {
			if want[i].status != 200 || !same(t, got, want[i]) {
				t.Errorf("%d %s, alone %d %s", got.status, got.body, want[i].status, want[i].body)
			}
		}
	}
	if got := joint(t, e, requests); got[0].ran != got[1].ran {
		t.Error("they were not joined")
	}
}

// TestJointLeavesOutWhatIsEmpty: nothing in a request bounds the rows of a tensor without elements.
func TestJointLeavesOutWhatIsEmpty(t *testing.T) {
	e := executor(t, "add")
	empty := infer("add", `{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1048576, 0], "data": []}, {"name": "b", "datatype": "FP32", "shape": [1048576, 0], "data": []}]}`)
	one := score(`{"input_data": {"a": [[1]], "b": [[2]]}}`)
	requests := []onnxserve.Request{empty, one, empty, one}
	for range 3 {
		got := joint(t, e, requests)
		for i, want := range []string{`"shape":[1048576,0],"data":[]`, "[[3.0]]"} {
			if !strings.Contains(got[i].body, want) || got[i+2].body != got[i].body {
				t.Errorf("%+v", got)
			}
		}
	}
	if oneRun(t, e, requests, 0, 2) || !oneRun(t, e, requests, 1, 3) {
		t.Error("tensors without elements were joined, or the others were not")
	}
}
