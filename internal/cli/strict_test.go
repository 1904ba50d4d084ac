package cli

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestFaultsNameTheirPlace is the table of what a person can get wrong in a file.
func TestFaultsNameTheirPlace(t *testing.T) {
	endpoint := func() any { return &endpointFile{} }
	deployment := func() any { return &deploymentFile{} }
	for _, c := range []struct {
		name string
		out  func() any
		text string
		want []string
	}{
		{"unknown key", endpoint, "name: a\nauht_mode: key\n",
			[]string{"f.yml:2:1: unknown key auht_mode; did you mean auth_mode?"}},
		{"camel case", deployment, "instanceType: Standard_DS3_v2\n",
			[]string{"f.yml:1:1: unknown key instanceType; did you mean instance_type?"}},
		{"wrong place", deployment, "scoring_script: score.py\n",
			[]string{"f.yml:1:1: unknown key scoring_script; it belongs under code_configuration"}},
		{"nested", deployment, "request_settings:\n  request_timeout: 5\n",
			[]string{"f.yml:2:3: unknown key request_settings.request_timeout; did you mean request_timeout_ms?"}},
		{"nothing like it", endpoint, "zzzzzzzzzz: 1\n", []string{
			"f.yml:1:1: unknown key zzzzzzzzzz; known here are $schema, name, description, tags, properties, auth_mode, identity, traffic, " +
				"mirror_traffic, public_network_access, compute, location"}},
		{"number", deployment, "instance_count: two\n",
			[]string{`f.yml:1:17: instance_count: must be a whole number, not "two"`}},
		{"quoted number", deployment, "instance_count: \"2\"\n",
			[]string{`f.yml:1:17: instance_count: must be a whole number, not "2"`}},
		{"fraction", deployment, "instance_count: 1.5\n",
			[]string{`f.yml:1:17: instance_count: must be a whole number, not "1.5"`}},
		{"out of range", deployment, "request_settings: {request_timeout_ms: 99999999999}\n",
			[]string{`f.yml:1:40: request_settings.request_timeout_ms: "99999999999" is out of range`}},
		{"bool", deployment, "app_insights_enabled: 1\n",
			[]string{`f.yml:1:23: app_insights_enabled: must be true or false, not "1"`}},
		{"enum", endpoint, "auth_mode: kye\n", []string{`f.yml:1:12: auth_mode: "kye" is not one of key, aml_token, aad_token; did you mean key?`}},
		{"list for mapping", endpoint, "tags: [a]\n",
			[]string{"f.yml:1:7: tags: must be a mapping of names to values, not a list"}},
		{"mapping for text", endpoint, "description: {a: b}\n",
			[]string{"f.yml:1:14: description: must be text, not a mapping"}},
		{"text for object", endpoint, "identity: none\n",
			[]string{`f.yml:1:11: identity: must be a mapping with the keys type, user_assigned_identities, not "none"`}},
		{"twice", endpoint, "name: a\nname: b\n", []string{"f.yml:2:1: name: appears twice; it is also on line 1"}},
		{"tag without value", endpoint, "tags:\n  a:\n",
			[]string{`f.yml:2:5: tags.a: has no value; give one or remove the key (an empty text is written "")`}},
		{"traffic", endpoint, "traffic: {blue: all}\n",
			[]string{`f.yml:1:17: traffic.blue: must be a whole number, not "all"`}},
		{"bare model path", deployment, "model: ./model.pkl\n", []string{
			`f.yml:1:8: model: "./model.pkl" is not a reference; write azureml:NAME:VERSION or azureml:NAME@latest for a registered asset, ` +
				`or model: {path: ./model.pkl} for a local one`}},
		{"model list", deployment, "model: [a]\n", []string{"f.yml:1:8: model: must be a reference such as azureml:NAME:VERSION, or a mapping, not a list"}},
		{"inline model", deployment, "model:\n  pth: x\n",
			[]string{"f.yml:2:3: unknown key model.pth; did you mean path?"}},
		{"conda list", deployment, "environment: {conda_file: [a]}\n",
			[]string{"f.yml:1:27: environment.conda_file: must be the path of a conda file or its mapping, not a list"}},
		{"syntax", endpoint, "name: [a\n", []string{"f.yml:2:1: "}},
		{"empty", endpoint, "# nothing\n", []string{"f.yml: the file is empty"}},
		{"two documents", endpoint, "name: a\n---\nname: b\n", []string{"f.yml:2:1: the file holds 2 documents; keep one"}},
		{"several", endpoint, "nam: a\ntraffic: 5\n", []string{"f.yml:1:1: unknown key nam; did you mean name?",
			`f.yml:2:10: traffic: must be a mapping of names to values, not "5"`}},
		{"merge key", endpoint, "<<: {name: a}\n", []string{"f.yml:1:1: unknown key <<"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := decodeYAML("f.yml", []byte(c.text), c.out())
			if err == nil {
				t.Fatal("accepted")
			}
			if ExitCode(err) != ExitUsage {
				t.Errorf("exit code %d", ExitCode(err))
			}
			got := strings.Split(err.Error(), "\n")
			if len(got) != len(c.want) {
				t.Fatalf("got %q", got)
			}
			for i := range got {
				// The library's words about syntax, and a list of every key, may change.
				loose := c.name == "syntax" || c.name == "merge key"
				if got[i] != c.want[i] && (!loose || !strings.HasPrefix(got[i], c.want[i])) {
					t.Errorf("got  %s\nwant %s", got[i], c.want[i])
				}
			}
		})
	}
}

