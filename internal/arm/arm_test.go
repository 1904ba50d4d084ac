package arm

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"portico/internal/online"
)

func TestIDs(t *testing.T) {
	ws := online.WorkspaceID{Subscription: "S-1", ResourceGroup: "Group", Name: "Ws"}
	const base = "/subscriptions/S-1/resourceGroups/Group/providers/Microsoft.MachineLearningServices/workspaces/Ws"
	for _, c := range []struct {
		id         online.ID
		text, kind string
	}{
		{ws.ID(), base, "Microsoft.MachineLearningServices/workspaces"},
		{ws.Endpoint("Fraud"), base + "/onlineEndpoints/Fraud",
			"Microsoft.MachineLearningServices/workspaces/onlineEndpoints"},
		{ws.Deployment("Fraud", "blue"), base + "/onlineEndpoints/Fraud/deployments/blue",
			"Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments"},
		{ws.Asset(online.KindModel, "m", "1"), base + "/models/m/versions/1",
			"Microsoft.MachineLearningServices/workspaces/models/versions"},
		{ws.Asset(online.KindEnvironment, "", "e"), base + "/environments/e",
			"Microsoft.MachineLearningServices/workspaces/environments"},
		{online.ID{Workspace: ws, Kind: online.KindDatastore, Name: "d"}, base + "/datastores/d",
			"Microsoft.MachineLearningServices/workspaces/datastores"},
	} {
		if got := FormatID(c.id); got != c.text {
			t.Errorf("FormatID gave %s, want %s", got, c.text)
		}
		if got := TypeOf(c.id); got != c.kind {
			t.Errorf("TypeOf gave %s, want %s", got, c.kind)
		}
		// Read back exactly, in any case of the fixed parts, with a slash at the end.
		if got, err := ParseID(c.text); err != nil || got != c.id {
			t.Errorf("ParseID(%s) gave %+v, %v", c.text, got, err)
		}
		folded := strings.NewReplacer("resourceGroups", "RESOURCEGROUPS", "onlineEndpoints", "onlineendpoints",
			"workspaces", "Workspaces").Replace(c.text) + "/"
		if got, err := ParseID(folded); err != nil || !got.Same(c.id) {
			t.Errorf("ParseID(%s) gave %+v, %v", folded, got, err)
		}
	}
	for _, bad := range []string{"", "/", "x", base + "/", base + "/pipelines/x", base + "/onlineEndpoints",
		base + "//x", base[1:],
		base + "/models/m/labels/latest", base + "/onlineEndpoints/a/deployments/b/c", strings.Repeat("/a", 5000)} {
		if id, err := ParseID(bad); err == nil && bad != base+"/" {
			t.Errorf("ParseID(%.60q) gave %+v", bad, id)
		}
	}
}

