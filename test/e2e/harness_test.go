package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"portico/internal/host"
)

// binary is the program under test, built once for all tests.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "portico-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "portico")
	build := exec.Command("go", "build", "-o", binary, "portico/cmd/portico")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 60 * time.Second
	// waitTimeout bounds every wait for a condition. It is only reached when the condition never comes.
	waitTimeout = 90 * time.Second
)

// ready is the ready file.
type ready struct {
	PID            int    `json:"pid"`
	ManagementURL  string `json:"management_url"`
	ScoringURL     string `json:"scoring_url"`
	ScoringHTTPURL string `json:"scoring_http_url"`
	CAFile         string `json:"ca_file"`
}

// server is one `portico serve` with its data directory.
type server struct {
	t     *testing.T
	dir   string // data directory
	flags []string
	ready ready
	http  *http.Client
	token string

	cmd  *exec.Cmd
	log  *lockedBuffer
	exit chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start lets the test run beside others and starts a server on free ports, which ends with its host when the test
// does. A test calls it once, and not when it changes this process's environment: that is for startAlone.
func start(t *testing.T, flags ...string) *server {
	t.Helper()
	t.Parallel()
	return startAlone(t, flags...)
}

// startAlone is start for a test that already runs beside others, or must not.
func startAlone(t *testing.T, flags ...string) *server {
	t.Helper()
	s := &server{t: t, dir: filepath.Join(t.TempDir(), "data"), log: &lockedBuffer{}}
	s.flags = append([]string{"--management", "127.0.0.1:0", "--scoring", "127.0.0.1:0", "--scoring-http", "127.0.0.1:0"}, flags...)
	t.Cleanup(s.end)
	s.up()
	return s
}

// up starts the process and waits until it serves. It may be called again after stop or kill.
func (s *server) up() {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "ready.json")
	args := append([]string{"serve", "--data-dir", s.dir, "--ready-file", file}, s.flags...)
	s.cmd = exec.Command(binary, args...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	exit := make(chan error, 1)
	s.exit = exit
	go func(cmd *exec.Cmd) { exit <- cmd.Wait() }(s.cmd)
	deadline := time.Now().Add(startTimeout)
	for {
		doc, err := os.ReadFile(file)
		if err == nil {
			if err := json.Unmarshal(doc, &s.ready); err != nil {
				s.t.Fatalf("ready file: %v: %s", err, doc)
			}
			break
		}
		select {
		case err := <-exit:
			s.exit = nil
			s.t.Fatalf("serve ended before it was ready: %v\n%s", err, s.log)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("serve is not ready after %s\n%s", startTimeout, s.log)
		}
	}
	token, err := os.ReadFile(filepath.Join(s.dir, "admin.token"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.token = strings.TrimSpace(string(token))
	ca, err := os.ReadFile(s.ready.CAFile)
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	s.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: 64}}
	s.t.Cleanup(s.http.CloseIdleConnections)
}

// stop ends the server as an operator does and gives its exit status.
func (s *server) stop() int {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	return s.wait()
}

// kill ends the server without a chance to do anything.
func (s *server) kill() {
	s.t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	s.wait()
}

func (s *server) wait() int {
	s.t.Helper()
	select {
	case <-s.exit:
		s.exit = nil
		return s.cmd.ProcessState.ExitCode()
	case <-time.After(stopTimeout):
		_ = s.cmd.Process.Kill()
		s.t.Fatalf("serve does not end\n%s", s.log)
		return -1
	}
}

// end leaves nothing behind, whatever the test did.
func (s *server) end() {
	if s.exit != nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		s.wait()
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if c, err := host.Dial(ctx, s.dir); err == nil {
		if err := c.Shutdown(ctx, time.Second); err != nil {
			s.t.Errorf("shut the host down: %v", err)
		}
		_ = c.Close()
	} else if !errors.Is(err, host.ErrNotRunning) {
		s.t.Errorf("reach the host: %v", err)
	}
	// Sockets lie elsewhere when the path of the data directory is too long for one.
	if dir, err := host.SocketDir(s.dir); err == nil {
		_ = os.RemoveAll(dir)
	}
	if s.t.Failed() {
		s.t.Logf("server log:\n%s", s.log)
	}
}

// result is the outcome of one CLI command.
type result struct {
	out, err string
	code     int
}

// cli runs a command of the CLI against this server.
func (s *server) cli(args ...string) result { return s.cliInput("", args...) }

func (s *server) cliInput(stdin string, args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "PORTICO_DATA_DIR="+s.dir, "HOME="+s.t.TempDir(), "NO_COLOR=1")
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("portico %s: %v", strings.Join(args, " "), err)
	}
	return result{out: out.String(), err: errs.String(), code: cmd.ProcessState.ExitCode()}
}

