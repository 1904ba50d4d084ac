package conformance

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"portico/internal/onnx/onnxtest"
	"portico/test/harness"
)

const (
	oneFlower  = `{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}`
	labelOnly  = `{"name": "label"}`
	labelZero  = `{"name": "label", "datatype": "INT64", "shape": [1], "data": [0]}`
	answerHead = `{"model_name": "flowers", "model_version": "3", `
	// The four numbers of oneFlower and the label of its answer as they lie in memory.
	flowerBytes = "\x33\x33\xa3\x40\x00\x00\x60\x40\x33\x33\xb3\x3f\xcd\xcc\x4c\x3e"
	labelBytes  = "\x00\x00\x00\x00\x00\x00\x00\x00"
	binaryHead  = `{"inputs":[{"name":"X","shape":[1,4],"datatype":"FP32","parameters":{"binary_data_size":16}}],` +
		`"outputs":[{"name":"label","parameters":{"binary_data":true}}]}`
)

// kserve are requests of the KServe protocol, version 2, to the repository's model.
var kserve = []row{
	{name: "server", method: "GET", path: "/v2", want: `~"name":"portico".*"extensions":\["binary_tensor_data"\]`},
	{name: "live", method: "GET", path: "/v2/health/live", want: `{"live": true}`},
	{name: "ready", method: "GET", path: "/v2/health/ready", want: `{"ready": true}`},
	{name: "live by POST", path: "/v2/health/live", status: 405, want: `~^\{"error": `},
	{name: "model", method: "GET", path: "/v2/models/flowers", want: `{"name": "flowers", "versions": ["3"], "platform": "onnxruntime_onnx",
		"inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}],
		"outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}, {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}]}`},
	{name: "model of a version", method: "GET", path: "/v2/models/flowers/versions/3", want: `~"name":"flowers"`},
	{name: "model ready", method: "GET", path: "/v2/models/flowers/ready", want: `{"name": "flowers", "ready": true}`},
	{name: "version ready", method: "GET", path: "/v2/models/flowers/versions/3/ready", want: `~"ready":true`},
	{name: "infer", path: "/v2/models/flowers/infer", body: `{"inputs": [` + oneFlower + `], "outputs": [` + labelOnly + `]}`, header: jsonType,
		want: answerHead + `"outputs": [` + labelZero + `]}`, fields: map[string]string{"content-type": "^application/json$"}},
	{name: "infer with a version", path: "/v2/models/flowers/versions/3/infer", body: `{"inputs": [` + oneFlower + `], "outputs": [` + labelOnly + `]}`,
		want: answerHead + `"outputs": [` + labelZero + `]}`},
	{name: "id", path: "/v2/models/flowers/infer", body: `{"id": "q-1", "inputs": [` + oneFlower + `], "outputs": [` + labelOnly + `]}`,
		want: answerHead + `"id": "q-1", "outputs": [` + labelZero + `]}`},
	{name: "every output", path: "/v2/models/flowers/infer", body: `{"inputs": [` + oneFlower + `]}`, want: `~"label".*"probabilities","datatype":"FP32","shape":\[1,3\]`},
	{name: "binary", path: "/v2/models/flowers/infer", body: binaryHead + flowerBytes, header: []string{"Content-Type", "application/octet-stream",
		"Inference-Header-Content-Length", strconv.Itoa(len(binaryHead))}, want: `~"binary_data_size":8.*` + labelBytes + "$",
		fields: map[string]string{"inference-header-content-length": `^\d+$`, "content-type": "^application/octet-stream$"}},
	{name: "another model", method: "GET", path: "/v2/models/roses", status: 404, want: `~^\{"error": .*roses`},
	{name: "another version", method: "GET", path: "/v2/models/flowers/versions/2", status: 404, want: `~^\{"error": .*2`},
	{name: "another path", method: "GET", path: "/v2/models/flowers/nothing", status: 404, want: `~^\{"error": `},
	{name: "no inputs", path: "/v2/models/flowers/infer", body: "{}", status: 400, want: `~^\{"error": .*inputs`},
	{name: "another type", path: "/v2/models/flowers/infer", body: strings.Replace(`{"inputs": [`+oneFlower+`]}`, "FP32", "FP64", 1), status: 400,
		want: `~^\{"error": .*FP32`},
	{name: "another shape", path: "/v2/models/flowers/infer", body: strings.Replace(`{"inputs": [`+oneFlower+`]}`, "[1, 4]", "[4]", 1), status: 400,
		want: `~^\{"error": .*shape`},
	{name: "more than max_batch_size", path: "/v2/models/flowers/infer", status: 400, want: `~^\{"error": .*at most 4 rows \(max_batch_size\), got 5`,
		body: `{"inputs": [{"name": "X", "shape": [5, 4], "datatype": "FP32", "data": [1,2,3,4,1,2,3,4,1,2,3,4,1,2,3,4,1,2,3,4]}]}`},
	{name: "no such output", path: "/v2/models/flowers/infer", body: `{"inputs": [` + oneFlower + `], "outputs": [{"name": "x"}]}`, status: 400,
		want: `~^\{"error": .*x`},
	{name: "not JSON", path: "/v2/models/flowers/infer", body: "{", status: 400, want: `~^\{"error": `},
	{name: "score", body: `{"input_data": [[5.1, 3.5, 1.4, 0.2]]}`, want: `~"label": \[0\]`},
}