func TestReferences(t *testing.T) {
	ws := online.WorkspaceID{Subscription: "s", ResourceGroup: "g", Name: "w"}
	other := online.WorkspaceID{Subscription: "s2", ResourceGroup: "g2", Name: "w2"}
	const id = "/subscriptions/s2/resourcegroups/g2/providers/microsoft.machinelearningservices/workspaces/w2/models/m"
	for text, want := range map[string]Reference{
		"azureml:m:1":                      {Workspace: ws, Kind: online.KindModel, Name: "m", Version: "1"},
		"AzureML:m@latest":                 {Workspace: ws, Kind: online.KindModel, Name: "m", Label: "latest"},
		id + "/versions/1":                 {Workspace: other, Kind: online.KindModel, Name: "m", Version: "1"},
		"azureml:" + id + "/labels/latest": {Workspace: other, Kind: online.KindModel, Name: "m", Label: "latest"},
		"azureml://registries/azureml/models/m/versions/1": {Registry: "azureml", Kind: online.KindModel, Name: "m",
			Version: "1"},
		"azureml://registries/azureml/models/m/labels/latest": {Registry: "azureml", Kind: online.KindModel, Name: "m",
			Label: "latest"},
	} {
		if got, err := ParseReference(text, online.KindModel, ws, "f"); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "m", "m:1", "azureml:", "azureml:m", "azureml:m:", "azureml::1", "azureml:m:1:2",
		"azureml:a b:1",
		"azureml://registries/azureml/environments/m/versions/1", "azureml://x", id, id + "/versions/", strings.Replace(id, "models", "codes", 1) + "/versions/1"} {
		_, err := ParseReference(bad, online.KindModel, ws, "f")
		if e, ok := online.AsError(err); !ok || e.Target != "f" || e.Code != online.CodeBadArgument {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"PT5S": 5 * time.Second, "PT0.5S": 500 * time.Millisecond, "PT1M30S": 90 * time.Second, "PT0S": 0, "P1D": 24 * time.Hour,
		"P1DT2H3M4.5S": 26*time.Hour + 3*time.Minute + 4500*time.Millisecond, "PT3600.0S": time.Hour, "pt1h": time.Hour,
		"P2W": 14 * 24 * time.Hour, "PT1.5M": 90 * time.Second, "-PT5S": -5 * time.Second, "PT0,25S": 250 * time.Millisecond,
		"PT0.000000001S": 1, "PT0.0000000001S": 0,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "P", "PT", "5S", "PT5", "P5", "PT5X", "P1Y", "P1M", "PT1S2M", "PT1S1S", "P1DT",
		"PT1.S", "PT.S", "PT--5S", "PT1.2.3S",
		"PTT5S", "P1S", "P1H", "PT1D", "PT99999999999999999999S", "P106752D", "PT1M ", strings.Repeat("P", 100)} {
		if got, err := ParseDuration(bad); err == nil {
			t.Errorf("%q was read as %s", bad, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64().Draw(t, "d"))
		if d.Abs() > 100000*24*time.Hour { // ParseDuration keeps a day's distance from what an int64 holds
			d %= 100000 * 24 * time.Hour
		}
		if got, err := ParseDuration(FormatDuration(d)); err != nil || got != d {
			t.Fatalf("%d printed as %s was read as %d, %v", d, FormatDuration(d), got, err)
		}
	})
}

func TestMapsOfTextsTakeNumbersAndSwitches(t *testing.T) {
	var d Deployment
	body := `{"tags":{"a":1,"b":-2.50},"properties":{"environmentVariables":{"N":202208,"T":true,"F":false,"S":"x"}}}`
	if _, err := Decode([]byte(body), &d); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"N": "202208", "T": "True", "F": "False", "S": "x"} {
		if got := d.Properties.EnvironmentVariables[name]; got != want {
			t.Errorf("%s is %q, not %q", name, got, want)
		}
	}
	if d.Tags["a"] != "1" || d.Tags["b"] != "-2.50" {
		t.Errorf("tags: %v", d.Tags)
	}
}

func TestDecodeNamesWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		what, body   string
		code         online.Code
		target, part string
	}{
		{"nothing", " ", online.CodeInvalidContent, "", "empty"},
		{"garbage", "\x00\x01", online.CodeInvalidContent, "", "near byte"},
		{"not UTF-8", "{\"a\":\"\xff\"}", online.CodeInvalidContent, "", "UTF-8"},
		{"cut off", `{"properties":{`, online.CodeInvalidContent, "", "ends in the middle"},
		{"two values", `{} {}`, online.CodeInvalidContent, "", "near byte"},
		{"an array", `[]`, online.CodeInvalidContent, "", "an array"},
		{"null", `null`, online.CodeInvalidContent, "", "null"},
		{"a name twice", `{"tags":{},"tags":{}}`, online.CodeInvalidContent, "", "twice"},
		{"too deep", strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40), online.CodeInvalidContent, "",
			"deeper"},
		{"twice with other case", `{"tags":{},"Tags":{}}`, online.CodeBadArgument, "tags", "twice"},
		{"text for a number", `{"sku":{"capacity":"2"}}`, online.CodeBadArgument, "sku.capacity",
			"whole number, not a string"},
		{"half an instance", `{"sku":{"capacity":1.5}}`, online.CodeBadArgument, "sku.capacity", "whole number"},
		{"a number for a text", `{"location":7}`, online.CodeBadArgument, "location", "string, not a number"},
		{"an array for an object", `{"properties":[]}`, online.CodeBadArgument, "properties", "object, not an array"},
		{"text for a switch", `{"properties":{"appInsightsEnabled":"yes"}}`, online.CodeBadArgument,
			"properties.appInsightsEnabled", "true or false"},
		{"a bad duration", `{"properties":{"livenessProbe":{"period":"10"}}}`, online.CodeBadArgument,
			"properties.livenessProbe.period", "ISO-8601"},
		{"a number as duration", `{"properties":{"livenessProbe":{"period":10}}}`, online.CodeBadArgument,
			"properties.livenessProbe.period", "string"},
		{"a list as variable", `{"properties":{"environmentVariables":{"A":[1]}}}`, online.CodeBadArgument,
			"properties.environmentVariables.A", "string"},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, err := Decode([]byte(c.body), new(Deployment))
			var e *online.Error
			if !errors.As(err, &e) || e.Code != c.code || e.Target != c.target || !strings.Contains(e.Message, c.part) {
				t.Errorf("got %v\nwant %s (%s): ...%s...", err, c.code, c.target, c.part)
			}
		})
	}
	_, err := Decode([]byte(`{"location":7,"tags":1}`), new(Deployment))
	if e, ok := online.AsError(err); !ok || len(e.Details) != 2 {
		t.Errorf("two faults: %v", err)
	}
}

