package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"portico/internal/inference"
	"portico/internal/online"
)

const inferScript = `
import os, time
def init(): print("up", os.environ["AZUREML_MODEL_DIR"], os.environ["SECRET"])
def run(raw_data, request_headers):
    word, _, arg = raw_data.partition(" ")
    if word == "sleep":
        print("sleeping")
        time.sleep(float(arg))
    elif word == "exit": os._exit(int(arg))
    elif word == "pid": return os.getpid()
    elif word == "header": return request_headers.get(arg)
    elif word == "big": return "x" * int(arg)
    return raw_data
`

// inferring is a running `portico infer`.
type inferring struct {
	address string
	output  string // file
	stop    func() error
}

func startInfer(t *testing.T, script string, change func(*InferConfig)) *inferring {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "score.py"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	output, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := InferConfig{
		EntryScript: "score.py", AppRoot: dir, ModelDir: dir, ReadyFile: filepath.Join(dir, "ready.json"), Output: output,
		Environment: map[string]online.Secret{"SECRET": "s3cret"},
	}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- RunInfer(ctx, cfg, slog.New(slog.DiscardHandler)) }()
	run := &inferring{output: output.Name()}
	stopped := false
	run.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return errors.Join(<-done, output.Close())
	}
	t.Cleanup(func() {
		if err := run.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var ready struct{ Address string }
		if doc, err := os.ReadFile(cfg.ReadyFile); err == nil {
			if err := json.Unmarshal(doc, &ready); err != nil {
				t.Fatalf("ready file %q: %v", doc, err)
			}
			run.address = ready.Address
			return run
		}
		select {
		case err := <-done:
			done <- nil
			t.Fatalf("it ended before it was ready: %v", err)
		default:
		}
		if time.Now().After(end) {
			t.Fatal("never ready")
		}
	}
}

func call(body string, timeout time.Duration) *inference.Call {
	return &inference.Call{
		ID: "0b9c5a1e-7f3e-4a37-9d3b-0123456789ab", Method: "POST", Path: "/score", Body: []byte(body),
		Header: []inference.Field{{Name: "X-Own", Value: "mine"}}, Deadline: time.Now().Add(timeout),
	}
}

func callBody(ctx context.Context, u inference.Upstream, body string, timeout time.Duration) (int, string, error) {
	answer, err := u.Do(ctx, call(body, timeout))
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	return answer.Status, string(got), err
}

func TestInferRoutes(t *testing.T) {
	run := startInfer(t, inferScript, func(c *InferConfig) { c.MaxRequestBytes = 100 })
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/", "", 200, "Healthy"},
		{"POST", "/", "", 405, `{"message":"The method is not allowed for the requested URL."}`},
		{"POST", "/score", "hello", 200, `"hello"`},
		{"GET", "/score?a=1&b=x", "", 200, `"{\"a\": 1, \"b\": \"x\"}"`},
		{"OPTIONS", "/score", "", 200, ""},
		{"PUT", "/score", "", 405, `{"message":"The method is not allowed for the requested URL."}`},
		{"POST", "/score", strings.Repeat("x", 101), 413, `{"message":"The body is larger than 100 bytes."}`},
		{"POST", "/score", "\xff", 400, `{"message": "Input cannot be decoded as UTF-8: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"}`},
		{"POST", "/score", "header X-Own", 200, `"mine"`},
		{"POST", "/score", "header X-Portico-Deadline-Ms", 200, `{}`},
		{"POST", "/score", "header Host", 200, `"` + run.address + `"`},
		{"GET", "/nothing", "", 404, `{"message":"The requested URL was not found on the server. If you entered the URL manually please check your spelling and try again."}`},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+run.address+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Own", "mine")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || string(got) != c.want {
			t.Errorf("%s %s: %d %q (%v), want %d %q", c.method, c.path, resp.StatusCode, got, err, c.status, c.want)
		}
	}
	var versions []string // of the health page, which no worker answers, and of a worker
	for _, path := range []string{"/", "/score"} {
		_, _, header := run.ask(t, "GET", path, "")
		versions = append(versions, header.Get("X-Ms-Server-Version"))
	}
	if versions[0] == "" || versions[0] != versions[1] {
		t.Errorf("the server calls itself %q", versions)
	}
	if err := run.stop(); err != nil {
		t.Error(err)
	}
	printed, err := os.ReadFile(run.output)
	if err != nil || !strings.Contains(string(printed), "azmlinfsrv.print - up "+filepath.Dir(run.output)+" s3cret") {
		t.Errorf("output %q (%v) lacks what init printed", printed, err)
	}
}

