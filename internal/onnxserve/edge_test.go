package onnxserve_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"portico/internal/onnxserve"
)

// one is a request for one input of a model with this name.
func one(name, datatype, shape, rest string) string {
	return fmt.Sprintf(`{"inputs": [{"name": %q, "datatype": %q, "shape": %s, %s}]}`, name, datatype, shape, rest)
}

const sized = `"parameters": {"binary_data_size": %d}`

// TestProtocolShapes: scalars, tensors without elements, and models that do not say how many dimensions there are.
func TestProtocolShapes(t *testing.T) {
	for _, c := range []struct {
		model   string
		request onnxserve.Request
		status  int
		want    string
	}{
		{"scalar", infer("scalar", one("x", "FP64", "[]", `"data": [1.25]`)), 200, `"shape":[],"data":[-1.25]`},
		{"scalar", infer("scalar", one("x", "FP64", "[]", `"data": []`)), 400, "expected 1 elements for shape [], got 0"},
		{"scalar", infer("scalar", one("x", "FP64", "[1]", `"data": [1.25]`)), 400, "expected shape [], got [1]"},
		{"scalar", infer("scalar", one("x", "FP64", "[]", fmt.Sprintf(sized, 8)), "\x00\x00\x00\x00\x00\x00\xf4\x3f"), 200, `"shape":[],"data":[-1.25]`},
		{"sequence", infer("sequence", one("x", "FP32", "[0, 2]", `"data": []`)), 200, `{"name":"y","datatype":"FP32","shape":[0,2],"data":[]}`},
		{"sequence", infer("sequence", one("x", "FP32", "[0, 2]", fmt.Sprintf(sized, 0)), ""), 200, `{"name":"y","datatype":"FP32","shape":[0,2],"data":[]}`},
		{"sequence", infer("sequence", one("x", "FP32", "[0, 2]", `"data": [1, 2]`)), 400, "more elements than the 0"},
		{"anyrank", infer("anyrank", one("x", "FP32", "[]", `"data": [1]`)), 200, `"shape":[],"data":[-1.0]`},
		{"anyrank", infer("anyrank", one("x", "FP32", "[2, 1, 1]", `"data": [[[1]], [[2]]]`)), 200, `"shape":[2,1,1],"data":[-1.0, -2.0]`},
		{"anyrank", infer("anyrank", one("x", "FP32", "[0, 3, 0]", `"data": []`)), 200, `"shape":[0,3,0],"data":[]`},
		{"anyrank", infer("anyrank", one("x", "FP32", "[1048576, 0]", `"data": []`)), 200, `"shape":[1048576,0],"data":[]`},
		{"anyrank", infer("anyrank", one("x", "FP32", "[1048577, 0]", `"data": []`)), 400, "must not be more than 1048576 together"},
		{"anyrank", infer("anyrank", one("x", "FP32", "[0, 2147483648, 2147483648]", `"data": []`)), 400, "at most 2147483648 elements together"},
		{"anyrank", infer("anyrank", one("x", "FP32", "[0, 4294967296, 4294967296, 4294967296, 4294967296]", `"data": []`)), 400, "at most 2147483648 elements"},
		{"anyrank", infer("anyrank", one("x", "FP32", "[2147483648]", `"data": [1]`)), 400, "expected 2147483648 elements for shape [2147483648], got 1"},
		{"anyrank", infer("anyrank", one("x", "FP32", "[2147483648]", fmt.Sprintf(sized, 4)), "1234"), 400, "expected 8589934592 bytes"},
		{"anyrank", infer("anyrank", one("x", "FP32", "[1"+strings.Repeat(", 1", 16)+"]", `"data": [1]`)), 400, "at most 16 sizes"},
		{"anyrank", infer("anyrank", one("x", "FP32", "[1.5]", `"data": [1]`)), 400, "must be a list"},
		{"anyrank", infer("anyrank", one("x", "FP32", "[1e400]", `"data": [1]`)), 400, "must be a list"},
		{"anyrank", infer("anyrank", one("x", "FP32", "[NaN]", `"data": [1]`)), 400, "must be a list"},
		{"anyrank", infer("anyrank", one("x", "FP32", "[-1]", `"data": [1]`)), 400, "must be a list"},
		{"anyrank", infer("anyrank", one("x", "FP32", "null", `"data": [1]`)), 400, "must be a list"},
		{"anyrank", infer("anyrank", one("x", "FP32", "[[1]]", `"data": [1]`)), 400, "must be a list"},
	} {
		e := executor(t, c.model)
		a := e.Handle(&c.request)
		if a.Status != c.status || !strings.Contains(string(a.Body), c.want) {
			t.Errorf("%s %s: %d %.300s, want %d %s", c.model, c.request.Body, a.Status, a.Body, c.status, c.want)
		}
		if got := joint(t, e, []onnxserve.Request{c.request, c.request}); got[0].status != a.Status || got[1].status != a.Status {
			t.Errorf("%s together: %+v", c.request.Body, got)
		}
	}
}

