package onnxserve_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"portico/internal/onnx/onnxtest"
	"portico/internal/onnxrt"
	"portico/internal/onnxserve"
)

// declare loads a model with what its configuration declares, in JSON.
func declare(t *testing.T, name, declared string) (*onnxserve.Model, error) {
	t.Helper()
	open(t, name) // the library
	session, err := library.Load(onnxtest.Model(t, name), onnxrt.Options{Threads: 1, Optimization: onnxrt.OptimizeAll})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(session.Close)
	var d onnxserve.Declared
	if err := json.Unmarshal([]byte(declared), &d); err != nil {
		t.Fatal(err)
	}
	return onnxserve.NewModel(name, "1", session, d)
}

func TestDeclaredIsCompared(t *testing.T) {
	for _, c := range []struct{ model, declared, want string }{
		{"iris", `{}`, ""},
		{"iris", `{"inputs": [{"name": "X", "datatype": "FP32", "dims": [-1, 4]}]}`, ""},
		{"iris", `{"max_batch_size": 8, "inputs": [{"name": "X", "datatype": "FP32", "dims": [4]}]}`, ""},
		{"iris", `{"max_batch_size": 8}`, ""},
		{"iris", `{"inputs": [{"name": "x"}]}`, `the model has no input "x"; it has: X`},
		{"iris", `{"outputs": [{"name": "y"}]}`, `the model has no output "y"; it has: label, probabilities`},
		{"iris", `{"inputs": [{"name": "X", "datatype": "FP64"}]}`, `the input "X" is declared as FP64, and is FP32 in the model`},
		{"iris", `{"outputs": [{"name": "label", "datatype": "INT32"}]}`, `the output "label" is declared as INT32, and is INT64 in the model`},
		{"iris", `{"inputs": [{"name": "X", "dims": [4]}]}`, `the input "X" is declared with shape [4], and has [?, 4] in the model`},
		{"iris", `{"inputs": [{"name": "X", "dims": [-1, 3]}]}`, `is declared with shape [?, 3], and has [?, 4]`},
		{"iris", `{"inputs": [{"name": "X", "dims": [-1, -1]}]}`, `is declared with shape [?, ?], and has [?, 4]`},
		{"iris", `{"max_batch_size": 8, "inputs": [{"name": "X", "dims": [-1, 4]}]}`, `is declared with shape [?, ?, 4], and has [?, 4]`},
		{"add", `{"inputs": [{"name": "a", "datatype": "FP32"}]}`, `the model's input "b" is not declared`},
		{"scalar", `{"max_batch_size": 1}`, `the first dimension of every input must be open, but that of "x" is fixed: []`},
		{"flat", `{"max_batch_size": 4, "inputs": [{"name": "a", "dims": [1], "reshape": []}, {"name": "b", "dims": [-1, 2]}, {"name": "c", "dims": [1], "reshape": []}]}`, ""},
		{"flat", `{"max_batch_size": 4, "outputs": [{"name": "b_out", "dims": [4], "reshape": [4]}]}`,
			`the output "b_out" is declared with shape [?, 4], and has [n, k, 2] in the model`},
		{"flat", `{"max_batch_size": 4, "outputs": [{"name": "b_out", "dims": [6], "reshape": [2, 3]}]}`,
			`the output "b_out" is declared with shape [?, 2, 3], and has [n, k, 2] in the model`},
		{"iris-maps", `{"outputs": [{"name": "output_probability", "dims": [3], "reshape": [3, 1]}]}`, `the output "output_probability" is reshaped, and is no tensor in the model`},
		{"scalar", `{"inputs": [{"name": "x", "dims": [1, 1]}]}`, ""},
		{"scalar", `{"inputs": [{"name": "x", "dims": [2]}]}`, `the input "x" is declared with shape [2], and has [] in the model`},
		{"scalar", `{"inputs": [{"name": "x", "dims": [-1]}]}`, `the input "x" is declared with shape [?], and has [] in the model`},
		{"sequence", `{"outputs": [{"name": "parts"}]}`, `the output "parts" of the model is neither a tensor nor a list of maps`},
	} {
		if _, err := declare(t, c.model, c.declared); c.want == "" && err != nil ||
			c.want != "" && (err == nil || !strings.Contains(err.Error(), "config.pbtxt: ") || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s %s: %v, want %s", c.model, c.declared, err, c.want)
		}
	}
}

