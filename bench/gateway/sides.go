package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	startLimit = 3 * time.Minute // building the deployment's environment included
	stopLimit  = 40 * time.Second
	pollPeriod = 50 * time.Millisecond
)

// side is one server that is measured.
type side struct {
	name   string
	url    string
	header http.Header
	want   []byte // its answer to body, taken before the measurement
	stop   func() error
}

// process is a server that was started and will be stopped.
type process struct {
	cmd  *exec.Cmd
	done chan error
	log  string
}

func launch(dir, name string, cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan error, 1), log: filepath.Join(dir, name+".log")}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { p.done <- cmd.Wait() }()
	return p, nil
}

func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w\n%s", p.cmd.Path, err, p.tail())
	}
	select {
	case err := <-p.done:
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", p.cmd.Path, err, p.tail())
		}
		return nil
	case <-time.After(stopLimit):
		return errors.Join(fmt.Errorf("%s did not stop within %s", p.cmd.Path, stopLimit), p.cmd.Process.Kill(), <-p.done)
	}
}

// tail gives the end of what the process said.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// wait polls until ok, the process ends, or the limit passes.
func (p *process) wait(ctx context.Context, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case err := <-p.done:
			p.done <- err
			if err == nil {
				err = errors.New("exit status 0")
			}
			return fmt.Errorf("%s: it ended: %w\n%s", what, err, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w\n%s", what, ctx.Err(), p.tail())
		}
	}
	return nil
}

// sample asks once and keeps the answer that every later one must equal.
func (s *side) sample(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, strings.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header = s.header.Clone()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", s.name, err)
	}
	defer resp.Body.Close()
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(resp.Body); err != nil {
		return fmt.Errorf("ask %s: %w", s.name, err)
	}
	var got, want any
	if json.Unmarshal(answer.Bytes(), &got) != nil || json.Unmarshal([]byte(body), &want) != nil ||
		fmt.Sprint(got) != fmt.Sprint(want) || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s does not echo: status %d, %.200q", s.name, resp.StatusCode, answer.String())
	}
	s.want = answer.Bytes()
	return nil
}

// startGunicorn runs the Flask application with one class of gunicorn worker. "sync" is what Azure's own inference
// server uses; it closes each connection. "gthread" keeps connections and is usually the fastest that needs no
// further package.
func startGunicorn(ctx context.Context, o options, dir, class string) (side, error) {
	addr, err := freeAddress()
	if err != nil {
		return side{}, err
	}
	args := []string{"-m", "gunicorn", "--bind", addr, "--workers", strconv.Itoa(o.workers), "--worker-class", class,
		"--pythonpath", o.source + "," + filepath.Join(o.source, "score"), "--log-level", "warning"}
	if class == "gthread" {
		args = append(args, "--threads", strconv.Itoa(max(o.connections/o.workers, 1)), "--keep-alive", "75")
	}
	cmd := exec.Command(o.python, append(args, "flask_app:app")...) //nolint:noctx // stop ends it, in order
	cmd.Dir = dir
	p, err := launch(dir, "gunicorn-"+class, cmd)
	if err != nil {
		return side{}, err
	}
	s := side{name: "Flask + gunicorn " + class, url: "http://" + addr + "/score", header: jsonHeader(), stop: p.stop}
	err = p.wait(ctx, "gunicorn "+class+" starts", func() bool {
		conn, err := net.DialTimeout("tcp", addr, time.Second) //nolint:noctx // bounded by its own limit
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	if err == nil {
		err = s.sample(ctx)
	}
	if err != nil {
		return side{}, errors.Join(err, p.stop())
	}
	return s, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a local socket that is closed at once
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

const (
	endpointYAML = `name: bench
auth_mode: key
`
	deploymentYAML = `name: blue
endpoint_name: bench
code_configuration:
  code: %s
  scoring_script: score.py
environment:
  conda_file:
    name: bench
    dependencies:
      - python
instance_type: Standard_DS3_v2
instance_count: 1
environment_variables:
  WORKER_COUNT: "%d"
request_settings:
  max_concurrent_requests_per_instance: %d
  request_timeout_ms: 30000
`
)

// startPortico starts a server as a person would, and deploys the script through its CLI.
func startPortico(ctx context.Context, o options, dir string) (side, error) {
	data, ready := filepath.Join(dir, "data"), filepath.Join(dir, "ready.json")
	args := []string{"serve", "--data-dir", data, "--management", "127.0.0.1:0",
		"--scoring", "127.0.0.1:0", "--scoring-http", "127.0.0.1:0", "--ready-file", ready}
	cmd := exec.Command(o.portico, args...) //nolint:noctx // stop ends it, in order
	p, err := launch(dir, "portico", cmd)
	if err != nil {
		return side{}, err
	}
	s, err := deployed(ctx, o, dir, data, ready, p)
	if err != nil {
		return side{}, errors.Join(err, p.stop())
	}
	return s, nil
}

func deployed(ctx context.Context, o options, dir, data, ready string, p *process) (side, error) {
	var where struct {
		URL string `json:"scoring_http_url"`
	}
	err := p.wait(ctx, "portico starts", func() bool {
		text, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(text, &where) == nil && where.URL != ""
	})
	if err != nil {
		return side{}, err
	}
	cli := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, o.portico, args...)
		cmd.Env = append(os.Environ(), "PORTICO_DATA_DIR="+data)
		cmd.Stderr = new(bytes.Buffer)
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("portico %s: %w\n%s", strings.Join(args, " "), err, cmd.Stderr)
		}
		return out, nil
	}
	for name, text := range map[string]string{
		"endpoint.yml":   endpointYAML,
		"deployment.yml": fmt.Sprintf(deploymentYAML, filepath.Join(o.source, "score"), o.workers, max(o.connections, 1)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return side{}, fmt.Errorf("write %s: %w", name, err)
		}
	}
	if _, err := cli("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml")); err != nil {
		return side{}, err
	}
	deployment := filepath.Join(dir, "deployment.yml")
	if _, err := cli("ml", "online-deployment", "create", "-f", deployment, "--all-traffic"); err != nil {
		return side{}, err
	}
	out, err := cli("ml", "online-endpoint", "get-credentials", "-n", "bench", "-o", "json")
	if err != nil {
		return side{}, err
	}
	var keys struct {
		Primary string `json:"primaryKey"`
	}
	if err := json.NewDecoder(bufio.NewReader(bytes.NewReader(out))).Decode(&keys); err != nil || keys.Primary == "" {
		return side{}, fmt.Errorf("read credentials: %w", err)
	}
	header := jsonHeader()
	header.Set("Authorization", "Bearer "+keys.Primary)
	s := side{
		name: "Portico", url: strings.TrimSuffix(where.URL, "/") + "/endpoints/bench/score", header: header, stop: p.stop,
	}
	return s, s.sample(ctx)
}
