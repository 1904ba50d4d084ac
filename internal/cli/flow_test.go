package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"portico/internal/arm"
	"portico/internal/artifact"
	"portico/internal/online"
)

func equalLines(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got  %s\n want %s", what, strings.Join(got, "\n      "), strings.Join(want, "\n      "))
	}
}

func (o outcome) json(t *testing.T, out any) {
	t.Helper()
	if err := json.Unmarshal([]byte(o.out), out); err != nil {
		t.Fatalf("%v in %s", err, o.out)
	}
}

func TestEndpointLife(t *testing.T) {
	f := newFakeServer(t)
	file := filepath.Join(f.dir, "endpoint.yml")
	write(t, file, "name: iris\ntags: {team: a}\n")

	var shown endpointFile
	f.must("ml", "online-endpoint", "create", "-f", file, "--set", "tags.stage=prod").json(t, &shown)
	if shown.Name != "iris" || shown.ProvisioningState != "Succeeded" || shown.Tags["stage"] != "prod" ||
		shown.Tags["team"] != "a" {
		t.Errorf("got %+v", shown)
	}
	equalLines(t, "create", f.sent("PUT"), "PUT /onlineEndpoints/iris")
	put := f.find("PUT /onlineEndpoints/iris")
	if put.header.Get("If-Match") != "" || put.header.Get("User-Agent") != "portico/test" ||
		put.header.Get("X-Ms-Client-Request-Id") == "" {
		t.Errorf("headers %v", put.header)
	}

	f.put("/onlineEndpoints/iris/deployments/blue", map[string]any{})
	f.put("/onlineEndpoints/iris/deployments/green", map[string]any{})
	f.must("ml", "online-endpoint", "update", "-n", "iris", "--traffic", "blue=90 green=10").json(t, &shown)
	if shown.Traffic["blue"] != 90 || shown.Traffic["green"] != 10 || shown.Tags["team"] != "a" {
		t.Errorf("after --traffic: %+v", shown)
	}
	if got := f.find("PUT /onlineEndpoints/iris").header.Get("If-Match"); got == "" {
		t.Error("an update does not say which version it read")
	}
	// As az takes it: words after a list flag belong to it.
	f.must("ml", "online-endpoint", "update", "-n", "iris", "--traffic", "blue=100", "green=0").json(t, &shown)
	if shown.Traffic["blue"] != 100 || shown.Traffic["green"] != 0 {
		t.Errorf("after a split list: %+v", shown.Traffic)
	}
	// Running the set-up script again keeps the traffic that the file does not name.
	f.must("ml", "online-endpoint", "create", "-f", file).json(t, &shown)
	if shown.Traffic["blue"] != 100 {
		t.Errorf("create took the endpoint out of service: %+v", shown.Traffic)
	}
	// A tag goes with null; the others stay.
	var again endpointFile
	f.must("ml", "online-endpoint", "update", "-n", "iris", "--set", "tags.team=null", "description=x").json(t, &again)
	if _, there := again.Tags["team"]; there || again.Description != "x" || again.Traffic["blue"] != 100 {
		t.Errorf("got %+v", again)
	}

	if o := f.portico("ml", "online-endpoint", "delete", "-n", "iris"); o.code != ExitUsage ||
		!strings.Contains(o.err, "--yes") {
		t.Errorf("delete without --yes: %+v", o)
	}
	f.must("ml", "online-endpoint", "delete", "-n", "iris", "-y")
	if o := f.portico("ml", "online-endpoint", "show", "-n", "iris"); o.code != ExitNotFound || o.out != "" ||
		!strings.Contains(o.err, "ResourceNotFound") {
		t.Errorf("show after delete: %+v", o)
	}
}

