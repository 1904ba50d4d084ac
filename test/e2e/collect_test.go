package e2e

import (
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
)

// collectingScript collects what it takes and what it gives.
const collectingScript = `import json
import pandas as pd
from azureml.ai.monitoring import Collector

def init():
    global inputs, outputs
    inputs = Collector(name="model_inputs")
    outputs = Collector(name="model_outputs")

def run(raw_data):
    frame = pd.DataFrame(json.loads(raw_data)["data"])
    context = inputs.collect(frame)
    result = frame.sum(axis=1).to_frame("total")
    outputs.collect(result, context)
    return result["total"].tolist()
`

const pandasConda = "name: pandas\ndependencies:\n  - python\n  - pip:\n    - pandas==3.1.1\n"

// collectionsYAML enables everything; the inputs have a data asset of their own.
const collectionsYAML = `data_collector:
  sampling_rate: 1.0
  rolling_rate: day
  collections:
    model_inputs:
      enabled: 'True'
      data: {name: what-came, path: azureml://datastores/workspaceblobstore/paths/kept/inputs, version: 3}
    model_outputs:
      enabled: 'True'
    request:
      enabled: 'True'
    response:
      enabled: 'True'
`

// container is the container of the workspace's datastore.
func (s *server) container() string {
	s.t.Helper()
	a := s.api("GET", workspace+"/datastores/workspaceblobstore?api-version=2024-04-01", nil)
	p, _ := a.json(s.t)["properties"].(map[string]any)
	name, _ := p["containerName"].(string)
	if name == "" {
		s.t.Fatalf("%d %s", a.status, a.body)
	}
	return name
}

// blobs lists the names of the datastore's blobs.
func (s *server) blobs(prefix string) []string {
	s.t.Helper()
	a := s.api("GET", "/blobs/"+s.container()+"?restype=container&comp=list&prefix="+url.QueryEscape(prefix), nil)
	var list struct {
		Blobs []struct{ Name string } `xml:"Blobs>Blob"`
	}
	if err := xml.Unmarshal(a.body, &list); err != nil || a.status != http.StatusOK {
		s.t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	var out []string
	for _, b := range list.Blobs {
		out = append(out, b.Name)
	}
	return out
}

// collected downloads all lines of a collection.
func (s *server) collected(prefix string) (lines []map[string]any) {
	s.t.Helper()
	for _, name := range s.blobs(prefix) {
		a := s.api("GET", "/blobs/"+s.container()+"/"+name, nil)
		if a.status != http.StatusOK {
			s.t.Fatalf("%s: %d %s", name, a.status, a.body)
		}
		for line := range strings.Lines(string(a.body)) {
			var e map[string]any
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				s.t.Fatalf("%s: %v in %q", name, err, line)
			}
			if strings.Contains(line, "Authorization") || strings.Contains(line, s.token) {
				s.t.Errorf("a credential was collected: %s", line)
			}
			lines = append(lines, e)
		}
	}
	return lines
}

