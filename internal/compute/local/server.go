package local

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"portico/internal/compute"
	"portico/internal/host"
	"portico/internal/inference"
	"portico/internal/online"
)

// Ports that stand in for those that custom servers declare: two instances of one machine cannot have the same. They lie
// below the ports from which systems take their own.
const (
	firstServerPort = 20000
	lastServerPort  = 29999
	portAttempts    = 200
)

// newServer is the body of an instance that is somebody else's server.
func (b *Backend) newServer(i *instance) body {
	t, id := &i.set.record.Template, i.record.ID
	routes := t.Server.Routes
	cfg := inference.ServerConfig{
		Instance: id, MaxConcurrent: t.MaxConcurrent, Port: routes.Scoring.Port,
		Liveness:  inference.Check{Path: routes.Liveness.Path, Port: routes.Liveness.Port, Probe: t.Liveness},
		Readiness: inference.Check{Path: routes.Readiness.Path, Port: routes.Readiness.Port, Probe: t.Readiness},
		Startup:   t.Startup, Address: func(port int) string { return b.serverAddress(id, port) },
		StopGrace: b.cfg.StopGrace, BackOff: restartBackOff,
	}
	if image := t.Server.Image; image != nil {
		cfg.StopSignal = syscall.Signal(image.StopSignal)
		cfg.Address = func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
		process := i.launcher.workerID(0)
		cfg.Dial = func(ctx context.Context, port int) (net.Conn, error) { return b.dial(ctx, process, port) }
	}
	return inference.NewServer(cfg, i.launcher, b.log.With("set", i.record.Set))
}

// serverAddress is where a declared port of an instance is reached.
func (b *Backend) serverAddress(instance string, declared int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	port := 0
	if i := b.instances[instance]; i != nil {
		port = i.record.Ports[declared]
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// takePorts gives an instance a port for each that it declares: those that it had, as far as they are free.
func (b *Backend) takePorts(instance string, declared []int) (map[int]int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.instances[instance]
	if i == nil {
		return nil, fmt.Errorf("instance %s: %w", instance, compute.ErrNotFound)
	}
	taken := map[int]bool{}
	for _, other := range b.instances {
		for _, port := range other.record.Ports {
			taken[port] = taken[port] || other != i
		}
	}
	ports := make(map[int]int, len(declared))
	for _, d := range declared {
		port := i.record.Ports[d]
		for n := 0; port == 0 || taken[port] || !isFree(port); n++ {
			if n == portAttempts {
				return nil, fmt.Errorf("no free port was found between %d and %d", firstServerPort, lastServerPort)
			}
			port = firstServerPort + rand.IntN(lastServerPort-firstServerPort+1) //nolint:gosec // any will do
		}
		ports[d], taken[port] = port, true
	}
	i.record.Ports = ports
	b.save(i)
	return ports, nil
}

// isFree says whether nobody listens on a port of this machine.
func isFree(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))) //nolint:noctx // at once
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// serverSpec describes the process of somebody else's server.
func (l *launcher) serverSpec(spec inference.WorkerSpec, start int) (host.ProcessSpec, error) {
	t := l.template
	p, err := l.processSpec(spec, start)
	if err != nil {
		return host.ProcessSpec{}, err
	}
	declared, err := online.CommandPorts(t.Server.Command, t.Server.Routes)
	if err != nil {
		return host.ProcessSpec{}, fmt.Errorf("read the command: %w", err)
	}
	ports, err := l.b.takePorts(l.instance, declared)
	if err != nil {
		return host.ProcessSpec{}, err
	}
	modelDir := t.ModelDir
	if modelDir != "" && l.b.link.mounts() {
		if modelDir, err = mountModel(t, p.View); err != nil {
			return host.ProcessSpec{}, err
		}
		for i := range p.View {
			if p.View[i].Path == filepath.Clean(t.ModelDir) {
				p.View[i].At = modelDir
			}
		}
	}
	scoring := t.Server.Routes.Scoring.Port
	p.Argv = online.ExpandCommand(t.Server.Command, scoring, ports, modelDir)
	if p.Argv[0], err = program(p.Argv[0], t); err != nil {
		return host.ProcessSpec{}, err
	}
	p.Env["PORT"] = online.Secret(strconv.Itoa(ports[scoring]))
	for d, port := range ports {
		p.Env[fmt.Sprintf("PORT_%d", d)] = online.Secret(strconv.Itoa(port))
	}
	if modelDir != "" {
		p.Env["AZUREML_MODEL_DIR"] = online.Secret(modelDir)
	}
	p.Socket, p.Page = "", ""
	return p, nil
}

// mountModel is where the model is shown. Nothing else may be seen above or below it: mount points are made there.
func mountModel(t *compute.Template, views []host.View) (string, error) {
	at := t.Server.ModelMount
	for _, v := range views {
		if v.Path == filepath.Clean(t.ModelDir) {
			continue
		}
		if strings.HasPrefix(at+"/", v.Path+"/") || strings.HasPrefix(v.Path+"/", at+"/") {
			return "", fmt.Errorf("the model cannot be shown at %s, where the server sees other files; give another model_mount_path", at)
		}
	}
	return at, nil
}

// program finds the file of a command's first word: a path as it is, a path in the code, or a name that is looked for in the
// environment and in the system.
func program(word string, t *compute.Template) (string, error) {
	switch {
	case filepath.IsAbs(word):
		return word, nil
	case strings.Contains(word, "/"):
		return filepath.Join(t.CodeDir, word), nil
	}
	dirs := filepath.SplitList(systemPath)
	if t.Python != "" {
		dirs = append([]string{filepath.Dir(t.Python)}, dirs...)
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, word)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("the program %q is neither in the environment nor in %s: %w", word, systemPath, fs.ErrNotExist)
}
