package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"portico/internal/host"
	"portico/internal/inference"
	"portico/internal/online"
)

const (
	// imagePath is where programs are looked for in an image that does not say.
	imagePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// imageCode is where the deployment's code appears in an image.
	imageCode = "/var/azureml-app/code"
)

// dial connects to a port of an instance that has a network of its own.
func (b *Backend) dial(ctx context.Context, process string, port int) (net.Conn, error) {
	client, err := b.link.wait(ctx)
	if err != nil {
		return nil, err
	}
	return client.DialIn(ctx, process, port)
}

// imageSpec describes the process of somebody else's server in its image. The ports are those that are declared: its
// network is its own.
func (l *launcher) imageSpec(spec inference.WorkerSpec, start int) (host.ProcessSpec, error) {
	t, image := l.template, l.template.Server.Image
	if _, err := os.Stat(image.Tree); err != nil {
		return host.ProcessSpec{}, fmt.Errorf("the deployment's image is not on this machine: %w", errors.Unwrap(err))
	}
	modelDir := ""
	var view []host.View
	for _, part := range []struct{ what, path, at string }{
		{"the deployment's code", t.CodeDir, imageCode}, {"the deployment's model", t.ModelDir, t.Server.ModelMount},
	} {
		if part.path == "" {
			continue
		}
		if _, err := os.Stat(part.path); err != nil {
			return host.ProcessSpec{}, fmt.Errorf("%s is not on this machine: %w", part.what, errors.Unwrap(err))
		}
		view = append(view, host.View{Path: filepath.Clean(part.path), At: part.at})
	}
	if t.ModelDir != "" {
		modelDir = t.Server.ModelMount
	}
	argv := image.Command
	if len(t.Server.Command) > 0 {
		declared, err := online.CommandPorts(t.Server.Command, t.Server.Routes)
		if err != nil {
			return host.ProcessSpec{}, fmt.Errorf("read the command: %w", err)
		}
		ports := make(map[int]int, len(declared))
		for _, port := range declared {
			ports[port] = port
		}
		argv = online.ExpandCommand(t.Server.Command, t.Server.Routes.Scoring.Port, ports, modelDir)
	}
	program := argv[0]
	if strings.Contains(program, "/") && !filepath.IsAbs(program) { // an image may say it so
		program = filepath.Join(image.Dir, program)
	}
	if filepath.IsAbs(program) {
		program = filepath.Clean(program)
	}
	limits := limitsOf(t)
	return host.ProcessSpec{
		ID: spec.ID, Labels: l.labels(spec.Index, start, limits),
		Argv: append([]string{program}, argv[1:]...), Env: l.imageEnvironment(modelDir), Dir: image.Dir,
		User: host.UserSeparate, Limits: limits, View: view,
		Root: &host.Root{
			Tree: image.Tree, Scratch: l.scratch(spec.Index), UID: image.UID, GID: image.GID, Hostname: l.instance,
			Egress: true,
		},
		Log: host.LogSpec{Dir: l.logDir(spec.Index), FileBytes: l.b.cfg.LogFileBytes, Files: l.b.cfg.LogFiles},
	}, nil
}

// imageEnvironment is what the image says, under the deployment's variables, with what the engine tells.
func (l *launcher) imageEnvironment(modelDir string) map[string]online.Secret {
	t, image := l.template, l.template.Server.Image
	threads := online.Secret(strconv.Itoa(threadsPerWorker(t, l.b.cfg.Machine.CPUs)))
	env := map[string]online.Secret{"PATH": imagePath, "HOME": online.Secret(image.Home), "HOSTNAME": online.Secret(l.instance)}
	for _, name := range threadVariables {
		env[name] = threads
	}
	for _, variable := range image.Env {
		if name, value, ok := strings.Cut(variable, "="); ok && name != "" {
			env[name] = online.Secret(value)
		}
	}
	for name, value := range t.Variables {
		env[name] = value
	}
	if t.CodeDir != "" {
		env["AML_APP_ROOT"] = imageCode
		env["AZUREML_ENTRY_SCRIPT"] = online.Secret(t.ScoringScript)
	}
	if modelDir != "" {
		env["AZUREML_MODEL_DIR"] = online.Secret(modelDir)
	}
	return env
}