func TestSomebodyElsesChangeIsKept(t *testing.T) {
	f := newFakeServer(t)
	f.put("/onlineEndpoints/iris", map[string]any{"traffic": map[string]any{"blue": 100}})
	f.hook = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			f.etag++
			f.resources[strings.ToLower(wsPath+"/onlineEndpoints/iris")]["etag"] = `"other"`
		}
		return false
	}
	o := f.portico("ml", "online-endpoint", "update", "-n", "iris", "--traffic", "green=100")
	if o.code != ExitFailed || !strings.Contains(o.err, "PreconditionFailed") {
		t.Errorf("got %+v", o)
	}
}

// deploymentDir writes a deployment with code, model and environment of its own.
func deploymentDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "src", "score.py"), "def init(): pass\ndef run(d): return d\n")
	write(t, filepath.Join(dir, "src", "lib", "util.py"), "x = 1\n")
	write(t, filepath.Join(dir, "src", "__pycache__", "score.pyc"), "compiled")
	write(t, filepath.Join(dir, "src", "notes.tmp"), "left out")
	write(t, filepath.Join(dir, "src", ".amlignore"), "# comment\n*.tmp\n")
	write(t, filepath.Join(dir, "model", "weights.bin"), strings.Repeat("w", 1000))
	write(t, filepath.Join(dir, "conda.yaml"), "name: x\ndependencies: [python=3.11]\n")
	write(t, filepath.Join(dir, "blue.yml"), `
name: blue
endpoint_name: iris
model: {path: ./model}
code_configuration: {code: ./src, scoring_script: score.py}
environment: {conda_file: ./conda.yaml}
instance_type: Standard_DS3_v2
`)
	return dir
}

func TestDeploymentCreateUploadsOnce(t *testing.T) {
	f := newFakeServer(t)
	f.put("/onlineEndpoints/iris", map[string]any{"traffic": map[string]any{}})
	dir := deploymentDir(t)
	args := []string{"ml", "online-deployment", "create", "-f", filepath.Join(dir, "blue.yml"), "--all-traffic"}
	first := f.must(args...)
	var shown struct {
		Endpoint string `json:"endpoint_name"`
		State    string `json:"provisioning_state"`
		Model    string `json:"model"`
	}
	first.json(t, &shown)
	if shown.Endpoint != "iris" || shown.State != "Succeeded" || !strings.HasPrefix(shown.Model,
		"azureml:/subscriptions/") {
		t.Errorf("got %+v", shown)
	}
	blobs := sortedKeys(f.blobs)
	want := []string{"/blobs/upload-1/src/.amlignore", "/blobs/upload-1/src/lib/util.py",
		"/blobs/upload-1/src/score.py", "/blobs/upload-2/model/weights.bin"}
	equalLines(t, "uploaded", blobs, want...)
	if !strings.Contains(first.err, "Uploaded src: 3 files") || !strings.Contains(first.err, "Deployment blue: Succeeded") {
		t.Errorf("progress is %q", first.err)
	}
	puts := f.sent("PUT")
	puts = slices.DeleteFunc(puts, func(s string) bool { return strings.HasPrefix(s, "PUT /blobs") })
	code, model := "/codes/"+hashOf(t, filepath.Join(dir, "src"))+"/versions/1",
		"/models/"+hashOf(t, filepath.Join(dir, "model"))+"/versions/1"
	if len(puts) != 5 || puts[0] != "PUT "+code || !strings.HasPrefix(puts[1],
		"PUT /environments/CliV2AnonymousEnvironment/versions/") ||
		puts[2] != "PUT "+model || puts[3] != "PUT /onlineEndpoints/iris/deployments/blue" ||
		puts[4] != "PUT /onlineEndpoints/iris" {
		t.Errorf("puts %q", puts)
	}
	var asset arm.Asset
	if err := json.Unmarshal([]byte(f.find("PUT "+code).body), &asset); err != nil ||
		asset.Properties.CodeURI != f.url+"/blobs/upload-1/src" || !asset.Properties.IsAnonymous {
		t.Errorf("code is registered as %+v (%v)", asset.Properties, err)
	}
	var sent arm.Deployment
	if err := json.Unmarshal([]byte(f.find("PUT /onlineEndpoints/iris/deployments/blue").body), &sent); err != nil {
		t.Fatal(err)
	}
	if text(sent.Properties.Model) != wsPath+model || sent.Properties.CodeConfiguration.CodeID != wsPath+code {
		t.Errorf("the deployment names %+v", sent.Properties)
	}
	var e arm.Endpoint
	if err := json.Unmarshal([]byte(f.find("PUT /onlineEndpoints/iris").body), &e); err != nil ||
		e.Properties.Traffic["blue"] != 100 {
		t.Errorf("--all-traffic put %+v (%v)", e.Properties.Traffic, err)
	}

	f.must(args...)
	if len(f.blobs) != len(blobs) || f.uploads != 2 {
		t.Errorf("the second run uploaded again: %d uploads", f.uploads)
	}
	write(t, filepath.Join(dir, "src", "score.py"), "def init(): pass\ndef run(d): return 2\n")
	f.must(args...)
	if f.uploads != 3 {
		t.Errorf("changed code was not uploaded: %d uploads", f.uploads)
	}
	// Under the name of this code lies something else, as the server's digest tells: it is not used silently.
	for _, doc := range f.resources {
		if p, ok := doc["properties"].(map[string]any); ok && p["codeUri"] != nil {
			p["digest"] = artifact.DigestOf([]artifact.File{{Path: "score.py"}})
		}
	}
	f.must(args...)
	if f.uploads != 4 {
		t.Errorf("another's code was used in place of one's own: %d uploads", f.uploads)
	}
}

