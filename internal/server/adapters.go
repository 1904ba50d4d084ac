package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"portico/internal/arm"
	"portico/internal/collect"
	"portico/internal/compute"
	"portico/internal/control"
	"portico/internal/environment"
	"portico/internal/gateway"
	"portico/internal/host"
	"portico/internal/inference"
	"portico/internal/online"
	"portico/internal/reconcile"
	"portico/internal/route"
)

// The adapters connect rooms that must not know each other: each implements the interface that one room declares
// with what another room offers.

// environments builds environments for reconcile.
type environments struct{ builder *environment.Builder }

// Ensure implements reconcile.Environments.
func (e environments) Ensure(ctx context.Context, spec online.EnvironmentSpec, progress io.Writer) (reconcile.Environment, error) {
	env, err := e.builder.Ensure(ctx, spec, progress)
	if err != nil {
		return reconcile.Environment{}, err
	}
	return reconcile.Environment{ID: env.ID, Python: env.Python}, nil
}

// EnsureImage implements reconcile.Environments.
func (e environments) EnsureImage(ctx context.Context, version online.ID, image string, progress io.Writer) (reconcile.Environment, error) {
	i, err := e.builder.EnsureImage(ctx, arm.FormatID(version), image, progress)
	if err != nil {
		return reconcile.Environment{}, err
	}
	return reconcile.Environment{ID: i.ID, Image: &compute.Image{
		Tree: i.Tree, Command: append(slices.Clone(i.Entrypoint), i.Command...), Env: i.Env, Dir: i.Dir, Home: i.Home,
		UID: i.UID, GID: i.GID, StopSignal: i.StopSignal,
	}}, nil
}

// upstreams finds instances for the gateway: in the engine's own pools, or by address.
type upstreams struct {
	engine interface {
		Upstream(instance string) (inference.Upstream, bool)
	}
}

// Lookup implements gateway.Upstreams.
func (u upstreams) Lookup(instance string) (inference.Upstream, bool) {
	return u.engine.Upstream(instance)
}

// buildLogs keeps what environment builds print, one file per deployment.
type buildLogs struct{ dir string }

// Bounds of build logs.
const buildLogKeepBytes = 4 << 20 // a log of this size is begun anew; the one before is kept beside it

func (b buildLogs) path(uid string) string { return filepath.Join(b.dir, uid+".log") }

// open implements reconcile.Config.BuildLog.
func (b buildLogs) open(uid string) (io.WriteCloser, error) {
	path := b.path(uid)
	if info, err := os.Stat(path); err == nil && info.Size() >= buildLogKeepBytes {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("put the old build log aside: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the build log: %w", err)
	}
	return f, nil
}

// logs reads for control what instances and builds printed.
type logs struct {
	engine compute.Backend
	builds buildLogs
}

// Logs implements control.Logs.
func (l logs) Logs(ctx context.Context, q control.LogQuery) (io.ReadCloser, error) {
	if q.Container == control.StorageInitializer {
		return tailFile(l.builds.path(q.UID), q.Tail)
	}
	r, err := l.engine.Logs(ctx, compute.LogQuery{UID: q.UID, Instance: q.Instance, Tail: q.Tail})
	if errors.Is(err, compute.ErrNotFound) {
		return nil, fmt.Errorf("no output: %w", fs.ErrNotExist)
	}
	return r, err
}

// tailFile reads the last lines of a file that is at most buildLogKeepBytes and one entry long.
func tailFile(path string, lines int) (io.ReadCloser, error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the build log: %w", err)
	}
	all := strings.SplitAfter(string(doc), "\n")
	if all[len(all)-1] == "" {
		all = all[:len(all)-1]
	}
	return io.NopCloser(strings.NewReader(strings.Join(all[max(0, len(all)-lines):], ""))), nil
}

// tables hands routing tables to the gateway and the data collector, and notes the first.
type tables struct {
	gateway   *gateway.Gateway
	collector *collect.Collector
	first     *firstTable
}

// firstTable tells that the gateway knows where to send requests.
type firstTable struct {
	once sync.Once
	came chan struct{}
}

// SetTable implements reconcile.TableSetter.
func (t tables) SetTable(table *route.Table) {
	t.collector.SetTable(table)
	t.gateway.SetTable(table)
	t.first.once.Do(func() { close(t.first.came) })
}

// caches finds the gateway, which is made after the commands.
type caches struct{ *serving }

// PurgeCache implements control.Caches.
func (c caches) PurgeCache(uid string) (entries int, bytes int64, ok bool) {
	return c.gateway.PurgeCache(uid)
}

// capabilities says in words what isolation is in force.
func capabilities(c host.Capabilities) string {
	on := func(name string, ok bool) string {
		if ok {
			return name
		}
		return "no " + name
	}
	return strings.Join([]string{
		on("user ids", c.Users), on("own file system view", c.Mounts), on("memory limit", c.Memory), on("CPU limit", c.CPU), on("process limit", c.Pids),
	}, ", ")
}
