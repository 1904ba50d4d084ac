package server

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"portico/internal/inference"
	"portico/internal/online"
	"portico/internal/testkit"
)

const standaloneScript = `
from azureml_inference_server_http.api.aml_response import AMLResponse
def init(): pass
def run(raw_data):
    if raw_data == "raise": raise ValueError("no such column")
    if raw_data == "stream": return AMLResponse(iter(["a", "b"]), 200)
    return {"version": 1}
`

func (i *inferring) ask(t *testing.T, method, path, body string, header ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+i.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n+1 < len(header); n += 2 {
		req.Header.Set(header[n], header[n+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(got), resp.Header
}

// TestInferBatches: requests that wait are scored together behind the same routes, and each gets its own answer.
func TestInferBatches(t *testing.T) {
	const script = `
import time
def init(): pass
def run_batch(items):
    time.sleep(0.02)
    return [KeyError(text) if text == "bad" else [text, len(items)] for text in items]
`
	run := startInfer(t, script, func(c *InferConfig) {
		c.Batching = inference.Batching{MaxSize: 8, MaxWait: 5 * time.Millisecond}
	})
	var largest atomic.Int64
	var wg sync.WaitGroup
	for c := range 16 {
		wg.Go(func() {
			for n := range 8 {
				body, id := strconv.Itoa(c)+"-"+strconv.Itoa(n), "id-"+strconv.Itoa(100*c+n)
				if n == 3 {
					body = "bad"
				}
				status, text, header := run.ask(t, "POST", "/score", body, "x-request-id", id)
				var got []any
				switch {
				case header.Get("X-Request-Id") != id || header.Get("X-Ms-Run-Function-Failed") == "":
					t.Errorf("header of %s: %v", id, header)
				case n == 3:
					if status != 500 {
						t.Errorf("the bad one: %d %s", status, text)
					}
				case status != 200 || json.Unmarshal([]byte(text), &got) != nil || len(got) != 2 || got[0] != body:
					t.Errorf("%s: %d %s", body, status, text)
				default:
					if size, ok := got[1].(float64); ok && int64(size) > largest.Load() {
						largest.Store(int64(size))
					}
				}
			}
		})
	}
	wg.Wait()
	if n := largest.Load(); n < 2 || n > 8 {
		t.Errorf("the largest batch had %d requests", n)
	}
	if status, _, _ := run.ask(t, "GET", "/score", ""); status != 200 {
		t.Errorf("GET: %d", status)
	}
}

// TestInferReload: changed code is taken up without a failed request, and code that cannot serve changes nothing.
func TestInferReload(t *testing.T) {
	var script string
	run := startInfer(t, standaloneScript, func(c *InferConfig) {
		c.Reload = true
		script = filepath.Join(c.AppRoot, "score.py")
	})
	write := func(text string) {
		if err := os.WriteFile(script, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	answer := func() string {
		status, body, _ := run.ask(t, "POST", "/score", "x")
		if status != 200 {
			t.Fatalf("a request during a reload: %d %s", status, body)
		}
		return body
	}
	if got := answer(); got != `{"version": 1}` {
		t.Fatal(got)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			resp, err := http.Post("http://"+run.address+"/score", "text/plain", strings.NewReader("x"))
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("status %d during a reload", resp.StatusCode)
			}
		}
	})
	write("def init(): pass\ndef run(d): return {'version': 2}\n")
	testkit.Until(t, "the new code answers", func() bool { return answer() == `{"version": 2}` })
	write("def init(): raise ValueError('broken')\ndef run(d): return {'version': 3}\n")
	testkit.Until(t, "the broken code was tried", func() bool {
		printed, err := os.ReadFile(run.output)
		return err == nil && strings.Contains(string(printed), "ValueError: broken")
	})
	if got := answer(); got != `{"version": 2}` {
		t.Errorf("after broken code: %s", got)
	}
	write("def init(): pass\ndef run(d): return {'version': 4}\n")
	testkit.Until(t, "the mended code answers", func() bool { return answer() == `{"version": 4}` })
	close(stop)
	wg.Wait()
}

func TestInferStandalone(t *testing.T) {
	run := startInfer(t, standaloneScript, func(c *InferConfig) {
		c.Debug, c.AccessLog, c.Banner = true, true, true
		c.Environment["AML_CORS_ORIGINS"] = online.Secret("https://a.example")
	})
	status, body, _ := run.ask(t, "POST", "/score", "raise")
	var failure struct {
		Message   string
		Traceback []string
	}
	if err := json.Unmarshal([]byte(body), &failure); err != nil || status != 500 || len(failure.Traceback) == 0 ||
		failure.Traceback[len(failure.Traceback)-1] != "ValueError: no such column" {
		t.Errorf("--debug: %d %s", status, body)
	}
	if status, body, header := run.ask(t, "POST", "/score", "stream", "Origin", "https://a.example"); status != 200 || body != "ab" ||
		header.Get("Access-Control-Allow-Origin") != "https://a.example" {
		t.Errorf("stream: %d %s %v", status, body, header)
	}
	if status, body, _ := run.ask(t, "GET", "/swagger.json?version=3", ""); status != 200 || !strings.Contains(body, `"openapi": "3.0.3"`) {
		t.Errorf("swagger: %d %s", status, body)
	}
	if _, _, header := run.ask(t, "GET", "/", "", "X-Request-Id", "r1"); header.Get("X-Request-Id") != "r1" || header.Get("X-Ms-Request-Id") != "r1" {
		t.Errorf("ids of the health page: %v", header)
	}
	if status, _, _ := run.ask(t, "GET", "/", "", "X-Request-Id", strings.Repeat("r", 101)); status != 431 {
		t.Errorf("a long id: %d", status)
	}
	if err := run.stop(); err != nil {
		t.Error(err)
	}
	printed, err := os.ReadFile(run.output)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`(?m)^Server Settings$`, `(?m)^Entry Script Name: score\.py$`, `(?m)^Score:          POST  127\.0\.0\.1:\d+/score$`,
		`(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} I \[\d+ [0-9a-f-]{36}\] azmlinfsrv - POST /score 500 \d+\.\d{3}ms \d+$`,
		`(?m)azmlinfsrv - POST /score 200 \d+\.\d{3}ms N/A$`,
		`(?m)azmlinfsrv - GET /swagger\.json\?version=3 200 \d+\.\d{3}ms \d+$`,
	} {
		if !regexp.MustCompile(want).Match(printed) {
			t.Errorf("the output lacks %s:\n%s", want, printed)
		}
	}
	if regexp.MustCompile(`azmlinfsrv - GET / `).Match(printed) {
		t.Error("the health page has access lines")
	}
}

// TestInferConfigFile: the file names the script, and a port for health has the same routes.
func TestInferConfigFile(t *testing.T) {
	health, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	run := startInfer(t, standaloneScript, func(c *InferConfig) {
		c.ConfigFile, c.EntryScript, c.HealthPort = filepath.Join(c.AppRoot, "settings.json"), "", health
		if err := os.WriteFile(c.ConfigFile, []byte(`{"AZUREML_ENTRY_SCRIPT": "score.py", "SERVICE_NAME": "filed",
			"SERVER_VERSION_LOG_RESPONSE_ENABLED": false}`), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	if _, body, _ := run.ask(t, "GET", "/swagger.json", ""); !strings.Contains(body, `"title": "filed"`) {
		t.Error(body)
	}
	probe := &inferring{address: "127.0.0.1:" + strconv.Itoa(health)}
	if status, body, header := probe.ask(t, "GET", "/", ""); status != 200 || body != "Healthy" ||
		header.Get("X-Ms-Server-Version") != "" {
		t.Errorf("health port: %d %s %v", status, body, header)
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return portOf(l.Addr()), nil
}
