package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"portico/test/harness"
)

// binary is the program under test, built once for all tests; root is the repository.
var binary, root string

func TestMain(m *testing.M) {
	if order := os.Getenv(sandboxVariable); order != "" {
		os.Exit(insideSandbox(order))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if root, err = filepath.Abs("../.."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var remove func()
	if binary, remove, err = harness.Program(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remove()
	return m.Run()
}

// clientTimeout bounds one client program; the first deployment of a test builds a Python environment.
const clientTimeout = 15 * time.Minute

// server is one `portico serve` with its data directory.
type server struct {
	*harness.Server
	t     *testing.T
	dir   string // data directory
	ready harness.Ready
}

// start starts a server with interception on, on free ports, and ends it and its host with the test.
func start(t *testing.T, flags ...string) *server {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	s := &server{t: t, dir: dir, Server: harness.NewServer(binary, dir, append([]string{
		"--intercept", "127.0.0.1:0", "--log-level", "debug"}, flags...)...)}
	s.Env = cleanEnvironment()
	t.Cleanup(func() {
		if err := s.End(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("server log:\n%s", &s.Log)
		}
	})
	if err := s.Up(); err != nil {
		t.Fatal(err)
	}
	s.ready = s.Ready
	return s
}

// mode is how clients are led to the server.
type mode string

const (
	redirected  mode = "redirected"  // the default: the metadata document
	intercepted mode = "intercepted" // the proxy with Azure's own names
)

// environment is what `portico env` prints for this mode.
func (s *server) environment(m mode, flags ...string) map[string]string {
	s.t.Helper()
	args := []string{"env", "--format", "json"}
	if m == intercepted {
		args = append(args, "--intercept")
	} else {
		args = append(args, "--no-intercept")
	}
	cmd := exec.Command(binary, append(args, flags...)...)
	cmd.Env = append(cleanEnvironment(), "PORTICO_DATA_DIR="+s.dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	doc, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("portico env: %v\n%s", err, stderr.String())
	}
	all := map[string]*string{} // null: the variable is taken away, and clients here have none to begin with
	if err := json.Unmarshal(doc, &all); err != nil {
		s.t.Fatalf("portico env: %v: %s", err, doc)
	}
	env := map[string]string{}
	for name, value := range all {
		if value != nil {
			env[name] = *value
		}
	}
	return env
}

// kept are the variables of this process that clients may see. Nothing else gets through: a developer's own Azure
// or proxy settings must not decide a test.
var kept = []string{"PATH", "TMPDIR", "LANG", "LC_ALL", "GOPATH", "GOCACHE", "GOMODCACHE", "GOFLAGS", "GOPROXY",
	"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "PIP_DEFAULT_TIMEOUT", "UV_INDEX_URL"}

func cleanEnvironment() []string {
	env := []string{"HOME=" + os.TempDir(), "PYTHONDONTWRITEBYTECODE=1", "NO_COLOR=1"}
	for _, name := range kept {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// client is one run of a client program.
type client struct {
	name  string
	argv  []string
	dir   string
	env   map[string]string
	extra []string // NAME=VALUE, for the test's own purposes
	reach []string // addresses that the client may reach beside the server's
}

// outcome is what a client did.
type outcome struct {
	out, err string
	code     int
}

// run runs a client to its end where only loopback exists. Anything that it asked of another network fails the test.
func (s *server) run(c client) outcome {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Dir = c.dir
	cmd.Env = cleanEnvironment()
	for _, name := range slices.Sorted(maps.Keys(c.env)) {
		cmd.Env = append(cmd.Env, name+"="+c.env[name])
	}
	cmd.Env = append(cmd.Env, c.extra...)
	report, isolated := sandboxed(s.t, cmd, append(s.addresses(), c.reach...))
	if !isolated {
		s.t.Log("this machine has no network namespaces for us: what the client looks for elsewhere is not counted")
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%s: %v", c.name, err)
	}
	o := outcome{out: out.String(), err: errs.String(), code: cmd.ProcessState.ExitCode()}
	if isolated {
		if r := report(); r != (sandboxReport{}) {
			s.t.Errorf("%s looked for something beyond this machine: %+v", c.name, r)
		}
	}
	return o
}

// addresses are all that clients may reach.
func (s *server) addresses() []string {
	var out []string
	for _, u := range []string{s.ready.ManagementURL, s.ready.ScoringURL, s.ready.InterceptURL, s.ready.IdentityURL} {
		parsed, err := url.Parse(u)
		if err != nil || parsed.Port() == "" {
			s.t.Fatalf("the ready file holds %q where a URL is needed: %+v", u, s.ready)
		}
		out = append(out, parsed.Host)
	}
	return out
}
