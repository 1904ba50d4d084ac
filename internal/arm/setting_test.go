package arm

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"portico/internal/online"
)

// TestSettings: each of Portico's own settings reaches the domain, is shown as it was written, and what is shown means the same
// when it is sent back.
func TestSettings(t *testing.T) {
	given := map[string]string{
		"team": "risk", "portico.response-cache.ttl": "PT1M", "portico.response-cache.max-bytes": "1048576",
		"portico.response-cache.vary": "accept-language,x-tenant",
		"portico.batching.max-size":   "16", "portico.batching.max-wait": "PT0.007S",
		"portico.command": "python 'my server.py' --port {port}",
	}
	for _, known := range settings {
		if given[known.name] == "" {
			t.Errorf("%s is not tried here", known.name)
		}
	}
	d := Deployment{Properties: DeploymentProperties{Properties: maps.Clone(given)}}
	r, faults := d.Domain()
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if len(r.Spec.Properties) != 1 {
		t.Errorf("the settings stay among the properties too: %v", r.Spec.Properties)
	}
	r.Spec.Default()
	shown := NewDeployment(metaOf(ws.Deployment("fraud", "blue"), online.StateSucceeded), r.Spec, online.DeploymentStatus{}, nil)
	if !maps.Equal(shown.Properties.Properties, given) {
		t.Errorf("shown are %v", shown.Properties.Properties)
	}
	again, faults := shown.Domain()
	again.Spec.Default()
	r.Spec.Properties, again.Spec.Properties = nil, nil
	was, _ := json.Marshal([]any{r.Spec.Cache, r.Spec.Batching, r.Spec.Command})
	is, _ := json.Marshal([]any{again.Spec.Cache, again.Spec.Batching, again.Spec.Command})
	if len(faults) > 0 || string(was) != string(is) {
		t.Errorf("sent back %s, was %s, %v", is, was, faults)
	}
	names := make([]string, len(settings))
	for i := range settings {
		names[i] = settings[i].name
	}
	if !slices.IsSorted(names) {
		t.Errorf("not in order of name: %v", names)
	}
}

func TestSettingsThatAreWrong(t *testing.T) {
	for name, c := range map[string]struct{ value, want string }{
		"portico.response-cache.tll":       {"PT1M", "did you mean portico.response-cache.ttl?"},
		"Portico.Response_Cache.TTL":       {"PT1M", "did you mean portico.response-cache.ttl?"},
		"portico.":                         {"", "there are portico."},
		"portico.response-cache.ttl":       {"60", "not an ISO-8601 duration"},
		"portico.response-cache.max-bytes": {"1 MiB", "not a whole number above 0"},
		"portico.batching.max-size":        {"0", "not a whole number above 0"},
		"portico.batching.max-wait":        {"PT0S", "0 is not allowed here"},
	} {
		d := Deployment{Properties: DeploymentProperties{Properties: map[string]string{name: c.value}}}
		_, faults := d.Domain()
		if len(faults) != 1 || faults[0].Target != "properties.properties."+name || !strings.Contains(faults[0].Message, c.want) {
			t.Errorf("%s: %v", name, faults)
		}
	}
}
