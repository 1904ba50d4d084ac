package onnxserve_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"portico/internal/onnxserve"
)

const inferPath = "/v2/models/iris/infer"

// oneInput is an inference request for iris with this data.
func oneInput(more string) string {
	return `{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]` + more + `}`
}

func TestProtocolTellsAboutTheModel(t *testing.T) {
	e := executor(t, "iris-texts")
	for _, c := range []struct {
		path   string
		status int
		want   string
	}{
		{"/v2", 200, `"extensions":["binary_tensor_data"]`},
		{"/v2/health/live", 200, `{"live":true}`},
		{"/v2/health/ready", 200, `{"ready":true}`},
		{"/v2/models/iris-texts/ready", 200, `{"name":"iris-texts","ready":true}`},
		{"/v2/models/iris-texts/versions/1/ready", 200, `"ready":true`},
		{"/v2/models/iris-texts", 200, `"inputs":[{"name":"X","datatype":"FP32","shape":[-1,4]}]`},
		{"/v2/models/iris-texts/versions/1", 200, `{"name":"output_label","datatype":"BYTES","shape":[-1]},{"name":"output_probability","datatype":"FP32","shape":[-1,-1]}`},
		{"/v2/models/iris-texts/versions/2", 404, `{"error": "The model has no version`},
		{"/v2/models/other", 404, `{"error": "There is no model`},
		{"/v2/models", 404, `{"error"`},
		{"/v2/models/iris-texts/generate", 404, `{"error"`},
		{"/v2/models/iris-texts/infer", 405, `{"error"`},
		{"/v2x", 404, `{"message"`},
	} {
		status, body := get(e, c.path)
		decode(t, body)
		if status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s\nwant %d %s", c.path, status, body, c.status, c.want)
		}
	}
}

func TestProtocolInfers(t *testing.T) {
	const label, probabilities = `{"name":"label","datatype":"INT64","shape":[1],"data":[0]}`,
		`{"name":"probabilities","datatype":"FP32","shape":[1,3],"data":[0.98157287, 0.018427137, 1.4781146e-08]}`
	const before = `{"model_name":"iris","model_version":"1"`
	e := executor(t, "iris")
	for _, c := range [][2]string{
		{oneInput(``), before + `,"outputs":[` + label + `,` + probabilities + `]}`},
		{oneInput(`, "id": "a\"b", "parameters": {"x": 1}`), before + `,"id":"a\"b","outputs":[` + label + `,` + probabilities + `]}`},
		{oneInput(`, "outputs": [{"name": "probabilities"}]`), before + `,"outputs":[` + probabilities + `]}`},
		{oneInput(`, "outputs": [{"name": "probabilities"}, {"name": "label", "parameters": {"binary_data": false}}]`),
			before + `,"outputs":[` + probabilities + `,` + label + `]}`},
		{oneInput(`, "outputs": []`), before + `,"outputs":[` + label + `,` + probabilities + `]}`},
		// Members in another order, and nested data.
		{`{"outputs": [{"name": "label"}], "inputs": [{"data": [[5.1, 3.5], [1.4, 0.2]], "datatype": "FP32", "shape": [1, 4], "name": "X"}]}`,
			before + `,"outputs":[` + label + `]}`},
	} {
		for _, path := range []string{inferPath, "/v2/models/iris/versions/1/infer"} {
			if status, body := post(e, path, c[0]); status != 200 || body != c[1] {
				t.Errorf("%s: %d %s\nwant %s", c[0], status, body, c[1])
			}
		}
	}
}

