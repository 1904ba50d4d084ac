package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const keptScript = `import os, time

calls = 0

def init():
    pass

def run(raw_data):
    global calls
    calls += 1
    if raw_data.startswith("slow"):
        time.sleep(1)
    if raw_data.startswith("fail"):
        raise ValueError(raw_data)
    return {"echo": raw_data, "calls": calls, "version": os.environ.get("VERSION", "")}
`

const headerScript = `def init():
    pass

def run(raw_data, request_headers):
    return {"tenant": request_headers.get("X-Tenant", "")}
`

const cacheBlock = "response_cache:\n  ttl: 600\n"

// TestResponseCache: the whole way, from the file to an answer that no instance gave.
func TestResponseCache(t *testing.T) {
	s := start(t)
	s.deploy("kept", "blue", keptScript, cacheBlock+"request_settings:\n  request_timeout_ms: 60000\n  max_concurrent_requests_per_instance: 8\n")
	key := s.key("kept")
	said := func(body, want string, header ...string) map[string]any {
		t.Helper()
		a := s.score("kept", key, body, header...)
		if a.status != 200 || a.header.Get("x-portico-cache") != want || a.json(t)["echo"] != body {
			t.Fatalf("%s: %d %v %s, want a %s", body, a.status, a.header, a.body, want)
		}
		return a.json(t)
	}
	first := said("one", "miss")
	if again := said("one", "hit"); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Errorf("first %v, then %v", first, again)
	}
	if fresh := said("one", "bypass", "Cache-Control", "no-cache"); fresh["calls"] != 2.0 {
		t.Errorf("no-cache gave %v", fresh)
	}
	for range 2 {
		if a := s.score("kept", key, "fail"); a.status != 424 || a.header.Get("x-portico-cache") != "miss" {
			t.Errorf("a failure: %d %v", a.status, a.header)
		}
	}

	// Eight at once cost one call.
	var wg sync.WaitGroup
	var mu sync.Mutex
	how, calls := map[string]int{}, map[any]bool{}
	for range 8 {
		wg.Go(func() {
			a := s.score("kept", key, "slow")
			mu.Lock()
			defer mu.Unlock()
			how[a.header.Get("x-portico-cache")]++
			calls[a.json(t)["calls"]] = true
		})
	}
	wg.Wait()
	if len(calls) != 1 || how["miss"] != 1 || how["bypass"] != 0 {
		t.Errorf("eight at once: %v, calls %v", how, calls)
	}

	var purged struct{ Entries, Bytes int }
	if err := json.Unmarshal([]byte(s.must("ml", "online-deployment", "purge-cache", "-n", "blue", "-e", "kept", "-o", "json")), &purged); err != nil ||
		purged.Entries != 2 || purged.Bytes == 0 {
		t.Errorf("purged %+v, %v", purged, err)
	}
	said("one", "miss")
	said("one", "hit")

	// A new generation does not give the answers of the old one.
	s.must("ml", "online-deployment", "update", "-n", "blue", "-e", "kept", "--set", "environment_variables.VERSION=2", "-o", "none")
	if next := said("one", "miss"); next["version"] != "2" {
		t.Errorf("after the update: %v", next)
	}

	// The settings are shown in both spellings, and are counted and logged.
	if shown := s.must("ml", "online-deployment", "show", "-n", "blue", "-e", "kept", "-o", "yaml"); !strings.Contains(shown, "response_cache:") ||
		!strings.Contains(shown, "ttl: 600") || strings.Contains(shown, "portico.response-cache") {
		t.Errorf("shown is\n%s", shown)
	}
	blue := workspace + "/onlineEndpoints/kept/deployments/blue"
	properties := s.api("GET", blue, nil).json(t)["properties"].(map[string]any)["properties"].(map[string]any)
	if properties["portico.response-cache.ttl"] != "PT10M" || properties["portico.response-cache.max-bytes"] != "16777216" {
		t.Errorf("properties are %v", properties)
	}
	if page := string(s.api("GET", "/metrics", nil).body); !strings.Contains(page, `portico_endpoint_cache_total{deployment="blue",endpoint="kept",result="hit"} 2`) {
		t.Errorf("the metrics page lacks the hits")
	}
	s.eventually("a hit in the access log", func() bool {
		log, err := os.ReadFile(filepath.Join(s.dir, "logs", "access.log"))
		return err == nil && strings.Contains(string(log), `"cache":"hit"`)
	})

	// Without a cache there is nothing to purge.
	s.must("ml", "online-deployment", "update", "-n", "blue", "-e", "kept", "--remove", "response_cache", "-o", "none")
	if r := s.cli("ml", "online-deployment", "purge-cache", "-n", "blue", "-e", "kept"); r.code == 0 || !strings.Contains(r.err, "has no response cache") {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
	if a := s.score("kept", key, "one"); a.header.Get("x-portico-cache") != "" {
		t.Errorf("it is still cached: %v", a.header)
	}
	s.cacheAndHeaders()
}

// cacheAndHeaders: a script that sees request headers is refused until vary says which of them matter.
func (s *server) cacheAndHeaders() {
	t := s.t
	t.Helper()
	dir := files(t, map[string]string{
		"endpoint.yml": endpointYAML("told"), "deployment.yml": deploymentYAML("told", "blue", cacheBlock),
		"conda.yaml": emptyConda, "src/score.py": headerScript,
	})
	s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
	file := filepath.Join(dir, "deployment.yml")
	r := s.cli("ml", "online-deployment", "create", "-f", file)
	if r.code == 0 || !strings.Contains(r.err, "run() has the parameter request_headers") || !strings.Contains(r.err, "response_cache.vary") {
		t.Fatalf("exit %d: %s", r.code, r.err)
	}
	if r := s.cli("ml", "online-deployment", "create", "-f", file, "--set", "response_cache.vary=[authorization]"); r.code == 0 ||
		!strings.Contains(r.err, "authorization holds the caller's credential") {
		t.Fatalf("exit %d: %s", r.code, r.err)
	}
	s.must("ml", "online-deployment", "create", "-f", file, "--set", "response_cache.vary=[X-Tenant]", "--all-traffic", "-o", "none")
	key := s.key("told")
	for _, step := range []struct{ tenant, want string }{{"a", "miss"}, {"b", "miss"}, {"a", "hit"}, {"b", "hit"}} {
		a := s.score("told", key, "same", "X-Tenant", step.tenant)
		if a.header.Get("x-portico-cache") != step.want || a.json(t)["tenant"] != step.tenant {
			t.Errorf("%s: %v %s", step.tenant, a.header, a.body)
		}
	}
}
