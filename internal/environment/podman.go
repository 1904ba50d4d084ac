package environment

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// podman is the store of images on this machine, that of the server's own user. It brings images here and gives their
// content; it runs nothing.
type podman struct {
	path string
	env  []string
	auth []string // files that may hold what it shows to registries
}

// Bounds of what is read of podman.
const (
	maxInspectBytes = 4 << 20
	removeTimeout   = time.Minute // for the container that an image was read through
)

// podmanVariables are those of the server that podman reads: where images are stored and come from, by which way, and
// with which credentials.
var podmanVariables = []string{
	"PATH", "HOME", "USER", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "DBUS_SESSION_BUS_ADDRESS",
	"CONTAINERS_CONF", "CONTAINERS_CONF_OVERRIDE", "CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF", authVariable,
	"DOCKER_CONFIG", "STORAGE_DRIVER", "STORAGE_OPTS", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
}

func newPodman(path string, cfg Config) podman {
	p := podman{path: path}
	for _, name := range podmanVariables {
		if value, ok := cfg.Getenv(name); ok {
			p.env = append(p.env, name+"="+value)
		}
	}
	if cfg.AuthFile != "" {
		p.env = append(p.env, authVariable+"="+cfg.AuthFile) // of two the last counts
	}
	p.auth = authFiles(cfg)
	return p
}

// with is podman with one more variable.
func (p podman) with(name, value string) podman {
	p.env = append(slices.Clone(p.env), name+"="+value)
	return p
}

// run runs podman with its output to out and what it says to say. Ctx ends it with all its children.
func (p podman) run(ctx context.Context, out io.Writer, say *stepOutput, args ...string) error {
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = p.env, "/", out, say
	cmd.SysProcAttr = diesWithServer(&syscall.SysProcAttr{Setpgid: true})
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	runtime.LockOSThread() // it must not end before podman does
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &ExitError{Code: exit.ExitCode()}
	}
	return err
}

// inspected is what podman tells of an image.
type inspected struct {
	ID     string `json:"Id"`
	OS     string `json:"Os"`
	Arch   string `json:"Architecture"`
	Size   int64  `json:"Size"`
	Config struct {
		User       string   `json:"User"`
		Env        []string `json:"Env"`
		Entrypoint []string `json:"Entrypoint"`
		Cmd        []string `json:"Cmd"`
		WorkingDir string   `json:"WorkingDir"`
		StopSignal string   `json:"StopSignal"`
	} `json:"Config"`
}

// inspect tells of an image that is here; nil: it is not.
func (p podman) inspect(ctx context.Context, reference string, say *stepOutput) (*inspected, error) {
	err := p.run(ctx, io.Discard, say, "image", "exists", "--", reference)
	var exit *ExitError
	if errors.As(err, &exit) && exit.Code == 1 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out limitedBuffer
	if err := p.run(ctx, &out, say, "image", "inspect", "--", reference); err != nil {
		return nil, err
	}
	var found []inspected
	if err := json.Unmarshal(out.Bytes(), &found); err != nil || len(found) != 1 {
		return nil, badImage("podman does not describe it (%w)", err)
	}
	in := &found[0]
	in.ID = strings.TrimPrefix(in.ID, "sha256:")
	switch {
	case !imageIDRule.MatchString(in.ID):
		return nil, badImage("podman gives it the id %.80q", in.ID)
	case in.OS != "linux" || in.Arch != runtime.GOARCH:
		return nil, badImage("it is made for %.20s/%.20s, and this machine is linux/%s", in.OS, in.Arch, runtime.GOARCH)
	}
	return in, nil
}

// export gives the archive of an image's file system to take, through a container that never runs.
func (p podman) export(ctx context.Context, id, name string, say *stepOutput, take func(io.Reader) error) (err error) {
	remove := func(ctx context.Context) error {
		return p.run(ctx, io.Discard, say, "rm", "--force", "--ignore", "--volumes", name)
	}
	if err := remove(ctx); err != nil { // of a server that was killed
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
		defer cancel()
		err = errors.Join(err, remove(ctx))
	}()
	// An image without a command needs one here, and nothing is ever started.
	if err := p.run(ctx, io.Discard, say, "create", "--pull", "never", "--network", "none", "--name", name, id, "none"); err != nil {
		return err
	}
	r, w := io.Pipe()
	taken := make(chan error, 1)
	go func() {
		err := take(r)
		_ = r.CloseWithError(errTaken) // podman then ends, if it has not
		taken <- err
	}()
	err = p.run(ctx, w, say, "export", name)
	_ = w.CloseWithError(err) // nil is the end of the archive
	if failed := <-taken; failed != nil && (err == nil || !errors.Is(failed, err)) {
		return failed // podman's own failure, if any, is that nobody listened
	}
	return err
}

var errTaken = errors.New("the rest of the archive is not wanted")

// limitedBuffer takes no more than maxInspectBytes.
type limitedBuffer struct{ bytes.Buffer }

// Write implements io.Writer.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxInspectBytes {
		return 0, fmt.Errorf("podman answers with more than %d bytes", maxInspectBytes)
	}
	return b.Buffer.Write(p)
}
