package cli

import (
	"maps"
	"strings"
	"testing"

	"portico/internal/arm"
)

// TestBatchingFile: what a file says of batching travels in the properties and comes back as it was written.
func TestBatchingFile(t *testing.T) {
	var f deploymentFile
	text := "name: blue\nendpoint_name: e\nproperties: {team: risk}\nbatching:\n  max_size: 16\n  max_wait_ms: 7\n"
	if err := decodeYAML("blue.yml", []byte(text), &f); err != nil {
		t.Fatal(err)
	}
	if err := f.Batching.mergeInto(&f.Properties); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"team": "risk", "portico.batching.max-size": "16", "portico.batching.max-wait": "PT0.007S",
	}
	if !maps.Equal(f.Properties, want) {
		t.Errorf("sent are %v", f.Properties)
	}
	shown := deploymentFromWire(&arm.Deployment{Properties: arm.DeploymentProperties{Properties: f.Properties}})
	if b := shown.Batching; b == nil || *b.MaxSize != 16 || *b.MaxWaitMS != 7 || len(shown.Properties) != 1 {
		t.Errorf("shown are %+v and %v", shown.Batching, shown.Properties)
	}
	for text, want := range map[string]string{
		"batching: {max_wait_ms: 7}\n": "batching needs max_size",
		"batching: {max_size: 8}\nproperties: {\"portico.batching.max-size\": \"16\"}\n": "set by batching too",
	} {
		var f deploymentFile
		if err := decodeYAML("blue.yml", []byte(text), &f); err != nil {
			t.Fatal(err)
		}
		if err := f.Batching.mergeInto(&f.Properties); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