func hashOf(t *testing.T, dir string) string {
	t.Helper()
	tr, err := scanTree(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return tr.hash
}

// TestNothingIsSentForALocalMistake runs every mistake that can be seen on this machine and expects no change at the
// server: exit code 2 and no PUT or POST.
func TestNothingIsSentForALocalMistake(t *testing.T) {
	f := newFakeServer(t)
	f.put("/onlineEndpoints/iris", map[string]any{})
	dir := deploymentDir(t)
	blue := filepath.Join(dir, "blue.yml")
	create := func(more ...string) []string {
		return append([]string{"ml", "online-deployment", "create", "-f", blue}, more...)
	}
	write(t, filepath.Join(dir, "empty", "sub", "__pycache__", "x.pyc"), "")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"missing file":    {[]string{"ml", "online-deployment", "create", "-f", "/nowhere.yml"}, "cannot read --file"},
		"no file":         {[]string{"ml", "online-deployment", "create"}, "--file is required"},
		"missing script":  {create("--set", "code_configuration.scoring_script=run.py"), "run.py is not a file in"},
		"missing code":    {create("--set", "code_configuration.code=./nowhere"), "nowhere is not a folder"},
		"missing model":   {create("--set", "model.path=./nowhere"), "nowhere does not exist"},
		"missing conda":   {create("--set", "environment.conda_file=./nowhere"), "nowhere is not a file"},
		"no model path":   {create("--set", "model.path="), "model.path is required"},
		"unknown key":     {create("--set", "instance_cuont=2"), "did you mean instance_count"},
		"all and no wait": {create("--all-traffic", "--no-wait"), "cannot be combined"},
		"bad output":      {create("-o", "jsn"), "did you mean json"},
		"bad query":       {create("--query", "[?"), "JMESPath"},
		"stray word":      {create("now"), `unexpected argument "now"`},
		"unknown flag":    {create("--nope"), "unknown flag: --nope"},
		"bad traffic": {[]string{"ml", "online-endpoint", "update", "-n", "iris", "--traffic", "blue"},
			"is not NAME=PERCENT"},
		"nothing to change": {[]string{"ml", "online-endpoint", "update", "-n", "iris"}, "nothing to change"},
		"no name":           {[]string{"ml", "online-endpoint", "show"}, "name the endpoint"},
		"delete needs name": {[]string{"ml", "online-endpoint", "delete", "-y"}, "--name is required"},
		"invoke needs body": {[]string{"ml", "online-endpoint", "invoke", "-n", "iris"}, "--request-file"},
		"invoke both": {[]string{"ml", "online-endpoint", "invoke", "-n", "iris", "-r", "x", "--input", "y"},
			"one of the two"},
		"invoke no file": {[]string{"ml", "online-endpoint", "invoke", "-n", "iris", "-r", "/nowhere"},
			"cannot read --request-file"},
		"bad lines": {[]string{"ml", "online-deployment", "get-logs", "-n", "blue", "-e", "iris", "-l", "0"},
			"--lines must be"},
		"bad container": {[]string{"ml", "online-deployment", "get-logs", "-n", "blue", "-e", "iris", "-c", "x"},
			"--container"},
		"bad key type": {[]string{"ml", "online-endpoint", "regenerate-keys", "-n", "iris", "--key-type", "x"},
			"--key-type"},
		"bad revision": {[]string{"ml", "online-deployment", "rollback", "-n", "blue", "-e", "iris", "--revision",
			"0"}, "--revision"},
		"bad scope":          {[]string{"ml", "online-endpoint", "list", "-w", "a/b"}, "workspace name"},
		"model without path": {[]string{"ml", "model", "create", "-n", "x"}, "path is required"},
		"model without name": {[]string{"ml", "model", "create", "-p", filepath.Join(dir, "model")}, "--name is required"},
		"empty model": {[]string{"ml", "model", "create", "-n", "x", "-p", filepath.Join(dir, "empty")},
			"holds no file"},
		"label unknown":   {[]string{"ml", "model", "show", "-n", "x", "-l", "prod"}, "--label latest"},
		"unknown command": {[]string{"ml", "online-endpont"}, "did you mean online-endpoint?"},
	} {
		t.Run(name, func(t *testing.T) {
			o := f.portico(c.args...)
			if o.code != ExitUsage || !strings.Contains(o.err, c.want) || o.out != "" {
				t.Errorf("exit %d, stderr %q, stdout %q; want %q", o.code, o.err, o.out, c.want)
			}
		})
	}
	equalLines(t, "changes", f.sent("PUT", "POST", "DELETE", "PATCH"))
}

