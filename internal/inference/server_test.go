package inference

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"portico/internal/compute"
	"portico/internal/online"
)

// foreigners is a Launcher of servers of net/http, which know nothing of this package. A process of it is a server with its
// listener; SIGTERM and SIGKILL close it, and so does what a request asks for.
type foreigners struct {
	handler func(f *foreigner) http.Handler

	mu      sync.Mutex
	address string
	all     []*foreigner
}

type foreigner struct {
	server  http.Server
	done    chan struct{}
	once    sync.Once
	exit    compute.Exit
	signals atomic.Int64
}

func (l *foreigners) Launch(context.Context, WorkerSpec) (Process, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &foreigner{done: make(chan struct{})}
	f.server.Handler = l.handler(f)
	go func() { _ = f.server.Serve(ln) }()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.address = ln.Addr().String()
	l.all = append(l.all, f)
	return f, nil
}

func (l *foreigners) started() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.all)
}

func (l *foreigners) first() *foreigner {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all[0]
}

func (l *foreigners) at(int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.address
}

func (f *foreigner) end(exit compute.Exit) {
	f.once.Do(func() {
		_ = f.server.Close()
		f.exit = exit
		close(f.done)
	})
}

func (f *foreigner) PID() int              { return 1 }
func (f *foreigner) Started() time.Time    { return time.Time{} }
func (f *foreigner) Done() <-chan struct{} { return f.done }
func (f *foreigner) Exit() compute.Exit    { return f.exit }
func (f *foreigner) Signal(_ context.Context, sig syscall.Signal) error {
	f.signals.Add(1)
	f.end(compute.Exit{Code: -1, Signal: sig.String()})
	return nil
}

// quick probes: failures count from the start, every 20 ms.
func quick(failures int) online.Probe {
	return online.Probe{InitialDelay: time.Millisecond, Period: 20 * time.Millisecond, Timeout: 200 * time.Millisecond,
		SuccessThreshold: 1, FailureThreshold: failures}
}

// runServer makes an instance; change may alter its configuration. next gives its events as they come.
func runServer(t *testing.T, l *foreigners, change func(*ServerConfig)) (*Server, func(want State) Event) {
	t.Helper()
	cfg := ServerConfig{Instance: "i", MaxConcurrent: 2, Port: 80, Address: l.at,
		Liveness: Check{Path: "/live", Port: 80, Probe: quick(3)}, Readiness: Check{Path: "/ready", Port: 80, Probe: quick(2)},
		BackOff: BackOff{First: time.Millisecond, Max: 5 * time.Millisecond, Reset: time.Minute}}
	if change != nil {
		change(&cfg)
	}
	s := NewServer(cfg, l, slog.New(slog.DiscardHandler))
	events := s.Watch(t.Context())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return s, func(want State) Event {
		t.Helper()
		limit := time.After(20 * time.Second)
		for {
			select {
			case ev := <-events:
				if ev.State == want {
					return ev
				}
			case <-limit:
				t.Fatalf("never %s", want)
			}
		}
	}
}

func askServer(t *testing.T, s *Server, path string, timeout time.Duration) (string, error) {
	t.Helper()
	a, err := s.Do(t.Context(), &Call{Method: "POST", Path: path, ID: "id", Body: []byte("x"), Deadline: time.Now().Add(timeout)})
	if err != nil {
		return "", err
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	return string(body), err
}

// TestServerReadiness: a server that says it is not ready is not called, and is called again when it says it is.
func TestServerReadiness(t *testing.T) {
	var ready atomic.Bool
	l := &foreigners{handler: func(*foreigner) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/ready" && !ready.Load() {
				w.WriteHeader(http.StatusFound) // not 200 either
			}
			for name := range r.Header {
				if strings.HasPrefix(name, "X-Portico-") {
					t.Errorf("it got %s", name)
				}
			}
			w.Header().Set("X-Portico-Not-Started", "busy") // no field of ours is believed
			w.Header().Set("X-Portico-Lost", "all")
			_, _ = io.WriteString(w, "hello")
		})
	}}
	s, next := runServer(t, l, nil)
	next(StateStarting)
	if _, err := askServer(t, s, "/", time.Second); !errors.Is(err, ErrClosed) {
		t.Errorf("before it is ready: %v", err)
	}
	ready.Store(true)
	if ev := next(StateReady); ev.Status.Ready.IsZero() {
		t.Error("no time of becoming ready")
	}
	if body, err := askServer(t, s, "/", 10*time.Second); body != "hello" || err != nil {
		t.Errorf("%q %v", body, err)
	}
	ready.Store(false)
	next(StateUnready)
	if _, err := askServer(t, s, "/", time.Second); !errors.Is(err, ErrClosed) {
		t.Errorf("unready: %v", err)
	}
	ready.Store(true)
	next(StateReady)
	if n := l.started(); n != 1 {
		t.Errorf("it was started %d times", n)
	}
}