// TestInferUpstream runs the contract of inference.Upstream over TCP.
func TestInferUpstream(t *testing.T) {
	run := startInfer(t, inferScript, func(c *InferConfig) { c.MaxConcurrent = 2 })
	u := inference.NewHTTPUpstream("pod", run.address, 4)
	defer u.Close()
	for range 3 {
		status, got, err := callBody(t.Context(), u, "hello", 10*time.Second)
		if err != nil || status != 200 || got != `"hello"` {
			t.Fatalf("%d %q %v", status, got, err)
		}
	}
	if _, got, err := callBody(t.Context(), u, "big 3000000", 10*time.Second); err != nil || len(got) != 3000002 {
		t.Errorf("a long answer: %d bytes, %v", len(got), err)
	}
	if _, _, err := callBody(t.Context(), u, "sleep 60", 100*time.Millisecond); !errors.Is(err, inference.ErrDeadline) {
		t.Errorf("deadline: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, _, err := callBody(ctx, u, "sleep 60", 90*time.Second); !errors.Is(err, context.Canceled) {
		t.Errorf("hang-up: %v", err)
	}
	// The worker is free again only if both were canceled on the other side.
	if status, _, err := callBody(t.Context(), u, "x", 10*time.Second); err != nil || status != 200 {
		t.Errorf("after cancels: %d %v", status, err)
	}
	busy := make(chan error, 3)
	for range 3 {
		go func() { _, _, err := callBody(t.Context(), u, "sleep 1", 20*time.Second); busy <- err }()
	}
	refused := 0
	for range 3 {
		if err := <-busy; errors.Is(err, inference.ErrBusy) {
			refused++
		} else if err != nil {
			t.Errorf("a call among three: %v", err)
		}
	}
	if refused != 1 {
		t.Errorf("%d of three calls were refused, want one", refused)
	}
	_, _, err := callBody(t.Context(), u, "exit 7", 10*time.Second)
	var lost *inference.LostError
	if !errors.As(err, &lost) || !strings.Contains(lost.Cause, "exited with status 7") {
		t.Errorf("a worker that dies: %v", err)
	}
	if status, _, err := callBody(t.Context(), u, "x", 20*time.Second); err != nil || status != 200 {
		t.Errorf("after the restart: %d %v", status, err)
	}
}

func TestInferDrains(t *testing.T) {
	run := startInfer(t, inferScript, nil)
	u := inference.NewHTTPUpstream("pod", run.address, 4)
	defer u.Close()
	_, pid, err := callBody(t.Context(), u, "pid", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	slow := make(chan error, 1)
	go func() {
		status, _, err := callBody(t.Context(), u, "sleep 0.5", 10*time.Second)
		if status != 200 && err == nil {
			err = errors.New("status " + strconv.Itoa(status))
		}
		slow <- err
	}()
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if printed, err := os.ReadFile(run.output); err != nil || time.Now().After(end) {
			t.Fatalf("the request never began: %q %v", printed, err)
		} else if strings.Contains(string(printed), "sleeping") {
			break
		}
	}
	if err := run.stop(); err != nil {
		t.Error(err)
	}
	if err := <-slow; err != nil {
		t.Errorf("a request under way: %v", err)
	}
	if _, _, err := callBody(t.Context(), u, "x", time.Second); !errors.Is(err, inference.ErrClosed) {
		t.Errorf("a call after the end: %v, want ErrClosed", err)
	}
	expectGone(t, pid)
}

func expectGone(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if err := syscall.Kill(n, 0); errors.Is(err, syscall.ESRCH) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("worker %d is left", n)
		}
	}
}

func TestInferInitFails(t *testing.T) {
	dir := t.TempDir()
	const broken = "def init(): raise ValueError('no model')\ndef run(d): return d\n"
	if err := os.WriteFile(filepath.Join(dir, "score.py"), []byte(broken), 0o644); err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	gone := InferConfig{EntryScript: "score.py", AppRoot: filepath.Join(dir, "gone"), Output: null}
	if err := RunInfer(t.Context(), gone, slog.New(slog.DiscardHandler)); err == nil ||
		!strings.HasSuffix(err.Error(), "the code folder "+gone.AppRoot+" does not exist") {
		t.Errorf("a code folder that is not there: %v", err)
	}
	for script, reason := range map[string]string{
		"score.py": "init() raised ValueError: no model", "absent.py": "absent.py does not exist",
	} {
		cfg := InferConfig{EntryScript: script, AppRoot: dir, Output: null}
		err := RunInfer(t.Context(), cfg, slog.New(slog.DiscardHandler))
		var failure *InferFailure
		if !errors.As(err, &failure) || failure.ExitCode() != 3 || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v, want an InferFailure with %q", script, err, reason)
		}
	}
}

// TestInferTemporaryFolder: a long $TMPDIR does not keep sockets from being made; one that is not there is said.
func TestInferTemporaryFolder(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("long", 25))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", long)
	run := startInfer(t, inferScript, nil)
	if status, body, _ := run.ask(t, "POST", "/score", "hello"); status != 200 || body != `"hello"` {
		t.Errorf("%d %s", status, body)
	}
	t.Setenv("TMPDIR", "/none")
	err := RunInfer(t.Context(), InferConfig{EntryScript: "score.py", AppRoot: long}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "make a temporary folder: ") || !strings.Contains(err.Error(), "/none") {
		t.Error(err)
	}
}

// TestInferKilled: kill -9 of the server leaves no worker behind.
func TestInferKilled(t *testing.T) {
	if os.Getenv("INFER_TEST_DIR") != "" {
		dir := os.Getenv("INFER_TEST_DIR")
		_ = RunInfer(t.Context(), InferConfig{ // it is killed
			EntryScript: "score.py", AppRoot: dir, ReadyFile: filepath.Join(dir, "ready.json"), Output: os.Stderr,
		}, slog.New(slog.DiscardHandler))
		return
	}
	if runtime.GOOS != "linux" {
		t.Skip("this system has no signal on the death of the parent")
	}
	dir := t.TempDir()
	script := "import os\ndef init(): open('pid', 'w').write(str(os.getpid()))\ndef run(d): return d\n"
	if err := os.WriteFile(filepath.Join(dir, "score.py"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	cmd := exec.Command(os.Args[0], "-test.run=^TestInferKilled$")
	cmd.Env = append(os.Environ(), "INFER_TEST_DIR="+dir, "TMPDIR="+t.TempDir())
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "ready.json")); err == nil {
			break
		}
		if time.Now().After(end) {
			_ = cmd.Process.Kill()
			t.Fatalf("never ready: %s", output.String())
		}
	}
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed, and says so
	expectGone(t, string(pid))
}
