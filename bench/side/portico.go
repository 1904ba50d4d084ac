package side

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Deployment is a scoring script, or an ONNX model, that Portico serves.
type Deployment struct {
	Portico     string // the binary
	Code        string // folder of the script
	Script      string
	Conda       string // dependencies of the environment, as the lines of a YAML list
	Model       string // an .onnx file, in place of the three above
	Library     string // ONNX Runtime, for that
	Workers     int    // WORKER_COUNT
	Connections int    // that callers open at most
	More        string // further lines of the deployment's file
}

const (
	endpointYAML = `name: bench
auth_mode: key
`
	modelYAML = `model:
  name: bench
  path: %s
`
	scriptYAML = `code_configuration:
  code: %s
  scoring_script: %s
environment:
  conda_file:
    name: bench
    dependencies:
%s
`
	deploymentYAML = `name: blue
endpoint_name: bench
instance_type: Standard_DS3_v2
instance_count: 1
environment_variables:
  WORKER_COUNT: "%d"
request_settings:
  max_concurrent_requests_per_instance: %d
  request_timeout_ms: 30000
`
)

// Serve starts a server as a person would, in a folder of its own below dir, and deploys the script through the command
// line. The address is the endpoint's on the plain HTTP listener.
func (d Deployment) Serve(ctx context.Context, dir string) (Side, *Process, error) {
	dir, err := os.MkdirTemp(dir, "portico-")
	if err != nil {
		return Side{}, nil, fmt.Errorf("make a folder: %w", err)
	}
	data, ready := filepath.Join(dir, "data"), filepath.Join(dir, "ready.json")
	args := []string{"serve", "--data-dir", data, "--management", "127.0.0.1:0",
		"--scoring", "127.0.0.1:0", "--scoring-http", "127.0.0.1:0", "--ready-file", ready}
	p, err := Launch(dir, "portico", exec.Command(d.Portico, args...)) //nolint:noctx // Stop ends it, in order
	if err != nil {
		return Side{}, nil, err
	}
	s := Of(p)
	s.mark = data
	if err := d.deploy(ctx, dir, data, ready, p, &s); err != nil {
		return Side{}, nil, errors.Join(err, p.Stop())
	}
	return s, p, nil
}

func (d Deployment) deploy(ctx context.Context, dir, data, ready string, p *Process, s *Side) error {
	var where struct {
		URL string `json:"scoring_http_url"`
	}
	err := p.Wait(ctx, "portico starts", func() bool {
		text, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(text, &where) == nil && where.URL != ""
	})
	if err != nil {
		return err
	}
	cli := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, d.Portico, args...)
		cmd.Env = append(os.Environ(), "PORTICO_DATA_DIR="+data)
		cmd.Stderr = new(bytes.Buffer)
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("portico %s: %w\n%s", strings.Join(args, " "), err, cmd.Stderr)
		}
		return out, nil
	}
	what := fmt.Sprintf(scriptYAML, d.Code, d.Script, d.Conda)
	if d.Model != "" {
		what = fmt.Sprintf(modelYAML, d.Model)
		if _, err := cli("runtime", "install", "onnx", "--from", d.Library); err != nil {
			return err
		}
	}
	deployment := fmt.Sprintf(deploymentYAML, d.Workers, d.Connections) + what + d.More
	for name, text := range map[string]string{"endpoint.yml": endpointYAML, "deployment.yml": deployment} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	if _, err := cli("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml")); err != nil {
		return err
	}
	blue := filepath.Join(dir, "deployment.yml")
	if _, err := cli("ml", "online-deployment", "create", "-f", blue, "--all-traffic"); err != nil {
		return err
	}
	out, err := cli("ml", "online-endpoint", "get-credentials", "-n", "bench", "-o", "json")
	if err != nil {
		return err
	}
	var keys struct {
		Primary string `json:"primaryKey"`
	}
	if err := json.Unmarshal(out, &keys); err != nil || keys.Primary == "" {
		return fmt.Errorf("read credentials: %w", err)
	}
	s.Header.Set("Authorization", "Bearer "+keys.Primary)
	s.URL = strings.TrimSuffix(where.URL, "/") + "/endpoints/bench/score"
	return nil
}
