package online

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestCheckName(t *testing.T) {
	for name, good := range map[string]bool{
		"abc": true, "a-1": true, "Blue2": true, strings.Repeat("a", 32): true,
		"ab": false, strings.Repeat("a", 33): false, "1ab": false, "abc-": false, "a_b": false, "": false, "a b": false, "ä-bc": false,
	} {
		if err := CheckName("endpoint", name, "name"); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestIDKeys(t *testing.T) {
	w := WorkspaceID{Subscription: "S", ResourceGroup: "Rg", Name: "Ws"}
	for id, key := range map[ID]string{
		w.ID():                           "workspaces/s/rg/ws",
		w.Endpoint("My-E"):               "onlineendpoints/s/rg/ws/my-e",
		w.Deployment("My-E", "Blue"):     "deployments/s/rg/ws/my-e/blue",
		w.Asset(KindModel, "M.x", "1.0"): "models/s/rg/ws/m.x/1.0",
	} {
		if id.Key() != key || !strings.HasPrefix(key, id.Prefix()) {
			t.Errorf("%+v: key %q, prefix %q", id, id.Key(), id.Prefix())
		}
	}
	if !w.Endpoint("ABC").Same(WorkspaceID{"s", "RG", "ws"}.Endpoint("abc")) || w.Endpoint("abc").Same(w.Deployment("abc", "")) {
		t.Error("ids are compared without regard to case, and by kind")
	}
}

// faultsOf joins targets and codes, so that a table can say what it expects.
func faultsOf(faults []*Error) string {
	var out []string
	for _, f := range faults {
		out = append(out, string(f.Code)+" "+f.Target)
	}
	return strings.Join(out, "; ")
}

func TestEndpointValidate(t *testing.T) {
	have := map[string]bool{"blue": true, "green": true}
	cases := []struct {
		name string
		edit func(*EndpointSpec)
		want string
	}{
		{"defaults", func(*EndpointSpec) {}, ""},
		{"all to one", func(s *EndpointSpec) { s.Traffic = Traffic{"blue": 100} }, ""},
		{"sums to 90", func(s *EndpointSpec) { s.Traffic = Traffic{"blue": 90} }, "BadArgument properties.traffic"},
		{"negative", func(s *EndpointSpec) { s.Traffic = Traffic{"blue": 110, "green": -10} },
			"BadArgument properties.traffic.blue; BadArgument properties.traffic.green"},
		{"unknown deployment", func(s *EndpointSpec) { s.Traffic = Traffic{"red": 100} }, "BadArgument properties.traffic.red"},
		{"no such mode", func(s *EndpointSpec) { s.AuthMode = "Password" }, "BadArgument properties.authMode"},
		{"private", func(s *EndpointSpec) { s.PublicNetworkAccess = "Disabled" }, "NotImplemented properties.publicNetworkAccess"},
		{"cluster", func(s *EndpointSpec) { s.Compute = "aks" }, "NotImplemented properties.compute"},
	}
	for _, c := range cases {
		var s EndpointSpec
		s.Default()
		c.edit(&s)
		if got := faultsOf(s.Validate(have)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func goodDeployment() DeploymentSpec {
	s := DeploymentSpec{
		InstanceType: "standard_ds3_v2", ScoringScript: "score.py",
		Code: &AssetRef{Kind: KindCode, Name: "c", Version: "1"}, Environment: &AssetRef{Kind: KindEnvironment, Name: "e", Version: "1"},
	}
	s.Default()
	return s
}

func TestDeploymentValidate(t *testing.T) {
	types := Catalogue{Types: AzureTypes()}
	cases := []struct {
		name string
		edit func(*DeploymentSpec)
		want string
	}{
		{"defaults", func(*DeploymentSpec) {}, ""},
		{"unknown type", func(s *DeploymentSpec) { s.InstanceType = "Standard_X" }, "BadArgument properties.instanceType"},
		{"GPU type", func(s *DeploymentSpec) { s.InstanceType = "Standard_NC6s_v3" }, "OutOfQuota properties.instanceType"},
		{"51 instances", func(s *DeploymentSpec) { s.InstanceCount = 51 }, "BadArgument sku.capacity"},
		{"script outside", func(s *DeploymentSpec) { s.ScoringScript = "../x.py" }, "BadArgument properties.codeConfiguration.scoringScript"},
		{"long time-out", func(s *DeploymentSpec) { s.Request.Timeout = MaxRequestTimeout + 1 }, "BadArgument properties.requestSettings.requestTimeout"},
		{"no concurrency", func(s *DeploymentSpec) { s.Request.MaxConcurrent = -1 }, "BadArgument properties.requestSettings.maxConcurrentRequestsPerInstance"},
		{"short probe", func(s *DeploymentSpec) { s.Liveness.Period = time.Millisecond }, "BadArgument properties.livenessProbe.period"},
		{"liveness successes", func(s *DeploymentSpec) { s.Liveness.SuccessThreshold = 2 }, "BadArgument properties.livenessProbe.successThreshold"},
		{"readiness successes", func(s *DeploymentSpec) { s.Readiness.SuccessThreshold = 2 }, ""},
		{"scaling", func(s *DeploymentSpec) { s.Scale.Type = "TargetUtilization" }, "NotImplemented properties.scaleSettings.scaleType"},
		{"workers", func(s *DeploymentSpec) { s.EnvironmentVariables = map[string]Secret{"WORKER_COUNT": "many"} },
			"BadArgument properties.environmentVariables.WORKER_COUNT"},
		{"reserved name", func(s *DeploymentSpec) { s.EnvironmentVariables = map[string]Secret{"PORTICO_X": "1"} },
			"BadArgument properties.environmentVariables.PORTICO_X"},
		{"name with =", func(s *DeploymentSpec) { s.EnvironmentVariables = map[string]Secret{"A=B": "1"} }, "BadArgument properties.environmentVariables"},
	}
	for _, c := range cases {
		s := goodDeployment()
		c.edit(&s)
		if got := faultsOf(s.Validate(types)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestDefaultsAreIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := DeploymentSpec{InstanceCount: rapid.IntRange(0, 60).Draw(t, "count")}
		s.Request.Timeout = time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "timeout"))
		s.Liveness.FailureThreshold = rapid.IntRange(0, 5).Draw(t, "threshold")
		s.Default()
		again := s
		again.Default()
		if fmt.Sprint(s) != fmt.Sprint(again) {
			t.Fatalf("%+v, then %+v", s, again)
		}
		if s.InstanceCount == 0 || s.Request.MaxConcurrent == 0 || s.Readiness != DefaultProbe() {
			t.Fatalf("not filled in: %+v", s)
		}
	})
}

func TestSecretsAreNotShown(t *testing.T) {
	const clear = "hunter2"
	v := struct{ Key Secret }{clear}
	doc, err := json.Marshal(map[string]any{"v": v, "m": map[string]Secret{"k": clear}})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", v.Key, "v", v)
	for _, text := range []string{string(doc), fmt.Sprint(v), fmt.Sprintf("%v %+v %#v %s %q", v.Key, v, v, v.Key, v.Key), log.String()} {
		if strings.Contains(text, clear) {
			t.Errorf("shown: %s", text)
		}
	}
	if v.Key.Reveal() != clear {
		t.Error("Reveal must give the text")
	}
}

func TestErrors(t *testing.T) {
	err := Errorf(CodeNotFound, "id", "read it: %w", fs.ErrNotExist)
	wrapped := fmt.Errorf("handle: %w", err)
	if !errors.Is(wrapped, fs.ErrNotExist) || !IsCode(wrapped, CodeNotFound) || IsCode(wrapped, CodeConflict) || err.HTTPStatus() != 404 {
		t.Errorf("%v", wrapped)
	}
	if Join(nil) != nil || Join([]*Error{err}) != err {
		t.Error("none and one stay what they are")
	}
	if all := Join([]*Error{err, Errorf(CodeBadArgument, "a", "b")}); len(all.Details) != 2 || all.Code != CodeNotFound {
		t.Errorf("%+v", all)
	}
	for code := range httpStatus {
		if s := (&Error{Code: code}).HTTPStatus(); s < 400 || s > 599 {
			t.Errorf("%s: %d", code, s)
		}
	}
}
