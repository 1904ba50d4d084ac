package conformance

import (
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// line is a rule of the contract, and where the suite looks at it.
type line struct {
	section, says string
	// by are rows, as SCRIPT/ROW with the wildcards of path.Match; refused scripts as refused/NAME; or names of tests.
	by []string
	// not says what of it is not looked at, and why.
	not string
}

// contract is what Azure documents, or its inference server does, of models behind an endpoint.
var contract = []line{
	{"routes", "GET and HEAD of / are 200 Healthy", []string{"plain/health*"}, ""},
	{"routes", "/score takes GET, POST, OPTIONS", []string{"plain/body as text", "plain/query", "plain/OPTIONS", "plain/PUT"}, ""},
	{"routes", "/swagger.json in versions 2, 2.0, 3, 3.0, 3.1; others are 404", []string{"plain/swagger*"}, ""},
	{"routes", "everything else is 404 or 405 with a message", []string{"plain/no such path", "plain/sub path", "plain/health by POST"}, ""},
	{"routes", "swagger.json, swagger2.json, swagger3.json, swagger3.1.json stand in for what is generated",
		[]string{"named/*", "documents/*", "mixed/own document"}, ""},
	{"routes", "a run without decorators is described as an empty object", []string{"plain/swagger example"}, ""},

	{"loading", "AZUREML_ENTRY_SCRIPT below AML_APP_ROOT; the working directory; main.py where nothing names one",
		[]string{"variables/script", "plain/*", "unnamed/script"}, ""},
	{"loading", "a script that breaks the rules ends the server with status 3", []string{"refused/*"}, ""},
	{"loading", "init that raises: traceback, files of the model folder, status 3", []string{"refused/init raises", "refused/init exits"},
		"the wait for Application Insights: nothing is sent there"},
	{"loading", "run(..., request_headers)", []string{"headers/fields", "refused/only headers"}, ""},
	{"loading", "driver_module", []string{"mixed/driver"}, ""},

	{"input", "run(raw_data) by POST gets the body as text, whatever its type", []string{"plain/body*", "plain/empty body", "plain/content type*",
		"plain/UTF-8", "plain/bad UTF-8", "plain/form"}, ""},
	{"input", "run(raw_data) by GET gets the query as JSON", []string{"plain/*query"}, ""},
	{"input", "@input_schema by POST", []string{"schema/object", "schema/default", "schema/not JSON by type", "schema/no type", "schema/bad JSON",
		"schema/empty", "schema/not an object", "schema/missing"}, ""},
	{"input", "@input_schema by GET", []string{"schema/query", "schema/missing in the query"}, ""},
	{"input", "@rawhttp gets the request, of any method", []string{"raw/*"}, ""},
	{"input", "AMLRequest and AMLResponse under the names of both generations", []string{"raw/POST", "legacy/*"}, ""},

	{"output", "AMLResponse and Flask's Response as they are; from 500 on x-ms-run-function-failed", []string{"plain/AMLResponse*", "flask/*"}, ""},
	{"output", "dict, list, number, bool are JSON; text is quoted; None is {}", []string{"plain/dict", "plain/list", "plain/number", "plain/bool",
		"plain/str is quoted", "plain/json.dumps is quoted", "plain/None"}, ""},
	{"output", "bytes, ndarray and what else has no JSON are 500", []string{"plain/bytes", "plain/set", "plain/object", "arrays/ndarray"}, ""},

	{"errors", "an exception is 500 with a fixed sentence and never its text", []string{"plain/exception", "raw/exception", "schema/wrong *"}, ""},
	{"errors", "SCORING_TIMEOUT_MS, and a TimeoutError of the script", []string{"timeout/too late", "plain/TimeoutError of the script", "settled/too late*"}, ""},
	{"errors", "OPTIONS is 200 and empty, HEAD is 405", []string{"plain/OPTIONS", "schema/OPTIONS", "plain/HEAD"}, ""},
	{"errors", "an id of more than 100 characters is 431", []string{"plain/*id of 10*"}, ""},
	{"errors", "through the front door all of them are 424", []string{"TestGateway"}, ""},
	{"errors", "SystemExit and KeyboardInterrupt end the worker", []string{"plain/SystemExit", "plain/KeyboardInterrupt"}, ""},

	{"headers", "x-request-id, which the script cannot override", []string{"plain/ids are made", "plain/given id", "plain/script cannot forge ids"}, ""},
	{"headers", "x-ms-request-id, x-ms-client-request-id", []string{"plain/client id", "plain/old id*", "plain/ids are made"}, ""},
	{"headers", "x-ms-server-version, which can be left out", []string{"plain/ids are made", "headers/fields"}, ""},
	{"headers", "x-ms-run-fn-exec-ms of a run that succeeded, x-ms-run-function-failed", []string{"plain/dict", "plain/exception"}, ""},
	{"headers", "TraceId comes back", []string{"plain/trace id"}, ""},
	{"headers", "AML_CORS_ORIGINS", []string{"cors/*", "settled/allowed", "settled/not allowed", "settled/preflight"}, ""},

	{"MLflow", "routes: /score, and /invocations, /ping, /health, /version", []string{"sklearn/Azure: split", "sklearn/MLflow: *"}, ""},
	{"MLflow", "input_data is required, params may stand beside it", []string{"sklearn/Azure: no input_data", "sklearn/Azure: params*", "python/*parameter"}, ""},
	{"MLflow", "exactly one of dataframe_split, dataframe_records, instances, inputs; payloads of language models",
		[]string{"sklearn/MLflow: split", "sklearn/MLflow: records", "sklearn/MLflow: in*", "sklearn/MLflow: two formats", "bare/MLflow: *"}, ""},
	{"MLflow", "tables: split; without a signature columns, index and data", []string{"sklearn/Azure: split*", "bare/split*", "bare/records"}, ""},
	{"MLflow", "tensors: a list, or an object of them by name", []string{"tensors/*", "bare/rows", "bare/named tensors", "sklearn/Azure: columns"}, ""},
	{"MLflow", "texts: one, several, objects of them", []string{"bare/text", "bare/texts", "bare/object of texts"},
		"models of transformers and its like, whose flavors keep a list of texts: workers/python/tests has them"},
	{"MLflow", "the answer is the bare predictions; of mlflow models serve {\"predictions\": ...}", []string{"sklearn/Azure: split", "sklearn/MLflow: split"}, ""},
	{"MLflow", "the signature is enforced", []string{"sklearn/Azure: a column is missing", "sklearn/Azure: text for a number", "tensors/another shape",
		"sklearn/MLflow: a column is missing"}, ""},
	{"MLflow", "CSV is MLflow's alone", []string{"sklearn/MLflow: CSV", "sklearn/Azure: another type"}, ""},
	{"MLflow", "described by signature and example", []string{"sklearn/described*"}, ""},
	{"MLflow", "no code and no environment are needed", []string{"TestMLflow"}, "with a script an environment is required: internal/online looks at that"},
	{"MLflow", "model_inputs and model_outputs are collected", nil, "test/e2e collects data; it takes more than a request and its answer"},
	{"MLflow", "MLFLOW_MODEL_FOLDER, AZUREML_ENTRY_SCRIPT=mlflow_score_script.py", nil, "the inside of Azure's image; no model sees it"},

	{"custom", "inference_config with three routes is required", []string{"TestCustomServers"}, ""},
	{"custom", "each route has a path and a port; 200 alone is a probe's success", []string{"root/probes"}, ""},
	{"custom", "the scoring route is the path of scoring_uri", []string{"TestCustomServers", "mounted/the route", "mounted/another path", "below/*"}, ""},
	{"custom", "the scoring route / has every path below it", []string{"root/the root", "root//score", "root/KServe", "root/chat", "root/any method"}, ""},
	{"custom", "the model is mounted at /var/azureml-app/azureml-models/NAME/VERSION, or below model_mount_path", []string{"root/mount", "mounted/mount"},
		"the path without root: a process sees the machine's files then"},
	{"custom", "images of public and the workspace's registries", []string{"TestCustomServers"}, "images are run where podman is (test/e2e has one); here one that does not say where its server answers is refused"},
	{"custom", "gRPC by MIR_MODEL_USE_HTTP2", []string{"TestCustomServers"}, "not implemented: the front door speaks HTTP/1.1; the variable is refused"},
	{"custom", "at a desk", nil, "portico infer runs scripts and models; a server of your own is started by its own command"},
	{"Triton", "type triton_model, a folder NAME/VERSION/model.onnx, no script, no environment", []string{"TestTriton"}, "models of other frameworks are refused"},
	{"Triton", "config.pbtxt", []string{"kserve/more than max_batch_size", "TestTriton"}, "what else it may hold: internal/onnx and internal/onnxserve"},
	{"Triton", "KServe v2 by tritonclient", []string{"kserve/*", "TestTriton"}, "Triton's own extensions beside binary tensors: statistics, repository control, shared memory"},
	{"Triton", "not at a desk, not in the studio's test tab", []string{"TestTriton"}, "portico infer serves it"},
	{"images", "curated images are refreshed; who wants that deploys again", nil, "curated environments are packages; a version with an image keeps the one that it got first"},
}

// TestContract sees that what the table names is there.
func TestContract(t *testing.T) {
	known := map[string]bool{}
	add := func(name string, rows []row) {
		for _, r := range rows {
			if known[name+"/"+r.name] {
				t.Errorf("two rows are %s/%s", name, r.name)
			}
			known[name+"/"+r.name] = true
		}
	}
	for _, s := range scripts {
		add(s.name, s.rows)
	}
	for name, rows := range mlflowModels {
		add(name, rows)
	}
	for _, s := range servers {
		add(s.name, s.rows)
	}
	add("kserve", kserve)
	add("settled", settled)
	for name := range refused {
		known["refused/"+name] = true
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(text, -1) {
			known[string(found[1])] = true
		}
	}
	for _, l := range contract {
		if len(l.by) == 0 && l.not == "" {
			t.Errorf("%s: %s: neither looked at nor a reason", l.section, l.says)
		}
		for _, pattern := range l.by {
			found := slices.ContainsFunc(slices.Collect(maps.Keys(known)), func(name string) bool {
				ok, err := path.Match(pattern, name)
				return ok && err == nil
			})
			if !found {
				t.Errorf("%s: %s: there is no %s", l.section, l.says, pattern)
			}
		}
	}
}
