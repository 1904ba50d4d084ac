package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSpine walks the README's path: endpoint, deployment, key, prediction, second deployment, traffic, rollback,
// deletion.
func TestSpine(t *testing.T) {
	s := start(t)
	s.deploy("spine", "blue", echoScript, "environment_variables:\n  VERSION: one\n")
	key := s.key("spine")
	a := s.score("spine", key, `{"a": 1}`)
	if a.status != http.StatusOK || a.json(t)["version"] != "one" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	for name, want := range map[string]string{"azureml-model-deployment": "blue", "x-ms-run-function-failed": "False"} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s is %q, not %q", name, got, want)
		}
	}
	if a.header.Get("x-request-id") == "" || a.header.Get("x-ms-run-fn-exec-ms") == "" {
		t.Errorf("header: %v", a.header)
	}

	dir := files(t, map[string]string{
		"green.yml":  deploymentYAML("spine", "green", "environment_variables:\n  VERSION: two\n"),
		"conda.yaml": emptyConda, "src/score.py": echoScript,
	})
	s.must("ml", "online-deployment", "create", "-f", filepath.Join(dir, "green.yml"), "-o", "none")
	if got := s.score("spine", key, `{}`, "azureml-model-deployment", "green").json(t)["version"]; got != "two" {
		t.Errorf("pinned to green, answered by %v", got)
	}
	s.must("ml", "online-endpoint", "update", "-n", "spine", "--traffic", "blue=50 green=50", "-o", "none")
	count := map[string]int{}
	s.eventually("both deployments answer", func() bool {
		count[fmt.Sprint(s.score("spine", key, `{}`).json(t)["version"])]++
		return count["one"] > 3 && count["two"] > 3
	})
	if r := s.cli("ml", "online-deployment", "delete", "-e", "spine", "-n", "green", "--yes"); r.code == 0 || !strings.Contains(r.err, "traffic") {
		t.Errorf("a deployment with live traffic was deleted: %d %s", r.code, r.err)
	}
	s.must("ml", "online-endpoint", "update", "-n", "spine", "--traffic", "blue=100 green=0", "-o", "none")
	s.must("ml", "online-deployment", "delete", "-e", "spine", "-n", "green", "--yes", "-o", "none")

	metrics := s.must("ml", "online-endpoint", "metrics", "-n", "spine", "-o", "json")
	if !strings.Contains(metrics, `"blue"`) || !strings.Contains(metrics, `"green"`) {
		t.Errorf("metrics: %s", metrics)
	}
	s.must("ml", "online-endpoint", "delete", "-n", "spine", "--yes", "-o", "none")
	if a := s.score("spine", key, `{}`); a.status != http.StatusNotFound && a.status != http.StatusUnauthorized {
		t.Errorf("a deleted endpoint answers %d", a.status)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("SIGTERM: exit %d", code)
	}
	doc, err := os.ReadFile(filepath.Join(s.dir, "logs", "access.log"))
	if err != nil || !strings.Contains(string(doc), `"green"`) || strings.Contains(string(doc), key) {
		t.Errorf("access log: %v %.300s", err, doc)
	}
}

// TestCreateIsFast bounds nothing tightly: it only catches a wait that should not be there, such as a probe delay.
// TestCreateIsFast: a deployment is routable when its script is ready, not when the first probe would be due.
func TestCreateIsFast(t *testing.T) {
	s := shared(t)
	const delay = 120 * time.Second
	begin := time.Now()
	s.deploy("fast", "blue", echoScript, "liveness_probe:\n  initial_delay: 120\nreadiness_probe:\n  initial_delay: 120\n")
	if took := time.Since(begin); took >= delay {
		t.Errorf("a deployment took %s: longer than the initial delay of its probes", took)
	}
}

func TestSlowInitShowsProgress(t *testing.T) {
	s := shared(t)
	dir := files(t, map[string]string{
		"endpoint.yml": endpointYAML("slow"), "deployment.yml": deploymentYAML("slow", "blue", ""), "conda.yaml": emptyConda,
		"src/score.py": "import time\ndef init():\n    time.sleep(12)\ndef run(raw_data):\n    return 1\n",
	})
	s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
	r := s.cli("ml", "online-deployment", "create", "-f", filepath.Join(dir, "deployment.yml"), "--all-traffic", "-o", "json")
	if r.code != 0 || !strings.Contains(r.err, "UserContainerStart") {
		t.Fatalf("exit %d: %s", r.code, r.err)
	}
	var d struct {
		State     string `json:"provisioning_state"`
		Instances []struct{ Restarts int }
	}
	if err := json.Unmarshal([]byte(r.out), &d); err != nil || d.State != "Succeeded" || len(d.Instances) != 1 || d.Instances[0].Restarts != 0 {
		t.Fatalf("%v %+v", err, d)
	}
}