// TestProtocolValues: what numbers and texts become that a type, or JSON, has no form for.
func TestProtocolValues(t *testing.T) {
	e := executor(t, "types")
	request := func(name, datatype, data string) onnxserve.Request {
		var inputs []string
		for other := range typed {
			own, kind, values := data, datatype, `"data": [1, 0]`
			switch other {
			case name:
				values = `"data": ` + own
			case "string":
				values = `"data": ["", ""]`
			case "bool":
				values = `"data": [true, false]`
			}
			if other != name {
				kind = map[string]string{"float32": "FP32", "float64": "FP64", "float16": "FP16", "bfloat16": "BF16", "string": "BYTES"}[other]
				if kind == "" {
					kind = strings.ToUpper(other)
				}
			}
			inputs = append(inputs, fmt.Sprintf(`{"name": %q, "datatype": %q, "shape": [1, 2], %s}`, other, kind, values))
		}
		return infer("types", fmt.Sprintf(`{"inputs": [%s], "outputs": [{"name": "%s_out"}]}`, strings.Join(inputs, ","), name))
	}
	for _, c := range []struct{ name, datatype, data, want string }{
		{"int8", "INT8", "[128, 0]", "expected int8"}, {"int8", "INT8", "[-128, -0.0]", "[-128, 0]"}, {"int8", "INT8", "[-129, 0]", "expected int8"},
		{"int64", "INT64", "[9223372036854775808, 0]", "expected int64"}, {"int64", "INT64", "[-9223372036854775809, 0]", "expected int64"},
		{"int64", "INT64", "[1e18, -1e18]", "[1000000000000000000, -1000000000000000000]"}, {"int64", "INT64", "[1e19, 0]", "expected int64"},
		{"int64", "INT64", "[1e99999999, 0]", "expected int64"}, {"int64", "INT64", "[0e99999999, 10e-1]", "[0, 1]"}, {"int64", "INT64", "[NaN, 0]", "expected int64"},
		{"int64", "INT64", "[-Infinity, 0]", "expected int64"}, {"int64", "INT64", "[null, 0]", "expected int64"}, {"int64", "INT64", "[true, 0]", "expected int64"},
		{"uint64", "UINT64", "[18446744073709551615, 1e19]", "[18446744073709551615, 10000000000000000000]"},
		{"uint64", "UINT64", "[18446744073709551616, 0]", "expected uint64"}, {"uint64", "UINT64", "[-1, 0]", "expected uint64"},
		{"float32", "FP32", "[1e39, -1e39]", "[null, null]"}, {"float32", "FP32", "[NaN, Infinity]", "[null, null]"}, {"float32", "FP32", "[1e-50, 3.4028235e38]", "[0.0, 3.4028235e+38]"},
		{"float64", "FP64", "[1e400, 5e-324]", "[null, 5e-324]"}, {"float64", "FP64", "[123456789012345678901234567890, null]", "[1.2345678901234568e+29, null]"},
		{"float16", "FP16", "[65519, 65520]", "[65504.0, null]"}, {"float16", "FP16", "[5.96e-08, 1e-9]", "[5.9604645e-08, 0.0]"}, {"float16", "FP16", "[NaN, -0.0]", "[null, -0.0]"},
		{"bfloat16", "BF16", "[3.3895314e38, 3.4e38]", "[3.3895314e+38, null]"}, {"bfloat16", "BF16", "[NaN, 1.00390625]", "[null, 1.0]"},
		{"bool", "BOOL", "[1, 0]", "expected bool"}, {"bool", "BOOL", `["true", false]`, "expected bool"},
		{"string", "BYTES", "[1, 2]", "expected string"}, {"string", "BYTES", `["a", null]`, "expected string"}, {"string", "BYTES", `["\ud800", ""]`, "half a character"},
		{"string", "BYTES", "[\"\xff\", \"\"]", "not UTF-8"}, {"string", "BYTES", `["\u0000", "\ud83d\ude00"]`, `["\u0000", "😀"]`},
		{"int8", "INT16", "[1, 2]", "expected datatype INT8, got INT16"}, {"int8", "int8", "[1, 2]", "expected datatype INT8, got int8"},
		{"int8", "INT8            and more", "[1, 2]", "expected datatype INT8, got INT8"}, {"string", "STRING", `["", ""]`, "expected datatype BYTES, got STRING"},
		{"int8", "\xff", "[1, 2]", "expected datatype INT8"},
	} {
		r := request(c.name, c.datatype, c.data)
		if c.datatype == "\xff" {
			r.Body = []byte(strings.Replace(string(r.Body), `\xff`, "\xff", 1))
		}
		a := e.Handle(&r)
		if !json.Valid(a.Body) || !utf8.Valid(a.Body) || !strings.Contains(string(a.Body), c.want) || (a.Status == 400) != strings.ContainsAny(c.want[:1], "enh") {
			t.Errorf("%s %s: %d %s, want %s", c.datatype, c.data, a.Status, a.Body, c.want)
		}
	}
}

