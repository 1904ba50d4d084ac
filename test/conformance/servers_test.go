package conformance

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
)

// server is a deployment of a custom server, which says of each request what it got. `portico infer` starts none.
type server struct {
	name, scoring, mount string
	first                string // what it answers to the first probes, none of which is a success
	uri                  string // the end of scoring_uri while it has the traffic
	rows                 []row
}

// echoed is how the server tells what it was asked for.
func echoed(method, target string) string {
	return fmt.Sprintf(`~"method": "%s", "target": "%s"`, method, strings.NewReplacer("?", `\?`, "*", `\*`, ".", `\.`).Replace(target))
}

// mounted is a row on where the server finds its model. Where nobody may mount, it stays where it lies.
func mounted(at string) row {
	r := row{name: "mount", method: "GET", path: "/score", want: `~"files": \["words.txt"\]`}
	if os.Geteuid() == 0 {
		r.want = `~"model": "` + at + `", "files": \["words.txt"\]`
	}
	return r
}

var servers = []server{
	{name: "root", scoring: "/", first: "204 302 201", uri: "/", rows: []row{
		{name: "probes", method: "GET", path: "/v1/probed", want: `{"/live": [204, 302, 201, 200], "/ready": [204, 302, 201, 200]}`},
		{name: "the root", path: "/", want: echoed("POST", "/")},
		{name: "/score", body: "{}", want: echoed("POST", "/score")},
		{name: "KServe", path: "/v2/models/m/infer", body: `{"inputs": []}`, want: `~"target": "/v2/models/m/infer", "body": "{\\"inputs\\": \[\]}"`},
		{name: "chat", path: "/v1/chat/completions", body: "{}", want: echoed("POST", "/v1/chat/completions")},
		{name: "any method", method: "PATCH", path: "/v1/x?y=%20z", want: echoed("PATCH", "/v1/x?y=%20z")},
		{name: "another status", path: "/v1/fail", status: 503, want: `{"why": "busy"}`},
		{name: "the answer's header", path: "/v1/x", want: "-", fields: map[string]string{"content-type": "^application/json$",
			"azureml-model-deployment": "^root$", "server": "."}},
		mounted("/var/azureml-app/azureml-models/words/1"),
	}},
	{name: "mounted", scoring: "/v1/models/words:predict", mount: "/var/tfserving-model-mount", uri: "/v1/models/words:predict", rows: []row{
		{name: "the route", path: "/v1/models/words:predict", want: echoed("POST", "/v1/models/words:predict")},
		{name: "escaped", path: "/v1/models/words%3Apredict", want: echoed("POST", "/v1/models/words:predict")},
		{name: "/score", want: echoed("POST", "/v1/models/words:predict")},
		{name: "another path", path: "/v1/models", status: 404, want: "-", door: true},
		{name: "the root", path: "/", status: 404, want: "-", door: true},
		mounted("/var/tfserving-model-mount/words/1"),
	}},
	{name: "below", scoring: "/v1/", uri: "/v1/", rows: []row{
		{name: "below the route", path: "/v1/chat/completions", want: echoed("POST", "/v1/chat/completions")},
		{name: "/score", want: echoed("POST", "/v1/")},
		{name: "beside the route", path: "/v2/models", status: 404, want: "-", door: true},
	}},
}

const routes = `  inference_config:
    liveness_route: {path: /live, port: 8081}
    readiness_route: {path: /ready, port: 8081}
    scoring_route: {path: "%s", port: 8080}
`

// yaml is the deployment's file. Probes have long periods: the server is asked often until one succeeds, and no more then.
func (s server) yaml() string {
	text := `command: python3 server.py --port {port} --probes {port:8081}
code_configuration:
  code: ./src
model: {name: words, version: 1, path: ./words.txt}
environment:
` + fmt.Sprintf(routes, s.scoring) + `environment_variables:
  FIRST: "` + s.first + `"
liveness_probe: {initial_delay: 300, period: 300}
readiness_probe: {initial_delay: 300, period: 300}
`
	if s.mount != "" {
		text += "model_mount_path: " + s.mount + "\n"
	}
	return text
}

func TestCustomServers(t *testing.T) {
	code, err := os.ReadFile("../e2e/testdata/custom/server.py")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"src/server.py": string(code), "words.txt": "one two"}
	g := startGateway(t)
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			g.create(t, s.name, s.yaml(), files)
			check(t, g.at(s.name), script{rows: s.rows})
			uri := g.moveTo(t, s.name)
			if !strings.HasSuffix(uri, "/endpoints/"+endpointName+s.uri) {
				t.Errorf("scoring_uri is %s, want the path %s", uri, s.uri)
			}
			to := target{client: g.client, url: strings.TrimSuffix(uri, s.uri), header: []string{"Authorization", "Bearer " + g.key}}
			to.check(t, row{path: s.uri, want: echoed(http.MethodPost, s.uri)})
		})
	}
	for name, c := range refusedServers {
		t.Run(name, func(t *testing.T) {
			out, err := g.try(t, g.createArgs(t, "refused", c.yaml, files)...)
			if err == nil || !strings.Contains(out, c.want) {
				t.Errorf("%v %s, want %q", err, out, c.want)
			}
		})
	}
}

// moveTo gives a deployment all the traffic and says what the endpoint's scoring_uri is then.
func (s *gatewayServer) moveTo(t *testing.T, deployment string) string {
	t.Helper()
	s.cli(t, "ml", "online-endpoint", "update", "-n", endpointName, "--traffic", deployment+"=100", "-o", "none")
	return strings.TrimSpace(s.cli(t, "ml", "online-endpoint", "show", "-n", endpointName, "--query", "scoring_uri", "-o", "tsv"))
}

// refusedServers are files of which the answer says what is missing or not there.
var refusedServers = map[string]struct{ yaml, want string }{
	"without inference_config": {"command: python3 server.py\ncode_configuration: {code: ./src}\nenvironment: {image: docker.io/library/python}\n", "inferenceConfig lacks livenessRoute"},
	"without a route": {"command: python3 server.py\ncode_configuration: {code: ./src}\nenvironment:\n" +
		strings.Replace(fmt.Sprintf(routes, "/"), "    readiness_route: {path: /ready, port: 8081}\n", "", 1), "lacks readinessRoute"},
	"an image alone": {"environment: {image: docker.io/tensorflow/serving:latest}\n", "without an inferenceConfig"},
	"gRPC": {"command: python3 server.py\ncode_configuration: {code: ./src}\nenvironment_variables: {MIR_MODEL_USE_HTTP2: \"true\"}\nenvironment:\n" +
		fmt.Sprintf(routes, "/"), "MIR_MODEL_USE_HTTP2"},
}
