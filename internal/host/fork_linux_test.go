package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"portico/internal/online"
	"portico/internal/testkit"
	"portico/workers"
)

// interpreter is the real program behind python3, and what a sandbox must show to run it.
var interpreter = sync.OnceValues(func() (python struct{ path, prefix string }, err error) {
	out, err := exec.Command("python3", "-c", "import sys; print(sys.executable); print(sys.base_prefix)").Output()
	lines := strings.Fields(string(out))
	if err == nil && len(lines) == 2 {
		python.path, python.prefix = lines[0], lines[1]
	}
	return python, err
})

// forkRig is a rig with a worker's runtime and a fork server.
type forkRig struct {
	*rig
	python, runtime string
	view            []View
}

func newForkRig(t *testing.T) *forkRig {
	t.Helper()
	r := newRig(t)
	if c := r.Info().Capabilities; !c.Forks {
		t.Skip("nothing can be forked here: ", c.Reductions)
	}
	python, err := interpreter()
	if err != nil || python.path == "" {
		t.Fatalf("find Python: %v", err)
	}
	runtime, err := workers.Write(filepath.Join(r.cfg.DataDir, "runtime"))
	if err != nil {
		t.Fatal(err)
	}
	return &forkRig{rig: r, python: python.path, runtime: runtime, view: []View{{Path: runtime}, {Path: python.prefix}}}
}

// server starts a fork server that imports what is named.
func (r *forkRig) server(id string, spares int, view []View, names ...string) (Process, error) {
	return r.Start(r.ctx, ProcessSpec{
		ID: id, Argv: append([]string{r.python, r.runtime, "fork-server"}, names...), User: UserSeparate,
		Env:   map[string]online.Secret{"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
		Forks: &ForkSpec{Spares: spares}, View: append(view, r.view...),
		Log: LogSpec{Dir: filepath.Join(r.cfg.DataDir, "log", id)},
	})
}

// worker describes a worker of a scoring script.
func (r *forkRig) worker(id, from, script string) ProcessSpec {
	r.t.Helper()
	code, scratch := filepath.Join(r.cfg.DataDir, "code", id), filepath.Join(r.cfg.DataDir, "scratch", id)
	for _, dir := range []string{code, scratch} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(code, "score.py"), []byte(script), 0o644); err != nil {
		r.t.Fatal(err)
	}
	sockets, err := SocketDir(r.cfg.DataDir)
	if err != nil {
		r.t.Fatal(err)
	}
	return ProcessSpec{
		ID: id, From: from, Argv: []string{r.python, r.runtime}, User: UserSeparate, Dir: code,
		Env: map[string]online.Secret{
			"AML_APP_ROOT": online.Secret(code), "AZUREML_ENTRY_SCRIPT": "score.py", "PATH": "/usr/bin:/bin",
			"SECRET": online.Secret("secret of " + id), "TMPDIR": online.Secret(scratch),
		},
		Limits: Limits{MemoryBytes: 512 << 20, CPUMillis: 1000, Pids: 100},
		View:   append([]View{{Path: code}, {Path: scratch, Writable: true}}, r.view...),
		Socket: filepath.Join(sockets, id+".sock"), Page: filepath.Join(r.cfg.DataDir, id+".page"),
		Log: LogSpec{Dir: filepath.Join(r.cfg.DataDir, "log", id)},
	}
}

// ask calls a worker's run.
func (r *forkRig) ask(id, body string) (string, error) {
	sockets, err := SocketDir(r.cfg.DataDir)
	if err != nil {
		return "", err
	}
	client := http.Client{Timeout: testTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(sockets, id+".sock"))
		},
	}}
	answer, err := client.Post("http://worker/score", "application/json", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", answer.StatusCode, text)
	}
	return string(text), err
}

func (r *forkRig) mustAsk(id, body string) string {
	r.t.Helper()
	text, err := r.ask(id, body)
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", id, err, r.output(id))
	}
	return text
}

// probeScript answers what Python makes of the request's text.
const probeScript = `
import os, random, uuid, json, subprocess, threading, sys
def init():
    print("init in", os.getpid())
def run(raw):
    return str(eval(json.loads(raw)))
`

