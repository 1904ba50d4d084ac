package e2e

import (
	"context"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"portico/internal/onnx/onnxtest"
	"portico/test/harness"
)

const irisRow = `{"input_data": [[5.1, 3.5, 1.4, 0.2]]}`

// TestInferServesONNX: `portico infer` serves an .onnx file, a folder, a repository and what MLflow saved, without Python.
func TestInferServesONNX(t *testing.T) {
	t.Parallel()
	data := onnxtest.DataDir(t)
	model := onnxtest.Model(t, "iris")
	tree := files(t, map[string]string{
		"folder/README.md": "", "repository/flowers/1/x": "", "repository/flowers/3/y": "",
		"mlflow/MLmodel": "flavors:\n  onnx:\n    data: model.onnx\n  python_function:\n    loader_module: mlflow.onnx\n",
	})
	for _, to := range []string{"folder/iris.onnx", "repository/flowers/3/model.onnx", "mlflow/model.onnx"} {
		command(t, "cp", model, filepath.Join(tree, to))
	}
	for _, c := range []struct{ model, name, version string }{
		{model, "iris", "1"}, {filepath.Join(tree, "folder"), "iris", "1"},
		{filepath.Join(tree, "repository"), "flowers", "3"}, {filepath.Join(tree, "mlflow"), "mlflow", "1"},
	} {
		url := inferModel(t, c.model, "--data-dir", data, "--python", "")
		a := post(t, url+"/score", "application/json", irisRow)
		if a.status != http.StatusOK || !strings.Contains(string(a.body), `"label": [0]`) {
			t.Errorf("%s: %d %s", c.model, a.status, a.body)
		}
		a = post(t, url+"/v2/models/"+c.name+"/versions/"+c.version+"/infer", "application/json",
			`{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}], "outputs": [{"name": "label"}]}`)
		if a.status != http.StatusOK || !strings.HasSuffix(string(a.body), `"outputs":[{"name":"label","datatype":"INT64","shape":[1],"data":[0]}]}`) {
			t.Errorf("%s: %d %s", c.model, a.status, a.body)
		}
	}
}

// TestInferTellsItsHealthWhileItIsBusy: a probe is answered however long a run takes, and nobody waits for it.
func TestInferTellsItsHealthWhileItIsBusy(t *testing.T) {
	t.Parallel()
	url := inferModel(t, onnxtest.Model(t, "slow"), "--data-dir", onnxtest.DataDir(t), "--python", "", "--env", "ONNX_CONCURRENCY=1")
	ctx, hangUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer hangUp()
	for range 16 { // more than all that a worker takes
		wg.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/score", strings.NewReader(`{"input_data": [1000000000000]}`))
			if err != nil {
				t.Error(err)
				return
			}
			if a, err := http.DefaultClient.Do(req); err == nil {
				a.Body.Close()
				t.Errorf("the run ended: %d", a.StatusCode)
			}
		})
	}
	// What the worker itself says of the model has to wait.
	for end, busy := time.Now().Add(harness.WaitTimeout), false; !busy; {
		if time.Now().After(end) {
			t.Fatal("the worker is never busy")
		}
		brief := http.Client{Timeout: 200 * time.Millisecond}
		a, err := brief.Get(url + "/v2/models/slow") //nolint:noctx // it has a limit
		if busy = err != nil; !busy {
			a.Body.Close()
		}
	}
	for path, want := range map[string]string{"/": "Healthy", "/v2/health/live": `{"live":true}`, "/v2/health/ready": `{"ready":true}`} {
		client := http.Client{Timeout: harness.WaitTimeout}
		a, err := client.Get(url + path) //nolint:noctx // it has a limit
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		body, err := io.ReadAll(a.Body)
		if a.Body.Close(); err != nil || a.StatusCode != http.StatusOK || string(body) != want || a.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: %d %v %s", path, a.StatusCode, a.Header, body)
		}
	}
}