func TestFailedOperationTellsCauseAndLastLines(t *testing.T) {
	f := newFakeServer(t)
	f.put("/onlineEndpoints/iris", map[string]any{})
	f.operation = func(n int) arm.OperationStatus {
		stages := []arm.Stage{
			{Name: "EnvironmentBuild", State: "Succeeded", StartTime: "2026-11-23T01:00:00Z",
				EndTime: "2026-11-23T01:00:01.5Z"},
			{Name: "UserContainerStart", State: "InProgress"},
		}
		if n < 3 {
			return arm.OperationStatus{Status: "InProgress", Properties: &arm.OperationProperties{Stages: stages}}
		}
		stages[1] = arm.Stage{Name: "UserContainerStart", State: "Failed", StartTime: "2026-11-23T01:00:02Z",
			EndTime: "2026-11-23T01:00:05Z"}
		target := wsPath + "/onlineEndpoints/iris/deployments/blue"
		return arm.OperationStatus{Status: "Failed", Properties: &arm.OperationProperties{Stages: stages},
			Error: &arm.ErrorDetail{
				Code: "ResourceNotReady", Message: "init raised ValueError: no weights (exit code 3)", Target: &target,
				Details: []arm.ErrorDetail{{Code: "LastLines", Message: "loading\nValueError: no weights"}},
			}}
	}
	o := f.portico("ml", "online-deployment", "create", "-f", filepath.Join(deploymentDir(t), "blue.yml"), "--all-traffic")
	if o.code != ExitFailed || o.out != "" {
		t.Errorf("exit %d, stdout %q", o.code, o.out)
	}
	for _, want := range []string{
		"EnvironmentBuild     Succeeded  1.5s", "UserContainerStart ...", "UserContainerStart   Failed     3s",
		"Deployment blue: Failed",
		"error: (ResourceNotReady) init raised ValueError: no weights (exit code 3)", "target: " + wsPath,
		"loading\n    ValueError: no weights",
	} {
		if !strings.Contains(o.err, want) {
			t.Errorf("stderr lacks %q:\n%s", want, o.err)
		}
	}
	if slices.Contains(f.sent("PUT"), "PUT /onlineEndpoints/iris") {
		t.Error("traffic was moved to a failed deployment")
	}
}