func quoted(code string) string {
	text, _ := json.Marshal(code)
	return string(text)
}

func TestForkServesAsAWorker(t *testing.T) {
	r := newForkRig(t)
	server, err := r.server("server", 1, nil, "json", "decimal")
	if err != nil {
		t.Fatal(err)
	}
	var report struct{ Modules []string }
	if err := json.Unmarshal(server.Report, &report); err != nil || !strings.Contains(fmt.Sprint(report.Modules), "decimal") {
		t.Errorf("report %s: %v", server.Report, err)
	}
	again, err := r.server("server", 1, nil)
	if err != nil || again.PID != server.PID || string(again.Report) != string(server.Report) {
		t.Errorf("a second start: %+v, %v", again, err)
	}
	for i, id := range []string{"first", "second", "third"} {
		p := r.start(r.worker(id, "server", probeScript))
		if p.From != "server" {
			t.Errorf("%+v", p)
		}
		for code, want := range map[string]string{
			"'decimal' in sys.modules": "True", "os.environ['SECRET']": "secret of " + id, "os.getcwd()": filepath.Join(r.cfg.DataDir, "code", id),
			"open(0).read()": "", "len(os.listdir('/proc/self/task'))": "1", "sys.argv[1:]": "[]", "os.getsid(0) == os.getpid()": "True",
			"[k for k in os.environ if 'PYTHON' in k]": "[]",
			"subprocess.run(['true']).returncode":      "0", "len(os.listdir(os.environ['TMPDIR']))": "0",
		} {
			if got := r.mustAsk(id, quoted(code)); got != `"`+want+`"` {
				t.Errorf("%d: %s is %s, want %s", i, code, got, want)
			}
		}
		if out := r.output(id); !strings.Contains(out, "init in") {
			t.Errorf("output %q", out)
		}
	}
	if r.mustAsk("first", quoted("random.random()")) == r.mustAsk("second", quoted("random.random()")) {
		t.Error("two forks draw the same numbers")
	}
	// An exit is recorded as any other's, with the last lines.
	if _, err := r.ask("first", quoted("os._exit(7)")); err == nil {
		t.Error("os._exit answered")
	}
	if e := r.exit("first"); e.Code != 7 || e.Signal != 0 || !strings.Contains(e.Tail, "init in") {
		t.Errorf("exit %+v", e)
	}
	if _, err := r.ask("second", quoted("os.abort()")); err == nil {
		t.Error("os.abort answered")
	}
	if e := r.exit("second"); e.Signal != int(syscall.SIGABRT) {
		t.Errorf("exit %+v", e)
	}
	// The group of a fork is its own, and what it starts ends with it.
	child := r.mustAsk("third", quoted("subprocess.Popen(['setsid', 'sleep', '1000']) and 1"))
	if err := r.Signal(r.ctx, "third", syscall.SIGKILL, true); err != nil {
		t.Fatal(child, err)
	}
	if e := r.exit("third"); e.Signal != int(syscall.SIGKILL) {
		t.Errorf("exit %+v", e)
	}
	if rec := recordOf(t, r.cfg.DataDir, "third"); len(family(t, rec)) != 0 {
		t.Errorf("left behind: %v", family(t, rec))
	}
	if !alive(server.PID) {
		t.Error("the fork server ended with its forks")
	}
}

// recordedSpare waits until a fork server has a spare, and starts a worker from it.
func TestSparesAreAssigned(t *testing.T) {
	r := newForkRig(t)
	if _, err := r.server("server", 2, nil); err != nil {
		t.Fatal(err)
	}
	n := 0
	testkit.Until(t, "a start from a spare", func() bool {
		n++
		id := fmt.Sprintf("w%d", n)
		p := r.start(r.worker(id, "server", probeScript))
		if got := r.mustAsk(id, quoted("os.environ['SECRET']")); got != `"secret of `+id+`"` {
			t.Fatalf("%s has %s", id, got)
		}
		return p.Spare
	})
}