// settled are requests of a model that runs as often as it is told, with the settings of the script timeout and the
// script cors.
var settled = []row{
	{name: "in time", body: `{"input_data": [5]}`, want: "[1]"},
	{name: "too late", body: `{"input_data": [1000000000000]}`, status: 500, want: `{"message": "Scoring timeout after 300 ms"}`, fields: failed},
	{name: "too late for KServe", path: "/v2/models/slow/infer", status: 500, want: `{"error": "Scoring timeout after 300 ms"}`, fields: failed,
		body: `{"inputs": [{"name": "times", "shape": [1], "datatype": "INT64", "data": [1000000000000]}]}`},
	{name: "afterwards", body: `{"input_data": [5]}`, want: "[1]"},
	{name: "allowed", body: `{"input_data": [5]}`, header: []string{"Origin", "https://b.example"}, want: "[1]",
		fields: map[string]string{"access-control-allow-origin": "^https://b.example$", "vary": "Origin"}},
	{name: "not allowed", method: "GET", path: "/v2", header: []string{"Origin", "https://c.example"}, want: "-",
		absent: []string{"access-control-allow-origin"}},
	{name: "OPTIONS", method: "OPTIONS", fields: good},
	{name: "preflight", method: "OPTIONS", path: "/v2/models/slow/infer", header: []string{"Origin", "https://a.example",
		"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-a"},
		fields: map[string]string{"access-control-allow-origin": "^https://a.example$", "access-control-allow-methods": "^GET, POST$",
			"access-control-allow-headers": "^x-a$"}},
}

// flatConfig is that of a model of which two inputs have no dimension but the rows, as Triton wants it; reshaped are requests
// to it.
const flatConfig = `backend: "onnxruntime"
max_batch_size: 2
input [
  { name: "a" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } },
  { name: "b" data_type: TYPE_FP32 dims: [ 1, -1, 2 ] reshape: { shape: [ -1, 2 ] } },
  { name: "c" data_type: TYPE_STRING dims: [ 1, 1 ] reshape: { } }
]
output [ { name: "b_out" dims: [ -1, 2, 1 ] reshape: { shape: [ -1, 2 ] } }, { name: "a_out" dims: 1 reshape: { } } ]
dynamic_batching { max_queue_delay_microseconds: 1000 }
`

var reshaped = []row{
	{name: "model", method: "GET", path: "/v2/models/flat", want: `{"name": "flat", "versions": ["1"], "platform": "onnxruntime_onnx",
		"inputs": [{"name": "a", "datatype": "FP32", "shape": [-1, 1]}, {"name": "b", "datatype": "FP32", "shape": [-1, 1, -1, 2]},
			{"name": "c", "datatype": "BYTES", "shape": [-1, 1, 1]}],
		"outputs": [{"name": "b_out", "datatype": "FP32", "shape": [-1, -1, 2, 1]}, {"name": "a_out", "datatype": "FP32", "shape": [-1, 1]}]}`},
	{name: "infer", path: "/v2/models/flat/infer", want: `{"model_name": "flat", "model_version": "1", "outputs": [
			{"name": "b_out", "datatype": "FP32", "shape": [2, 2, 2, 1], "data": [-1, -2, -3, -4, -5, -6, -7, -8]},
			{"name": "a_out", "datatype": "FP32", "shape": [2, 1], "data": [-1, -2]}]}`,
		body: `{"inputs": [{"name": "a", "datatype": "FP32", "shape": [2, 1], "data": [1, 2]},
			{"name": "b", "datatype": "FP32", "shape": [2, 1, 2, 2], "data": [1, 2, 3, 4, 5, 6, 7, 8]}, {"name": "c", "datatype": "BYTES", "shape": [2, 1, 1], "data": ["x", "y"]}]}`},
	{name: "the model's shape", path: "/v2/models/flat/infer", status: 400, want: `~^\{"error": .*expected shape \[\?, 1\], got \[1\]`,
		body: `{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": [1]}]}`},
	{name: "score", body: `{"input_data": {"a": [[1]], "b": [[[[2, 3]]]], "c": [[["x"]]]}}`, want: `{"b_out": [[[[-2], [-3]]]], "a_out": [[-1]]}`},
}