func TestInterruptSaysThatItGoesOn(t *testing.T) {
	f := newFakeServer(t)
	f.operation = func(int) arm.OperationStatus { return arm.OperationStatus{Status: "InProgress"} }
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	ctx, interrupt := context.WithCancel(t.Context())
	f.hook = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "mfeOperationsStatus") && f.polls[r.URL.Path] == 2 {
			interrupt()
		}
		return false
	}
	var out, errs bytes.Buffer
	app := &App{In: strings.NewReader(""), Out: &out, Err: &errs, Getenv: func(k string) string {
		return map[string]string{envDataDir: f.dir}[k]
	}}
	code := app.Run(ctx, []string{"ml", "online-endpoint", "create", "-n", "iris"})
	if code != ExitInterrupted || !strings.Contains(errs.String(), "goes on") ||
		!strings.Contains(errs.String(), "portico ml online-endpoint show -n iris") {
		t.Errorf("exit %d: %s", code, &errs)
	}
}

func TestNoWait(t *testing.T) {
	f := newFakeServer(t)
	f.operation = func(int) arm.OperationStatus { t.Error("the operation was polled"); return arm.OperationStatus{} }
	o := f.must("ml", "online-endpoint", "create", "-n", "iris", "--no-wait")
	if o.out != "" || !strings.Contains(o.err, "Accepted") {
		t.Errorf("got %+v", o)
	}
}

// TestServerRestartsWhileWaiting answers 503 to a few polls, as a restarting server does.
func TestServerRestartsWhileWaiting(t *testing.T) {
	f := newFakeServer(t)
	away := 0
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "mfeOperationsStatus") && away < 2 {
			away++
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	}
	f.must("ml", "online-endpoint", "create", "-n", "iris")
	if away != 2 {
		t.Errorf("asked %d times", away)
	}
}

func TestInvoke(t *testing.T) {
	f := newFakeServer(t)
	f.put("/onlineEndpoints/iris", map[string]any{"scoringUri": f.url + "/endpoints/iris/score"})
	file := filepath.Join(t.TempDir(), "request.json")
	write(t, file, `{"a":1}`)
	invoke := func(more ...string) []string {
		return append([]string{"ml", "online-endpoint", "invoke", "-n", "iris"}, more...)
	}

	if o := f.must(invoke("-r", file)...); o.out != "{\"A\":1}\n" || o.err != "" {
		t.Errorf("file: %+v", o)
	}
	if o := f.with("piped", nil, invoke("-r", "-")...); o.out != "PIPED\n" {
		t.Errorf("stdin: %+v", o)
	}
	if o := f.must(invoke("--input", "text", "--deployment-name", "green", "-i")...); o.out != "TEXT\n" ||
		!strings.Contains(o.err, "azureml-model-deployment: green") {
		t.Errorf("string: %+v", o)
	}
	if got := f.find("POST /endpoints/iris/score").header.Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %q", got)
	}
	o := f.portico(invoke("--input", "boom")...)
	if o.code != ExitFailed || o.out != "" {
		t.Errorf("a failed answer: %+v", o)
	}
	for _, want := range []string{"424 Failed Dependency", "ms-azureml-model-error-reason: model_error",
		"ms-azureml-model-error-statuscode: 500", "x-request-id: req-1", "division by zero"} {
		if !strings.Contains(o.err, want) {
			t.Errorf("stderr lacks %q: %s", want, o.err)
		}
	}
	f.put("/onlineEndpoints/new", map[string]any{})
	if o := f.portico("ml", "online-endpoint", "invoke", "-n", "new", "--input", "{}"); o.code != ExitFailed ||
		!strings.Contains(o.err, "no scoring URL yet") {
		t.Errorf("got %+v", o)
	}
}