// A spare that died is not given, and leaves nothing. What is the matter with one worker is not the fork server's fault.
// A spare has its own copies of the pages that the last worker wrote to, before it is wanted.
func TestSparesHaveThePagesThatWillBeWritten(t *testing.T) {
	requireRoot(t)
	r := newForkRig(t)
	server, err := r.server("server", 1, nil, "json", "decimal")
	if err != nil {
		t.Fatal(err)
	}
	testkit.Until(t, "the first spare", func() bool { return otherFork(t, r.runtime, server.PID) != 0 })
	var worker Process
	for n := 0; n < 5 && !worker.Spare; n++ { // the first spare may not be ready when the first worker is wanted
		id := fmt.Sprint("w", n)
		worker = r.start(r.worker(id, "server", probeScript))
		r.mustAsk(id, `"1"`)
	}
	pages := func(pid int) map[uint64]bool {
		ranges, err := writtenPages(server.PID, pid)
		if err != nil {
			t.Fatal(err)
		}
		all := map[uint64]bool{}
		for _, p := range ranges {
			for i := range p[1] {
				all[p[0]+i*uint64(os.Getpagesize())] = true
			}
		}
		return all
	}
	wrote := pages(worker.PID)
	if len(wrote) < 100 || len(wrote) > maxTouchedPages {
		t.Fatalf("the worker wrote to %d pages", len(wrote))
	}
	testkit.Until(t, "a spare with the pages", func() bool {
		spare := otherFork(t, r.runtime, server.PID, worker.PID)
		if spare == 0 {
			return false
		}
		shared := 0
		for page := range pages(spare) {
			if wrote[page] {
				shared++
			}
		}
		t.Logf("the spare has %d of %d pages", shared, len(wrote))
		return shared > len(wrote)*3/4
	})
}

// What workers write to changes, and a fork that was told of pages has them all: now and then one is told nothing.
func TestForksAreToldNothingNowAndThen(t *testing.T) {
	f := &forkServer{}
	if f.written() != nil {
		t.Fatal("pages were told that nobody has looked for")
	}
	f.touched = []byte("pages")
	for round := range 2 {
		for n := range forksToldAlike {
			if string(f.written()) != "pages" {
				t.Fatalf("round %d: fork %d was told nothing", round, n)
			}
		}
		if f.written() != nil {
			t.Fatalf("round %d: no fork shows what it writes to by itself", round)
		}
	}
	told, untold := &fork{child: &child{pid: 1}, told: true}, &fork{child: &child{pid: 2}}
	if f.became(told); f.newest != nil {
		t.Error("a fork that was told of pages is looked at")
	}
	if f.became(untold); f.newest != untold.child {
		t.Error("a fork that was told nothing is not looked at")
	}
}

