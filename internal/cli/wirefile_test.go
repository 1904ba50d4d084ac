package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"portico/internal/arm"
	"portico/internal/online"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("%s differs; got\n%s", name, got)
	}
}

func indented(t *testing.T, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	p := &printer{out: &b, format: "json"}
	if err := p.print(v, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestFilesOnTheWire shows the request that each file becomes. Read the golden files: they are the contract.
func TestFilesOnTheWire(t *testing.T) {
	for _, name := range []string{"endpoint", "endpoint-minimal", "endpoint-user"} {
		t.Run(name, func(t *testing.T) {
			var f endpointFile
			if err := decodeYAML(name+".yml", read(t, name+".yml"), &f); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", indented(t, f.wire()))
		})
	}
	for _, name := range []string{"deployment", "deployment-minimal", "deployment-refused"} {
		t.Run(name, func(t *testing.T) {
			var f deploymentFile
			if err := decodeYAML(name+".yml", read(t, name+".yml"), &f); err != nil {
				t.Fatal(err)
			}
			ids := resolvedAssets{}
			if f.Model != nil {
				ids = resolvedAssets{Model: f.Model.Reference, Environment: f.Environment.Reference}
			}
			if f.CodeConfiguration != nil {
				ids.Code = f.CodeConfiguration.Code
			}
			if f.DataCollector != nil {
				ids.Data = map[string]string{"model_inputs": f.DataCollector.Collections["model_inputs"].Data.Reference}
			}
			golden(t, name+".json", indented(t, f.wire(ids)))
		})
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestServerReadsWhatWeSend puts every golden request through the server's own reader: no unknown field, and the
// values arrive.
func TestServerReadsWhatWeSend(t *testing.T) {
	for _, name := range []string{"endpoint", "endpoint-minimal", "endpoint-user"} {
		var e arm.Endpoint
		decodeStrict(t, name, &e)
		if _, faults := e.Domain(); len(faults) > 0 {
			t.Errorf("%s: %v", name, faults)
		}
	}
	var d arm.Deployment
	decodeStrict(t, "deployment", &d)
	r, faults := d.Domain()
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if r.Spec.InstanceCount != 2 || r.Spec.Request.Timeout.Seconds() != 90 || r.Spec.Readiness.FailureThreshold != 3 ||
		r.Spec.EnvironmentVariables["THREADS"].Reveal() != "4" || r.Environment != "azureml:sklearn@latest" {
		t.Errorf("the domain got %+v", r)
	}
	var refused arm.Deployment
	decodeStrict(t, "deployment-refused", &refused)
	_, faults = refused.Domain()
	for _, want := range []string{"properties.privateNetworkConnection", "properties.dataCollector.collections.model_outputs.clientId",
		"properties.dataCollector.requestLogging.captureHeaders"} {
		found := false
		for _, f := range faults {
			found = found || f.Target == want && f.Code == online.CodeNotImplemented
		}
		if !found {
			t.Errorf("the server is not told of %s: %v", want, faults)
		}
	}
}

func decodeStrict(t *testing.T, name string, out any) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(read(t, name+".json")))
	dec.DisallowUnknownFields()
	if err := dec.Decode(out); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// TestShownCanBeApplied proves that what show prints is a file that means the same: print, decode, compare.
func TestShownCanBeApplied(t *testing.T) {
	var w arm.Deployment
	if err := json.Unmarshal(read(t, "answer-deployment.json"), &w); err != nil {
		t.Fatal(err)
	}
	shown := deploymentFromWire(&w)
	golden(t, "show-deployment.json", indented(t, shown))
	var b bytes.Buffer
	if err := (&printer{out: &b, format: "yaml"}).print(shown, nil); err != nil {
		t.Fatal(err)
	}
	golden(t, "show-deployment.yml", b.Bytes())
	var again deploymentFile
	if err := decodeYAML("shown.yml", b.Bytes(), &again); err != nil {
		t.Fatal(err)
	}
	ids := resolvedAssets{Model: again.Model.Reference, Code: again.CodeConfiguration.Code,
		Environment: again.Environment.Reference}
	first, second := indented(t, shown.wire(ids)), indented(t, again.wire(ids))
	if !bytes.Equal(first, second) {
		t.Errorf("applied again it would be\n%s\nnot\n%s", second, first)
	}

	var we arm.Endpoint
	if err := json.Unmarshal(read(t, "answer-endpoint.json"), &we); err != nil {
		t.Fatal(err)
	}
	shownEndpoint := endpointFromWire(&we, []string{"blue", "green", "teal"})
	golden(t, "show-endpoint.json", indented(t, shownEndpoint))
	b.Reset()
	if err := (&printer{out: &b, format: "yaml"}).print(shownEndpoint, nil); err != nil {
		t.Fatal(err)
	}
	var endpoint endpointFile
	if err := decodeYAML("shown.yml", b.Bytes(), &endpoint); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(endpoint.wire(), shownEndpoint.wire()) {
		t.Errorf("applied again it would be %+v", endpoint.wire())
	}
}

// TestUnknownWordsAreShown keeps words that a newer service may send.
func TestUnknownWordsAreShown(t *testing.T) {
	if got := authWords.file("Passkey"); got != "Passkey" {
		t.Errorf("got %q", got)
	}
	if got := segment("/subscriptions/s/RESOURCEGROUPS/rg/x", "resourceGroups"); got != "rg" {
		t.Errorf("got %q", got)
	}
	if strings.Contains(string(indented(t, endpointFromWire(&arm.Endpoint{}, nil))), "null") {
		t.Error("an empty endpoint shows null")
	}
}

// TestResponseCacheFile: the block of a file becomes properties, and what the server shows becomes the block again.
func TestResponseCacheFile(t *testing.T) {
	var f deploymentFile
	text := "properties: {team: risk}\nresponse_cache:\n  ttl: 90\n  max_bytes: 1048576\n  vary: [X-Tenant, accept-language]\n"
	if err := decodeYAML("f.yml", []byte(text), &f); err != nil {
		t.Fatal(err)
	}
	if err := f.ResponseCache.mergeInto(&f.Properties); err != nil {
		t.Fatal(err)
	}
	w := f.wire(resolvedAssets{})
	want := map[string]string{"team": "risk", "portico.response-cache.ttl": "PT1M30S", "portico.response-cache.max-bytes": "1048576",
		"portico.response-cache.vary": "X-Tenant,accept-language"}
	if !reflect.DeepEqual(w.Properties.Properties, want) {
		t.Errorf("sent is %v", w.Properties.Properties)
	}
	shown := deploymentFromWire(w)
	if !reflect.DeepEqual(shown.ResponseCache, f.ResponseCache) || len(shown.Properties) != 1 {
		t.Errorf("shown is %+v with %v", shown.ResponseCache, shown.Properties)
	}
	if plain := deploymentFromWire(&arm.Deployment{}); plain.ResponseCache != nil {
		t.Errorf("a cache from nothing: %+v", plain.ResponseCache)
	}
	ttl := 1
	for says, c := range map[string]struct {
		cache *cacheFile
		given map[string]string
	}{
		"needs ttl":      {&cacheFile{}, nil},
		"is set by resp": {&cacheFile{TTL: &ttl}, map[string]string{"portico.response-cache.ttl": "PT2S"}},
	} {
		if err := c.cache.mergeInto(&c.given); ExitCode(err) != ExitUsage || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}
