package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"portico/test/harness"
)

// binary is the program under test.
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
	return m.Run()
}

// target is a server that runs a script.
type target struct {
	client *http.Client
	url    string // without a path
	header []string
	// frontDoor: answers other than 200 become 424, and rows that are for the server itself are left out.
	frontDoor bool
	reference bool
}

func TestInfer(t *testing.T) {
	for _, s := range scripts {
		program := []string{binary, "infer"}
		switch s.needs {
		case "":
		case "numpy":
			program = append(program, "--python", developersPython(t))
		default:
			continue // TestInferWithReferencePackages has it
		}
		t.Run(s.name, func(t *testing.T) {
			url := startServer(t, program, s)
			check(t, target{client: http.DefaultClient, url: url}, s)
		})
	}
	for name, r := range refused {
		t.Run(name, func(t *testing.T) { expectRefused(t, []string{binary, "infer"}, r) })
	}
}

// TestReferenceServer proves the table: each row holds for the server that it describes.
func TestReferenceServer(t *testing.T) {
	if os.Getenv("PORTICO_REFERENCE") == "" {
		t.Skip("PORTICO_REFERENCE=1 installs the reference server from the Python package index and runs the table against it")
	}
	server := []string{referenceServer(t)}
	for _, s := range scripts {
		if s.inImage != "" {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			check(t, target{client: http.DefaultClient, url: startServer(t, server, s), reference: true}, s)
		})
	}
	for name, r := range refused {
		t.Run(name, func(t *testing.T) { expectRefused(t, server, r) })
	}
}

// TestInferWithReferencePackages: the table holds as well where the reference's packages are installed and are used.
func TestInferWithReferencePackages(t *testing.T) {
	if os.Getenv("PORTICO_REFERENCE") == "" {
		t.Skip("PORTICO_REFERENCE=1 installs the reference server's packages from the Python package index")
	}
	python := filepath.Join(filepath.Dir(referenceServer(t)), "python")
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			url := startServer(t, []string{binary, "infer", "--python", python}, s)
			check(t, target{client: http.DefaultClient, url: url}, s)
		})
	}
}

// referenceServer installs the reference server once for this user and gives its program.
func referenceServer(t *testing.T) string {
	t.Helper()
	const pinned = "azureml-inference-server-http==1.5.1"
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "portico-reference", pinned)
	program := filepath.Join(dir, "bin", "azmlinfsrv")
	if _, err := os.Stat(program); err == nil {
		return program
	}
	for _, args := range [][]string{
		{"python3", "-m", "venv", dir}, {filepath.Join(dir, "bin", "pip"), "install", "-q", pinned, "flask-cors==6.0.5", "numpy"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	return program
}

func TestGateway(t *testing.T) {
	s := startGateway(t)
	for _, script := range scripts {
		if script.atDesk != "" || script.needs != "" {
			continue
		}
		t.Run(script.name, func(t *testing.T) {
			s.deploy(t, script)
			check(t, s.at(script.name), script)
		})
	}
}

func check(t *testing.T, to target, s script) {
	for _, r := range s.rows {
		if to.frontDoor && r.direct {
			continue
		}
		t.Run(r.name, func(t *testing.T) { to.check(t, r) })
	}
}

func (to target) check(t *testing.T, r row) {
	method, path, status, want := r.method, r.path, r.status, r.want
	if method == "" {
		method = http.MethodPost
	}
	if path == "" {
		path = "/score"
	}
	if r.differs != "" && !to.reference {
		status, want = r.ours.status, r.ours.want
	}
	if status == 0 {
		status = http.StatusOK
	}
	req, err := http.NewRequestWithContext(t.Context(), method, to.url+path, strings.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(to.header); i += 2 {
		req.Header.Set(to.header[i], to.header[i+1])
	}
	for i := 0; i+1 < len(r.header); i += 2 {
		req.Header.Set(r.header[i], r.header[i+1])
	}
	resp, err := to.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if to.frontDoor && status != http.StatusOK && !r.door {
		if got := resp.Header.Get("ms-azureml-model-error-statuscode"); got != strconv.Itoa(status) {
			t.Errorf("the model's status is told as %q, want %d", got, status)
		}
		status = http.StatusFailedDependency
	}
	if resp.StatusCode != status {
		t.Errorf("status %d, want %d: %.300s", resp.StatusCode, status, body)
	}
	if !matches(t, body, want) {
		t.Errorf("body %q, want %s", body, want)
	}
	for name, pattern := range r.fields {
		if got := strings.Join(resp.Header.Values(name), "\n"); !regexp.MustCompile(pattern).MatchString(got) {
			t.Errorf("%s is %q, want %s", name, got, pattern)
		}
	}
	for _, name := range r.absent {
		if got := resp.Header.Values(name); len(got) != 0 {
			t.Errorf("%s is %q, want none", name, got)
		}
	}
}

func matches(t *testing.T, body []byte, want string) bool {
	t.Helper()
	switch {
	case want == "-":
		return true
	case strings.HasPrefix(want, "~"):
		return regexp.MustCompile(`(?s)` + want[1:]).Match(body)
	}
	var a, b any
	if json.Unmarshal([]byte(want), &b) != nil {
		return string(body) == want
	}
	return json.Unmarshal(body, &a) == nil && reflect.DeepEqual(a, b)
}

// startServer runs an inference server on a script until the test ends.
func startServer(t *testing.T, program []string, s script) string {
	t.Helper()
	port := freePort(t)
	cmd, log := serverCommand(t, program, s, port)
	return startCommand(t, cmd, log, port)
}

// startCommand runs a server until the test ends and gives its URL.
func startCommand(t *testing.T, cmd *exec.Cmd, log *bytes.Buffer, port int) string {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(harness.WaitTimeout):
			t.Error("the server does not end")
		}
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it may have left; usually nothing
		if t.Failed() {
			t.Logf("%v:\n%s", cmd.Args, log)
		}
	})
	url := "http://127.0.0.1:" + strconv.Itoa(port)
	for end := time.Now().Add(harness.WaitTimeout); ; time.Sleep(10 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		cancel()
		if err == nil {
			resp.Body.Close()
			return url
		}
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("the server ended: %v\n%s", err, log)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("never up\n%s", log)
		}
	}
}

