// The upload check sends a large model as the Python SDK does (parallel blocks of 4 MiB, then their list, then the mark
// that says complete), interrupts the client, kills the server over the registration, and says how much memory the
// server had at its peak. It fails when the digest is not that of what was sent, when an interruption leaves half a
// model, or when the memory is above the limit. See bench/README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"portico/bench/side"
)

type options struct {
	*side.Command

	bytes    int64
	limit    int64
	parallel int
}

func main() {
	o := &options{Command: side.NewCommand()}
	flag.Int64Var(&o.bytes, "bytes", 1<<30, "size of the model")
	flag.Int64Var(&o.limit, "limit", 128<<20, "bytes of resident memory that the server may have at its peak")
	flag.IntVar(&o.parallel, "parallel", 16, "blocks on their way at one time")
	o.Run(o.bench)
}

const (
	folder = "LocalUpload/benchmark/model"
	uri    = "azureml://datastores/workspaceblobstore/paths/" + folder
)

func (o *options) bench(ctx context.Context, dir string) (err error) {
	m := newModel(o.bytes)
	fmt.Printf("model            %d MiB, %s\n", o.bytes>>20, m.digest[:19])
	s, err := start(ctx, o.Portico, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	begin, err := s.memory("VmRSS")
	if err != nil {
		return err
	}
	if err := interrupted(ctx, s, m, o); err != nil {
		return fmt.Errorf("interrupted upload: %w", err)
	}
	took, err := upload(ctx, s, m, o)
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	peak, err := s.memory("VmHWM")
	if err != nil {
		return err
	}
	if err := killed(ctx, s, o); err != nil {
		return fmt.Errorf("killed registration: %w", err)
	}
	started := time.Now()
	digest, err := s.register(ctx)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	registered := time.Since(started)
	again, err := s.memory("VmHWM")
	if err != nil {
		return err
	}
	peak = max(peak, again)
	fmt.Printf("upload           %.1f s, %.0f MiB/s\n", took.Seconds(), float64(o.bytes>>20)/took.Seconds())
	fmt.Printf("register         %.1f s\n", registered.Seconds())
	fmt.Printf("server's memory  %d MiB at the start, %d MiB at its peak (limit %d)\n", begin>>20, peak>>20, o.limit>>20)
	switch {
	case digest != m.digest:
		return fmt.Errorf("the server's digest is %s, what was sent has %s", digest, m.digest)
	case peak > o.limit:
		return fmt.Errorf("the server had %d MiB at its peak, more than %d", peak>>20, o.limit>>20)
	}
	fmt.Println("digest           as sent")
	return nil
}

// interrupted sends a part and leaves. Then there is no blob and nothing in the content store.
func interrupted(ctx context.Context, s *server, m *model, o *options) error {
	part, cancel := context.WithCancel(ctx)
	defer cancel()
	sent := s.sendBlocks(part, m, o.parallel, func(n int) {
		if n == m.blocks()/3 {
			cancel()
		}
	})
	if sent == nil {
		return errors.New("it was not interrupted")
	}
	if err := s.expect(ctx, http.StatusNotFound, http.MethodHead, "", nil); err != nil {
		return err
	}
	return s.nothingStored()
}

// upload sends all of it and confirms.
func upload(ctx context.Context, s *server, m *model, o *options) (time.Duration, error) {
	started := time.Now()
	if err := s.sendBlocks(ctx, m, o.parallel, func(int) {}); err != nil {
		return 0, err
	}
	if err := s.commit(ctx, m); err != nil {
		return 0, err
	}
	if err := s.nothingStored(); err != nil {
		return 0, err
	}
	return time.Since(started), nil
}

// killed ends the server while it takes the model over, and starts it again: the content store has nothing, or all.
func killed(ctx context.Context, s *server, o *options) error {
	asked := make(chan error, 1)
	go func() {
		_, err := s.register(ctx)
		asked <- err
	}()
	if err := s.waitForImport(ctx); err != nil {
		return err
	}
	if err := s.kill(); err != nil {
		return err
	}
	if err := <-asked; err == nil {
		return errors.New("the registration ended before the server was killed; give more -bytes")
	}
	if err := s.restart(ctx, o.Portico); err != nil {
		return err
	}
	return s.nothingStored()
}

// nothingStored checks that the content store has neither a tree nor a part of one.
func (s *server) nothingStored() error {
	names, err := s.stored()
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("the content store holds %s", strings.Join(names, ", "))
	}
	return err
}

// stored lists what the content store holds, finished or not.
func (s *server) stored() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "data", "artifacts"))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}
