package conformance

import (
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

const (
	twoRows    = `{"columns": ["a", "b"], "index": [0, 1], "data": [[1, 2], [-1, -2]]}`
	csv        = "text/csv"
	predicted  = `{"predictions": [1, 0]}`
	notAllowed = `{"message": "The method is not allowed for the requested URL."}`
)

// classifier is a model of scikit-learn that says whether the sum of the columns a and b is positive. Rows that begin
// with "Azure" are the protocol of Azure's scoring script for such models, "MLflow" those of mlflow models serve.
var classifier = []row{
	{name: "Azure: split", body: `{"input_data": ` + twoRows + `}`, header: jsonType, want: "[1, 0]", fields: good},
	{name: "Azure: split without an index", body: `{"input_data": {"columns": ["b", "a"], "data": [[1, 2]]}}`, header: jsonType, want: "[1]"},
	{name: "Azure: rows", body: `{"input_data": [[1, 2], [-1, -2]]}`, header: jsonType, want: "[1, 0]"},
	{name: "Azure: records", body: `{"input_data": [{"a": 1, "b": 2}]}`, header: jsonType, want: "[1]"},
	{name: "Azure: columns", body: `{"input_data": {"a": [1, -1], "b": [2, -2]}}`, header: jsonType, want: "[1, 0]"},
	{name: "Azure: a column too many", body: `{"input_data": [{"a": 1, "b": 2, "c": 3}]}`, header: jsonType, want: "[1]"},
	{name: "Azure: query", method: "GET", path: "/score?input_data=%5B%5B1,2%5D%5D", want: "[1]"},
	{name: "Azure: no input_data", body: `{"data": 1}`, header: jsonType, status: 400,
		want: `{"message": "A value is not provided for the 'input_data' parameter."}`},
	{name: "Azure: MLflow's format", body: `{"dataframe_split": ` + twoRows + `}`, header: jsonType, status: 400, want: "~input_data"},
	{name: "Azure: not JSON", body: "{", header: jsonType, status: 400, want: "~could not be decoded as JSON", fields: good},
	{name: "Azure: another type", body: "a,b\n1,2\n", header: []string{"Content-Type", csv}, status: 415, want: "~application/json"},
	{name: "Azure: a column is missing", body: `{"input_data": [{"a": 1}]}`, header: jsonType, status: 400, want: `~missing inputs \['b'\]`},
	{name: "Azure: text for a number", body: `{"input_data": [{"a": "x", "b": 2}]}`, header: jsonType, status: 400, want: "~Column a cannot be converted"},
	{name: "Azure: params that are none", body: `{"input_data": [[1, 2]], "params": 3}`, header: jsonType, status: 400, want: "~params must be a JSON object"},

	{name: "MLflow: split", path: "/invocations", body: `{"dataframe_split": ` + twoRows + `}`, header: jsonType, want: predicted},
	{name: "MLflow: records", path: "/invocations", body: `{"dataframe_records": [{"a": 1, "b": 2}, {"a": -1, "b": -2}]}`, header: jsonType, want: predicted},
	{name: "MLflow: instances", path: "/invocations", body: `{"instances": [{"a": 1, "b": 2}, {"a": -1, "b": -2}]}`, header: jsonType, want: predicted},
	{name: "MLflow: inputs", path: "/invocations", body: `{"inputs": {"a": [1, -1], "b": [2, -2]}}`, header: jsonType, want: predicted},
	{name: "MLflow: CSV", path: "/invocations", body: "a,b\n1,2\n-1,-2\n", header: []string{"Content-Type", csv}, want: predicted},
	{name: "MLflow: two formats", path: "/invocations", body: `{"inputs": [[1, 2]], "instances": [[1, 2]]}`, header: jsonType, status: 400, want: "~exactly one of"},
	{name: "MLflow: Azure's format", path: "/invocations", body: `{"input_data": [[1, 2]]}`, header: jsonType, status: 400, want: "~exactly one of"},
	{name: "MLflow: a column is missing", path: "/invocations", body: `{"dataframe_records": [{"a": 1}]}`, header: jsonType, status: 400, want: "~BAD_REQUEST"},
	{name: "MLflow: another type", path: "/invocations", body: "<a/>", header: []string{"Content-Type", "text/xml"}, status: 415, want: "~content type"},
	{name: "MLflow: GET", method: "GET", path: "/invocations", status: 405, direct: true, want: notAllowed},
	{name: "MLflow: ping", method: "GET", path: "/ping", want: "~^\n$"},
	{name: "MLflow: health", method: "GET", path: "/health", want: "~^\n$"},
	{name: "MLflow: version", method: "GET", path: "/version", want: `~^\d+\.\d+`},

	{name: "described", method: "GET", path: "/swagger.json", want: `~"input_data"`},
	{name: "described by the signature", method: "GET", path: "/swagger.json?version=3", want: `~"example": ?\["a", ?"b"\]`},
}

// multiplier is a model with code of its own, which sums rows and multiplies by a parameter.
var multiplier = []row{
	{name: "default parameter", body: `{"input_data": [[1, 2]]}`, header: jsonType, want: `~^\[(\{".*": )?6\.0\}?\]$`},
	{name: "parameter", body: `{"input_data": [[1, 2]], "params": {"factor": 10}}`, header: jsonType, want: `~^\[(\{".*": )?30\.0\}?\]$`},
	{name: "MLflow: parameter", path: "/invocations", body: `{"inputs": [[1, 2]], "params": {"factor": 10}}`, header: jsonType,
		want: `~^\{"predictions": \[(\{".*": )?30\.0\}?\]\}$`},
}

// bare has no signature and says what it was given.
var bare = []row{
	{name: "split", body: `{"input_data": ` + twoRows + `}`, header: jsonType, want: `["DataFrame", "a b", "2x2"]`},
	{name: "split without an index", body: `{"input_data": {"columns": ["a"], "data": [[1]]}}`, header: jsonType, want: `["DataFrame", "a", "1x1"]`},
	{name: "rows", body: `{"input_data": [[1, 2], [3, 4]]}`, header: jsonType, want: `["ndarray", "", "2x2"]`},
	{name: "records", body: `{"input_data": [{"a": 1}, {"a": 2}]}`, header: jsonType, want: `["list", "{'a': 1} {'a': 2}", ""]`},
	{name: "named tensors", body: `{"input_data": {"a": [1, 2], "b": [[3], [4]]}}`, header: jsonType, want: `["dict", "a b", "2 2x1"]`},
	{name: "text", body: `{"input_data": "hello"}`, header: jsonType, want: `["str", "hello", ""]`},
	{name: "texts", body: `{"input_data": ["a", "b"]}`, header: jsonType, want: `["ndarray", "", "2"]`},
	{name: "object of texts", body: `{"input_data": {"q": "x", "c": "y"}}`, header: jsonType, want: `["dict", "q c", " "]`},
	{name: "MLflow: messages", path: "/invocations", body: `{"messages": [{"role": "user", "content": "hi"}]}`, header: jsonType, want: `["dict", "messages", ""]`},
	{name: "MLflow: prompt", path: "/invocations", body: `{"prompt": "hi"}`, header: jsonType, want: `["dict", "prompt", ""]`},
}

// tensors has a signature of tensors: one of two columns.
var tensors = []row{
	{name: "list", body: `{"input_data": [[1, 2], [3, 4]]}`, header: jsonType, want: "[3.0, 7.0]"},
	{name: "another shape", body: `{"input_data": [[1, 2, 3]]}`, header: jsonType, status: 400, want: "~message"},
	{name: "MLflow: instances", path: "/invocations", body: `{"instances": [[1, 2], [3, 4]]}`, header: jsonType, want: `{"predictions": [3.0, 7.0]}`},
	{name: "MLflow: inputs", path: "/invocations", body: `{"inputs": [[1, 2], [3, 4]]}`, header: jsonType, want: `{"predictions": [3.0, 7.0]}`},
}

// mlflowModels are the models by the names under which they are trained.
var mlflowModels = map[string][]row{"sklearn": classifier, "python": multiplier, "bare": bare, "tensors": tensors}

// developersPython is the Python of the development environment, which has numpy, MLflow and scikit-learn.
func developersPython(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "make", "-s", "-C", root, ".build/venv/.done").CombinedOutput(); err != nil {
		t.Fatalf("make the development environment: %v\n%s", err, out)
	}
	return filepath.Join(root, ".build", "venv", "bin", "python")
}

