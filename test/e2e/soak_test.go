package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"portico/bench/load"
)

// The soak holds a fixed rate and looks whether anything grows. `make test` runs it for a few seconds, which finds
// what leaks with each request; bench/soak.sh runs it for ten minutes.
const (
	soakVariable = "PORTICO_SOAK" // a duration
	soakShort    = 6 * time.Second
	soakRate     = 200 // requests per second
	soakCallers  = 8
	// What may come and go without being a leak.
	soakDescriptors = 30
	soakGoroutines  = 40
	soakMemory      = 0.35 // of the memory after a fifth of the time
)

// gauges are what the server says of itself.
type gauges struct{ memory, descriptors, goroutines float64 }

func (s *server) gauges() gauges {
	s.t.Helper()
	a := s.api("GET", "/metrics", nil)
	if a.status != http.StatusOK {
		s.t.Fatalf("metrics: %d", a.status)
	}
	var g gauges
	for sc := bufio.NewScanner(bytes.NewReader(a.body)); sc.Scan(); {
		name, value, _ := strings.Cut(sc.Text(), " ")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "process_resident_memory_bytes":
			g.memory = v
		case "process_open_fds":
			g.descriptors = v
		case "go_goroutines":
			g.goroutines = v
		}
	}
	return g
}

func TestSoak(t *testing.T) {
	length := soakShort
	if v := os.Getenv(soakVariable); v != "" {
		var err error
		if length, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t)
	s.deploy("soak", "blue", "def init():\n    pass\ndef run(raw_data):\n    return raw_data\n",
		"request_settings:\n  max_concurrent_requests_per_instance: 8\n  request_timeout_ms: 30000\n")
	header := http.Header{"Authorization": {"Bearer " + s.key("soak")}, "Content-Type": {"application/json"}}
	run := func(d time.Duration) *load.Result {
		ctx, cancel := context.WithTimeout(context.Background(), d+time.Minute)
		defer cancel()
		r, err := load.Run(ctx, load.Config{
			URL: strings.TrimSuffix(s.ready.ScoringHTTPURL, "/") + "/endpoints/soak/score", Header: header,
			Body: []byte(`{"n": 1}`), Connections: soakCallers, Duration: d, Rate: soakRate,
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.Failures > 0 {
			t.Fatalf("%d requests failed: %v", r.Failures, r.Failure)
		}
		return r
	}
	run(length / 5)
	first := s.gauges()
	worst := first
	const looks = 8
	for range looks {
		r := run(length * 4 / 5 / looks)
		g := s.gauges()
		worst = gauges{max(worst.memory, g.memory), max(worst.descriptors, g.descriptors), max(worst.goroutines, g.goroutines)}
		t.Logf("memory %.1f MiB, %v descriptors, %v goroutines, p50 %s, p99 %s", g.memory/(1<<20), g.descriptors, g.goroutines, r.Percentile(.5), r.Percentile(.99))
	}
	for _, c := range []struct {
		what               string
		first, worst, most float64
	}{
		{"memory", first.memory, worst.memory, first.memory * (1 + soakMemory)},
		{"descriptors", first.descriptors, worst.descriptors, first.descriptors + soakDescriptors},
		{"goroutines", first.goroutines, worst.goroutines, first.goroutines + soakGoroutines},
	} {
		if c.first == 0 || c.worst > c.most {
			t.Errorf("%s grew from %v to %v", c.what, c.first, c.worst)
		}
	}
}

// TestHundredDeploymentsAtOnce changes a hundred deployments at the same time, through the API.
func TestHundredDeploymentsAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a hundred processes")
	}
	s := start(t)
	const endpoints, each = 10, 10
	s.deploy("first", "blue", echoScript, "")
	spec := s.api("GET", workspace+"/onlineEndpoints/first/deployments/blue", nil).json(t)
	body := map[string]any{"location": "local", "sku": spec["sku"], "properties": spec["properties"]}
	put := func(version string) {
		properties := spec["properties"].(map[string]any)
		properties["environmentVariables"] = map[string]any{"VERSION": version}
		for e := range endpoints {
			for d := range each {
				a := s.api("PUT", fmt.Sprintf("%s/onlineEndpoints/many%d/deployments/dep%d", workspace, e, d), body)
				if a.status >= 300 {
					t.Fatalf("put: %d %s", a.status, a.body)
				}
			}
		}
	}
	for e := range endpoints {
		a := s.api("PUT", fmt.Sprintf("%s/onlineEndpoints/many%d", workspace, e), map[string]any{"location": "local", "properties": map[string]any{"authMode": "Key"}})
		if a.status >= 300 {
			t.Fatalf("put: %d %s", a.status, a.body)
		}
	}
	put("one")
	put("two") // while the first change is under way
	for e := range endpoints {
		for d := range each {
			path := fmt.Sprintf("%s/onlineEndpoints/many%d/deployments/dep%d", workspace, e, d)
			s.eventually(path, func() bool {
				p, _ := s.api("GET", path, nil).json(t)["properties"].(map[string]any)
				if p["provisioningState"] == "Failed" {
					t.Fatalf("%s failed: %v", path, p["error"])
				}
				return p["provisioningState"] == "Succeeded"
			})
		}
	}
	for e := range endpoints {
		name := fmt.Sprintf("many%d", e)
		a := s.score(name, s.key(name), "1", "azureml-model-deployment", fmt.Sprintf("dep%d", e))
		if a.status != http.StatusOK || a.json(t)["version"] != "two" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}
