package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// batchScript scores what comes together and says how many came. It takes as long as anybody's item asks for.
const batchScript = `import os, time

def init():
    pass

def run_batch(items):
    out = []
    for text in items:
        word, _, arg = text.partition(" ")
        if word == "sleep":
            time.sleep(float(arg))
        if word == "exit":
            os._exit(7)
        if word == "bad":
            raise ValueError("bad input")
        out.append([text, len(items)])
    return out
`

// TestBatching deploys a script with run_batch: requests that wait are scored together, everyone gets its own answer, and
// what one of them does is its own affair as far as a process allows.
func TestBatching(t *testing.T) {
	s := start(t)
	s.deploy("batch", "blue", batchScript, "batching:\n  max_size: 8\n  max_wait_ms: 20\nrequest_settings:\n  request_timeout_ms: 20000\n")
	key := s.key("batch")

	shown := s.api("GET", workspace+"/onlineEndpoints/batch/deployments/blue?api-version=2024-04-01", nil).json(t)
	properties, _ := shown["properties"].(map[string]any)
	own, _ := properties["properties"].(map[string]any)
	requests, _ := properties["requestSettings"].(map[string]any)
	if own["portico.batching.max-size"] != "8" || own["portico.batching.max-wait"] != "PT0.02S" ||
		requests["maxConcurrentRequestsPerInstance"] != 16.0 {
		t.Errorf("shown are %v and %v", own, requests)
	}
	if out := s.must("ml", "online-deployment", "show", "-e", "batch", "-n", "blue", "-o", "yaml"); !strings.Contains(out, "max_wait_ms: 20") {
		t.Errorf("the file that show gives:\n%s", out)
	}

	type outcome struct {
		answer answer
		size   int
	}
	ask := func(ctx context.Context, body string) (outcome, error) {
		resp, err := s.http.Do(s.scoringRequest(ctx, "batch", key, body))
		if err != nil {
			return outcome{}, err
		}
		defer resp.Body.Close()
		var got []any
		o := outcome{answer: answer{status: resp.StatusCode, header: resp.Header}}
		if resp.StatusCode == http.StatusOK {
			if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
				return o, err
			}
			if len(got) != 2 || got[0] != body {
				t.Errorf("%q got another's answer: %v", body, got)
			} else if size, ok := got[1].(float64); ok {
				o.size = int(size)
			}
		}
		return o, nil
	}

	// Many callers, some with bad input, some who leave: all but the bad ones get their own answer.
	var wg sync.WaitGroup
	var mu sync.Mutex
	largest := 0
	for c := range 12 {
		wg.Go(func() {
			for n := range 20 {
				ctx, cancel := t.Context(), func() {}
				body := "sleep 0.01" + strconv.Itoa(100*c+n)
				if n%5 == 3 {
					body = "bad " + body
				}
				if n%5 == 4 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(n)*time.Millisecond)
				}
				o, err := ask(ctx, body)
				cancel()
				switch {
				case n%5 == 4 && err != nil: // left before the answer
				case err != nil:
					t.Errorf("%q: %v", body, err)
				case n%5 == 3:
					if o.answer.status != http.StatusFailedDependency || o.answer.header.Get("ms-azureml-model-error-statuscode") != "500" {
						t.Errorf("%q: %d", body, o.answer.status)
					}
				case o.answer.status != http.StatusOK:
					t.Errorf("%q: %d", body, o.answer.status)
				}
				mu.Lock()
				largest = max(largest, o.size)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if largest < 2 || largest > 8 {
		t.Errorf("the largest batch had %d requests, want 2 to 8", largest)
	}

	if page := string(s.api("GET", "/metrics", nil).body); !strings.Contains(page, `portico_endpoint_batch_size_count{deployment="blue",endpoint="batch"}`) {
		t.Error("the size of batches is not on the page of metrics")
	}

	// A worker that dies takes its batch along and nothing else.
	first := make(chan error, 1)
	go func() { _, err := ask(t.Context(), "sleep 0.5"); first <- err }()
	lost := 0
	for _, body := range []string{"exit", "a", "b", "c"} {
		wg.Go(func() {
			o, err := ask(t.Context(), body)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if o.answer.status == http.StatusFailedDependency {
				lost++
			} else if o.answer.status != http.StatusOK {
				t.Errorf("%q: %d", body, o.answer.status)
			}
		})
	}
	wg.Wait()
	if err := <-first; err != nil || lost == 0 {
		t.Errorf("%d were lost, %v", lost, err)
	}
	s.eventually("the worker is back", func() bool {
		o, err := ask(t.Context(), "again")
		return err == nil && o.answer.status == http.StatusOK
	})

	s.refusesBatching()
}

// refusesBatching: a script that cannot score batches, and settings that cannot work, are refused by name.
func (s *server) refusesBatching() {
	s.t.Helper()
	for extra, want := range map[string]string{
		"batching: {max_size: 1}\n":                    "max size 1 of a batch is not between 2 and 256",
		"batching: {max_wait_ms: 3}\n":                 "batching needs max_size",
		"batching: {max_size: 8, max_wait_ms: 2000}\n": "max wait 2s of a batch",
		"batching: {max_size: 8}\nrequest_settings: {max_concurrent_requests_per_instance: 4}\n": "no batch could be full",
		"batching: {max_sise: 8}\n": "did you mean max_size?",
		"batching: {max_size: 8}\n": "has no function run_batch(), which batching needs",
	} {
		dir := files(s.t, map[string]string{
			"deployment.yml": deploymentYAML("batch", "green", extra), "conda.yaml": emptyConda, "src/score.py": echoScript,
		})
		r := s.cli("ml", "online-deployment", "create", "-f", dir+"/deployment.yml", "-o", "none")
		if r.code == 0 || !strings.Contains(r.err, want) {
			s.t.Errorf("%s: exit %d, %s", extra, r.code, r.err)
		}
	}
}