// TestServerLiveness: one that fails its liveness check is ended and started again, and the exit says why.
func TestServerLiveness(t *testing.T) {
	var sick atomic.Bool
	l := &foreigners{handler: func(*foreigner) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/live" && sick.Load() {
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
	}}
	_, next := runServer(t, l, nil)
	next(StateReady)
	sick.Store(true)
	ev := next(StateStarting)
	if ev.Exit == nil || ev.Exit.InInit || !strings.Contains(ev.Exit.Reason, "liveness probe GET /live failed 3 times in a row") ||
		!strings.Contains(ev.Exit.Reason, "status 500") {
		t.Errorf("exit: %+v", ev.Exit)
	}
	if l.first().signals.Load() == 0 {
		t.Error("it was not ended")
	}
	sick.Store(false)
	next(StateReady)
}

// TestServerStartup: the startup probe stands for the liveness probe until its first success, and nothing else counts.
func TestServerStartup(t *testing.T) {
	var up atomic.Bool
	var asked, ready atomic.Int64
	l := &foreigners{handler: func(*foreigner) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/ready":
				ready.Add(1)
			case !up.Load():
				if asked.Add(1) == 20 {
					up.Store(true)
				}
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
	}}
	startup := quick(1000)
	_, next := runServer(t, l, func(c *ServerConfig) { c.Startup = &startup })
	next(StateReady)
	if n := l.started(); n != 1 || asked.Load() < 20 {
		t.Errorf("started %d times, asked %d times", n, asked.Load())
	}
}

// TestServerCrash: a call whose server ends is lost with the cause, and never a call that may be repeated.
func TestServerCrash(t *testing.T) {
	l := &foreigners{handler: func(f *foreigner) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/exit" {
				f.end(compute.Exit{Code: 7})
			}
		})
	}}
	s, next := runServer(t, l, nil)
	next(StateReady)
	var gone *LostError
	if _, err := askServer(t, s, "/exit", 10*time.Second); !errors.As(err, &gone) ||
		gone.Cause != "the server exited with status 7 while it executed this request" {
		t.Errorf("%v", err)
	}
	if ev := next(StateStarting); ev.Exit == nil || ev.Exit.Code != 7 || ev.Exit.Reason != "the server exited with status 7" {
		t.Errorf("exit: %+v", ev.Exit)
	}
	next(StateReady)
	if _, err := askServer(t, s, "/", 10*time.Second); err != nil {
		t.Error(err)
	}
}

// TestServerBusy: a server that does one thing at a time answers no probe meanwhile, and is left alone for it as long as
// its requests are answered. One whose requests end at their deadline is not.
func TestServerBusy(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{}, 8)
	l := &foreigners{handler: func(*foreigner) http.Handler {
		var one sync.Mutex
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			one.Lock()
			defer one.Unlock()
			if r.URL.Path == "/work" {
				entered <- struct{}{}
				<-release
			}
		})
	}}
	t.Cleanup(func() { close(release) })
	short := func(c *ServerConfig) {
		c.Liveness.Probe.Timeout, c.Readiness.Probe.Timeout = 10*time.Millisecond, 10*time.Millisecond
		c.Readiness.Probe.FailureThreshold = 1000
	}
	s, next := runServer(t, l, short)
	next(StateReady)
	worked := make(chan error, 1)
	go func() {
		_, err := askServer(t, s, "/work", time.Minute)
		worked <- err
	}()
	<-entered
	time.Sleep(300 * time.Millisecond) // many periods; a slow machine only makes them fewer
	if n := l.started(); n != 1 {
		t.Fatal("an honest long request was taken for a dead server")
	}
	release <- struct{}{}
	if err := <-worked; err != nil {
		t.Fatal(err)
	}
	// From here on it never answers again.
	for l.started() == 1 {
		if _, err := askServer(t, s, "/work", 50*time.Millisecond); err == nil {
			t.Fatal("it answered")
		}
	}
}