// TestDataCollection: what the code and the gateway collect can be listed and downloaded as blobs of the workspace's
// datastore, belongs together, is counted, and survives the server's death.
func TestDataCollection(t *testing.T) {
	s := start(t)
	dir := files(t, map[string]string{"endpoint.yml": endpointYAML("kept"), "conda.yaml": pandasConda, "src/score.py": collectingScript,
		"deployment.yml": deploymentYAML("kept", "blue", collectionsYAML)})
	s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
	s.must("ml", "online-deployment", "create", "-f", filepath.Join(dir, "deployment.yml"), "--all-traffic", "-o", "none")
	key := s.key("kept")
	const in, out = "kept/inputs/", "modelDataCollector/kept/blue/model_outputs/"
	const requests, responses = "modelDataCollector/kept/blue/request/", "modelDataCollector/kept/blue/response/"
	all := []string{in, out, requests, responses}
	score := func(n int) string {
		t.Helper()
		a := s.score("kept", key, `{"data": [{"a": 1, "b": 2.5}]}`)
		if a.status != http.StatusOK || string(a.body) != "[3.5]" {
			t.Fatalf("%d %s", a.status, a.body)
		}
		for _, prefix := range all {
			s.eventually("an event of "+prefix, func() bool { return len(s.collected(prefix)) == n })
		}
		return a.header.Get("x-request-id")
	}
	id := score(1)
	for prefix, want := range map[string]string{in: `[{"a":1,"b":2.5}]`, out: `[{"total":3.5}]`, requests: `{"data":[{"a":1,"b":2.5}]}`, responses: `[3.5]`} {
		e := s.collected(prefix)[0]
		if data, _ := json.Marshal(e["data"]); string(data) != want || e["xrequestid"] != id || e["specversion"] != "1.0" {
			t.Errorf("%s holds %v, want %s of request %s", prefix, e, want, id)
		}
	}
	if a, b := s.collected(in)[0], s.collected(out)[0]; a["correlationid"] != b["correlationid"] || a["correlationid"] == "" {
		t.Errorf("inputs and outputs are not joined: %v, %v", a, b)
	}
	// The instance is in the blob's name, below the folders of the day.
	instance := strings.TrimSuffix(filepath.Base(s.blobs(in)[0]), ".jsonl")
	shownInstances := s.must("ml", "online-deployment", "show", "-e", "kept", "-n", "blue", "-o", "json")
	if parts := strings.Split(s.blobs(in)[0], "/"); len(parts) != 6 || !strings.Contains(shownInstances, instance) {
		t.Errorf("the blob is %s, the deployment %s", s.blobs(in)[0], shownInstances)
	}
	for asset, want := range map[string]string{"what-came/versions/3": "/paths/kept/inputs", "kept-blue-model_outputs/versions/1": "/paths/" + strings.TrimSuffix(out, "/")} {
		if a := s.api("GET", workspace+"/data/"+asset+"?api-version=2024-04-01", nil); a.status != http.StatusOK || !strings.Contains(string(a.body), want) {
			t.Errorf("the data asset %s: %d %s", asset, a.status, a.body)
		}
	}

	// Killed and started again: nothing is lost, and the workers, which lived on, are still heard.
	s.kill()
	s.up()
	s.eventually("the deployment answers", func() bool { return s.score("kept", key, "{}").status == http.StatusFailedDependency })
	for _, prefix := range []string{in, out} {
		if n := len(s.collected(prefix)); n != 1 {
			t.Errorf("%d events of %s after the server's death", n, prefix)
		}
	}
	all = []string{in, out}
	score(2)
	if names := s.blobs(in); len(names) != 1 {
		t.Errorf("another instance took over: %v", names)
	}

	metric := s.api("GET", workspace+"/onlineEndpoints/kept/deployments/blue/providers/Microsoft.Insights/metrics?api-version=2023-10-01"+
		"&metricnames=DataCollectionEventsPerMinute&aggregation=total&$filter="+url.QueryEscape("type eq 'model_inputs'"), nil)
	if metric.status != http.StatusOK || !strings.Contains(string(metric.body), `"total":1`) {
		t.Errorf("%d %s", metric.status, metric.body)
	}
	// What show prints can be applied again.
	shown := s.must("ml", "online-deployment", "show", "-e", "kept", "-n", "blue", "-o", "yaml")
	if !strings.Contains(shown, "data: azureml:") && !strings.Contains(shown, "/data/what-came/versions/3") || !strings.Contains(shown, "rolling_rate: day") {
		t.Errorf("show prints %s", shown)
	}
	s.must("ml", "online-deployment", "update", "-e", "kept", "-n", "blue", "--set", "data_collector.collections.request.enabled=false", "-o", "none")
	before := len(s.collected(requests))
	score(3)
	if after := len(s.collected(requests)); after != before {
		t.Errorf("%d requests were collected after that was disabled", after-before)
	}
}