// flowersConfig is the configuration of the repository of flowers, as Triton wants it.
const flowersConfig = `name: "flowers"
platform: "onnxruntime_onnx"
max_batch_size: 4
input [ { name: "X" data_type: TYPE_FP32 dims: [ 4 ] } ]
version_policy: { latest { num_versions: 1 } }
dynamic_batching { max_queue_delay_microseconds: 2000 }
instance_group [ { count: 2 kind: KIND_CPU } ]
`

// repository makes a model repository of one of the models that onnxserve's tests have, and gives its folder.
func repository(t *testing.T, model, name string, versions ...string) string {
	t.Helper()
	content, err := os.ReadFile(onnxtest.Model(t, model))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "models")
	for _, v := range versions {
		harness.Files(t, dir, map[string]string{filepath.Join(name, v, "model.onnx"): string(content)})
	}
	return dir
}

// TestTriton deploys model repositories as Azure's documentation of Triton does: type triton_model, no script, no
// environment; and asks them by the protocol, and with Triton's own client.
func TestTriton(t *testing.T) {
	flowers, columns := repository(t, "iris", "flowers", "1", "3"), repository(t, "columns", "columns", "1")
	harness.Files(t, flowers, map[string]string{"flowers/config.pbtxt": flowersConfig})
	python := harness.Python(t, "triton")
	data := onnxtest.DataDir(t)
	at := func(dir string) string {
		return startServer(t, []string{binary, "infer"}, script{args: []string{"--model_dir", dir, "--data-dir", data}})
	}
	t.Run("infer", func(t *testing.T) {
		check(t, target{client: http.DefaultClient, url: at(flowers)}, script{rows: kserve})
	})
	t.Run("infer with settings", func(t *testing.T) {
		s := script{args: []string{"--model_dir", repository(t, "slow", "slow", "1"), "--data-dir", data}, rows: settled, env: map[string]string{
			"SCORING_TIMEOUT_MS": "300", "AML_CORS_ORIGINS": "https://a.example, https://b.example"}}
		check(t, target{client: http.DefaultClient, url: startServer(t, []string{binary, "infer"}, s)}, s)
	})
	t.Run("infer with reshape", func(t *testing.T) {
		flat := repository(t, "flat", "flat", "1")
		harness.Files(t, flat, map[string]string{"flat/config.pbtxt": flatConfig})
		check(t, target{client: http.DefaultClient, url: at(flat)}, script{rows: reshaped})
	})
	t.Run("infer with Triton's client", func(t *testing.T) {
		tritonClient(t, python, nil, "flowers", "--base_url", at(flowers))
		tritonClient(t, python, nil, "columns", "--base_url", at(columns))
	})
	g := startGateway(t)
	g.cli(t, "runtime", "install", "onnx", "--from", onnxtest.Library(t))
	for name, dir := range map[string]string{"flowers": flowers, "columns": columns} {
		g.create(t, name, "model:\n  name: "+name+"-repository\n  version: 1\n  path: "+dir+"\n  type: triton_model\n", nil)
	}
	t.Run("gateway", func(t *testing.T) { check(t, g.at("flowers"), script{rows: kserve}) })
	t.Run("gateway with Triton's client", func(t *testing.T) {
		// What a script takes: scoring_uri without its last part, and a key.
		for _, name := range []string{"flowers", "columns"} {
			uri := g.moveTo(t, name)
			tritonClient(t, python, []string{"SSL_CERT_FILE=" + g.ca}, name, "--base_url", uri[:strings.LastIndex(uri, "/")], "--token", g.key)
		}
	})
	t.Run("config.pbtxt", func(t *testing.T) {
		out := g.cli(t, "ml", "online-deployment", "show", "-n", "flowers", "-e", endpointName, "-o", "yaml")
		if !strings.Contains(out, "max_size: 4") || !strings.Contains(out, "max_wait_ms: 2") {
			t.Errorf("dynamic_batching is not the deployment's batching:\n%s", out)
		}
		log := g.cli(t, "ml", "online-deployment", "get-logs", "-n", "flowers", "-e", endpointName, "-c", "storage-initializer")
		if !strings.Contains(log, "instance_group is not acted on") {
			t.Errorf("the log does not say what is passed over:\n%s", log)
		}
	})
	t.Run("no ONNX model", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "models")
		harness.Files(t, dir, map[string]string{"net/1/model.pt": "x"})
		out, err := g.try(t, g.createArgs(t, "refused", "model:\n  path: "+dir+"\n  type: triton_model\n", nil)...)
		if err == nil || !strings.Contains(out, "models of other frameworks are not implemented") {
			t.Errorf("%v %s", err, out)
		}
	})
}

// tritonClient runs a script as a user of such a deployment writes it.
func tritonClient(t *testing.T, python string, env []string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), python, append([]string{"testdata/triton.py"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %v\n%s", args, err, out)
	}
}