// TestRuntimeCommands: what is missing names the command that installs it, and that command installs it.
func TestRuntimeCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := func(args ...string) (string, int) {
		cmd := exec.Command(binary, args...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	out, code := run("infer", "--model-dir", onnxtest.Model(t, "iris"), "--port", "0", "--data-dir", dir)
	if code != 1 || !strings.Contains(out, "install it with: portico runtime install onnx --data-dir "+dir) {
		t.Errorf("%d %s", code, out)
	}
	if out, code = run("runtime", "list", "--data-dir", dir, "--query", "[].state", "-o", "tsv"); code != 0 || out != "missing\n" {
		t.Errorf("%d %q", code, out)
	}
	if out, code = run("runtime", "install", "torch", "--data-dir", dir); code != 2 {
		t.Errorf("%d %s", code, out)
	}
	if out, code = run("runtime", "install", "onnx", "--data-dir", dir, "--from", onnxtest.Library(t)); code != 0 {
		t.Errorf("%d %s", code, out)
	}
	if out, code = run("runtime", "list", "--data-dir", dir, "--query", "[].state", "-o", "tsv"); code != 0 || out != "installed\n" {
		t.Errorf("%d %q", code, out)
	}
}

// TestONNXDeployments deploys .onnx files: no script, no environment, no Python. Model repositories, and what the Open
// Inference Protocol answers, are in test/conformance.
func TestONNXDeployments(t *testing.T) {
	library := onnxtest.Library(t)
	s := start(t)
	dir := files(t, map[string]string{
		"endpoint.yml": endpointYAML("flowers"),
		"blue.yml": "name: blue\nendpoint_name: flowers\nmodel:\n  path: " + onnxtest.Model(t, "iris-texts") +
			"\n  name: species\n  version: 4\ninstance_type: Standard_DS3_v2\ninstance_count: 1\n",
		"slow.yml": "name: slow\nendpoint_name: flowers\nmodel:\n  path: " + onnxtest.Model(t, "slow") +
			"\ninstance_type: Standard_DS3_v2\ninstance_count: 1\nrequest_settings:\n  request_timeout_ms: 1000\n",
	})
	s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
	create := func(name string, flags ...string) result {
		return s.cli(append([]string{"ml", "online-deployment", "create", "-f", filepath.Join(dir, name+".yml"), "-o", "none"}, flags...)...)
	}
	if r := create("blue"); r.code != 1 || !strings.Contains(r.err, "install it with: portico runtime install onnx") {
		t.Errorf("without the library: %d %s", r.code, r.err)
	}
	s.must("runtime", "install", "onnx", "--from", library)
	if r := create("blue", "--all-traffic"); r.code != 0 {
		t.Fatal(r.err)
	}
	key := s.key("flowers")
	if a := s.score("flowers", key, irisRow); a.status != http.StatusOK || !strings.Contains(string(a.body), `"output_label": ["setosa"]`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	a := s.score("flowers", key, `{"input_data": [[1]]}`)
	if a.status != http.StatusFailedDependency || a.header.Get("Ms-Azureml-Model-Error-Statuscode") != "400" ||
		!strings.Contains(string(a.body), `expected shape [?, 4], got [1, 1]`) {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if a := s.ask(http.MethodGet, "flowers", "/v2/models/species/versions/4", key, ""); a.status != http.StatusOK ||
		!strings.Contains(string(a.body), `"platform":"onnxruntime_onnx"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := s.ask(http.MethodGet, "flowers", "/swagger.json", key, ""); a.status != http.StatusOK || !strings.Contains(string(a.body), "X: float32 [?, 4]") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if r := create("slow"); r.code != 0 {
		t.Fatal(r.err)
	}
	// What takes too long is ended, and the instance serves the next one.
	if a = s.score("flowers", key, `{"input_data": [1000000000000]}`, "azureml-model-deployment", "slow"); a.status != http.StatusRequestTimeout {
		t.Errorf("%d %s", a.status, a.body)
	}
	s.eventually("the slow model serves again", func() bool {
		return s.score("flowers", key, `{"input_data": [1]}`, "azureml-model-deployment", "slow").status == http.StatusOK
	})
	// The next request may be answered while the canceled run still ends: the worker takes several.
	s.eventually("the log says that the run was canceled", func() bool {
		logs := s.must("ml", "online-deployment", "get-logs", "-n", "slow", "-e", "flowers")
		return strings.Contains(logs, "portico-onnx: ONNX Runtime") && strings.Contains(logs, "canceled: the caller no longer waits")
	})
	s.kill()
	s.up() // the workers went on, and are taken up again
	s.eventually("the model answers after the server was killed", func() bool {
		return s.score("flowers", key, irisRow).status == http.StatusOK
	})
}
