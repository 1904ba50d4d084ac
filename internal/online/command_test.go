package online_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"portico/internal/online"
)

func TestSplitCommand(t *testing.T) {
	for text, want := range map[string][]string{
		"python serve.py --port {port}":    {"python", "serve.py", "--port", "{port}"},
		"  a\t b\n\\\n  c ":                {"a", "b", "\n", "c"},
		`sh -c 'exec x --port "$PORT"'`:    {"sh", "-c", `exec x --port "$PORT"`},
		`a "b c" d\ e 'f\g' "h\"i" "j\\k"`: {"a", "b c", "d e", `f\g`, `h"i`, `j\k`},
		`a "" '' b"c"'d'`:                  {"a", "", "", "bcd"},
		`a "x\ny"`:                         {"a", `x\ny`},
		"$HOME/x * ; ls":                   {"$HOME/x", "*", ";", "ls"},
		"":                                 nil,
		"   ":                              nil,
		`""`:                               nil,
		`a 'b`:                             nil,
		`a "b`:                             nil,
		`a \`:                              nil,
		"a\x00b":                           nil,
		strings.Repeat("a", online.MaxCommandBytes+1): nil,
	} {
		got, err := online.SplitCommand(text)
		if (err == nil) != (want != nil) || !slices.Equal(got, want) {
			t.Errorf("%.40q: %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestCommandPorts(t *testing.T) {
	routes := online.InferenceConfig{Scoring: online.Route{Path: "/", Port: 8000}, Liveness: online.Route{Path: "/", Port: 8002},
		Readiness: online.Route{Path: "/", Port: 8000}}
	for text, want := range map[string]string{
		"x":                                   "[8000 8002]",
		"x --port={port} --grpc={port:8001}":  "[8000 8001 8002]",
		"x {port:8000}{port:8001}{port:8001}": "[8000 8001 8002]",
		"x {port:} y":                         "",
		"x {port:0}":                          "",
		"x {port:70000}":                      "",
		"x {port:80":                          "",
		"x {port:1}{port:2}{port:3}{port:4}{port:5}{port:6}{port:7}": "",
	} {
		words := strings.Fields(text)
		got, err := online.CommandPorts(words, routes)
		if (err == nil) != (want != "") || err == nil && fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v; want %s", text, got, err, want)
		}
	}
	words := online.ExpandCommand([]string{"x", "--port={port}", "{port:8001}/{port:8000}", "{model_dir}/m", "{other} {"}, 8000,
		map[int]int{8000: 20001, 8001: 20002}, "/models")
	if got := strings.Join(words, " "); got != "x --port=20001 20002/20001 /models/m {other} {" {
		t.Error(got)
	}
}

// TestServerSpec: what only custom servers may have, and must.
func TestServerSpec(t *testing.T) {
	at := online.Route{Path: "/", Port: 80}
	for name, c := range map[string]struct {
		change func(*online.DeploymentSpec)
		target string // "" when it is right
	}{
		"plain":               {func(*online.DeploymentSpec) {}, ""},
		"mounted":             {func(s *online.DeploymentSpec) { s.ModelMountPath = "/var/models" }, ""},
		"mounted at the root": {func(s *online.DeploymentSpec) { s.ModelMountPath = "/" }, "properties.modelMountPath"},
		"mounted in /usr":     {func(s *online.DeploymentSpec) { s.ModelMountPath = "/usr/models" }, "properties.modelMountPath"},
		"mounted at /etc":     {func(s *online.DeploymentSpec) { s.ModelMountPath = "/etc" }, "properties.modelMountPath"},
		"mounted upwards":     {func(s *online.DeploymentSpec) { s.ModelMountPath = "/models/../usr" }, "properties.modelMountPath"},
		"mounted relatively":  {func(s *online.DeploymentSpec) { s.ModelMountPath = "models" }, "properties.modelMountPath"},
		"mounted, no model":   {func(s *online.DeploymentSpec) { s.ModelMountPath, s.Model = "/models", nil }, "properties.modelMountPath"},
		"mounted for a script": {func(s *online.DeploymentSpec) {
			s.ModelMountPath, s.Runtime, s.ScoringScript = "/models", "", "score.py"
		}, "properties.modelMountPath"},
		"gRPC": {func(s *online.DeploymentSpec) {
			s.EnvironmentVariables = map[string]online.Secret{"MIR_MODEL_USE_HTTP2": "True"}
		}, "properties.environmentVariables.MIR_MODEL_USE_HTTP2"},
		"a file without code": {func(s *online.DeploymentSpec) { s.Code = nil }, "properties.properties.portico.command"},
		"of the model": {func(s *online.DeploymentSpec) {
			s.Code, s.Command = nil, "{model_dir}/server"
		}, ""},
	} {
		spec := online.DeploymentSpec{Runtime: online.RuntimeServer, Command: "./server --port {port}", InstanceType: "Standard_DS2_v2",
			Model: &online.AssetRef{Name: "m", Version: "3"}, Code: &online.AssetRef{}, Environment: &online.AssetRef{},
			Inference: online.InferenceConfig{Liveness: at, Readiness: at, Scoring: at}}
		spec.Default()
		c.change(&spec)
		var got []string
		for _, f := range spec.Validate(online.Catalogue{Types: online.AzureTypes()}) {
			got = append(got, f.Target)
		}
		if strings.Join(got, " ") != c.target {
			t.Errorf("%s: faults at %v, want %q", name, got, c.target)
		}
		if name == "mounted" && spec.ModelMount() != "/var/models/m/3" {
			t.Error(spec.ModelMount())
		}
	}
}