// must runs a command that has to succeed and gives its standard output.
func (s *server) must(args ...string) string {
	s.t.Helper()
	r := s.cli(args...)
	if r.code != 0 {
		s.t.Fatalf("portico %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.err, r.out)
	}
	return r.out
}

// workspace is the path of the default workspace on the management API.
const workspace = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/portico/providers/" +
	"Microsoft.MachineLearningServices/workspaces/default"

// answer is what the management API or a scoring URL said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// json decodes the body.
func (a answer) json(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("body is not JSON: %v: %.300s", err, a.body)
	}
	return v
}

// api sends a request to the management API; path is below the server's root.
func (s *server) api(method, path string, body any, header ...string) answer {
	s.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		doc, err := json.Marshal(b)
		if err != nil {
			s.t.Fatal(err)
		}
		r = bytes.NewReader(doc)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, strings.TrimSuffix(s.ready.ManagementURL, "/")+path, r)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return s.do(req)
}

func (s *server) do(req *http.Request) answer {
	s.t.Helper()
	resp, err := s.http.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	defer resp.Body.Close()
	doc, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: read body: %v", req.Method, req.URL.Path, err)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: doc}
}

// key gives the primary key of an endpoint.
func (s *server) key(endpoint string) string {
	s.t.Helper()
	a := s.api("POST", workspace+"/onlineEndpoints/"+endpoint+"/listKeys?api-version=2024-04-01", nil)
	k, _ := a.json(s.t)["primaryKey"].(string)
	if a.status != http.StatusOK || k == "" {
		s.t.Fatalf("listKeys: %d %s", a.status, a.body)
	}
	return k
}

// scoringRequest makes a request to an endpoint's scoring URL.
func (s *server) scoringRequest(ctx context.Context, endpoint, key, body string, header ...string) *http.Request {
	s.t.Helper()
	return s.request(ctx, http.MethodPost, endpoint, "/score", key, body, header...)
}

// request makes a request for a path below an endpoint's URL, with its query.
func (s *server) request(ctx context.Context, method, endpoint, path, key, body string, header ...string) *http.Request {
	s.t.Helper()
	url := strings.TrimSuffix(s.ready.ScoringURL, "/") + "/endpoints/" + endpoint + path
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

// ask sends one request for a path below an endpoint's URL.
func (s *server) ask(method, endpoint, path, key, body string, header ...string) answer {
	s.t.Helper()
	return s.do(s.request(context.Background(), method, endpoint, path, key, body, header...))
}

// score sends one scoring request.
func (s *server) score(endpoint, key, body string, header ...string) answer {
	s.t.Helper()
	return s.do(s.scoringRequest(context.Background(), endpoint, key, body, header...))
}

// files writes a folder of files and gives its path.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// echoScript answers what it got, with the process that answered.
const echoScript = `import os

def init():
    print("init of the echo script")

def run(raw_data):
    return {"echo": raw_data, "pid": os.getpid(), "version": os.environ.get("VERSION", "")}
`

// endpointYAML and deploymentYAML are the smallest files that work. The environment has no packages, so that
// nothing is fetched and nothing is slow.
func endpointYAML(name string) string {
	return "name: " + name + "\nauth_mode: key\n"
}

func deploymentYAML(endpoint, name, extra string) string {
	return fmt.Sprintf(`name: %s
endpoint_name: %s
code_configuration:
  code: src
  scoring_script: score.py
environment:
  conda_file: conda.yaml
instance_type: Standard_DS3_v2
instance_count: 1
%s`, name, endpoint, extra)
}

const emptyConda = "name: empty\ndependencies:\n  - python\n"

// deploy creates an endpoint (when it is new) and a deployment with this script, and gives it all the traffic.
func (s *server) deploy(endpoint, name, script, extra string) {
	s.t.Helper()
	dir := files(s.t, map[string]string{
		"endpoint.yml": endpointYAML(endpoint), "deployment.yml": deploymentYAML(endpoint, name, extra),
		"conda.yaml": emptyConda, "src/score.py": script,
	})
	if s.cli("ml", "online-endpoint", "show", "-n", endpoint, "-o", "none").code != 0 {
		s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
	}
	s.must("ml", "online-deployment", "create", "-f", filepath.Join(dir, "deployment.yml"), "--all-traffic", "-o", "none")
}

// eventually waits for a condition.
func (s *server) eventually(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(waitTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	s.t.Fatalf("never came: %s", what)
}
