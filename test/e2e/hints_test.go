package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// carelessScript has the usual mistakes, one a line.
const carelessScript = `import json

def init():
    pass

def run(raw_data):
    try:
        if raw_data == "array":
            return model.predict(raw_data)
        return json.dumps({"a": 1})
    except Exception as error:
        return {"error": str(error)}
`

// TestHints: who deploys a script with the usual mistakes reads of them at once, and later in the log.
func TestHints(t *testing.T) {
	s := shared(t)
	dir := files(t, map[string]string{"endpoint.yml": endpointYAML("careless"), "conda.yaml": emptyConda, "src/score.py": carelessScript,
		"deployment.yml": deploymentYAML("careless", "blue", "")})
	s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
	r := s.cli("ml", "online-deployment", "create", "-f", filepath.Join(dir, "deployment.yml"), "-o", "none")
	if r.code != 0 {
		t.Fatalf("%d %s", r.code, r.err)
	}
	log := s.must("ml", "online-deployment", "get-logs", "-e", "careless", "-n", "blue")
	for _, hint := range []string{"line 9: run() returns a numpy array", "line 10: run() returns text that is JSON already",
		"line 11: run() answers with status 200 when Exception was caught"} {
		if !strings.Contains(r.err, "score.py, "+hint) {
			t.Errorf("create does not say %q:\n%s", hint, r.err)
		}
		if !strings.Contains(log, "azmlinfsrv.hint - "+hint) {
			t.Errorf("the log does not say %q:\n%s", hint, log)
		}
	}
}
