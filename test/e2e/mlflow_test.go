package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico/internal/testkit"
	"portico/test/harness"
)

// flavorPackages train models of more libraries than the development environment has. They are installed once, beside it.
var flavorPackages = []string{"mlflow-skinny==3.17.2", "scikit-learn==1.9.1", "pandas==3.1.1", "xgboost-cpu==3.2.0", "lightgbm==4.7.0",
	"onnx==1.23.2", "onnxruntime==1.32.0"}

// trainTimeout bounds the training of the small models here, and the installation of what trains them.
const trainTimeout = 15 * time.Minute

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), trainTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "MLFLOW_DISABLE_TELEMETRY=true", "MLFLOW_TRACKING_URI=file://"+t.TempDir())
	cmd.Dir = t.TempDir()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// trainer is the Python of the development environment, which has MLflow and scikit-learn.
func trainer(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	command(t, "make", "-s", "-C", root, ".build/venv/.done")
	return filepath.Join(root, ".build", "venv", "bin", "python")
}

// train saves models by their names and gives the folder that holds them.
func train(t *testing.T, python string, names ...string) string {
	t.Helper()
	script, err := filepath.Abs("testdata/mlflow/train.py")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	command(t, python, append([]string{script, dir}, names...)...)
	return dir
}

// rows is a request of two rows whose sums are 3 and -3.
const rows = `{"input_data": {"columns": ["a", "b"], "index": [0, 1], "data": [[1, 2], [-1, -2]]}}`