// TestDeclaredNarrows: what the configuration says more exactly than the model holds for callers.
func TestDeclaredNarrows(t *testing.T) {
	m, err := declare(t, "add", `{"max_batch_size": 2, "inputs": [{"name": "b", "dims": [3]}, {"name": "a", "dims": [3]}], "outputs": [{"name": "sum", "dims": [3]}]}`)
	if err != nil {
		t.Fatal(err)
	}
	e, err := m.NewExecutor(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	if status, body := get(e, "/v2/models/add"); status != 200 || !strings.Contains(body,
		`"inputs":[{"name":"a","datatype":"FP32","shape":[-1,3]},{"name":"b","datatype":"FP32","shape":[-1,3]}],"outputs":[{"name":"sum","datatype":"FP32","shape":[-1,3]}]`) {
		t.Errorf("%d %s", status, body)
	}
	for body, want := range map[string]string{
		`{"a": [[1, 2, 3]], "b": [[1, 1, 1]]}`:                                             `[[2.0, 3.0, 4.0]]`,
		`{"a": [[1, 2]], "b": [[1, 1]]}`:                                                   `expected shape [batch, 3], got [1, 2]`,
		`{"a": [[1, 2, 3], [1, 2, 3], [1, 2, 3]], "b": [[1, 1, 1], [1, 1, 1], [1, 1, 1]]}`: `expected at most 2 rows (max_batch_size), got 3`,
	} {
		if _, got := post(e, "/score", `{"input_data": `+body+`}`); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	const wide = `{"inputs": [{"name": "a", "shape": [3, 3], "datatype": "FP32", "data": [1,2,3,1,2,3,1,2,3]}, {"name": "b", "shape": [3, 3], "datatype": "FP32", "data": [1,2,3,1,2,3,1,2,3]}]}`
	if status, body := post(e, "/v2/models/add/infer", wide); status != 400 || !strings.Contains(body, "at most 2 rows") {
		t.Errorf("%d %s", status, body)
	}
}

// TestDeclaredOutputs: callers see the declared outputs alone, in their order.
func TestDeclaredOutputs(t *testing.T) {
	for declared, want := range map[string]string{
		`{"outputs": [{"name": "probabilities"}]}`:                    `[[0.98`,
		`{"outputs": [{"name": "probabilities"}, {"name": "label"}]}`: `{"probabilities": [[0.98`,
	} {
		m, err := declare(t, "iris", declared)
		if err != nil {
			t.Fatal(err)
		}
		e, err := m.NewExecutor(0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Close)
		if status, body := post(e, "/score", `{"input_data": [[5.1, 3.5, 1.4, 0.2]]}`); status != 200 || !strings.HasPrefix(body, want) {
			t.Errorf("%s: %d %s", declared, status, body)
		}
		const label = `{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}], "outputs": [{"name": "label"}]}`
		status, body := post(e, "/v2/models/iris/infer", label)
		if hidden := len(m.Outputs()) == 1; hidden != (status == 400) || !hidden && !strings.Contains(body, `"name":"label","datatype":"INT64","shape":[1],"data":[0]`) {
			t.Errorf("%s: %d %s", declared, status, body)
		}
	}
}

// TestDeclaredBoundsABatch: requests are joined up to the rows that the model may see.
func TestDeclaredBoundsABatch(t *testing.T) {
	m, err := declare(t, "add", `{"max_batch_size": 3}`)
	if err != nil {
		t.Fatal(err)
	}
	e, err := m.NewExecutor(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	var requests []onnxserve.Request
	for _, rows := range []string{"[[1]]", "[[2], [2]]", "[[3], [3]]", "[[4]]"} {
		requests = append(requests, onnxserve.Request{Method: []byte("POST"), Path: []byte("/score"),
			Body: []byte(`{"input_data": {"a": ` + rows + `, "b": ` + rows + `}}`)})
	}
	want := []string{"[[2.0]]", "[[4.0], [4.0]]", "[[6.0], [6.0]]", "[[8.0]]"}
	for range 3 { // whether the model answers row by row is learned first
		given := 0
		e.Joint(requests, func(i int, a onnxserve.Answer) {
			if given++; a.Status != 200 || string(a.Body) != want[i] {
				t.Errorf("%d: %d %s, want %s", i, a.Status, a.Body, want[i])
			}
		})
		if given != len(requests) {
			t.Errorf("%d answers", given)
		}
	}
}

// flatReshaped is a configuration of flat.onnx, whose a and c are [n] and whose b is [n, k, 2].
const flatReshaped = `{"max_batch_size": 3, "inputs": [{"name": "a", "dims": [1], "reshape": []},
	{"name": "b", "dims": [1, -1, 2], "reshape": [-1, 2]}, {"name": "c", "dims": [1, 1], "reshape": []}],
	"outputs": [{"name": "c_out", "dims": [1], "reshape": []}, {"name": "b_out", "dims": [1, -1, 2], "reshape": [-1, 2]}, {"name": "a_out", "dims": [1], "reshape": []}]}`

// TestDeclaredReshapes: callers see dims, the model gets and gives what reshape says, alone and in batches.
func TestDeclaredReshapes(t *testing.T) {
	m, err := declare(t, "flat", flatReshaped)
	if err != nil {
		t.Fatal(err)
	}
	e, err := m.NewExecutor(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	if status, body := get(e, "/v2/models/flat"); status != 200 || !strings.Contains(body, `"inputs":[{"name":"a","datatype":"FP32","shape":[-1,1]},`+
		`{"name":"b","datatype":"FP32","shape":[-1,1,-1,2]},{"name":"c","datatype":"BYTES","shape":[-1,1,1]}],`+
		`"outputs":[{"name":"c_out","datatype":"BYTES","shape":[-1,1]},{"name":"b_out","datatype":"FP32","shape":[-1,1,-1,2]},{"name":"a_out","datatype":"FP32","shape":[-1,1]}]`) {
		t.Errorf("%d %s", status, body)
	}
	if status, body := get(e, "/swagger.json"); status != 200 || !strings.Contains(body, "b: float32 [?, 1, ?, 2]") {
		t.Errorf("%d %s", status, body)
	}
	ask := func(a, b, c string, rows, k int) onnxserve.Request {
		return infer("flat", fmt.Sprintf(`{"inputs": [{"name": "a", "datatype": "FP32", "shape": [%[1]d, 1], "data": %[3]s},
			{"name": "b", "datatype": "FP32", "shape": [%[1]d, 1, %[2]d, 2], "data": %[4]s},
			{"name": "c", "datatype": "BYTES", "shape": [%[1]d, 1, 1], "data": %[5]s}]}`, rows, k, a, b, c))
	}
	requests := []onnxserve.Request{
		ask("[1]", "[1, 2, 3, 4]", `["x"]`, 1, 2), ask("[2, 3]", "[1, 2, 3, 4, 5, 6, 7, 8]", `["yy", ""]`, 2, 2), ask("[4]", "[9, 9]", `["z"]`, 1, 1),
		score(`{"input_data": {"a": [[5]], "b": [[[[6, 7]]]], "c": [[["zz"]]]}}`),
		ask("[1, 2, 3, 4]", "[1, 2, 3, 4, 5, 6, 7, 8]", `["", "", "", ""]`, 4, 1), // more rows than max_batch_size
		infer("flat", `{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": [1]}]}`),
		score(`{"input_data": {"a": [5], "b": [[[[6, 7]]]], "c": [[["zz"]]]}}`), // [n] is taken for [n, 1]
	}
	want := alone(e, requests)
	for i, text := range []string{
		`"outputs":[{"name":"c_out","datatype":"BYTES","shape":[1,1],"data":["x"]},{"name":"b_out","datatype":"FP32","shape":[1,1,2,2],"data":[-1.0, -2.0, -3.0, -4.0]},` +
			`{"name":"a_out","datatype":"FP32","shape":[1,1],"data":[-1.0]}]`,
		`"outputs":[{"name":"c_out","datatype":"BYTES","shape":[2,1],"data":["yy", ""]},{"name":"b_out","datatype":"FP32","shape":[2,1,2,2],` +
			`"data":[-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0]},{"name":"a_out","datatype":"FP32","shape":[2,1],"data":[-2.0, -3.0]}]`,
		`"shape":[1,1,1,2],"data":[-9.0, -9.0]`, `{"c_out": [["zz"]], "b_out": [[[[-6.0, -7.0]]]], "a_out": [[-5.0]]}`,
		`at most 3 rows`, `Input \"a\": expected shape [?, 1], got [1]`, `{"c_out": [["zz"]], "b_out": [[[[-6.0, -7.0]]]], "a_out": [[-5.0]]}`,
	} {
		if !strings.Contains(want[i].body, text) {
			t.Errorf("%d: %s\nwant %s", i, want[i].body, text)
		}
	}
	var got []asked
	for range 3 {
		got = joint(t, e, requests)
		for i := range got {
			if !same(t, got[i], want[i]) {
				t.Errorf("%d: %s, alone %s", i, got[i].body, want[i].body)
			}
		}
	}
	if got[0].ran != got[1].ran || got[2].ran != got[3].ran || got[2].ran != got[6].ran {
		t.Error("they were not joined")
	}
}

// TestReshapedRowsAreNotJoined: a first dimension that is not the model's own does not count rows.
func TestReshapedRowsAreNotJoined(t *testing.T) {
	for b, why := range map[string]string{
		`"dims": [-1, 2], "reshape": [1, -1, 2]`:         `the first dimension of the input "b" is not that of the model`,
		`"dims": [1, -1, -1, 2], "reshape": [-1, -1, 2]`: `the first dimension of the input "b" is not open: [1, ?, ?, 2]`,
		`"dims": [-1, 1, -1, 2], "reshape": [-1, -1, 2]`: "",
	} {
		m, err := declare(t, "flat", `{"inputs": [{"name": "a"}, {"name": "b", `+b+`}, {"name": "c"}],
			"outputs": [{"name": "a_out"}, {"name": "b_out", "dims": [1, -1, -1, 2], "reshape": [-1, -1, 2]}]}`)
		if err != nil || !strings.HasPrefix(m.Unjoinable(), why) || why == "" && m.Unjoinable() != "" {
			t.Fatalf("%s: %v, %q, want %q", b, err, m.Unjoinable(), why)
		}
		if why != "" {
			continue
		}
		var notices []string
		m.Notice = func(text string) { notices = append(notices, text) }
		e, err := m.NewExecutor(0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Close)
		ask := func(n int, output string) onnxserve.Request {
			return infer("flat", fmt.Sprintf(`{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": [%[1]d]},
				{"name": "b", "datatype": "FP32", "shape": [1, 1, 1, 2], "data": [1, 2]}, {"name": "c", "datatype": "BYTES", "shape": [1], "data": ["x"]}],
				"outputs": [{"name": %[2]q}]}`, n, output))
		}
		requests := []onnxserve.Request{ask(1, "a_out"), ask(2, "b_out"), ask(3, "a_out"), ask(4, "b_out")}
		want := alone(e, requests)
		for range 3 {
			got := joint(t, e, requests)
			for i := range got {
				if got[i].body != want[i].body || got[i].status != 200 {
					t.Errorf("%s, alone %s", got[i].body, want[i].body)
				}
			}
		}
		if !oneRun(t, e, requests, 0, 2) || oneRun(t, e, requests, 1, 3) {
			t.Error("who asks for a_out should be joined, who asks for b_out not")
		}
		if len(notices) != 1 || !strings.HasPrefix(notices[0], `the output "b_out" has not one result for each row`) {
			t.Errorf("%q", notices)
		}
	}
}

// TestDeclaredScalars: dims cannot be empty, so those of a single value are sizes of 1.
func TestDeclaredScalars(t *testing.T) {
	m, err := declare(t, "scalar", `{"inputs": [{"name": "x", "dims": [1]}], "outputs": [{"name": "y", "dims": [1, 1]}]}`)
	if err != nil {
		t.Fatal(err)
	}
	e, err := m.NewExecutor(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	if status, body := post(e, "/v2/models/scalar/infer", one("x", "FP64", "[1]", `"data": [2.5]`)); status != 200 || !strings.Contains(body, `"shape":[1,1],"data":[-2.5]`) {
		t.Errorf("%d %s", status, body)
	}
	if status, body := post(e, "/v2/models/scalar/infer", one("x", "FP64", "[]", `"data": [2.5]`)); status != 400 || !strings.Contains(body, "expected shape [1], got []") {
		t.Errorf("%d %s", status, body)
	}
	if status, body := post(e, "/score", `{"input_data": [2.5]}`); status != 200 || body != "[[-2.5]]" {
		t.Errorf("%d %s", status, body)
	}
}
