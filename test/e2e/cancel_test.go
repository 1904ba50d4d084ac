package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const slowScript = `import ctypes, json, os, time

libc = ctypes.CDLL(None)

def init():
    pass

def run(raw_data):
    kind = json.loads(raw_data)["kind"]
    if kind == "loop":
        while True:
            pass
    if kind == "sleep":
        time.sleep(600)
    if kind == "c":
        libc.usleep(6000000)
    return {"pid": os.getpid(), "at": time.time()}
`

// TestTimeoutFreesTheInstance: a Python loop and a sleep stop with the 408, so the next request is answered by the
// same process at once; a C call holds exactly one slot until it returns.
func TestTimeoutFreesTheInstance(t *testing.T) {
	s := start(t)
	s.deploy("slow", "blue", slowScript, "request_settings:\n  request_timeout_ms: 700\n  max_concurrent_requests_per_instance: 2\nenvironment_variables:\n  WORKER_COUNT: \"2\"\n")
	key := s.key("slow")
	first := s.workers()
	for _, kind := range []string{"loop", "sleep"} {
		for range 3 {
			if a := s.score("slow", key, `{"kind": "`+kind+`"}`); a.status != http.StatusRequestTimeout {
				t.Fatalf("%s: %d %s", kind, a.status, a.body)
			}
			if a := s.score("slow", key, `{"kind": "fast"}`); a.status != http.StatusOK {
				t.Fatalf("after a %s: %d %s", kind, a.status, a.body)
			}
		}
	}
	if a := s.score("slow", key, `{"kind": "c"}`); a.status != http.StatusRequestTimeout {
		t.Fatalf("c: %d %s", a.status, a.body)
	}
	for range 20 {
		if a := s.score("slow", key, `{"kind": "fast"}`); a.status != http.StatusOK {
			t.Fatalf("while a C call holds one of two slots: %d %s", a.status, a.body)
		}
	}
	if now := s.workers(); fmt.Sprint(now) != fmt.Sprint(first) {
		t.Errorf("a worker was restarted for a time-out: %v, then %v", first, now)
	}
}

// TestThreeWorkers runs probes that are as impatient as they can be with requests that last many times as long:
// three run at once and nothing is restarted.
func TestThreeWorkers(t *testing.T) {
	s := shared(t)
	s.deploy("three", "blue", `import time

def init():
    pass

def run(raw_data):
    start = time.time()
    time.sleep(float(raw_data))
    return [start, time.time()]
`, `request_settings:
  request_timeout_ms: 90000
  max_concurrent_requests_per_instance: 3
environment_variables:
  WORKER_COUNT: "3"
liveness_probe:
  initial_delay: 1
  period: 1
  timeout: 1
  failure_threshold: 1
readiness_probe:
  initial_delay: 1
  period: 1
  timeout: 1
  failure_threshold: 1
startup_probe:
  period: 1
  failure_threshold: 120
`)
	key := s.key("three")
	const seconds = 8 // several times the patience of the probes
	var wg sync.WaitGroup
	begin := time.Now()
	var mu sync.Mutex
	var starts, ends []float64
	for range 3 {
		wg.Go(func() {
			a := s.score("three", key, fmt.Sprint(seconds))
			var span []float64
			if a.status != http.StatusOK || json.Unmarshal(a.body, &span) != nil || len(span) != 2 {
				t.Errorf("%d %s", a.status, a.body)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			starts, ends = append(starts, span[0]), append(ends, span[1])
		})
	}
	wg.Wait()
	if len(starts) == 3 && (slices.Max(starts) >= slices.Min(ends) || time.Since(begin) > 3*seconds*time.Second) {
		t.Errorf("the three did not run at once: %v %v", starts, ends)
	}
	show := s.must("ml", "online-deployment", "show", "-e", "three", "-n", "blue", "--query", "instances[0].restarts", "-o", "tsv")
	if strings.TrimSpace(show) != "0" {
		t.Errorf("restarts: %s", show)
	}
}
