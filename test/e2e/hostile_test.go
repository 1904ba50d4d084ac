package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// hostileScript does to its process whatever a request asks for.
const hostileScript = `import ctypes, json, os, signal, socket, sys, threading, time

class Quit(BaseException):
    pass

def init():
    pass

def broken():
    yield b"the first part,"
    raise RuntimeError("half way")

def run(raw_data):
    from azureml_inference_server_http.api.aml_response import AMLResponse
    if raw_data == "exit":
        os._exit(7)
    if raw_data == "sys.exit":
        sys.exit(5)
    if raw_data == "base":
        raise Quit("no mere exception")
    if raw_data == "abort":
        os.abort()
    if raw_data == "segfault":
        ctypes.string_at(0)
    if raw_data == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if raw_data == "memory":
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 20)) * 16)
    if raw_data == "loop":
        while True:
            pass
    if raw_data == "fork":
        if os.fork() == 0:
            time.sleep(600)
    if raw_data == "fork and answer":
        os.fork()
    if raw_data in ("children", "bomb"):
        for _ in range(50 if raw_data == "children" else 4000):
            if os.fork() == 0:
                ctypes.CDLL(None).prctl(15, b"fork-bomb", 0, 0, 0)
                time.sleep(600)
                os._exit(0)
    if raw_data == "print":
        block = b"x" * 1023 + b"\n"
        for _ in range(1024):
            sys.stdout.buffer.write(block * 1024)
        sys.stdout.buffer.flush()
    if raw_data == "garbage":
        os.write(1, b"\x00\xff\xfe\x1b[2J\r{\"a\": " * 100)
        print("after the garbage")
    if raw_data == "no output":
        os.close(1)
        os.close(2)
        print("to nobody")
    if raw_data == "descriptors":
        os.closerange(3, 1024)
    if raw_data == "sockets":
        for fd in range(3, 1024):
            try:
                socket.socket(fileno=os.dup(fd)).shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
    if raw_data == "recurse":
        return run(raw_data)
    if raw_data == "thread":
        threading.Thread(target=lambda: 1 / 0).start()
    if raw_data == "threads":
        for _ in range(50):
            threading.Thread(target=time.sleep, args=(600,)).start()
    if raw_data == "signals":
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
    if raw_data == "listen":
        held = [socket.socket(fileno=os.dup(3)) for _ in range(10)]
    if raw_data == "header":
        return AMLResponse("x", 200, {"x-large": "y" * (4 << 20)})
    if raw_data == "headers":
        return AMLResponse("x", 200, {"x-%d" % i: "y" * 100 for i in range(10000)})
    if raw_data == "split":
        return AMLResponse("x", 200, {"x-a": "b\r\nx-injected: yes"})
    if raw_data == "stream":
        return AMLResponse(broken(), 200)
    return "fine"
`

// fault is what one request to the hostile script must come to.
type fault struct {
	do       string
	what     string // for the documentation
	endpoint string // bad when empty
	status   int    // 0: the answer breaks off
	says     string // what the caller reads
	told     string // that in words, where the whole of it may vary
	logs     string // pattern in the deployment's log
	restarts bool   // of the instance's process
	need     func(t *testing.T)
}

const (
	raised   = "An unexpected error occurred in scoring script. Check the logs for more info."
	lost     = "the worker exited, was ended or closed the connection while it executed this request"
	unusable = "An unexpected internal error occurred. Check the logs for more info."
)