// train saves models by their names and gives the folder that holds them.
func train(t *testing.T, python string, names ...string) string {
	t.Helper()
	script, err := filepath.Abs("../e2e/testdata/mlflow/train.py")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), python, append([]string{script, dir}, names...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "MLFLOW_DISABLE_TELEMETRY=true", "MLFLOW_TRACKING_URI=file://"+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("train %v: %v\n%s", names, err, out)
	}
	return dir
}

// TestMLflow is the contract for models that are deployed without code, at an instance and through the front door.
func TestMLflow(t *testing.T) {
	python := developersPython(t)
	dir := train(t, python, slices.Sorted(maps.Keys(mlflowModels))...)
	for name, rows := range mlflowModels {
		t.Run("infer "+name, func(t *testing.T) {
			s := script{args: []string{"--model_dir", filepath.Join(dir, name), "--python", python}}
			check(t, target{client: http.DefaultClient, url: startServer(t, []string{binary, "infer"}, s)}, script{rows: rows})
		})
	}
	s := startGateway(t)
	for name, rows := range mlflowModels {
		t.Run("gateway "+name, func(t *testing.T) {
			s.create(t, name, "model:\n  path: "+filepath.Join(dir, name)+"\nrequest_settings:\n  request_timeout_ms: 60000\n", nil)
			check(t, s.at(name), script{rows: rows})
		})
	}
}
