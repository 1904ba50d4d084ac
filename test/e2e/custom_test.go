package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"portico/test/harness"
)

// serverYAML is a deployment of a server that knows nothing of Portico, and answers /live and /ready on a port.
func serverYAML(endpoint, name string, port int, environment string, more ...string) string {
	return fmt.Sprintf(`name: %s
endpoint_name: %s
environment:
  inference_config:
    liveness_route: {path: /live, port: %d}
    readiness_route: {path: /ready, port: %d}
    scoring_route: {path: /, port: %d}
%senvironment_variables:
  SECRET: quite
instance_type: Standard_DS3_v2
liveness_probe: {initial_delay: 1, period: 1, timeout: 2, failure_threshold: 30}
readiness_probe: {initial_delay: 1, period: 1, timeout: 2, failure_threshold: 2}
request_settings: {request_timeout_ms: 60000, max_concurrent_requests_per_instance: 4}
`, name, endpoint, port, port, port, environment) + strings.Join(more, "\n") + "\n"
}

// told asks such a server, which answers with what it says of the request.
func told[T any](s *server, method, endpoint, path, body string, header ...string) (out T, a answer) {
	s.t.Helper()
	a = s.ask(method, endpoint, path, s.key(endpoint), body, header...)
	if a.status == http.StatusOK {
		if err := json.Unmarshal(a.body, &out); err != nil {
			s.t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
		}
	}
	return out, a
}

// seen is what testdata/custom says of a request.
type seen struct {
	Method, Target, Body, Secret string
	PID, UID                     int
	Fields                       []string
}

func (s *server) custom(method, path, body string, header ...string) (seen, answer) {
	s.t.Helper()
	return told[seen](s, method, "custom", path, body, header...)
}

// TestCustomServer runs a server that knows nothing of Portico: two instances of it on one machine, probes, a crash, streams.
// Which paths it gets and where its model lies is in test/conformance.
func TestCustomServer(t *testing.T) {
	s := start(t)
	code, err := os.ReadFile("testdata/custom/server.py")
	if err != nil {
		t.Fatal(err)
	}
	dir := files(t, map[string]string{
		"endpoint.yml": endpointYAML("custom"), "src/server.py": string(code),
		"blue.yml": serverYAML("custom", "blue", 8080, "", "command: python3 server.py --port {port}", "code_configuration: {code: ./src}", "instance_count: 2"),
	})
	s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
	s.must("ml", "online-deployment", "create", "-f", filepath.Join(dir, "blue.yml"), "--all-traffic", "-o", "none")
	key := s.key("custom")

	pids := map[int]bool{}
	s.eventually("both instances answer", func() bool {
		got, a := s.custom("PATCH", "/v1/chat/completions?x=%20y", `{"a": 1}`)
		if a.status != 200 || got.Method != http.MethodPatch || got.Target != "/v1/chat/completions?x=%20y" || got.Body != `{"a": 1}` ||
			got.Secret != "quite" {
			t.Fatalf("%d %s", a.status, a.body)
		}
		for _, name := range got.Fields {
			if strings.HasPrefix(name, "x-portico-") || name == "authorization" {
				t.Fatalf("the server got %s", name)
			}
		}
		if os.Geteuid() == 0 && got.UID == 0 {
			t.Fatal("it runs as root")
		}
		pids[got.PID] = true
		return len(pids) == 2
	})

	// HTTP/1.0 and a body without a length are understood.
	if a := s.ask("GET", "custom", "/v1/old", key, ""); a.status != 200 || string(a.body) != "until the end" {
		t.Errorf("HTTP/1.0: %d %s", a.status, a.body)
	}
	if a := s.ask("GET", "custom", "/v1/socket", key, "", "Connection", "Upgrade", "Upgrade", "websocket"); a.status != 501 {
		t.Errorf("websocket: %d %s", a.status, a.body)
	}
	s.customStream(key)

	// A crash costs the request that caused it, with the cause; the instance comes back.
	a := s.ask("POST", "custom", "/v1/exit", key, "{}")
	if a.status != 424 || !strings.Contains(string(a.body), "exited with status 3") {
		t.Errorf("exit: %d %s", a.status, a.body)
	}
	s.eventually("a new process serves", func() bool {
		got, _ := s.custom("GET", "/v1/x", "")
		return got.PID != 0 && !pids[got.PID]
	})

	// An instance that says that it is not ready gets no requests.
	s.ask("POST", "custom", "/v1/unready", key, "{}")
	s.eventually("one instance is out of the routing", func() bool {
		return strings.Count(s.must("ml", "online-deployment", "show", "-n", "blue", "-e", "custom", "-o", "json"), `"Unready"`) == 1
	})
	first, _ := s.custom("GET", "/v1/x", "")
	for range 10 {
		if got, a := s.custom("GET", "/v1/x", ""); got.PID != first.PID {
			t.Fatalf("%d %s: another instance answers than %d", a.status, a.body, first.PID)
		}
	}
	shown := s.must("ml", "online-deployment", "show", "-n", "blue", "-e", "custom", "-o", "yaml")
	if !strings.Contains(shown, "command: python3 server.py --port {port}") || strings.Contains(shown, "portico.command") {
		t.Errorf("show: %s", shown)
	}
	if log := s.must("ml", "online-deployment", "get-logs", "-n", "blue", "-e", "custom"); !strings.Contains(log, "the server listens") {
		t.Errorf("log: %s", log)
	}

	// A server that starts anew takes up what runs.
	s.kill()
	s.up()
	s.eventually("the same process serves", func() bool {
		got, _ := s.custom("GET", "/v1/x", "")
		return got.PID == first.PID
	})
}

// customStream reads the first part of an answer whose rest is produced only after that.
func (s *server) customStream(key string) {
	s.t.Helper()
	gate, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	defer gate.Close()
	_, port, _ := net.SplitHostPort(gate.Addr().String())
	ctx, cancel := context.WithTimeout(context.Background(), harness.WaitTimeout)
	defer cancel()
	resp, err := s.http.Do(s.request(ctx, "GET", "custom", "/v1/stream?"+port, key, ""))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	if line, err := r.ReadString('\n'); err != nil || line != "data: first\n" || resp.Header.Get("Content-Type") != "text/event-stream" {
		s.t.Fatalf("stream: %q %v %v", line, err, resp.Header)
	}
	open, err := gate.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	open.Close()
	rest, err := io.ReadAll(r)
	if err != nil || string(rest) != "\ndata: last\n\n" {
		s.t.Errorf("stream ends with %q %v", rest, err)
	}
}
