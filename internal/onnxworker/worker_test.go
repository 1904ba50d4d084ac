package onnxworker_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"portico/internal/compute"
	"portico/internal/inference"
	"portico/internal/onnx/onnxtest"
)

// patience bounds every wait for a condition; it is reached only when the condition never comes.
const patience = 60 * time.Second

var (
	build  sync.Once
	worker string
)

func TestMain(m *testing.M) {
	code := m.Run()
	if worker != "" {
		_ = os.RemoveAll(filepath.Dir(worker))
	}
	os.Exit(code)
}

// launcher starts real workers. It is inference.Launcher.
type launcher struct {
	t   *testing.T
	env []string

	mu      sync.Mutex
	running *process
	starts  atomic.Int64
	log     log
}

// log is what workers have written.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.text.Bytes(), []byte(text))
}

func newLauncher(t *testing.T, model string, env ...string) *launcher {
	t.Helper()
	library := onnxtest.Library(t)
	build.Do(func() {
		dir, err := os.MkdirTemp("", "portico-onnx-")
		if err != nil {
			t.Fatal(err)
		}
		worker = onnxtest.Build(t, dir)
	})
	return &launcher{t: t, env: append([]string{
		inference.VariableONNXLibrary + "=" + library, inference.VariableONNXModel + "=" + onnxtest.Model(t, model),
		inference.VariableONNXName + "=" + model, inference.VariableONNXVersion + "=1",
	}, env...)}
}

type process struct {
	cmd     *exec.Cmd
	started time.Time
	done    chan struct{}
	exit    compute.Exit
}