func TestListFollowsPagesAndFormats(t *testing.T) {
	f := newFakeServer(t)
	for i := range 5 {
		f.put(fmt.Sprintf("/onlineEndpoints/e%d", i), map[string]any{"authMode": "Key",
			"traffic": map[string]any{"blue": 60, "green": 40}})
	}
	if o := f.must("ml", "online-endpoint", "list", "--query", "[].name", "-o", "tsv"); o.out != "e0\ne1\ne2\ne3\ne4\n" {
		t.Errorf("tsv %q", o.out)
	}
	o := f.must("ml", "online-endpoint", "list", "-o", "table")
	lines := strings.Split(o.out, "\n")
	if len(lines) != 8 || strings.Join(strings.Fields(lines[0]), " ") != "Name State Auth Traffic Mirror ScoringUri" ||
		strings.Join(strings.Fields(lines[2]), " ") != "e0 Succeeded key blue=60 green=40" {
		t.Errorf("table\n%s", o.out)
	}
	if o := f.must("ml", "online-endpoint", "show", "-n", "e1", "-o", "none"); o.out != "" {
		t.Errorf("none printed %q", o.out)
	}
	if o := f.must("ml", "online-endpoint", "get-credentials", "-n", "e1", "--query", "primaryKey", "-o",
		"tsv"); o.out != "primary\n" {
		t.Errorf("key %q", o.out)
	}
	first, second := f.must("ml", "online-endpoint", "show", "-n", "e1"), f.must("ml", "online-endpoint", "show", "-n",
		"e1")
	if first.out != second.out {
		t.Error("two reads of the same thing differ")
	}
}

func TestLogs(t *testing.T) {
	f := newFakeServer(t)
	o := f.must("ml", "online-deployment", "get-logs", "-n", "blue", "-e", "iris", "-l", "7", "-c",
		"storage-initializer", "--instance", "blue-1-a")
	if o.out != "line 1\nline 2\n" {
		t.Errorf("got %q", o.out)
	}
	var ask arm.LogRequest
	if err := json.Unmarshal([]byte(f.find("POST /onlineEndpoints/iris/deployments/blue/getLogs").body),
		&ask); err != nil ||
		*ask.Tail != 7 || ask.ContainerType != "StorageInitializer" || ask.Instance != "blue-1-a" {
		t.Errorf("asked %+v (%v)", ask, err)
	}
}

func TestModelVersions(t *testing.T) {
	f := newFakeServer(t)
	file := filepath.Join(t.TempDir(), "my model.bin")
	write(t, file, "weights")
	var m modelFile
	f.must("ml", "model", "create", "-n", "iris", "-p", file).json(t, &m)
	if m.Version != "1" || !strings.HasSuffix(m.Path, "/my%20model.bin") ||
		string(f.blobs["/blobs/upload-1/my model.bin"]) != "weights" {
		t.Errorf("got %+v, blobs %v", m, sortedKeys(f.blobs))
	}
	// The container knows the latest version; the same bytes are the same version.
	f.put("/models/iris", map[string]any{"latestVersion": "1", "nextVersion": "2"})
	f.must("ml", "model", "create", "-n", "iris", "-p", file).json(t, &m)
	if m.Version != "1" || f.uploads != 1 {
		t.Errorf("the same bytes became version %s, %d uploads", m.Version, f.uploads)
	}
	write(t, file, "better weights")
	f.must("ml", "model", "create", "-n", "iris", "-p", file).json(t, &m)
	if m.Version != "2" || f.uploads != 2 {
		t.Errorf("other bytes became version %s, %d uploads", m.Version, f.uploads)
	}
	f.must("ml", "model", "archive", "-n", "iris", "-v", "1")
	f.must("ml", "model", "show", "-n", "iris", "-v", "1").json(t, &m)
	if !*m.Archived {
		t.Error("archive did nothing")
	}
	f.must("ml", "model", "restore", "-n", "iris", "-v", "1")
	if o := f.must("ml", "model", "show", "-n", "iris", "--label", "latest", "--query", "version", "-o",
		"tsv"); o.out != "1\n" {
		t.Errorf("latest is %q", o.out)
	}
}

