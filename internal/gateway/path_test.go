package gateway_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"portico/internal/access"
	"portico/internal/gateway"
	"portico/internal/inference"
	"portico/internal/online"
	"portico/internal/route"
	"portico/internal/telemetry"
	"portico/internal/testkit"
)

// asked notes the requests that an instance gets.
type asked struct {
	mu  sync.Mutex
	all []string
}

func (a *asked) Do(_ context.Context, call *inference.Call) (*inference.Answer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	target := call.Path
	if call.Query != "" {
		target += "?" + call.Query
	}
	a.all = append(a.all, call.Method+" "+target)
	return answer(200, "{}"), nil
}

func (a *asked) take() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	got := strings.Join(a.all, ", ")
	a.all = nil
	return got
}

// TestPaths: what the picked deployment serves reaches its instance in one form, and nothing else does.
func TestPaths(t *testing.T) {
	s := newSite(t, gateway.Config{Domain: "models.example"}, gateway.ServerConfig{})
	script, v2, custom := &asked{}, &asked{}, &asked{}
	for id, u := range map[string]*asked{"i1": script, "i2": v2, "i3": custom} {
		s.upstreams.m.Store(id, inference.Upstream(u))
	}
	green, red := blue("i2"), blue("i3")
	green.Name, green.UID = "green", "uid-green"
	green.Paths = append([]route.Path{{Path: "/v2/", Methods: route.ReadOrWrite}}, route.ScriptPaths...)
	red.Name, red.UID, red.Paths, red.ScoringPath = "red", "uid-red", []route.Path{{Path: "/"}}, "/"
	s.set(blue("i1"), green, red)
	const base = "/endpoints/my-endpoint"
	for _, c := range []struct {
		method, path, host, pinned string
		status                     int
		want                       string // what the instance was asked
	}{
		{"POST", base + "/score?a=%20b", "", "", 200, "POST /score?a=%20b"},
		{"POST", base + "/v2/models/m/infer", "", "", 404, ""},
		{"POST", base + "/v2/models/m/infer", "", "green", 200, "POST /v2/models/m/infer"},
		{"GET", base + "/v2/health/ready", "", "green", 200, "GET /v2/health/ready"},
		{"DELETE", base + "/v2/models/m", "", "green", 405, ""},
		{"POST", base + "/%762/models/m%2f1/infer?q=%2e%2e/", "", "green", 200, "POST /v2/models/m%2F1/infer?q=%2e%2e/"},
		{"POST", base + "/v2/%2e%2e/admin", "", "green", 400, ""},
		{"POST", base + "/v2/x%2f..%2f..%2fadmin", "", "green", 400, ""},
		{"POST", base + "/v2/x%00", "", "green", 400, ""},
		{"POST", "/%65ndpoints/my-endpoint/score", "", "", 200, "POST /score"},
		{"PATCH", base + "/v1/chat/completions", "", "red", 200, "PATCH /v1/chat/completions"},
		{"GET", base + "/", "", "red", 200, "GET /"},
		{"GET", base, "", "red", 404, ""},
		{"GET", base + "/swagger.json", "", "red", 200, "GET /swagger.json"},
		{"POST", "/v1/chat/completions", "my-endpoint.models.example:8444", "red", 200, "POST /v1/chat/completions"},
		{"POST", "/", "my-endpoint.models.example", "red", 200, "POST /"},
		{"GET", "/", "my-endpoint.models.example", "red", 200, ""}, // health
		{"POST", "/", "models.example", "red", 405, ""},
		{"POST", "/endpoints/my-endpoint/x", "my-endpoint.models.example", "red", 200, "POST /x"},
	} {
		var fields []string
		if c.pinned != "" {
			fields = append(fields, "Azureml-Model-Deployment", c.pinned)
		}
		if c.host != "" {
			fields = append(fields, "Host", c.host)
		}
		r := s.do(c.method, c.path, "", fields...)
		got := script.take() + v2.take() + custom.take()
		if r.status != c.status || got != c.want {
			t.Errorf("%s %s%s: %d, asked %q; want %d %q\n%s", c.method, c.host, c.path, r.status, got, c.status, c.want, r.body)
		}
		if c.status == 404 || c.status == 400 {
			r.errorCode(t)
		}
	}
}

// TestMirroredPaths: a shadow is asked for the path as it serves it, or not at all.
func TestMirroredPaths(t *testing.T) {
	s := newSite(t, gateway.Config{}, gateway.ServerConfig{})
	live, shadow := &asked{}, &asked{}
	s.upstreams.m.Store("i1", inference.Upstream(live))
	s.upstreams.m.Store("s1", inference.Upstream(shadow))
	from, to := blue("i1"), blue("s1")
	from.Paths, from.ScoringPath = []route.Path{{Path: "/"}}, "/"
	to.Name, to.UID, to.Paths, to.ScoringPath = "green", "uid-green", []route.Path{{Path: "/predict"}}, "/predict"
	e := route.Endpoint{
		Name: "my-endpoint", UID: "uid-endpoint", AuthMode: online.AuthKey, Keys: [][32]byte{access.Digest(primaryKey)},
		Deployments: []route.Deployment{from, to}, Traffic: online.Traffic{"blue": 100},
		Mirror: online.Traffic{"green": online.MaxMirrorPercent},
	}
	s.gateway.SetTable(route.Build(1, []route.Endpoint{e}))
	testkit.Until(t, "a copy and a drop", func() bool {
		s.do("POST", score, "")
		s.do("POST", "/endpoints/my-endpoint/other", "")
		copies, _, drops := s.records.split()
		return len(copies) > 0 && len(drops) > 0
	})
	if got := shadow.take(); !strings.HasPrefix(got, "POST /predict") || strings.Contains(got, "other") {
		t.Errorf("the shadow was asked %q", got)
	}
	_, _, drops := s.records.split()
	for _, reason := range drops {
		if reason != telemetry.DropPath && reason != telemetry.DropCopies {
			t.Errorf("dropped: %v", drops)
		}
	}
}