func TestDeadSparesAreDiscarded(t *testing.T) {
	r := newForkRig(t)
	if !r.Info().Capabilities.Tracked {
		t.Skip("there are no cgroups here")
	}
	server, err := r.server("server", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	spare := 0
	testkit.Until(t, "a spare", func() bool {
		spare = otherFork(t, r.runtime, server.PID)
		if spare == 0 {
			return false
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", spare))
		return err == nil && !strings.Contains(string(status), fmt.Sprintf("Uid:\t%d\t", server.UID)) // it has one of its own
	})
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", spare))
	_, after, found := strings.Cut(string(text), "/fork.")
	name, _, _ := strings.Cut("fork."+after, "\n")
	if err != nil || !found {
		t.Fatalf("the spare has no cgroup of its own: %q, %v", text, err)
	}
	killPID(t, spare)
	testkit.Until(t, "the end of the spare", func() bool { return !alive(spare) })
	r.start(r.worker("w", "server", probeScript))
	r.mustAsk("w", `"1"`)
	testkit.Until(t, "the end of its cgroups", func() bool {
		left := false
		_ = filepath.WalkDir("/sys/fs/cgroup", func(_ string, d os.DirEntry, err error) error {
			left = left || err == nil && d.Name() == name
			return nil
		})
		return !left
	})
	bad := r.worker("bad", "server", probeScript)
	bad.View = append(bad.View, View{Path: filepath.Join(r.cfg.DataDir, "none")})
	if _, err := r.Start(r.ctx, bad); !errors.Is(err, ErrFork) || errors.Is(err, ErrForkServer) {
		t.Errorf("a view of nothing: %v", err)
	}
}

func TestForksOutliveTheirServer(t *testing.T) {
	r := newForkRig(t)
	server, err := r.server("server", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := r.start(r.worker("w", "server", probeScript))
	r.mustAsk("w", `"1"`)
	stop, failures := make(chan struct{}), make(chan error, 1)
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := r.ask("w", `"1"`); err != nil {
				failures <- err
				return
			}
		}
	})
	killPID(t, server.PID)
	if e := r.exit("server"); e.Signal != int(syscall.SIGKILL) {
		t.Errorf("exit %+v", e)
	}
	if _, err := r.Start(r.ctx, r.worker("w2", "server", probeScript)); !errors.Is(err, ErrForkServer) {
		t.Errorf("a start from a dead fork server: %v", err)
	}
	time.Sleep(50 * time.Millisecond) // some more requests
	close(stop)
	asking.Wait()
	select {
	case err := <-failures:
		t.Errorf("a request was lost: %v", err)
	default:
	}
	if !alive(p.PID) {
		t.Error("the worker ended with its fork server")
	}
	r.mustAsk("w", `"1"`)
	// The spare, whose parent is the host, is gone too.
	testkit.Until(t, "the end of the spares", func() bool { return !commandRuns(t, r.runtime+"\x00fork-server") || countCommands(t, r.runtime) == 1 })
	if _, err := r.server("server", 1, nil); err != nil {
		t.Errorf("another fork server: %v", err)
	}
}

// countCommands counts the processes that have text in their command line, as those of a fork server have its runtime.
func countCommands(t *testing.T, text string) int {
	t.Helper()
	pids, err := allPids()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, pid := range pids {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(line), text) && startTime(pid) != 0 {
			n++
		}
	}
	return n
}

// otherFork gives a process of a fork server that is none of those that are known; 0: there is none.
func otherFork(t *testing.T, runtime string, known ...int) int {
	t.Helper()
	pids, err := allPids()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if !slices.Contains(known, pid) && strings.Contains(string(line), runtime+"\x00fork-server") && alive(pid) {
			return pid
		}
	}
	return 0
}

// TestUmaskDoesNotDecide: a host that is started by somebody with a strict umask can do what it could otherwise.
func TestUmaskDoesNotDecide(t *testing.T) {
	want := newRig(t).Info().Capabilities
	defer syscall.Umask(syscall.Umask(0o077))
	if got := newRig(t).Info().Capabilities; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("under a strict umask %+v, else %+v", got, want)
	}
}

func TestThreadsAreDetected(t *testing.T) {
	r := newForkRig(t)
	packages := filepath.Join(r.cfg.DataDir, "packages")
	writeModule(t, packages, "busy", "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n")
	_, err := r.serverWith("busy-server", packages, "busy")
	if !errors.Is(err, ErrFork) || !strings.Contains(err.Error(), "importing busy leaves 1 more threads behind") {
		t.Errorf("start: %v", err)
	}
	r.exit("busy-server")
	// One that dies over its imports says so.
	writeModule(t, packages, "deadly", "import os\nos._exit(9)\n")
	if _, err := r.serverWith("deadly-server", packages, "deadly"); !errors.Is(err, ErrFork) || !strings.Contains(err.Error(), "ended before it was ready") {
		t.Errorf("start: %v", err)
	}
}

// serverWith starts a fork server that finds packages in a directory.
func (r *forkRig) serverWith(id, packages string, names ...string) (Process, error) {
	return r.Start(r.ctx, ProcessSpec{
		ID: id, Argv: append([]string{r.python, r.runtime, "fork-server"}, names...), User: UserSeparate,
		Env:   map[string]online.Secret{"PYTHONPATH": online.Secret(packages)},
		Forks: &ForkSpec{}, View: append([]View{{Path: packages}}, r.view...),
		Log: LogSpec{Dir: filepath.Join(r.cfg.DataDir, "log", id)},
	})
}