func TestProtocolCarriesEveryType(t *testing.T) {
	var inputs, outputs []string
	for name, values := range typed {
		datatype := map[string]string{"float32": "FP32", "float64": "FP64", "float16": "FP16", "bfloat16": "BF16", "string": "BYTES"}[name]
		if datatype == "" {
			datatype = strings.ToUpper(name)
		}
		inputs = append(inputs, fmt.Sprintf(`{"name": %q, "shape": [1, 2], "datatype": %q, "data": %s}`, name, datatype, values[0]))
		flat := strings.TrimSuffix(strings.TrimPrefix(values[1], "["), "]")
		outputs = append(outputs, fmt.Sprintf(`{"name":"%s_out","datatype":%q,"shape":[1,2],"data":%s}`, name, datatype, flat))
	}
	e := executor(t, "types")
	body := `{"inputs": [` + strings.Join(inputs, ",") + `]}`
	status, text := post(e, "/v2/models/types/infer", body)
	for _, want := range outputs {
		if status != 200 || !strings.Contains(text, want) {
			t.Errorf("%d: no %s in %s", status, want, text)
		}
	}
	// The same in binary form both ways: the outputs of one request are the inputs of the next.
	asked := strings.TrimSuffix(body, "}") + `, "parameters": {"binary_data_output": true}}`
	first := e.Handle(&onnxserve.Request{Method: []byte("POST"), Path: []byte("/v2/models/types/infer"), Body: []byte(asked)})
	if first.Status != 200 || first.JSONLength == 0 || first.Kind != "application/octet-stream" {
		t.Fatalf("%d %q", first.Status, first.Body)
	}
	blobs := append([]byte{}, first.Body[first.JSONLength:]...)
	doc := strings.NewReplacer(`_out"`, `"`, `"outputs"`, `"inputs"`).Replace(string(first.Body[:first.JSONLength]))
	again := e.Handle(&onnxserve.Request{Method: []byte("POST"), Path: []byte("/v2/models/types/infer"),
		JSONLength: []byte(fmt.Sprint(len(doc))), Body: append([]byte(doc), blobs...)})
	for _, want := range outputs {
		if again.Status != 200 || !strings.Contains(string(again.Body), want) {
			t.Errorf("%d: no %s in %s", again.Status, want, again.Body)
		}
	}
}

func TestProtocolShowsMapsAsATable(t *testing.T) {
	e := executor(t, "iris-texts")
	const asked = `{"inputs": [{"name": "X", "shape": [2, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2, 7.7, 3.0, 6.1, 2.3]}]`
	status, body := post(e, "/v2/models/iris-texts/infer", asked+`}`)
	for _, want := range []string{`"datatype":"BYTES","shape":[2],"data":["setosa", "virginica"]`,
		`{"name":"output_probability","datatype":"FP32","shape":[2,3],"parameters":{"keys":["setosa", "versicolor", "virginica"]},"data":[0.98157287, `} {
		if status != 200 || !strings.Contains(body, want) {
			t.Errorf("%d %s\nwant %s", status, body, want)
		}
	}
	a := e.Handle(&onnxserve.Request{Method: []byte("POST"), Path: []byte("/v2/models/iris-texts/infer"),
		Body: []byte(asked + `, "outputs": [{"name": "output_probability", "parameters": {"binary_data": true}}]}`)})
	blob := a.Body[a.JSONLength:]
	if a.Status != 200 || len(blob) != 24 || math.Float32frombits(binary.LittleEndian.Uint32(blob)) < 0.98 ||
		!strings.Contains(string(a.Body[:a.JSONLength]), `"parameters":{"keys":["setosa", "versicolor", "virginica"],"binary_data_size":24}`) {
		t.Errorf("%d %q", a.Status, a.Body)
	}
	// A sequence of tensors has no form; it is left out unless it is asked for.
	e = executor(t, "sequence")
	const two = `{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]`
	if status, body := post(e, "/v2/models/sequence/infer", two+`}`); status != 200 || !strings.Contains(body,
		`"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[-1.0, -2.0]}]`) {
		t.Errorf("%d %s", status, body)
	}
	if status, body := post(e, "/v2/models/sequence/infer", two+`, "outputs": [{"name": "parts"}]}`); status != 400 ||
		!strings.Contains(body, "use /score") {
		t.Errorf("%d %s", status, body)
	}
}

