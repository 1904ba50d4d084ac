package e2e

import (
	"bytes"
	"context"
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
	"testing"
	"time"

	"portico/internal/testkit"
	"portico/test/harness"
)

// binary is the program under test, built once for all tests.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var remove func()
	var err error
	if binary, remove, err = harness.Program(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remove()
	code := m.Run()
	if err := common.end(); err != nil {
		fmt.Fprintln(os.Stderr, "the server that tests shared:", err)
		return 1
	}
	return code
}

// server is one `portico serve` with its data directory, as one test sees it.
type server struct {
	*harness.Server
	t     *testing.T
	dir   string // data directory
	ready harness.Ready
	log   *testkit.Buffer
	http  *http.Client
	token string
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
	return startIn(t, filepath.Join(t.TempDir(), "data"), flags...)
}

func startIn(t *testing.T, dir string, flags ...string) *server {
	t.Helper()
	return startWith(t, nil, dir, flags...)
}

// startWith is startIn with environment variables of the server's own.
func startWith(t *testing.T, env []string, dir string, flags ...string) *server {
	t.Helper()
	s := &server{Server: harness.NewServer(binary, dir, flags...), t: t, dir: dir}
	s.log, s.Env = &s.Log, env
	t.Cleanup(func() {
		if err := s.End(); err != nil {
			t.Error(err)
		}
		s.tell()
	})
	s.up()
	return s
}

// common is the server of the tests that do not mind each other's endpoints. Whoever comes first starts it.
var common sharedServer

type sharedServer struct {
	once sync.Once
	dir  string
	*harness.Server
	err error
}

func (c *sharedServer) start() {
	if c.dir, c.err = os.MkdirTemp("", "portico-e2e-"); c.err == nil {
		c.Server = harness.NewServer(binary, filepath.Join(c.dir, "data"))
		c.err = c.Up()
	}
}

func (c *sharedServer) end() error {
	if c.Server == nil {
		return nil
	}
	defer os.RemoveAll(c.dir)
	return c.End()
}

// shared is start for a test that leaves its server as it is, but for endpoints and other records of names that no
// other test uses: it gets the server that such tests share.
func shared(t *testing.T) *server {
	t.Helper()
	t.Parallel()
	common.once.Do(common.start)
	if common.err != nil {
		t.Fatal(common.err)
	}
	s := &server{Server: common.Server, t: t, dir: common.Dir, log: &common.Log}
	t.Cleanup(s.tell)
	s.meet()
	return s
}

// tell shows the server's log when the test failed.
func (s *server) tell() {
	if s.t.Failed() {
		s.t.Logf("server log:\n%s", s.log)
	}
}

// up starts the process and waits until it serves. It may be called again after stop or kill.
func (s *server) up() {
	s.t.Helper()
	if err := s.Up(); err != nil {
		s.t.Fatal(err)
	}
	s.meet()
}

// meet learns what clients of the server need.
func (s *server) meet() {
	s.t.Helper()
	s.ready = s.Ready
	token, err := os.ReadFile(filepath.Join(s.dir, "admin.token"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.token = strings.TrimSpace(string(token))
	if s.http, err = s.Client(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.http.CloseIdleConnections)
}

// stop ends the server as an operator does and gives its exit status.
func (s *server) stop() int {
	s.t.Helper()
	code, err := s.Stop()
	if err != nil {
		s.t.Fatal(err)
	}
	return code
}

// kill ends the server without a chance to do anything.
func (s *server) kill() {
	s.t.Helper()
	if err := s.Kill(); err != nil {
		s.t.Fatal(err)
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
	harness.Files(t, dir, content)
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
	for deadline := time.Now().Add(harness.WaitTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	s.t.Fatalf("never came: %s", what)
}
