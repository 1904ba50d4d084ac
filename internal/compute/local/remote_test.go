package local_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"portico/internal/compute"
	"portico/internal/compute/computetest"
	"portico/internal/compute/local"
	"portico/internal/host"
	"portico/internal/inference"
	"portico/internal/online"
	"portico/internal/server"
)

// The second engine: instances are servers on TCP, each a process that the engine knows only from outside (it
// answers, it ends, it leaves a message), and what is watched comes late, repeated and out of order.
func TestLocalSeenAsRemote(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv("PORTICO_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("PORTICO_TEST_SEED: %v", err)
		}
	}
	computetest.Run(t, func(t *testing.T) computetest.Lab { return newRemoteLab(t, seed) })
}

type remoteLab struct {
	*lab
	seed      uint64
	addresses sync.Map // instance id -> host:port
}

func newRemoteLab(t *testing.T, seed uint64) *remoteLab {
	r := &remoteLab{lab: newLab(t), seed: seed}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(r.cfg.Host.DataDir, "remote")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	describe := func(i local.Instance, p *host.ProcessSpec) error {
		file := filepath.Join(i.Scratch, "config.json")
		t := i.Template
		text, err := json.Marshal(inferConfig{ExitFile: exitFile(i.Scratch), Server: server.InferConfig{
			EntryScript: t.ScoringScript, AppRoot: t.CodeDir, ModelDir: t.ModelDir, Python: t.Python,
			WorkerCount: t.Workers, MaxConcurrent: t.MaxConcurrent, RequestTimeout: t.RequestTimeout,
			DrainTimeout: t.RequestTimeout, ReadyFile: readyFile(i.Scratch),
		}})
		if err != nil {
			return err
		}
		p.Argv = []string{program, "infer", file}
		p.View = append(p.View, host.View{Path: program})
		p.Socket, p.Page = "", ""
		p.Limits.MemoryBytes *= int64(t.Workers)
		p.Env["TMPDIR"] = "/tmp" // the server makes its sockets there, whose paths must be short
		p.Env["GORACE"] = online.Secret(os.Getenv("GORACE"))
		return os.WriteFile(file, text, 0o644)
	}
	r.open = func(t *testing.T, l *lab) *local.Backend {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		b, err := local.OpenWith(ctx, l.cfg, l.log, describe, func(i local.Instance) (local.Body, error) {
			return newServerBody(i, dir, &r.addresses)
		})
		if err != nil {
			t.Fatalf("open the engine: %v", err)
		}
		return b
	}
	return r
}

// Open implements computetest.Lab.
func (r *remoteLab) Open(t *testing.T) computetest.Engine {
	return computetest.Far(t, remoteEngine{Backend: r.open(t, r.lab), addresses: &r.addresses}, r.seed)
}

// remoteEngine tells the addresses of instances and calls them there.
type remoteEngine struct {
	*local.Backend
	addresses *sync.Map
}

// Watch implements compute.Backend.
func (e remoteEngine) Watch(ctx context.Context) (<-chan compute.Event, error) {
	in, err := e.Backend.Watch(ctx)
	if err != nil {
		return nil, err
	}
	out := make(chan compute.Event)
	go func() {
		defer close(out)
		for ev := range in {
			for n := range ev.Set.Instances {
				if a, ok := e.addresses.Load(ev.Set.Instances[n].ID); ok {
					ev.Set.Instances[n].Address = a.(string)
				}
			}
			select {
			case out <- ev:
			case <-ctx.Done():
			}
		}
	}()
	return out, nil
}

// Call implements computetest.Engine.
func (e remoteEngine) Call(ctx context.Context, i compute.Instance, body []byte) (int, []byte, error) {
	if i.Address == "" {
		return 0, nil, fmt.Errorf("instance %s has no address", i.ID)
	}
	u := inference.NewHTTPUpstream(i.ID, i.Address, 1)
	defer u.Close()
	return call(ctx, u, body)
}

// serverBody looks after one server on TCP as an engine of pods would: it starts it, asks it whether it is ready,
// and starts it again when it ended.
type serverBody struct {
	inference.Upstream // calls go to the address; nothing calls this
	i                  local.Instance
	spec               inference.WorkerSpec
	addresses          *sync.Map
	events             chan inference.Event
	stop               context.CancelFunc
	done               chan struct{}
	process            inference.Process // of the newest start; read after done
	ready              time.Time
}