// TestProtocolBinaryThatLies: sizes and bytes that are not what the request says of them.
func TestProtocolBinaryThatLies(t *testing.T) {
	two := func(first, second string) string {
		return fmt.Sprintf(`{"inputs": [{"name": "size", "datatype": "FP32", "shape": [1, 1], %s}, {"name": "color", "datatype": "BYTES", "shape": [1, 1], %s}]}`,
			first, second)
	}
	size := func(n any) string { return fmt.Sprintf(`"parameters": {"binary_data_size": %v}`, n) }
	number, red := floats(1.5), "\x03\x00\x00\x00red"
	e := executor(t, "columns")
	for _, c := range []struct {
		body, tail, want string
	}{
		{two(size(4), size(7)), number + red, `"outputs"`},
		{two(size(4), size(7)), number + red[:6], "is not the size of data that follow"},
		{two(size(4), size(7)), number + red + "x", "1 bytes follow"},
		{two(size(3), size(8)), number + red, "expected 4 bytes for shape [1, 1], got 3"},
		{two(size(4), size(3)), number + red, "the binary data end inside a length"},
		{two(size(4), size(6)), number + red, "the binary data end inside a text"},
		{two(size(4), size(7)), number + "\xff\xff\xff\xffred", "the binary data end inside a text"},
		{two(size(4), size(11)), number + red + "\x00\x00\x00\x00", "expected 1 elements for shape [1, 1], got 2"},
		{two(size(4), size(0)), number, "expected 1 elements for shape [1, 1], got 0"},
		{two(size(-4), size(7)), number + red, "is not the size"}, {two(size(4.5), size(7)), number + red, "is not the size"},
		{two(size(`"4"`), size(7)), number + red, "is not the size"}, {two(size("1e30"), size(7)), number + red, "is not the size"},
		{two(size("null"), size(7)), number + red, "is not the size"}, {two(size("NaN"), size(7)), number + red, "is not the size"},
		{two(size(4)+`, "data": [2]`, size(7)), number + red, `"size\" has both data and binary_data_size`},
		{two(`"data": [2], `+size(4), size(7)), number + red, `"size\" has both data and binary_data_size`},
		{two(`"data": [1.5]`, size(7)), red, `"outputs"`},
		{two(size(4), `"data": ["red"]`), number, `"outputs"`},
	} {
		r := infer("columns", c.body, c.tail)
		a := e.Handle(&r)
		if good := c.want == `"outputs"`; good != (a.Status == 200) || !good && a.Status != 400 || !strings.Contains(string(a.Body), c.want) {
			t.Errorf("%s %q: %d %s, want %s", c.body, c.tail, a.Status, a.Body, c.want)
		}
	}
	// A text may be any bytes; JSON has a form for those alone that are UTF-8.
	e = executor(t, "types")
	var inputs []string
	var tail string
	for name := range typed {
		datatype, bytes := strings.ToUpper(name), make([]byte, 16)
		switch name {
		case "float64", "float32", "float16":
			datatype = "FP" + name[5:]
		case "bfloat16":
			datatype = "BF16"
		case "string":
			datatype, bytes = "BYTES", []byte("\x02\x00\x00\x00\xff\x00\x00\x00\x00\x00")
		case "bool":
			bytes = []byte{1, 0}
		}
		if n := map[string]int{"FP64": 8, "FP32": 4, "FP16": 2, "BF16": 2, "8": 1, "16": 2, "32": 4, "64": 8}[strings.TrimLeft(datatype, "UINT")]; n > 0 {
			bytes = bytes[:2*n]
		}
		inputs = append(inputs, fmt.Sprintf(`{"name": %q, "datatype": %q, "shape": [1, 2], %s}`, name, datatype, size(len(bytes))))
		tail += string(bytes)
	}
	body := `{"inputs": [` + strings.Join(inputs, ",") + `], "outputs": [{"name": "string_out"}%s]}`
	r := infer("types", fmt.Sprintf(body, ""), tail)
	if a := e.Handle(&r); a.Status != 200 || !strings.Contains(string(a.Body), "\"data\":[\"\uFFFD\\u0000\", \"\"]") {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	r = infer("types", fmt.Sprintf(strings.Replace(body, `"string_out"`, `"string_out", "parameters": {"binary_data": true}`, 1), ""), tail)
	if a := e.Handle(&r); a.Status != 200 || !strings.HasSuffix(string(a.Body), "\x02\x00\x00\x00\xff\x00\x00\x00\x00\x00") {
		t.Errorf("%d %q", a.Status, a.Body)
	}
	r = infer("types", fmt.Sprintf(body, ""), tail)
	at := strings.Index(string(r.Body), "}]}") // the bools are the only bytes with a one in them
	r.Body = []byte(string(r.Body[:at]) + strings.Replace(string(r.Body[at:]), "\x01", "\x02", 1))
	if a := e.Handle(&r); a.Status != 400 || !strings.Contains(string(a.Body), "the bytes of a BOOL must be 0 or 1") {
		t.Errorf("%d %q", a.Status, a.Body)
	}
}

// TestProtocolSaysWhatIsAmbiguous: a request whose members say two things is refused, and one that says nothing with null
// is taken.
func TestProtocolSaysWhatIsAmbiguous(t *testing.T) {
	const a, b = `{"name": "a", "datatype": "FP32", "shape": [1, 1], "data": [1]}`, `{"name": "b", "datatype": "FP32", "shape": [1, 1], "data": [2]}`
	long := strings.Repeat("n", 1000)
	e := executor(t, "add")
	for _, c := range []struct {
		body   string
		status int
		want   string
	}{
		{`{"inputs": [` + a + `, ` + a + `, ` + b + `]}`, 400, `Input \"a\" is given twice`},
		{`{"inputs": [` + a + `], "inputs": [` + b + `]}`, 400, "inputs stands there twice"},
		{`{"inputs": [` + a + `, ` + b + `], "outputs": [], "outputs": []}`, 400, "outputs stands there twice"},
		{`{"id": "1", "id": "2", "inputs": [` + a + `, ` + b + `]}`, 400, "id stands there twice"},
		{`{"parameters": {}, "parameters": {}, "inputs": [` + a + `, ` + b + `]}`, 400, "parameters stands there twice"},
		{`{"inputs": [{"name": "a", "name": "b", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}`, 400, `Input \"a\" has a second name`},
		{`{"inputs": [{"name": "a", "datatype": "FP32", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}`, 400, "two datatypes"},
		{`{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1, 1], "shape": [2, 1], "data": [1]}]}`, 400, "two shapes"},
		{`{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1, 1], "data": [1], "data": [2]}]}`, 400, "data twice"},
		{`{"inputs": [` + a + `, ` + b + `, {"name": "c", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}`, 400, `no input \"c\"; its inputs are: a, b`},
		{`{"inputs": [` + a + `]}`, 400, `Input \"b\" is missing`},
		{`{"inputs": [` + a + `, ` + strings.Replace(b, `"b"`, `"`+long+`"`, 1) + `]}`, 400, "no input"},
		{`{"inputs": null}`, 400, "inputs must be a list"},
		{`{"inputs": [` + a + `, ` + b + `, null]}`, 400, "list of objects"},
		{`{"inputs": [` + a + `, ` + b + `,]}`, 400, "list of objects"},
		{`{"id": null, "parameters": null, "outputs": null, "inputs": [` + a[:len(a)-1] + `, "parameters": null}, ` + b + `]}`, 200, `"outputs":[{"name":"sum"`},
		{`{"id": nul, "inputs": [` + a + `, ` + b + `]}`, 400, "expected a value"},
		{`{"parameters": [], "inputs": [` + a + `, ` + b + `]}`, 400, "parameters must be an object"},
		{`{"parameters": {"priority": 1, "sequence_id": 7, "x": {"y": [1]}}, "` + long + `": 1, "inputs": [` + a + `, ` + b + `]}`, 200, "sum"},
		{`{"id": "` + long + `", "inputs": [` + a + `, ` + b + `]}`, 200, `"id":"` + long + `"`},
		{"{\"id\": \"\xff\", \"inputs\": [" + a + `, ` + b + `]}`, 400, "must be UTF-8"},
		{`{"id": "\ud800", "inputs": [` + a + `, ` + b + `]}`, 400, "half a character"},
		{`{"inputs": [` + a + `, ` + b + `], "outputs": [{}]}`, 400, "An output has no name"},
		{`{"inputs": [` + a + `, ` + b + `], "outputs": [{"name": null}]}`, 400, "must be a text"},
		{`{"inputs": [` + a[:len(a)-1] + `, "parameters": {"shared_memory_region": "r"}}, ` + b + `]}`, 400, "shared_memory_region is not supported"},
		{`{"inputs": [` + a + `, ` + b + `], "outputs": [{"name": "sum", "parameters": {"shared_memory_byte_size": 4}}]}`, 400, "shared_memory_byte_size is not supported"},
		{"\ufeff" + `{"inputs": [` + a + `, ` + b + `]}`, 400, "JSON object with inputs"},
		{`{"inputs": [` + a + `, ` + b + `]} {}`, 400, "expected the end"},
	} {
		status, body := post(e, "/v2/models/add/infer", c.body)
		if status != c.status || !json.Valid([]byte(body)) || !utf8.ValidString(body) || !strings.Contains(body, c.want) {
			t.Errorf("%.200q: %d %.300s, want %d %s", c.body, status, body, c.status, c.want)
		}
	}
}

// TestProtocolPaths: names of models may need quoting in a path, which must be one of the protocol's to its last byte.
func TestProtocolPaths(t *testing.T) {
	open(t, "iris") // the library
	m := named(t, "iris", "my flowers/ä", "3")
	e, err := m.NewExecutor(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	const quoted = "/v2/models/my%20flowers%2F%C3%A4"
	for path, status := range map[string]int{
		"/v2": 200, "/v2/": 404, "/v2/health": 404, "/v2/health/": 404, "/v2/health/live": 200, "/v2/health/live/": 404, "/v2/health/ready/x": 404,
		"/v2/models": 404, "/v2/models/": 404, quoted: 200, quoted + "/": 404, quoted + "/ready": 200, quoted + "/ready/": 404,
		quoted + "/versions": 404, quoted + "/versions/": 404, quoted + "/versions/3": 200, quoted + "/versions/3/": 404, quoted + "/versions/3/ready": 200,
		quoted + "/versions/03": 404, quoted + "/versions/2/ready": 404, quoted + "/versions/3/versions/3": 404, quoted + "/stats": 404,
		"/v2/models/my%zz": 404, "/v2/models/my flowers": 404, "/v2/models/my flowers/ä": 404, "/v2//models": 404, "/v3": 404, "/v2/models/" + quoted[11:] + "/infer/x": 404,
	} {
		if got, body := get(e, path); got != status || !json.Valid([]byte(body)) {
			t.Errorf("%s: %d %s, want %d", path, got, body, status)
		}
	}
	if status, body := post(e, quoted+"/versions/3/infer", flower("", "5.1, 3.5, 1.4, 0.2")); status != 200 || !strings.HasPrefix(body, `{"model_name":"my flowers/ä","model_version":"3"`) {
		t.Errorf("%d %s", status, body)
	}
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		a := e.Handle(&onnxserve.Request{Method: []byte(method), Path: []byte(quoted + "/infer")})
		if a.Status != 405 || !strings.HasPrefix(string(a.Body), `{"error": `) {
			t.Errorf("%s: %d %s", method, a.Status, a.Body)
		}
	}
}

// TestCompressedBodies are refused as such.
func TestCompressedBodies(t *testing.T) {
	e := executor(t, "iris")
	for _, r := range []onnxserve.Request{score("\x1f\x8b"), infer("iris", "\x1f\x8b")} {
		r.Encoding = []byte("gzip")
		if a := e.Handle(&r); a.Status != 415 || !strings.Contains(string(a.Body), `content-encoding \"gzip\"`) {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	r := score(`{"input_data": [[5.1, 3.5, 1.4, 0.2]]}`)
	r.Encoding = []byte("Identity")
	if a := e.Handle(&r); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// FuzzBinary feeds the binary form with anything: nothing may panic, and what is answered by several is what each gets.
func FuzzBinary(f *testing.F) {
	f.Add(`{"inputs": [{"name": "size", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}},
		{"name": "color", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 7}}]}`, "\x00\x00\xc0\x3f\x03\x00\x00\x00red", "x")
	e := executor(f, "columns")
	f.Fuzz(func(t *testing.T, body, tail, length string) {
		r := infer("columns", body, tail)
		if length != "x" {
			r.JSONLength = []byte(length)
		}
		a := e.Handle(&r)
		want := asked{status: a.Status, body: string(a.Body), length: a.JSONLength, kind: a.Kind}
		for _, got := range joint(t, e, []onnxserve.Request{r, r}) {
			if !same(t, got, want) {
				t.Errorf("%q: %d %q, alone %d %q", r.Body, got.status, got.body, want.status, want.body)
			}
		}
	})
}