func (p *process) PID() int              { return p.cmd.Process.Pid }
func (p *process) Started() time.Time    { return p.started }
func (p *process) Done() <-chan struct{} { return p.done }
func (p *process) Exit() compute.Exit    { return p.exit }
func (p *process) Signal(_ context.Context, sig syscall.Signal) error {
	err := p.cmd.Process.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

func (l *launcher) Launch(_ context.Context, spec inference.WorkerSpec) (inference.Process, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running != nil {
		select {
		case <-l.running.done:
		default:
			return l.running, nil
		}
	}
	l.starts.Add(1)
	_ = os.Remove(spec.Socket)
	_ = os.Remove(spec.Page)
	page, err := os.OpenFile(spec.Page, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer page.Close()
	if err := page.Truncate(inference.PageSize); err != nil {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: spec.Socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	socket, err := listener.File()
	if err := errors.Join(err, listener.Close()); err != nil {
		return nil, err
	}
	defer socket.Close()
	cmd := exec.Command(worker)
	cmd.Env, cmd.ExtraFiles = l.env, []*os.File{socket, page}
	cmd.Stderr = io.MultiWriter(l.t.Output(), &l.log)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, started: time.Now(), done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		p.exit = compute.Exit{Code: cmd.ProcessState.ExitCode(), At: time.Now()}
		close(p.done)
	}()
	l.running = p
	return p, nil
}

// pool makes an instance and waits until it is ready.
func pool(t *testing.T, l *launcher, batching ...inference.Batching) *inference.Pool {
	t.Helper()
	p := startPool(t, l, batching...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for e := range p.Watch(ctx) {
		if e.Exit != nil {
			t.Fatal(e.Exit.Reason)
		}
		if e.Status.State == inference.StateReady {
			return p
		}
	}
	t.Fatal("the worker did not become ready")
	return nil
}

func startPool(t *testing.T, l *launcher, batching ...inference.Batching) *inference.Pool {
	t.Helper()
	dir, err := os.MkdirTemp("", "onnx-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	cfg := inference.PoolConfig{Instance: "i", Dir: dir, Workers: 1, MaxConcurrent: 64}
	for _, b := range batching {
		cfg.Batching = b
	}
	p, err := inference.NewPool(cfg, l, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Close(context.Background()), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return p
}

func call(body string, wait time.Duration) *inference.Call {
	return &inference.Call{ID: "id-1", Method: "POST", Path: "/score", Body: []byte(body), Deadline: time.Now().Add(wait)}
}

// do calls and reads the answer.
func do(ctx context.Context, p *inference.Pool, c *inference.Call) (int, string, error) {
	a, err := p.Do(ctx, c)
	if err != nil {
		return 0, "", err
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	return a.Status, string(body), err
}

const forever = `{"input_data": [1000000000000]}`

func TestPoolServesManyAtOnce(t *testing.T) {
	t.Parallel()
	p := pool(t, newLauncher(t, "add", "ONNX_CONCURRENCY=4"))
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 200 {
				n := g*1000 + i
				status, body, err := do(t.Context(), p, call(fmt.Sprintf(`{"input_data": {"a": [[%d]], "b": [[1]]}}`, n), patience))
				if want := fmt.Sprintf("[[%d.0]]", n+1); err != nil || status != 200 || body != want {
					t.Errorf("%d %s %v, want %s", status, body, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestDeadlineEndsTheRunAndNoOther(t *testing.T) {
	t.Parallel()
	l := newLauncher(t, "slow", "ONNX_CONCURRENCY=3")
	p := pool(t, l)
	var wg sync.WaitGroup
	gone, hangUp := context.WithCancel(t.Context())
	wg.Go(func() {
		if _, _, err := do(t.Context(), p, call(forever, time.Second)); !errors.Is(err, inference.ErrDeadline) {
			t.Errorf("deadline: %v", err)
		}
		hangUp()
	})
	wg.Go(func() {
		if _, _, err := do(gone, p, call(forever, patience)); !errors.Is(err, context.Canceled) {
			t.Errorf("hang-up: %v", err)
		}
	})
	wg.Wait()
	// All slots are free again: as many as there are, at the same time, in the same process.
	for range 3 {
		wg.Go(func() {
			if status, body, err := do(t.Context(), p, call(`{"input_data": [1000]}`, patience)); err != nil || status != 200 || body != "[1.0]" {
				t.Errorf("%d %s %v", status, body, err)
			}
		})
	}
	wg.Wait()
	if n := l.starts.Load(); n != 1 {
		t.Errorf("%d starts", n)
	}
}

func TestACrashCostsWhatRunsAndTheWorkerComesBack(t *testing.T) {
	t.Parallel()
	l := newLauncher(t, "slow", "ONNX_CONCURRENCY=1")
	p := pool(t, l)
	lost := make(chan error, 1)
	go func() {
		_, _, err := do(t.Context(), p, call(forever, patience))
		lost <- err
	}()
	l.awaitBusy(t)
	waiting := make(chan error, 1)
	go func() { // it waits for the slot, so it is not the one that dies
		status, body, err := do(t.Context(), p, call(`{"input_data": [5]}`, patience))
		if err == nil && (status != 200 || body != "[1.0]") {
			err = fmt.Errorf("%d %s", status, body)
		}
		waiting <- err
	}()
	l.mu.Lock()
	victim := l.running
	l.mu.Unlock()
	if err := victim.cmd.Process.Signal(syscall.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	var cause *inference.LostError
	if err := <-lost; !errors.As(err, &cause) || !strings.Contains(cause.Cause, "while it executed this request") {
		t.Errorf("%v", err)
	}
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	if n := l.starts.Load(); n != 2 {
		t.Errorf("%d starts", n)
	}
}

// awaitBusy waits until the process has used processor time enough to be running a model.
func (l *launcher) awaitBusy(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		l.mu.Lock()
		pid := l.running.PID()
		l.mu.Unlock()
		if pageWord(t, pid) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("no request runs")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// pageWord says whether the first lane's word of the status page says that a request runs.
func pageWord(t *testing.T, pid int) bool {
	t.Helper()
	// The page is mapped by the worker: its file is what the process was given.
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Skip("needs /proc")
	}
	for line := range strings.Lines(string(maps)) {
		if _, path, ok := strings.Cut(line, "/"); ok && strings.HasSuffix(strings.TrimSpace(path), ".page") {
			page, err := os.ReadFile("/" + strings.TrimSpace(path))
			return err == nil && len(page) == inference.PageSize && page[128+7]&0x80 != 0
		}
	}
	return false
}

func TestWhatCannotServeSaysWhy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		model, env, want string
		permanent        bool
	}{
		{"takes-sequence", "", `the model cannot be served: the input "x" is no tensor`, true},
		{"missing", "", "the model cannot be loaded", true},
		{"iris", "ONNX_THREADS=0", "the setting ONNX_THREADS is \"0\", which is not a number from 1 to 256", true},
		{"iris", "ONNX_CONCURRENCY=15", "which is not a number from 1 to 14", true},
		{"iris", "ONNX_OPTIMIZATION=fast", "not one of none, basic, extended, all", true},
		{"iris", "SCORING_TIMEOUT_MS=soon", "the setting SCORING_TIMEOUT_MS is \"soon\", which is not a number", true},
		{"iris", "AML_CORS_ORIGINS=https://a.example,([", "the setting AML_CORS_ORIGINS holds \"([\", which is no pattern", true},
		{"iris", "ONNX_PROVIDERS=CUDAExecutionProvider", "only CPUExecutionProvider is implemented", true},
		{"iris", inference.VariableONNXDeclared + `={"inputs": [{"name": "X", "datatype": "FP64"}]}`,
			`the model cannot be served: config.pbtxt: the input "X" is declared as FP64, and is FP32 in the model`, true},
		{"iris", inference.VariableONNXLibrary + "=/nonexistent.so", "ONNX Runtime cannot be used", false},
	} {
		l := newLauncher(t, c.model, c.env)
		p := startPool(t, l)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for e := range p.Watch(ctx) {
			if e.Exit == nil {
				continue
			}
			if e.Exit.Code != 3 || !strings.Contains(e.Exit.Reason, c.want) || e.Exit.Permanent != c.permanent {
				t.Errorf("%s %s: %+v", c.model, c.env, e.Exit)
			}
			break
		}
		if ctx.Err() != nil {
			t.Errorf("%s %s: no exit", c.model, c.env)
		}
		cancel()
	}
}

// TestScoringTimeout: a run that takes longer than SCORING_TIMEOUT_MS is answered as for scripts, and disturbs no other.
func TestScoringTimeout(t *testing.T) {
	t.Parallel()
	l := newLauncher(t, "slow", "ONNX_CONCURRENCY=2", "SCORING_TIMEOUT_MS=300")
	p := pool(t, l)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			a, err := p.Do(t.Context(), call(forever, patience))
			if err != nil {
				t.Error(err)
				return
			}
			defer a.Body.Close()
			body, err := io.ReadAll(a.Body)
			if err != nil || a.Status != 500 || string(body) != `{"message": "Scoring timeout after 300 ms"}` || a.Get("x-ms-run-function-failed") != "True" {
				t.Errorf("%d %v %s %v", a.Status, a.Header, body, err)
			}
		})
	}
	wg.Wait()
	for range 20 {
		if status, body, err := do(t.Context(), p, call(`{"input_data": [5]}`, patience)); err != nil || status != 200 || body != "[1.0]" {
			t.Errorf("%d %s %v", status, body, err)
		}
	}
	if n := l.starts.Load(); n != 1 {
		t.Errorf("%d starts", n)
	}
}

// TestOrigins: answers say what browsers may do with them, as those of scripts do.
func TestOrigins(t *testing.T) {
	t.Parallel()
	const allowed, vary = "Access-Control-Allow-Origin", "Vary"
	for setting, origins := range map[string]map[string][2]string{ // allowed origin, Vary
		"":  {"https://a.example": {"", ""}},
		"*": {"https://a.example": {"*", ""}, "": {"*", ""}},
		"https://a.example, http://[a-z]+\\.b\\.example$": {
			"https://a.example": {"https://a.example", "Origin"}, "HTTPS://A.example": {"HTTPS://A.example", "Origin"},
			"http://x.b.example": {"http://x.b.example", "Origin"}, "http://x.b.example.evil": {"", "Origin"},
			"https://a.example.evil": {"", "Origin"}, "": {"", "Origin"},
		},
	} {
		_, conn := raw(t, "iris", "AML_CORS_ORIGINS="+setting)
		for origin, want := range origins {
			fields := ""
			if origin != "" {
				fields = "origin: " + origin + "\r\n"
			}
			for _, request := range []string{
				"POST /score HTTP/1.1\r\ncontent-length: 2\r\n" + fields + "\r\n{}", "GET /v2 HTTP/1.1\r\n" + fields + "\r\n",
				"OPTIONS /score HTTP/1.1\r\n" + fields + "\r\n",
				"OPTIONS /v2/models/iris/infer HTTP/1.1\r\naccess-control-request-method: POST\r\naccess-control-request-headers: x-a, content-type\r\n" + fields + "\r\n",
			} {
				response, body := exchange(t, conn, request)
				h := response.Header
				if h.Get(allowed) != want[0] || h.Get(vary) != want[1] {
					t.Errorf("%q %q: %v", setting, request, h)
				}
				options, preflight := strings.HasPrefix(request, "OPTIONS"), strings.Contains(request, "access-control-request-method") && want[0] != ""
				if options && (response.StatusCode != http.StatusOK || body != "") {
					t.Errorf("%q: %d %s", request, response.StatusCode, body)
				}
				if methods := h.Get("Access-Control-Allow-Methods"); preflight != (methods == "GET, POST") ||
					preflight != (h.Get("Access-Control-Allow-Headers") == "x-a, content-type") {
					t.Errorf("%q %q: %v", setting, request, h)
				}
			}
		}
	}
}

// raw is a worker without a pool, and a connection to it.
func raw(t *testing.T, model string, env ...string) (*launcher, net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "onnx-")
	if err != nil {
		t.Fatal(err)
	}
	l := newLauncher(t, model, env...)
	spec := inference.WorkerSpec{ID: "w", Socket: filepath.Join(dir, "s"), Page: filepath.Join(dir, "p")}
	if _, err := l.Launch(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", spec.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		_ = l.running.cmd.Process.Kill()
		<-l.running.done
		_ = os.RemoveAll(dir)
	})
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return l, conn
}

func exchange(t *testing.T, conn net.Conn, request string) (*http.Response, string) {
	t.Helper()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func TestProtocolOfTheWorker(t *testing.T) {
	t.Parallel()
	l, conn := raw(t, "iris")
	const body = `{"input_data": [[5.1,3.5,1.4,0.2]]}`
	scored := func(fields string) string {
		return fmt.Sprintf("POST /score HTTP/1.1\r\n%scontent-length: %d\r\n\r\n%s", fields, len(body), body)
	}
	response, text := exchange(t, conn, scored("x-portico-number: 7\r\nx-request-id: a\r\nx-ms-client-request-id: b\r\nTraceId: c\r\n"))
	if response.StatusCode != http.StatusOK || !strings.Contains(text, `"label": [0]`) {
		t.Errorf("%d %s", response.StatusCode, text)
	}
	for name, want := range map[string]string{"X-Request-Id": "a", "X-Ms-Client-Request-Id": "b", "X-Ms-Request-Id": "b", "Traceid": "c",
		"X-Ms-Run-Function-Failed": "False", "Content-Type": "application/json"} {
		if got := response.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	response, _ = exchange(t, conn, scored("x-portico-number: 8\r\nx-portico-deadline-ms: 0\r\n"))
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("X-Portico-Not-Started") != "deadline" {
		t.Errorf("late: %d %v", response.StatusCode, response.Header)
	}
	response, text = exchange(t, conn, scored("")) // a person's curl sends no number
	if response.StatusCode != http.StatusOK || len(response.Header.Get("X-Request-Id")) != 36 {
		t.Errorf("without a number: %d %s", response.StatusCode, text)
	}
	response, text = exchange(t, conn, "HEAD / HTTP/1.1\r\n\r\n")
	if response.StatusCode != http.StatusOK || text != "" {
		t.Errorf("head: %d %s", response.StatusCode, text)
	}
	response, _ = exchange(t, conn, scored("x-request-id: "+strings.Repeat("i", 101)+"\r\n"))
	if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("long id: %d", response.StatusCode)
	}
	large := `{"input_data": [` + strings.Repeat(`[5.1,3.5,1.4,0.2],`, 50_000) + `[5.1,3.5,1.4,0.2]]}`
	response, text = exchange(t, conn, fmt.Sprintf("POST /score HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s", len(large), large))
	if response.StatusCode != http.StatusOK || strings.Count(text, "[0.98157287") != 50_001 {
		t.Errorf("large: %d, %d bytes", response.StatusCode, len(text))
	}
	if err := l.running.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.running.done:
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	if l.running.exit.Code != 0 {
		t.Errorf("exit %+v", l.running.exit)
	}
}

func TestWhatIsNoRequestIsRefused(t *testing.T) {
	t.Parallel()
	l, conn := raw(t, "iris")
	address := conn.RemoteAddr().String()
	for _, c := range []struct {
		request string
		status  int
	}{
		{"POST /score HTTP/1.0\r\n\r\n", 400},
		{"POST score HTTP/1.1\r\n\r\n", 400},
		{"POST  /score HTTP/1.1\r\n\r\n", 400},
		{"POST /score HTTP/1.1\r\nbad field: x\r\n\r\n", 400},
		{"POST /score HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400},
		{"POST /score HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n", 400},
		{"POST /score HTTP/1.1\r\ncontent-length: 9999999999\r\n\r\n", 413},
		{"POST /score HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 501},
		{"POST /score HTTP/1.1\r\nx-portico-number: 0\r\ncontent-length: 0\r\n\r\n", 400},
		{"POST /score HTTP/1.1\r\ncontent-length: 0\r\n\r\nPOST", 400},
		{"GET / HTTP/1.1\r\nx: " + strings.Repeat("y", 70<<10) + "\r\n\r\n", 431},
	} {
		fresh, err := net.Dial("unix", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = fresh.SetDeadline(time.Now().Add(patience))
		response, _ := exchange(t, fresh, c.request)
		if response.StatusCode != c.status {
			t.Errorf("%.60q: %d, want %d", c.request, response.StatusCode, c.status)
		}
		if rest, err := io.ReadAll(fresh); len(bytes.TrimSpace(rest)) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%.60q: the connection stays open: %q %v", c.request, rest, err)
		}
		_ = fresh.Close()
	}
	if response, _ := exchange(t, conn, "GET / HTTP/1.1\r\n\r\n"); response.StatusCode != http.StatusOK {
		t.Error("the worker is not well any more")
	}
	select {
	case <-l.running.done:
		t.Error("the worker ended")
	default:
	}
}