func TestLargeFilesGoInBlocks(t *testing.T) {
	f := newFakeServer(t)
	file := filepath.Join(t.TempDir(), "big.bin")
	content := bytes.Repeat([]byte("0123456789abcdef"), (2*blockBytes+blockBytes/2)/16)
	content = append(content, "the end"...)
	write(t, file, string(content))
	o := f.must("ml", "model", "create", "-n", "big", "-p", file)
	if got := f.blobs["/blobs/upload-1/big.bin"]; !bytes.Equal(got, content) {
		t.Errorf("%d of %d bytes arrived as sent", len(got), len(content))
	}
	if n := len(f.blocks["/blobs/upload-1/big.bin"]); n != 3 {
		t.Errorf("%d blocks", n)
	}
	if !strings.Contains(o.err, "Uploaded big.bin: 1 file, 20.0 MiB") {
		t.Errorf("progress %q", o.err)
	}
}

func TestRefusalsAreShownWhole(t *testing.T) {
	f := newFakeServer(t)
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		e := online.Join([]*online.Error{
			online.Errorf(online.CodeNotImplemented, "properties.authMode",
				"authMode AADToken is not implemented yet; use Key"),
			online.Errorf(online.CodeBadArgument, "properties.traffic", "traffic adds up to 90; it must be 0 or 100"),
		})
		f.fail(w, e)
		return true
	}
	o := f.portico("ml", "online-endpoint", "create", "-n", "iris", "--auth-mode", "aad_token")
	if o.code != ExitFailed {
		t.Errorf("exit %d", o.code)
	}
	for _, want := range []string{"2 fields are not valid",
		"- (NotImplemented) authMode AADToken is not implemented yet; use Key", "target: properties.traffic",
		"adds up to 90"} {
		if !strings.Contains(o.err, want) {
			t.Errorf("stderr lacks %q: %s", want, o.err)
		}
	}
}

func TestFindingTheServer(t *testing.T) {
	f := newFakeServer(t)
	list := []string{"ml", "online-endpoint", "list", "-o", "tsv"}
	if o := f.with("", map[string]string{envDataDir: t.TempDir()}, list...); o.code != ExitUnreachable ||
		!strings.Contains(o.err, "portico serve") {
		t.Errorf("no server: %+v", o)
	}
	if o := f.with("", map[string]string{envDataDir: "", envURL: f.url}, list...); o.code != ExitUsage ||
		!strings.Contains(o.err, envToken) {
		t.Errorf("no token: %+v", o)
	}
	byURL := map[string]string{envDataDir: "", envURL: f.url + "/", envToken: fakeToken,
		envCAFile: filepath.Join(f.dir, "ca.pem")}
	if o := f.with("", byURL, list...); o.code != 0 {
		t.Errorf("by URL: %+v", o)
	}
	byURL[envCAFile] = ""
	if o := f.with("", byURL, list...); o.code != ExitUnreachable || !strings.Contains(o.err, envCAFile) {
		t.Errorf("unknown authority: %+v", o)
	}
	byURL[envCAFile], byURL[envToken] = filepath.Join(f.dir, "ca.pem"), "wrong"
	if o := f.with("", byURL, list...); o.code != ExitFailed || !strings.Contains(o.err, "Unauthorized") ||
		strings.Contains(o.err, "wrong") {
		t.Errorf("bad token: %+v", o)
	}
	if o := f.with("", map[string]string{envDataDir: ""}, append(list, "--data-dir", f.dir)...); o.code != 0 {
		t.Errorf("--data-dir: %+v", o)
	}
	dead := t.TempDir()
	for _, name := range []string{"admin.token", "ca.pem"} {
		text, err := os.ReadFile(filepath.Join(f.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dead, name), string(text))
	}
	write(t, filepath.Join(dead, "server.json"), `{"management_url":"https://127.0.0.1:1","ca_file":"`+filepath.Join(dead, "ca.pem")+`"}`)
	start := time.Now()
	if o := f.with("", map[string]string{envDataDir: dead}, list...); o.code != ExitUnreachable ||
		!strings.Contains(o.err, "127.0.0.1:1") {
		t.Errorf("dead server: %+v", o)
	}
	if time.Since(start) > 30*time.Second {
		t.Error("a dead server is noticed too late")
	}
}