func newServerBody(i local.Instance, dir string, addresses *sync.Map) (*serverBody, error) {
	ctx, stop := context.WithCancel(context.Background())
	s := &serverBody{
		i: i, addresses: addresses, events: make(chan inference.Event, 16), stop: stop, done: make(chan struct{}),
		spec: inference.WorkerSpec{
			ID: i.ID + "-w0", Socket: filepath.Join(dir, i.ID+".sock"), Page: filepath.Join(dir, i.ID+".page"),
		},
	}
	if err := os.WriteFile(s.spec.Page, nil, 0o600); err != nil {
		stop()
		return nil, err
	}
	go s.mind(ctx)
	return s, nil
}

func (s *serverBody) mind(ctx context.Context) {
	defer close(s.done)
	defer close(s.events)
	for starts := 0; ctx.Err() == nil; starts++ {
		if starts > 1 {
			s.tell(ctx, inference.StateBackOff, nil)
			pause(ctx, 250*time.Millisecond<<(starts-1))
		}
		s.tell(ctx, inference.StateStarting, nil)
		p, err := s.i.Launcher.Launch(ctx, s.spec)
		if err != nil {
			continue
		}
		s.process = p
		everReady := s.awaitReady(ctx, p)
		select {
		case <-p.Done():
		case <-ctx.Done():
			return
		}
		exit := s.exit(p, everReady)
		state := inference.StateStarting
		if exit.Permanent {
			state = inference.StateFailed
		}
		s.tell(ctx, state, &exit)
		if exit.Permanent {
			<-ctx.Done()
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// awaitReady asks the server until it answers that it is ready; false when it ended first.
func (s *serverBody) awaitReady(ctx context.Context, p inference.Process) bool {
	for {
		select {
		case <-p.Done():
			return false
		case <-ctx.Done():
			return false
		case <-time.After(10 * time.Millisecond):
		}
		text, err := os.ReadFile(readyFile(s.i.Scratch))
		var at struct{ Address string }
		if err != nil || json.Unmarshal(text, &at) != nil {
			continue
		}
		answer, err := http.Get("http://" + at.Address + "/")
		if err != nil {
			continue
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			s.addresses.Store(s.i.ID, at.Address)
			s.ready = time.Now()
			s.tell(ctx, inference.StateReady, nil)
			return true
		}
	}
}

// exit is how the server ended: the message that it left, or what the system says.
func (s *serverBody) exit(p inference.Process, everReady bool) compute.Exit {
	seen := p.Exit()
	seen.InInit = !everReady
	text, err := os.ReadFile(exitFile(s.i.Scratch))
	var left compute.Exit
	if err == nil && json.Unmarshal(text, &left) == nil {
		left.Tail = seen.Tail
		return left
	}
	if seen.Reason == "" {
		seen.Reason = "the server ended without a message"
	}
	return seen
}

func (s *serverBody) tell(ctx context.Context, state inference.State, exit *compute.Exit) {
	ev := inference.Event{State: state, Exit: exit, Status: inference.Status{
		State: state, Ready: s.ready, Workers: []inference.WorkerStatus{{State: state}},
	}}
	select {
	case s.events <- ev:
	case <-ctx.Done():
	}
}

// Watch implements local.Body. It is called once.
func (s *serverBody) Watch(context.Context) <-chan inference.Event { return s.events }

// Drain implements local.Body: nobody is told to stop calling by this body, the server itself finishes what it has.
func (s *serverBody) Drain(context.Context) error { return nil }

// Close implements local.Body.
func (s *serverBody) Close(ctx context.Context) error {
	s.Detach()
	if s.process == nil {
		return nil
	}
	if err := s.process.Signal(ctx, syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.process.Done():
		return nil
	case <-time.After(s.i.Template.RequestTimeout + time.Second):
	case <-ctx.Done():
	}
	if err := s.process.Signal(context.WithoutCancel(ctx), syscall.SIGKILL); err != nil {
		return err
	}
	<-s.process.Done()
	return nil
}

// Detach implements local.Body.
func (s *serverBody) Detach() {
	s.stop()
	<-s.done
}