// TestServerHangs: one whose callers all hang up before their deadline is ended too.
func TestServerHangs(t *testing.T) {
	release := make(chan struct{})
	var hung atomic.Bool
	l := &foreigners{handler: func(*foreigner) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, _ *http.Request) {
			if hung.Load() {
				<-release
			}
		})
	}}
	t.Cleanup(func() { close(release) })
	s, next := runServer(t, l, func(c *ServerConfig) {
		c.Liveness.Probe.Timeout, c.Readiness.Probe.Timeout = 10*time.Millisecond, 10*time.Millisecond
		c.Readiness.Probe.FailureThreshold = 1000
	})
	next(StateReady)
	hung.Store(true)
	for l.started() == 1 {
		ctx, hangUp := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, hangUp)
		if _, err := s.Do(ctx, &Call{Method: "POST", Path: "/work", ID: "id", Deadline: time.Now().Add(time.Minute)}); err == nil {
			t.Fatal("it answered")
		}
		hangUp()
	}
}

// TestServerStream: what the server wrote arrives while it still produces; hanging up ends its request; draining waits for
// the end of a stream.
func TestServerStream(t *testing.T) {
	more, ended := make(chan struct{}), make(chan struct{}, 1)
	l := &foreigners{handler: func(*foreigner) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/stream" {
				return
			}
			_, _ = io.WriteString(w, "first")
			w.(http.Flusher).Flush()
			select {
			case <-more:
				_, _ = io.WriteString(w, "last")
			case <-r.Context().Done():
				ended <- struct{}{}
			}
		})
	}}
	s, next := runServer(t, l, nil)
	next(StateReady)
	open := func() *Answer {
		a, err := s.Do(t.Context(), &Call{Method: "GET", Path: "/stream", Deadline: time.Now().Add(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, 5)
		if _, err := io.ReadFull(a.Body, first); err != nil || string(first) != "first" {
			t.Fatalf("%q %v", first, err)
		}
		return a
	}
	one, two := open(), open()
	if _, err := askServer(t, s, "/", time.Second); !errors.Is(err, ErrBusy) {
		t.Errorf("a third call beside two streams: %v", err)
	}
	_ = one.Body.Close()
	<-ended
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(t.Context()) }()
	more <- struct{}{}
	if rest, err := io.ReadAll(two.Body); string(rest) != "last" || err != nil {
		t.Errorf("%q %v", rest, err)
	}
	_ = two.Body.Close()
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if _, err := askServer(t, s, "/", time.Second); !errors.Is(err, ErrClosed) {
		t.Errorf("after draining: %v", err)
	}
}

// TestForeignHeads are what servers of other people may answer and workers may not.
func TestForeignHeads(t *testing.T) {
	for _, c := range []struct {
		in     string
		status int // 0: refused
		length int64
		end    bool // the body ends with the connection
		close  bool
	}{
		{"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n", 200, 5, false, true},
		{"HTTP/1.0 200 OK\r\n", 200, -1, true, true},
		{"HTTP/1.1 200 OK\r\n", 200, -1, true, true},
		{"HTTP/1.1 200 OK\r\nconnection: keep-alive, Close\r\ncontent-length: 5\r\n", 200, 5, false, true},
		{"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n", 103, 0, false, false},
		{"HTTP/1.1 101 Switching Protocols\r\n", 0, 0, false, false},
		{"HTTP/2.0 200 OK\r\ncontent-length: 5\r\n", 0, 0, false, false},
		{"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n", 0, 0, false, false},
	} {
		h, err := parseHead([]byte(c.in), "GET", true)
		if (err == nil) != (c.status != 0) || err == nil && (h.status != c.status || h.length != c.length || h.untilEnd != c.end || h.close != c.close) {
			t.Errorf("%q: %+v %v", c.in, h, err)
		}
	}
}