// TestAliasBomb decodes a short document that unfolds to ten to the ninth values.
func TestAliasBomb(t *testing.T) {
	text := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := range 9 {
		text += "a" + string(rune('1'+i)) + ": &a" + string(rune('1'+i)) + " [" +
			strings.TrimSuffix(strings.Repeat("*a"+string(rune('0'+i))+",", 10), ",") + "]\n"
	}
	var out struct {
		A0 []string           `json:"a0"`
		A1 [][]string         `json:"a1"`
		A2 [][][]string       `json:"a2"`
		A3 [][][][]string     `json:"a3"`
		A4 [][][][][]string   `json:"a4"`
		A5 [][][][][][]string `json:"a5"`
		A6 []string           `json:"a6"`
		A7 []string           `json:"a7"`
		A8 []string           `json:"a8"`
		A9 []string           `json:"a9"`
	}
	err := decodeYAML("f.yml", []byte(text), &out)
	if err == nil || !strings.Contains(err.Error(), "unfolds to more than") {
		t.Errorf("got %v", err)
	}
}

// TestDecodeNeverPanics feeds any text to both schemas.
func TestDecodeNeverPanics(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SampledFrom(append(keysOfBoth(), "x", "<<", "? [a]", "&a b", "*a"))
		value := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "null", "~", "1", "-1", "true", "[a, b]",
			"{a: b}", "{path: x}", "*a", "&a x", "!!binary aGk=", "2026-01-01"}))
		var b strings.Builder
		for range rapid.IntRange(0, 6).Draw(t, "lines") {
			b.WriteString(key.Draw(t, "key") + ": " + value.Draw(t, "value") + "\n")
		}
		text := rapid.OneOf(rapid.Just(b.String()), rapid.String()).Draw(t, "text")
		_ = decodeYAML("f.yml", []byte(text), &endpointFile{})
		_ = decodeYAML("f.yml", []byte(text), &deploymentFile{})
		_ = applyOverrides([]string{text, b.String()}, &deploymentFile{})
	})
}

func keysOfBoth() []string {
	return []string{"name", "model", "environment", "tags", "traffic", "instance_count", "identity", "request_settings",
		"data_collector", "environment_variables", "code_configuration"}
}

func TestOverrides(t *testing.T) {
	f := deploymentFile{Tags: map[string]string{"keep": "1", "drop": "2"}, Model: &modelRef{Reference: "azureml:a:1"}}
	err := applyOverrides([]string{
		"instance_count=3", "tags.version=1.10", "tags.drop=null", "request_settings.request_timeout_ms=100",
		"description=a=b",
		"environment_variables={A: 1, B: x}", "liveness_probe.period=7", "type=Kubernetes", "app_insights_enabled=true",
		"environment.conda_file={name: x, dependencies: [python]}", "model.path=./m", "model.name=m",
	}, &f)
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case *f.InstanceCount != 3, f.Tags["version"] != "1.10", f.Tags["keep"] != "1", len(f.Tags) != 2:
		t.Errorf("count %v, tags %v", *f.InstanceCount, f.Tags)
	case *f.RequestSettings.RequestTimeoutMS != 100, f.Description != "a=b", f.EnvironmentVariables["A"] != "1",
		f.EnvironmentVariables["B"] != "x":
		t.Errorf("got %+v", f)
	case *f.LivenessProbe.Period != 7, f.Type != "kubernetes", !*f.AppInsightsEnabled:
		t.Errorf("got %+v", f)
	case f.Environment.Inline == nil || !strings.Contains(f.Environment.Inline.CondaFile.Text, "python"):
		t.Errorf("environment %+v", f.Environment)
	case f.Model.Reference != "" || f.Model.Inline.Path != "./m" || f.Model.Inline.Name != "m":
		t.Errorf("model %+v", f.Model)
	}
	for set, want := range map[string]string{
		"instance_count=two": `--set instance_count=two: instance_count: must be a whole number, not "two"`,
		"instance_cuont=2":   "--set instance_cuont=2: unknown key instance_cuont; did you mean instance_count?",
		"instance_count":     "--set instance_count: must be KEY=VALUE, for example --set instance_count=2",
		"=2":                 "--set =2: must be KEY=VALUE, for example --set instance_count=2",
		"instance_count.x=2": "--set instance_count.x=2: instance_count: must be a whole number, not a mapping",
	} {
		err := applyOverrides([]string{set}, &deploymentFile{})
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", set, err, want)
		}
	}
}

func TestShares(t *testing.T) {
	got, err := parseShares("--traffic", []string{"Blue=90, green=10", "teal=0%"})
	if err != nil || len(got) != 3 || got["blue"] != 90 || got["green"] != 10 || got["teal"] != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"blue", "=5", "blue=", "blue=x", "blue=5x", "blue=5 blue=6", "blue=0x10", "blue=1e1",
		"blue=5 Blue=5"} {
		if got, err := parseShares("--traffic", []string{bad}); ExitCode(err) != ExitUsage {
			t.Errorf("%q: got %v, %v", bad, got, err)
		}
	}
}