func TestProtocolRefuses(t *testing.T) {
	e := executor(t, "iris")
	for _, c := range [][2]string{
		{``, "a JSON object with inputs"},
		{`{}`, "a JSON object with inputs"},
		{`{"inputs": {}}`, "inputs must be a list"},
		{`{"inputs": [1]}`, "list of objects"},
		{`{"inputs": []}`, `Input "X" is missing`},
		{`{"inputs": [{"shape": [1], "datatype": "FP32", "data": []}]}`, "no name"},
		{`{"inputs": [{"name": "Y"}]}`, `no input "Y"`},
		{`{"inputs": [{"name": "X", "data": [1]}]}`, "no datatype or no shape"},
		{`{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32"}]}`, "no data"},
		{`{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP64", "data": [1,2,3,4]}]}`, "expected datatype FP32, got FP64"},
		{`{"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1,2,3]}]}`, "expected shape [?, 4], got [1, 3]"},
		{`{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1,2,3]}]}`, "expected 4 elements for shape [1, 4], got 3"},
		{`{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1,2,3,4,5]}]}`, "more elements than the 4"},
		{`{"inputs": [{"name": "X", "shape": [-1, 4], "datatype": "FP32", "data": [1,2,3,4]}]}`, "list of at most"},
		{`{"inputs": [{"name": "X", "shape": [4294967296, 4294967296], "datatype": "FP32", "data": []}]}`, "list of at most"},
		{`{"inputs": [{"name": "X", "shape": "4", "datatype": "FP32", "data": []}]}`, "list of at most"},
		{`{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": 1}]}`, "data must be a list"},
		{`{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1,2,3,"4"]}]}`, "expected float32"},
		{`{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}]}`, "binary_data_size is not"},
		{oneInput(`, "id": 7`), "must be a text"},
		{oneInput(`, "outputs": [{"name": "nope"}]`), `no output "nope"; its outputs are: label, probabilities.`},
		{oneInput(`, "outputs": [{"name": "label"}, {"name": "label"}]`), "named twice"},
		{oneInput(`, "outputs": [{"name": "label", "parameters": {"classification": 2}}]`), "classification is not supported"},
		{oneInput(`, "parameters": {"binary_data_output": 1}`), "must be true or false"},
		{oneInput(`, "inputs": []`), ""},
	} {
		status, body := post(e, inferPath, c[0])
		doc, ok := decode(t, body).(map[string]any)
		message, _ := doc["error"].(string)
		if c[1] != "" && (status != 400 || !ok || !strings.Contains(message, c[1])) {
			t.Errorf("%s: %d %s\nwant %s", c[0], status, body, c[1])
		}
	}
	for _, c := range []struct{ length, body, want string }{
		{"x", `{}`, "Inference-Header-Content-Length"},
		{"3", `{}`, "Inference-Header-Content-Length"},
		{"", oneInput(""), "Inference-Header-Content-Length"},
		{fmt.Sprint(len(oneInput(""))), oneInput("") + "rest", "4 bytes follow"},
	} {
		a := e.Handle(&onnxserve.Request{Method: []byte("POST"), Path: []byte(inferPath), JSONLength: []byte(c.length), Body: []byte(c.body)})
		if a.Status != 400 || !strings.Contains(string(a.Body), c.want) {
			t.Errorf("%q: %d %s", c.length, a.Status, a.Body)
		}
	}
}

// FuzzHandle feeds both protocols with anything: nothing may panic, and every answer is JSON.
func FuzzHandle(f *testing.F) {
	f.Add(`{"input_data": {"columns": ["color", "size"], "data": [["blue", 1.5]]}}`)
	f.Add(`{"input_data": [{"size": 1.5, "color": "bl\u00fce"}]}`)
	f.Add(`{"inputs": [{"name": "size", "shape": [1, 1], "datatype": "FP32", "data": [1e3]}], "outputs": [{}]}`)
	f.Add(`{"input_data": {"size": [[-0.5e-7], [NaN]], "color": []}, "params": null}`)
	e := executor(f, "columns")
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{"/score", "/v2/models/columns/infer"} {
			if status, answer := post(e, path, body); status != 200 && status != 400 && status != 500 {
				t.Errorf("%s %q: %d %s", path, body, status, answer)
			} else {
				decode(t, answer)
			}
		}
	})
}