var faults = []fault{
	{do: "sys.exit", what: "`sys.exit()`", status: 424, says: raised, logs: `run\(\) raised SystemExit`},
	{do: "base", what: "an exception that is no `Exception`", status: 424, says: raised, logs: `run\(\) raised Quit`},
	{do: "recurse", what: "endless recursion", status: 424, says: raised, logs: "RecursionError"},
	{do: "header", what: "a response header of 4 MiB", status: 424, says: unusable, logs: `run\(\) returned more than 49152 bytes of headers`},
	{do: "headers", what: "10,000 response headers", status: 424, says: unusable, logs: `run\(\) returned more than 49152 bytes of headers`},
	{do: "split", what: "a line end in a response header", status: 424, says: unusable, logs: "run\\(\\) returned a header 'x-a' that cannot be sent"},
	{do: "stream", what: "a generator that raises half way", says: "the first part,", logs: "the stream of an answer broke off: RuntimeError"},
	{do: "garbage", what: "bytes that are no text on standard output", status: 200, logs: "after the garbage"},
	{do: "print", what: "a gigabyte on standard output", status: 200},
	{do: "thread", what: "a thread that raises", status: 200, logs: "ZeroDivisionError"},
	{do: "threads", what: "50 threads left behind", status: 200},
	{do: "signals", what: "ignoring the server's signals", status: 200},
	{do: "listen", what: "duplicates of the listening socket", status: 200},
	{do: "fork", what: "a child left behind", status: 200},
	{do: "fork and answer", what: "a child that answers too", status: 200},
	{do: "children", what: "50 children left behind", status: 200},
	{do: "loop", what: "`run` never returns", endpoint: "endless", status: 408, says: "upstream request timeout", logs: "canceled: the caller no longer waits"},
	{do: "no output", what: "closing standard output and error", status: 200},
	{do: "exit", what: "`os._exit(7)`", status: 424, says: "exited with status 7", logs: "the process exited with status 7", restarts: true},
	{do: "abort", what: "`os.abort()`, which dumps core", status: 424, says: "signal", logs: "Fatal Python error: Aborted", restarts: true},
	{do: "segfault", what: "a segmentation fault", status: 424, says: "signal", logs: "Fatal Python error: Segmentation fault", restarts: true},
	{do: "kill", what: "`kill -9` of itself", status: 424, says: "killed", logs: "ended by signal 9", restarts: true},
	{do: "descriptors", what: "closing every descriptor but output", status: 424, says: "the worker", told: lost, logs: "Bad file descriptor", restarts: true},
	{do: "sockets", what: "shutting every socket down", status: 424, says: "the worker", told: lost, logs: "user code has shut down or closed a socket of the worker", restarts: true},
	{do: "bomb", what: "a fork bomb", status: 424, says: "the worker", told: lost, logs: "ended by signal 9", restarts: true, need: needMemoryLimit},
	{do: "memory", what: "more memory than the instance type has", status: 424, says: "memory", logs: "more memory than its limit", restarts: true, need: needMemoryLimit},
}

// TestHostileScripts: code that breaks its own process costs its own request or its instance, and the caller and the
// log say why. A deployment beside it, under load all the while, has no error. The table in docs/scoring.md is what
// comes of it.
func TestHostileScripts(t *testing.T) {
	doc, err := os.ReadFile("../../docs/scoring.md")
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "config.yaml")
	const types = "instance_types:\n  - name: Small\n    cpus: 1\n    memory_mib: 400\n"
	if err := os.WriteFile(config, []byte(types), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, "--config", config)
	s.deploy("good", "blue", echoScript, twoInstances)
	s.deploy("bad", "blue", hostileScript, "request_settings:\n  max_concurrent_requests_per_instance: 2\n  request_timeout_ms: 60000\n")
	s.must("ml", "online-deployment", "update", "-e", "bad", "-n", "blue", "--set", "instance_type=Small", "-o", "none")
	s.deploy("endless", "blue", hostileScript, "request_settings:\n  request_timeout_ms: 1500\n")
	keys := map[string]string{"good": s.key("good"), "bad": s.key("bad"), "endless": s.key("endless")}
	l := s.load("good", keys["good"], 2, func(n int64) string { return strconv.FormatInt(n, 10) })
	for _, f := range faults {
		if f.endpoint == "" {
			f.endpoint = "bad"
		}
		t.Run(f.do, func(t *testing.T) {
			if f.need != nil {
				f.need(t)
			}
			if row := s.fault(t, f, keys[f.endpoint]); !strings.Contains(string(doc), row+"\n") {
				t.Errorf("docs/scoring.md lacks the row\n%s", row)
			}
		})
	}
	ok, bad := l.stop()
	if ok == 0 || len(bad) != 0 {
		t.Errorf("the neighbour served %d requests and failed %d: %v", ok, len(bad), bad)
	}
}