func serverCommand(t *testing.T, program []string, s script, port int) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	harness.Files(t, dir, s.files)
	log := &bytes.Buffer{}
	args := s.args
	if args == nil {
		args = []string{"--entry_script", "score.py"}
	}
	cmd := exec.Command(program[0], slices.Concat(program[1:], args, []string{"--port", strconv.Itoa(port)})...)
	cmd.Dir = filepath.Join(dir, s.dir)
	cmd.Env = os.Environ()
	for name, value := range s.env {
		cmd.Env = append(cmd.Env, name+"="+strings.ReplaceAll(value, "{dir}", dir))
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	return cmd, log
}

// expectRefused runs a server on a script with which it cannot come up.
func expectRefused(t *testing.T, program []string, r refusal) {
	cmd, log := serverCommand(t, program, script{
		files: map[string]string{"score.py": r.script, "model/deep/weights.bin": ""}, env: map[string]string{"AZUREML_MODEL_DIR": "{dir}/model"},
	}, freePort(t))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(harness.WaitTimeout, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	kill.Stop()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("it ended with %v, want exit status 3\n%s", err, log)
	}
	for _, text := range r.log {
		if !strings.Contains(log.String(), text) {
			t.Errorf("the log does not say %q:\n%s", text, log)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// gatewayServer is `portico serve` with one endpoint.
type gatewayServer struct {
	dir, url, key, ca string
	client            *http.Client
}

const endpointName = "conformance"

func startGateway(t *testing.T) *gatewayServer {
	t.Helper()
	serve := harness.NewServer(binary, filepath.Join(t.TempDir(), "data"))
	t.Cleanup(func() {
		if err := serve.End(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("serve:\n%s", &serve.Log)
		}
	})
	if err := serve.Up(); err != nil {
		t.Fatal(err)
	}
	client, err := serve.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	s := &gatewayServer{dir: serve.Dir, client: client, ca: serve.Ready.CAFile}
	s.url = strings.TrimSuffix(serve.Ready.ScoringURL, "/") + "/endpoints/" + endpointName
	dir := t.TempDir()
	harness.Files(t, dir, map[string]string{"endpoint.yml": "name: " + endpointName + "\nauth_mode: key\n"})
	s.cli(t, "ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
	s.key = strings.TrimSpace(s.cli(t, "ml", "online-endpoint", "get-credentials", "-n", endpointName, "--query", "primaryKey", "-o", "tsv"))
	return s
}

func (s *gatewayServer) deploy(t *testing.T, script script) {
	t.Helper()
	files := map[string]string{"conda.yaml": "name: empty\ndependencies:\n  - python\n"}
	for name, text := range script.files {
		files["src/"+name] = text
	}
	var b strings.Builder
	b.WriteString("code_configuration:\n  code: src\n  scoring_script: score.py\nenvironment:\n  conda_file: conda.yaml\n")
	if len(script.env) > 0 {
		b.WriteString("environment_variables:\n")
		for _, name := range slices.Sorted(maps.Keys(script.env)) {
			fmt.Fprintf(&b, "  %s: %q\n", name, script.env[name])
		}
	}
	s.create(t, script.name, b.String(), files)
}

// create makes a deployment of one instance from a file beside others.
func (s *gatewayServer) create(t *testing.T, name, yaml string, files map[string]string) {
	t.Helper()
	if out, err := s.try(t, s.createArgs(t, name, yaml, files)...); err != nil {
		t.Fatalf("create %s: %v\n%s", name, err, out)
	}
}

func (s *gatewayServer) createArgs(t *testing.T, name, yaml string, files map[string]string) []string {
	t.Helper()
	dir := t.TempDir()
	harness.Files(t, dir, files)
	harness.Files(t, dir, map[string]string{"deployment.yml": "name: " + name + "\nendpoint_name: " + endpointName +
		"\ninstance_type: Standard_DS3_v2\ninstance_count: 1\n" + yaml})
	return []string{"ml", "online-deployment", "create", "-f", filepath.Join(dir, "deployment.yml"), "-o", "none"}
}

// at is the endpoint as callers of one deployment see it.
func (s *gatewayServer) at(deployment string) target {
	return target{client: s.client, url: s.url, frontDoor: true, header: []string{
		"Authorization", "Bearer " + s.key, "azureml-model-deployment", deployment,
	}}
}

// cli runs a command that has to succeed and gives its standard output.
func (s *gatewayServer) cli(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.try(t, args...)
	if err != nil {
		t.Fatalf("portico %v: %v\n%s", args, err, out)
	}
	return out
}

// try runs a command and gives its standard output, or what it says in place of that.
func (s *gatewayServer) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.WaitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "PORTICO_DATA_DIR="+s.dir, "HOME="+t.TempDir(), "NO_COLOR=1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return errs.String() + out.String(), err
	}
	return out.String(), nil
}
