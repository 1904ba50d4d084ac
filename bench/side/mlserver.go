package side

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
)

// MLServer is MLServer with one model, in its fastest mode for small ones: without its pool of worker processes, which
// copies every request to another process and back.
type MLServer struct {
	Program string   // of MLServer
	Model   string   // folder with the model's settings; those of the server are written into it
	Env     []string // the whole environment
}

// Start starts it on a free address; what it prints goes into dir.
func (m MLServer) Start(dir string) (Side, *Process, error) {
	var hosts, ports [3]string
	for i := range ports {
		address, err := FreeAddress()
		if err == nil {
			hosts[i], ports[i], err = net.SplitHostPort(address)
		}
		if err != nil {
			return Side{}, nil, err
		}
	}
	doc, err := json.Marshal(map[string]any{
		"debug": false, "parallel_workers": 0, "metrics_endpoint": nil, "logging_settings": nil,
		"host": hosts[0], "http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2],
	})
	if err != nil {
		return Side{}, nil, fmt.Errorf("write settings: %w", err)
	}
	if err := os.WriteFile(filepath.Join(m.Model, "settings.json"), doc, 0o600); err != nil {
		return Side{}, nil, fmt.Errorf("write settings: %w", err)
	}
	cmd := exec.Command(m.Program, "start", m.Model) //nolint:noctx // Stop ends it, in order
	cmd.Env, cmd.Dir = m.Env, dir
	p, err := Launch(dir, "mlserver-"+ports[0], cmd)
	if err != nil {
		return Side{}, nil, err
	}
	s := Of(p.AnyExit())
	s.URL = "http://" + net.JoinHostPort(hosts[0], ports[0])
	return s, p, nil
}