// restarts is how often the processes of a deployment's only instance were started again.
func (s *server) restarts(endpoint string) int {
	s.t.Helper()
	var d struct{ Instances []struct{ Restarts int } }
	shown := s.must("ml", "online-deployment", "show", "-e", endpoint, "-n", "blue", "-o", "json")
	if err := json.Unmarshal([]byte(shown), &d); err != nil || len(d.Instances) != 1 {
		s.t.Fatalf("%v: %s", err, shown)
	}
	return d.Instances[0].Restarts
}

// fault sends one request and gives its row of the table.
func (s *server) fault(t *testing.T, f fault, key string) string {
	t.Helper()
	before := s.restarts(f.endpoint)
	resp, err := s.http.Do(s.scoringRequest(t.Context(), f.endpoint, key, f.do))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	shown := strconv.Itoa(resp.StatusCode)
	switch {
	case f.status == 0:
		shown = "200, broken off"
		if err == nil || !strings.Contains(string(body), f.says) {
			t.Errorf("the caller got %d %s: %v, want an answer that breaks off", resp.StatusCode, body, err)
		}
	case err != nil || resp.StatusCode != f.status || !json.Valid(body) || !strings.Contains(string(body), f.says):
		t.Errorf("the caller got %d %.300s: %v, want %d and %q", resp.StatusCode, body, err, f.status, f.says)
	}
	if resp.Header.Get("x-injected") != "" {
		t.Error("the script made a header of its own")
	}
	if f.logs != "" {
		pattern := regexp.MustCompile(f.logs)
		s.eventually("the log says "+f.logs, func() bool {
			return pattern.MatchString(s.must("ml", "online-deployment", "get-logs", "-e", f.endpoint, "-n", "blue", "--lines", "2000"))
		})
	}
	s.eventually("the deployment answers again", func() bool {
		a := s.score(f.endpoint, key, "nothing")
		return a.status == http.StatusOK && strings.Contains(string(a.body), "fine")
	})
	if f.restarts {
		s.eventually("the restart is shown", func() bool { return s.restarts(f.endpoint) > before })
		s.eventually("the children are gone", func() bool { return children("fork-bomb") == 0 })
	} else if after := s.restarts(f.endpoint); after != before {
		t.Errorf("the instance's process was started again")
	}
	return f.row(shown, body)
}

// row is how docs/scoring.md tells it.
func (f fault) row(status string, body []byte) string {
	var told struct{ Error struct{ Message string } }
	_ = json.Unmarshal(body, &told) // an answer that breaks off is no JSON
	switch {
	case f.told != "":
		status += ": " + f.told
	case told.Error.Message != "":
		status += ": " + told.Error.Message
	}
	return fmt.Sprintf("| %s | %s | %s | %s |", f.what, status, strings.ReplaceAll(f.logs, `\`, ""), map[bool]string{true: "yes", false: "no"}[f.restarts])
}

// children counts the processes of this machine that call themselves so.
func children(name string) int {
	n := 0
	all, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range all {
		if comm, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(comm)) == name {
			n++
		}
	}
	return n
}

// needMemoryLimit skips where the system has no control groups that this process may use: then nothing bounds memory.
func needMemoryLimit(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a memory limit needs control groups, which only root can make")
	}
	for _, path := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup/cgroup.controllers"} {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
	t.Skip("this system has no memory control group")
}
