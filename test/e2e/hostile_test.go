package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// hostileScript does to its process whatever a request asks for.
const hostileScript = `import ctypes, os, signal, socket, sys, threading, time

def init():
    pass

def run(raw_data):
    if raw_data == "exit":
        os._exit(7)
    if raw_data == "sys.exit":
        sys.exit(5)
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
    if raw_data == "print":
        block = b"x" * 1023 + b"\n"
        for _ in range(1024):
            sys.stdout.buffer.write(block * 1024)
        sys.stdout.buffer.flush()
    if raw_data == "sockets":
        os.closerange(3, 1024)
    if raw_data == "recurse":
        return run(raw_data)
    if raw_data == "thread":
        threading.Thread(target=lambda: 1 / 0).start()
    if raw_data == "signals":
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
    if raw_data == "listen":
        held = [socket.socket(fileno=os.dup(3)) for _ in range(10)]
    return "fine"
`

// TestHostileScripts: code that breaks its own process costs its own request or its instance, and the caller and the
// log say why. A deployment beside it, under load all the while, has no error.
func TestHostileScripts(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.yaml")
	const types = "instance_types:\n  - name: Small\n    cpus: 1\n    memory_mib: 400\n"
	if err := os.WriteFile(config, []byte(types), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, "--config", config)
	s.deploy("good", "blue", echoScript, twoInstances)
	s.deploy("bad", "blue", hostileScript, "request_settings:\n  max_concurrent_requests_per_instance: 2\n  request_timeout_ms: 60000\n")
	s.must("ml", "online-deployment", "update", "-e", "bad", "-n", "blue", "--set", "instance_type=Small", "-o", "none")
	goodKey, badKey := s.key("good"), s.key("bad")
	l := s.load("good", goodKey, 2, func(n int64) string { return strconv.FormatInt(n, 10) })
	for _, c := range []struct {
		do     string
		status int
		says   string // pattern in the answer
		logs   string // pattern in the deployment's log
		need   func(t *testing.T)
	}{
		{do: "exit", status: 424, says: "exited with status 7", logs: "the process exited with status 7"},
		{do: "sys.exit", status: 424, says: "unexpected error occurred in scoring script", logs: `run\(\) raised SystemExit`},
		{do: "abort", status: 424, says: "signal", logs: "Fatal Python error: Aborted"},
		{do: "segfault", status: 424, says: "signal", logs: "Fatal Python error: Segmentation fault"},
		{do: "kill", status: 424, says: "killed", logs: `ended by signal 9`},
		{do: "memory", status: 424, says: "memory", logs: "more memory than its limit", need: needMemoryLimit},
		{do: "fork", status: 200, says: "fine"},
		{do: "fork and answer", status: 200, says: "fine"},
		{do: "print", status: 200, says: "fine"},
		{do: "recurse", status: 424, says: "unexpected error occurred in scoring script", logs: "RecursionError"},
		{do: "thread", status: 200, says: "fine", logs: "ZeroDivisionError"},
		{do: "signals", status: 200, says: "fine"},
		{do: "listen", status: 200, says: "fine"},
		{do: "sockets", status: 424, says: "the worker", logs: "Bad file descriptor"},
	} {
		t.Run(c.do, func(t *testing.T) {
			if c.need != nil {
				c.need(t)
			}
			a := s.score("bad", badKey, c.do)
			if a.status != c.status || !json.Valid(a.body) || !regexp.MustCompile(c.says).Match(a.body) {
				t.Errorf("the caller got %d %s, want %d and %q", a.status, a.body, c.status, c.says)
			}
			if c.logs != "" {
				pattern := regexp.MustCompile(c.logs)
				s.eventually("the log says "+c.logs, func() bool {
					return pattern.MatchString(s.must("ml", "online-deployment", "get-logs", "-e", "bad", "-n", "blue", "--lines", "2000"))
				})
			}
			s.eventually("the deployment answers again", func() bool {
				a := s.score("bad", badKey, "nothing")
				return a.status == http.StatusOK && strings.Contains(string(a.body), "fine")
			})
		})
	}
	ok, bad := l.stop()
	if ok == 0 || len(bad) != 0 {
		t.Errorf("the neighbour served %d requests and failed %d: %v", ok, len(bad), bad)
	}
}

// TestEndlessRun: a run() that never returns ends with its deadline.
func TestEndlessRun(t *testing.T) {
	s := shared(t)
	s.deploy("endless", "blue", hostileScript, "request_settings:\n  request_timeout_ms: 1500\n")
	key := s.key("endless")
	if a := s.score("endless", key, "loop"); a.status != http.StatusRequestTimeout {
		t.Errorf("%d %s", a.status, a.body)
	}
	s.eventually("the deployment answers again", func() bool { return s.score("endless", key, "x").status == http.StatusOK })
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