func TestDecodeIsLoose(t *testing.T) {
	var d Deployment
	unknown, err := Decode([]byte(`{"Location":"x","sku":{"CAPACITY":2.0},"colour":"red","properties":{"model":null,"livenessProbe":{"tresholds":1},
		"requestSettings":null,"environmentVariables":{"A":null,"B":""}}}`), &d)
	if err != nil || strings.Join(unknown, " ") != "colour properties.livenessProbe.tresholds" {
		t.Fatalf("unknown %v, %v", unknown, err)
	}
	if d.Location != "x" || *d.SKU.Capacity != 2 || d.Properties.Model != nil || d.Properties.RequestSettings != nil || len(d.Properties.EnvironmentVariables) != 1 {
		t.Errorf("%+v", d)
	}
	many := map[string]int{}
	for i := range MaxUnknown + 5 {
		many[strings.Repeat("x", i+1)] = 1
	}
	doc, _ := json.Marshal(many)
	if unknown, err = Decode(doc, new(Endpoint)); err != nil || len(unknown) != MaxUnknown+1 || unknown[MaxUnknown] != "..." {
		t.Errorf("%d unknown fields named, %v", len(unknown), err)
	}
}

func TestDomainRefusesWhatNothingActsOn(t *testing.T) {
	for _, c := range []struct{ what, body, target string }{
		{"encryption", `{"properties":{"encryption":{"keyVaultProperties":{}}}}`, "properties.encryption"},
		{"secret stores", `{"properties":{"properties":{"enforce_access_to_default_secret_stores":"Enabled"}}}`,
			"properties.properties.enforce_access_to_default_secret_stores"},
		{"kind", `{"kind":"Kubernetes"}`, "kind"},
		{"private endpoint", `{"properties":{"privateEndpointConnections":[{}]}}`,
			"properties.privateEndpointConnections"},
	} {
		var e Endpoint
		if _, err := Decode([]byte(c.body), &e); err != nil {
			t.Fatal(err)
		}
		if _, faults := e.Domain(); len(faults) != 1 || faults[0].Code != online.CodeNotImplemented || faults[0].Target != c.target {
			t.Errorf("%s: %v", c.what, faults)
		}
	}
	var e Endpoint
	if _, err := Decode([]byte(`{"properties":{"encryption":{},"privateEndpointConnections":[],"keys":null}}`),
		&e); err != nil {
		t.Fatal(err)
	}
	if _, faults := e.Domain(); len(faults) != 0 {
		t.Errorf("default values: %v", faults)
	}
	for _, c := range []struct {
		body, target string
		code         online.Code
	}{
		{`{"sku":{"capacity":0}}`, "sku.capacity", online.CodeBadArgument},
		{`{"properties":{"requestSettings":{"requestTimeout":"PT0S"}}}`, "properties.requestSettings.requestTimeout",
			online.CodeBadArgument},
		{`{"properties":{"requestSettings":{"maxConcurrentRequestsPerInstance":0}}}`,
			"properties.requestSettings.maxConcurrentRequestsPerInstance", online.CodeBadArgument},
		{`{"properties":{"readinessProbe":{"failureThreshold":0}}}`, "properties.readinessProbe.failureThreshold",
			online.CodeBadArgument},
		{`{"properties":{"startupProbe":{"period":"PT0S"}}}`, "properties.startupProbe.period", online.CodeBadArgument},
		{`{"sku":{"name":"Big"}}`, "sku.name", online.CodeNotImplemented},
		{`{"sku":{"name":"default","tier":"standard","size":"XL"}}`, "sku.size", online.CodeNotImplemented},
		{`{"identity":{"type":"SystemAssigned"}}`, "identity", online.CodeNotImplemented},
		{`{"kind":"K8S"}`, "kind", online.CodeNotImplemented},
		{`{"properties":{"privateNetworkConnection":true}}`, "properties.privateNetworkConnection",
			online.CodeNotImplemented},
		{`{"properties":{"scaleSettings":{"scaleType":"default","maxInstances":3}}}`,
			"properties.scaleSettings.maxInstances", online.CodeBadArgument},
		{`{"properties":{"dataCollector":{"samplingRate":2}}}`, "properties.dataCollector.samplingRate",
			online.CodeBadArgument},
		{`{"properties":{"dataCollector":{"collections":{"c":{"dataCollectionMode":"sometimes"}}}}}`,
			"properties.dataCollector.collections.c.dataCollectionMode", online.CodeBadArgument},
		{`{"properties":{"dataCollector":{"requestLogging":{"captureHeaders":["a"]}}}}`,
			"properties.dataCollector.requestLogging.captureHeaders", online.CodeNotImplemented},
	} {
		var d Deployment
		if _, err := Decode([]byte(c.body), &d); err != nil {
			t.Fatal(err)
		}
		if _, faults := d.Domain(); len(faults) != 1 || faults[0].Code != c.code || faults[0].Target != c.target {
			t.Errorf("%s: %v", c.body, faults)
		}
	}
	for _, c := range []struct {
		kind         online.Kind
		body, target string
		code         online.Code
	}{
		{online.KindModel, `{"properties":{"codeUri":"x"}}`, "properties.codeUri", online.CodeBadArgument},
		{online.KindModel, `{"properties":{"modelType":"magic"}}`, "properties.modelType", online.CodeBadArgument},
		{online.KindModel, `{"properties":{"stage":"Production"}}`, "properties.stage", online.CodeNotImplemented},
		{online.KindModel, `{"properties":{"jobName":"j"}}`, "properties.jobName", online.CodeNotImplemented},
		{online.KindEnvironment, `{"properties":{"osType":"windows"}}`, "properties.osType", online.CodeNotImplemented},
		{online.KindEnvironment, `{"properties":{"build":{"contextUri":"x"}}}`, "properties.build",
			online.CodeNotImplemented},
		{online.KindEnvironment, `{"properties":{"inferenceConfig":{"scoringRoute":{"path":"/score"}}}}`,
			"properties.inferenceConfig.scoringRoute.port", online.CodeBadArgument},
		{online.KindEnvironment, `{"properties":{"inferenceConfig":{"livenessRoute":{"path":"live","port":80}}}}`,
			"properties.inferenceConfig.livenessRoute.path", online.CodeBadArgument},
		{online.KindModel, `{"properties":{"inferenceConfig":{}}}`, "properties.inferenceConfig", online.CodeBadArgument},
		{online.KindEnvironment, `{"properties":{"autoRebuild":"OnBaseImageUpdate"}}`, "properties.autoRebuild",
			online.CodeNotImplemented},
	} {
		var a Asset
		if _, err := Decode([]byte(c.body), &a); err != nil {
			t.Fatal(err)
		}
		if _, faults := a.Domain(c.kind); len(faults) != 1 || faults[0].Code != c.code || faults[0].Target != c.target {
			t.Errorf("%s: %v", c.body, faults)
		}
	}
}

