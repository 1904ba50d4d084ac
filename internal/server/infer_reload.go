package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"portico/internal/inference"
)

// Bounds of watching files for a reload.
const (
	reloadPause = 300 * time.Millisecond // between two looks; a change is taken up when the next look finds no other
	reloadFiles = 20_000                 // files that are looked at; more are not watched
)

// generations makes the pools of one `portico infer`, one after the other: a reload replaces the pool while requests
// go on. At most one is in force.
type generations struct {
	cfg      InferConfig
	dir      string // private; each pool has a folder of its own in it
	launcher inference.Launcher
	log      *slog.Logger
	count    int
	current  atomic.Pointer[inference.Pool]
}

// make starts a pool and waits until it is ready. The caller closes it, also after an error.
func (g *generations) make(ctx context.Context) (*inference.Pool, error) {
	g.count++
	name := "infer"
	if g.count > 1 {
		name += "-" + strconv.Itoa(g.count)
	}
	dir := filepath.Join(g.dir, strconv.Itoa(g.count))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("start inference server: %w", err)
	}
	pool, err := inference.NewPool(inference.PoolConfig{
		Instance: name, Dir: dir, Workers: g.cfg.WorkerCount, MaxConcurrent: g.cfg.MaxConcurrent,
		Batching: g.cfg.Batching,
	}, g.launcher, g.log)
	if err != nil {
		return nil, err
	}
	return pool, awaitReady(ctx, pool)
}

// close ends the pool in force.
func (g *generations) close(ctx context.Context) error {
	pool := g.current.Swap(nil)
	if pool == nil {
		return nil
	}
	return pool.Close(context.WithoutCancel(ctx))
}

// reload replaces the pool each time that files of the code or the model change, until ctx ends. New code that
// cannot serve changes nothing: the log says why, and the next change is tried.
func (g *generations) reload(ctx context.Context) {
	ticker := time.NewTicker(reloadPause)
	defer ticker.Stop()
	seen := g.look()
	changed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := g.look()
		if !maps.Equal(now, seen) {
			seen, changed = now, true
			continue // somebody is still writing
		}
		if changed {
			changed = false
			g.replace(ctx)
		}
	}
}

func (g *generations) replace(ctx context.Context) {
	g.log.Info("files have changed; reloading")
	next, err := g.make(ctx)
	if err != nil {
		if next != nil {
			err = errors.Join(err, next.Close(context.WithoutCancel(ctx)))
		}
		if ctx.Err() == nil {
			g.log.Error("the changed code cannot serve; what served before goes on", "error", err)
		}
		return
	}
	old := g.current.Swap(next)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.cfg.DrainTimeout)
	defer cancel()
	if err := errors.Join(old.Drain(drain), old.Close(drain)); err != nil {
		g.log.Warn("requests of the previous code are cut off", "error", err)
	}
	g.log.Info("reloaded")
}

// fileState tells one content of a file from another, nearly always.
type fileState struct {
	size     int64
	modified time.Time
}

// look lists the files of the code and the model. What Python writes itself, and hidden folders, do not count.
func (g *generations) look() map[string]fileState {
	seen := make(map[string]fileState)
	roots := []string{g.cfg.AppRoot, g.cfg.ModelDir, filepath.Dir(g.cfg.EntryScript)}
	for _, root := range roots {
		if !filepath.IsAbs(root) {
			continue // no model, or a script below the code folder
		}
		// A file that cannot be read now is seen as absent: that too is a change.
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // see above
			}
			name := entry.Name()
			if entry.IsDir() {
				if path != root && (strings.HasPrefix(name, ".") || name == "__pycache__") {
					return fs.SkipDir
				}
				return nil
			}
			if info, err := entry.Info(); err == nil {
				seen[path] = fileState{info.Size(), info.ModTime()}
			}
			if len(seen) >= reloadFiles {
				return fs.SkipAll
			}
			return nil
		})
	}
	return seen
}