func TestScopeAndDefaults(t *testing.T) {
	f := newFakeServer(t)
	wanted := func(env map[string]string, want string, args ...string) {
		t.Helper()
		if o := f.with("", env, append([]string{"ml", "online-endpoint", "list"}, args...)...); o.code != 0 {
			t.Fatalf("%+v", o)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if got := f.requests[len(f.requests)-1].path; got != want+"/onlineEndpoints" {
			t.Errorf("%v: asked %s, want %s", args, got, want)
		}
	}
	path := func(sub, group, ws string) string {
		return arm.FormatWorkspace(online.WorkspaceID{Subscription: sub, ResourceGroup: group, Name: ws})
	}
	const sub = "00000000-0000-0000-0000-000000000001"
	wanted(nil, wsPath)
	write(t, filepath.Join(f.dir, "config.yaml"), "workspace: configured\n")
	wanted(nil, path(sub, "portico", "configured"))
	f.must("config", "set", "workspace=mine", "group=team")
	wanted(nil, path(sub, "team", "mine"))
	wanted(map[string]string{"PORTICO_WORKSPACE": "env"}, path(sub, "team", "env"))
	wanted(nil, path("s2", "g2", "w2"), "-w", "w2", "-g", "g2", "--subscription", "s2")
	f.must("config", "unset", "workspace", "group")
	wanted(nil, path(sub, "portico", "configured"))

	f.put("/onlineEndpoints/iris", map[string]any{})
	f.must("config", "set", "endpoint=iris", "workspace=default")
	f.must("ml", "online-endpoint", "show")
	if o := f.portico("config", "set", "worksapce=x"); o.code != ExitUsage ||
		!strings.Contains(o.err, "did you mean workspace?") {
		t.Errorf("got %+v", o)
	}
	if o := f.must("config", "show"); !strings.Contains(o.out, "isolation_in_force  no user ids  machine") {
		t.Errorf("the running server was not asked:\n%s", o.out)
	}
	var all shownConfig
	f.must("config", "show", "-o", "json", "--management", "127.0.0.1:0").json(t, &all)
	if len(all.InstanceTypes) == 0 || all.Defaults["endpoint"] != "iris" || all.Settings[1].Source != "flag --management" {
		t.Errorf("config show -o json: %+v", all)
	}
	o := f.with("", map[string]string{envDataDir: filepath.Join(f.dir, "none"), "PORTICO_LOG_LEVEL": "debug"}, "config",
		"show")
	if o.code != 0 || !strings.Contains(o.err, "next `portico serve`") || !strings.Contains(o.out,
		"environment PORTICO_LOG_LEVEL") {
		t.Errorf("without a server: %+v", o)
	}
}

func TestCompletionNamesResources(t *testing.T) {
	f := newFakeServer(t)
	f.put("/onlineEndpoints/iris", map[string]any{})
	f.put("/onlineEndpoints/iris/deployments/blue", map[string]any{})
	if o := f.must("__complete", "ml", "online-endpoint", "show", "-n", ""); !strings.HasPrefix(o.out, "iris\n") {
		t.Errorf("got %q", o.out)
	}
	if o := f.must("__complete", "ml", "online-deployment", "show", "-e", "iris", "-n", ""); !strings.HasPrefix(o.out,
		"blue\n") {
		t.Errorf("got %q", o.out)
	}
	if o := f.must("completion", "bash"); !strings.Contains(o.out, "portico") {
		t.Error("no bash completion")
	}
}