// TestMLflow deploys what MLflow saved: no script, no environment, and a type that says nothing.
func TestMLflow(t *testing.T) {
	models := train(t, trainer(t), "sklearn", "python")
	s := shared(t)
	dir := files(t, map[string]string{
		"endpoint.yml": endpointYAML("mlflow"),
		"blue.yml": "name: blue\nendpoint_name: mlflow\nmodel:\n  path: " + filepath.Join(models, "sklearn") +
			"\ninstance_type: Standard_DS3_v2\ninstance_count: 1\n",
		"green.yml": "name: green\nendpoint_name: mlflow\nmodel: azureml:times:1\n" +
			"instance_type: Standard_DS3_v2\ninstance_count: 1\n",
	})
	s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
	s.must("ml", "online-deployment", "create", "-f", filepath.Join(dir, "blue.yml"), "--all-traffic", "-o", "none")
	key := s.key("mlflow")
	if a := s.score("mlflow", key, rows); a.status != http.StatusOK || string(a.body) != "[1, 0]" {
		t.Errorf("%d %s", a.status, a.body)
	}
	// MLflow's own routes stand beside /score, with the same key. What they answer is in test/conformance.
	for _, c := range []struct {
		method, path, kind, body string
		status                   int
		want                     string
	}{
		{"POST", "/invocations?x=1", "text/csv", "a,b\n1,2\n-1,-2\n", 200, `{"predictions": [1, 0]}`},
		{"GET", "/invocations", "", "", 405, "method_not_allowed"},
		{"POST", "/ping", "", "", 405, "method_not_allowed"},
		{"POST", "/v2/models/m/infer", "application/json", "{}", 404, "route_not_found"},
		{"POST", "/invocations/../score", "application/json", rows, 400, "bad_request"},
	} {
		a := s.ask(c.method, "mlflow", c.path, key, c.body, "content-type", c.kind)
		if a.status != c.status || !strings.Contains(string(a.body), c.want) {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, a.status, a.body, c.status, c.want)
		}
	}
	if a := s.ask("POST", "mlflow", "/invocations", "wrong", "{}"); a.status != 401 {
		t.Errorf("invocations with a wrong key: %d %s", a.status, a.body)
	}

	// The same environment by another model, registered in the folder above it.
	s.must("ml", "model", "create", "-n", "times", "-v", "1", "--type", "mlflow_model", "--path",
		below(t, filepath.Join(models, "python")), "-o", "none")
	s.must("ml", "online-deployment", "create", "-f", filepath.Join(dir, "green.yml"), "-o", "none")
	body := strings.TrimSuffix(rows, "}") + `, "params": {"factor": 10}}`
	if a := s.score("mlflow", key, body, "azureml-model-deployment", "green"); !closeTo(t, a, 30, -30) {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// below makes a folder whose only sub-folder is dir.
func below(t *testing.T, dir string) string {
	t.Helper()
	parent := t.TempDir()
	if err := os.Rename(dir, filepath.Join(parent, filepath.Base(dir))); err != nil {
		t.Fatal(err)
	}
	return parent
}

// closeTo says whether an answer is a list of these numbers, or of records that hold one each.
func closeTo(t *testing.T, a answer, want ...float64) bool {
	t.Helper()
	var got []any
	if err := json.Unmarshal(a.body, &got); err != nil || len(got) != len(want) {
		return false
	}
	for i, v := range got {
		if record, ok := v.(map[string]any); ok && len(record) == 1 {
			for _, v = range record {
			}
		}
		if n, ok := v.(float64); !ok || math.Abs(n-want[i]) > 1e-4 {
			return false
		}
	}
	return true
}

// TestMLflowRefused: what cannot be deployed is said at once, with the field.
func TestMLflowRefused(t *testing.T) {
	s := shared(t)
	s.must("ml", "online-endpoint", "create", "-f", filepath.Join(files(t, map[string]string{"e.yml": endpointYAML("refused")}), "e.yml"),
		"-o", "none")
	for name, c := range map[string]struct {
		model map[string]string
		kind  string
		want  string
	}{
		"no pyfunc":    {map[string]string{"MLmodel": "flavors: {spark: {}}\n"}, "custom_model", "no python_function flavor"},
		"no packages":  {map[string]string{"MLmodel": "flavors: {python_function: {}}\n"}, "custom_model", "names no packages"},
		"wrong type":   {map[string]string{"model.pkl": "x"}, "mlflow_model", "there is no MLmodel file"},
		"not MLflow's": {map[string]string{"model.pkl": "x"}, "custom_model", "needs an MLflow or ONNX model"},
		"a path": {
			map[string]string{"MLmodel": "flavors: {python_function: {}}\n", "requirements.txt": "./wheels/a.whl\n"},
			"mlflow_model", "cannot be built",
		},
	} {
		model := files(t, c.model)
		dir := files(t, map[string]string{"d.yml": fmt.Sprintf("name: blue\nendpoint_name: refused\nmodel:\n  path: %s\n  type: %s\n"+
			"instance_type: Standard_DS3_v2\ninstance_count: 1\n", model, c.kind)})
		r := s.cli("ml", "online-deployment", "create", "-f", filepath.Join(dir, "d.yml"))
		if r.code == 0 || !strings.Contains(r.err, c.want) {
			t.Errorf("%s: exit %d: %s, want %q", name, r.code, r.err, c.want)
		}
	}
}

// flavorTrainer is a Python below .build that has flavorPackages.
func flavorTrainer(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../../.build/mlflow-flavors")
	if err != nil {
		t.Fatal(err)
	}
	python, stamp, want := filepath.Join(root, "bin", "python"), filepath.Join(root, ".done"), strings.Join(flavorPackages, "\n")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		return python
	}
	command(t, "python3", "-m", "venv", root)
	command(t, python, append([]string{"-m", "pip", "install", "-q"}, flavorPackages...)...)
	if err := os.WriteFile(stamp, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
	return python
}

// TestMLflowFlavors serves models of libraries that are large to install.
func TestMLflowFlavors(t *testing.T) {
	if testing.Short() {
		t.Skip("it installs xgboost, lightgbm and onnxruntime where they were never installed")
	}
	python := flavorTrainer(t)
	models := train(t, python, "xgboost", "lightgbm", "onnx")
	for name, c := range map[string]struct {
		body string
		want []float64
	}{
		"xgboost": {rows, []float64{1, 0}}, "lightgbm": {rows, []float64{1, 0}},
		"onnx": {`{"input_data": [[1, 2], [-1, -2]]}`, []float64{3, -3}},
	} {
		t.Run(name, func(t *testing.T) {
			url := inferModel(t, filepath.Join(models, name), "--python", python)
			a := post(t, url+"/score", "application/json", c.body)
			if name == "onnx" { // pyfunc gives an ONNX model's outputs by name
				a.body = []byte(strings.TrimSuffix(strings.TrimPrefix(string(a.body), `{"y": `), "}"))
			}
			if a.status != http.StatusOK || !closeTo(t, a, c.want...) {
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
}

// inferModel serves a model by `portico infer` and gives its URL.
func inferModel(t *testing.T, model string, flags ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ready.json")
	var log testkit.Buffer
	cmd := exec.Command(binary, append([]string{"infer", "--model_dir", model, "--port", "0", "--ready-file", file}, flags...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = t.TempDir(), &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		<-ended
	})
	for deadline := time.Now().Add(harness.WaitTimeout); ; time.Sleep(10 * time.Millisecond) {
		var r struct{ Address string }
		if doc, err := os.ReadFile(file); err == nil && json.Unmarshal(doc, &r) == nil {
			return "http://" + r.Address
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("infer ended: %v\n%s", err, log.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("infer is not ready\n%s", log.String())
		}
	}
}

func post(t *testing.T, url, kind, body string) answer {
	t.Helper()
	resp, err := http.Post(url, kind, strings.NewReader(body)) //nolint:noctx // bounded by the server's own limits
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	doc, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: doc}
}