func writeModule(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".py"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A fork sees and may do what an executed process of the same specification does.
func TestForksAreAsIsolated(t *testing.T) {
	requireRoot(t)
	r := newForkRig(t)
	if err := os.WriteFile(filepath.Join(r.cfg.DataDir, "master.key"), []byte("key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.server("server", 1, nil); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"one", "two"} {
		r.start(r.worker(id, "server", probeScript))
		r.mustAsk(id, quoted("open('/tmp/of-"+id+"', 'w').close()"))
	}
	code := filepath.Join(r.cfg.DataDir, "code", "two")
	if err := os.WriteFile(filepath.Join(code, "seen.py"), []byte("seen"), 0o644); err != nil {
		t.Fatal(err)
	}
	shell := func(id, script string) string {
		ask, _ := json.Marshal([]string{"/bin/sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; (" + script + ") 2>&1"})
		return r.mustAsk(id, quoted("subprocess.run("+string(ask)+", stdout=subprocess.PIPE, text=True)"))
	}
	for _, tt := range sandboxChecks(r.cfg.DataDir, code) {
		switch tt.name {
		case "own-session": // it is the fork's, not the shell's
			continue
		case "no-home": // the interpreter may lie in one
			continue
		case "view":
			tt.script = "grep seen " + filepath.Join(code, "seen.py")
		case "tmp":
			tt.script = "test -e /tmp/of-two && ! test -e /tmp/of-one"
		}
		t.Run(tt.name, func(t *testing.T) {
			if got := shell("two", tt.script); !strings.Contains(got, "returncode=0") {
				t.Error(got)
			}
		})
	}
	for name, script := range map[string]string{
		"other code":    "! ls " + filepath.Join(r.cfg.DataDir, "code", "one"),
		"other scratch": "! ls " + filepath.Join(r.cfg.DataDir, "scratch", "one"),
		"own scratch":   "touch $TMPDIR/mine",
		"code":          "! touch " + filepath.Join(code, "new"),
		"runtime":       "! touch " + filepath.Join(r.runtime, "new"),
		"no way up":     `grep -q "^ *$(id -u) *$(id -u) *1$" /proc/self/uid_map && test $(wc -l </proc/self/uid_map) = 1`,
	} {
		t.Run(name, func(t *testing.T) {
			if got := shell("two", script); !strings.Contains(got, "returncode=0") {
				t.Error(got)
			}
		})
	}
	// Nothing of a sibling's secret is in memory that was inherited, or in what /proc tells.
	search := `[p for p in os.listdir('/proc') if p.isdigit() and 'secret of ' + 'one' in open('/proc/'+p+'/environ', errors='replace').read()]`
	if got := r.mustAsk("two", quoted(search)); got != `"[]"` {
		t.Errorf("environments with the other's secret: %s", got)
	}
	if got := r.mustAsk("two", quoted("sorted(p for p in os.listdir('/proc') if p.isdigit()) == [str(os.getpid())]")); got != `"True"` {
		t.Errorf("processes that are seen: %s", got)
	}
}

// What a fork server's imports start, and its environment, are not the supervisor's to trust.
func TestForksThatDoNotObeyAreRefused(t *testing.T) {
	requireRoot(t)
	r := newForkRig(t)
	packages := filepath.Join(r.cfg.DataDir, "packages")
	for name, trick := range map[string]string{
		// It keeps the privileges of its new user namespace.
		"greedy": "import portico_worker.forkserver as f\nf._drop = lambda libc, uid: None\n",
		// It makes no namespaces.
		"lazy": "import portico_worker.forkserver as f\nf._check = lambda result, what: None\nf._NEW_NAMESPACES = 0\n",
		// It names the fork server's own process.
		"liar": "import portico_worker.forkserver as f\nf._become = lambda *a: None\nf._Fork.__call__ = lambda self: (f.os.write(f.sys._getframe(1).f_locals['talk'], b'{}\\n'), 1)[1]\n",
	} {
		writeModule(t, packages, name, trick)
		if _, err := r.serverWith(name, packages, name); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := r.Start(r.ctx, r.worker("w-"+name, name, probeScript)); !errors.Is(err, ErrForkServer) {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}