// FuzzDecode looks for bodies that make the decoder panic, answer something else than an online.Error, or accept what
// encoding/json would not.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{}`, `{"properties":{"traffic":{"blue":100}},"tags":null}`,
		`{"sku":{"capacity":1e0}}`, `[`, "\xff", `{"a":{"b":[1,{}]}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, into := range []any{new(Endpoint), new(Deployment), new(Asset), new(AssetContainer), new(Workspace),
			new(EndpointPatch), new(DeploymentPatch)} {
			_, err := Decode(body, into)
			if _, known := online.AsError(err); err != nil && !known {
				t.Fatalf("%T: %v", into, err)
			}
			if err == nil && !json.Valid(body) {
				t.Fatalf("%T took %q, which is not JSON", into, body)
			}
			if err != nil {
				continue
			}
			if _, err := json.Marshal(into); err != nil {
				t.Fatalf("%T cannot be written again: %v", into, err)
			}
			switch v := into.(type) {
			case *Endpoint:
				v.Domain()
			case *Deployment:
				v.Domain()
			case *Asset:
				v.Domain(online.KindEnvironment)
			}
		}
	})
}

// FuzzParse looks for texts that make the small parsers panic or disagree with their printers.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"PT5S", "P1DT0.5S", "azureml:m:1",
		"/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/models/m/versions/1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDuration(s); err == nil {
			if again, err := ParseDuration(FormatDuration(d)); err != nil || again != d {
				t.Fatalf("%q is %d, and %s is %d, %v", s, d, FormatDuration(d), again, err)
			}
		}
		if id, err := ParseID(s); err == nil {
			if again, err := ParseID(FormatID(id)); err != nil || again != id {
				t.Fatalf("%q is %+v, and %s is %+v, %v", s, id, FormatID(id), again, err)
			}
		}
		_, _ = ParseReference(s, online.KindModel, online.WorkspaceID{}, "f")
	})
}
