package local_test

import (
	"archive/zip"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"portico/internal/compute"
	"portico/internal/compute/local"
	"portico/internal/host"
	"portico/internal/inference"
	"portico/internal/online"
)

// forkLab is a lab whose machine can fork.
func forkLab(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	b := l.open(t, l)
	client, err := host.Dial(t.Context(), l.cfg.Host.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	capable := client.Info().Capabilities
	_ = client.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if !capable.Forks {
		t.Skip("nothing can be forked here: ", capable.Reductions)
	}
	return l
}

// script is a template of a scoring script of its own.
func (l *lab) script(t *testing.T, set, text string) compute.Template {
	t.Helper()
	tmpl := l.template(t, set)
	if err := os.WriteFile(filepath.Join(tmpl.CodeDir, "score.py"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return tmpl
}

// way waits until the log says how a worker of a set was started.
func (l *lab) way(t *testing.T, set, want string) {
	t.Helper()
	for line := range strings.Lines(l.journal.String()) {
		if strings.Contains(line, "a worker is started") && strings.Contains(line, "process="+set+"-") && strings.Contains(line, want) {
			return
		}
	}
	t.Errorf("no worker of %s was started with %q", set, want)
}

// value asks an instance and gives its answer as text.
func value(t *testing.T, b *local.Backend, instance string) string {
	t.Helper()
	u, ok := b.Upstream(instance)
	if !ok {
		t.Fatalf("no upstream of %s", instance)
	}
	status, text, err := call(t.Context(), u, []byte(`{}`))
	if err != nil || status != http.StatusOK {
		t.Fatalf("ask %s: %d, %q, %v", instance, status, text, err)
	}
	return string(text)
}

const randomScript = `
import random, secrets, ssl, uuid
try:
    import numpy
except ImportError:
    numpy = None

def init():
    pass

def run(raw_data):
    drawn = [random.random(), secrets.token_hex(8), str(uuid.uuid4()), str(uuid.uuid1()), ssl.RAND_bytes(8).hex()]
    if numpy is not None:
        drawn.append(float(numpy.random.random()))
    return drawn
`

func TestForkedInstancesDrawDifferentNumbers(t *testing.T) {
	l := forkLab(t)
	l.cfg.Spares = 2
	b := l.opened(t)
	ensure(t, b, l.script(t, "blue", randomScript), 3)
	set := await(t, b, "blue", "three ready instances", ready(3))
	l.way(t, "blue", "way=fork")
	seen := map[string]bool{}
	for _, i := range set.Instances {
		var drawn []any
		if err := json.Unmarshal([]byte(value(t, b, i.ID)), &drawn); err != nil {
			t.Fatal(err)
		}
		for n, d := range drawn {
			key := fmt.Sprint(n, ": ", d)
			if seen[key] {
				t.Errorf("two instances have drawn %s", key)
			}
			seen[key] = true
		}
	}
	// One that dies comes back from a spare, and draws anew.
	l.Kill(t, set.Instances[0].ID)
	after := await(t, b, "blue", "a restart", func(ev compute.Event) bool {
		return ready(3)(ev) && ev.Set.Instances[0].Restarts == 1
	})
	if x := after.Instances[0].Exit; x == nil || x.Signal != syscall.SIGKILL.String() {
		t.Errorf("exit %+v", x)
	}
	value(t, b, after.Instances[0].ID)
}

func TestSparesServeTheNextStart(t *testing.T) {
	l := forkLab(t)
	l.cfg.Spares = 1
	b := l.opened(t)
	tmpl := l.script(t, "blue", randomScript)
	count := 0
	for deadline := time.Now().Add(testTimeout); !strings.Contains(l.journal.String(), "way=spare"); {
		if time.Now().After(deadline) {
			t.Fatal("no start came from a spare")
		}
		count++
		ensure(t, b, tmpl, count)
		await(t, b, "blue", "ready instances", ready(count))
	}
}

// wheel makes a wheel of one module and installs it with pip in a new virtual environment.
func wheel(t *testing.T, python, module, text string) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, module+"-1.0-py3-none-any.whl")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := zip.NewWriter(f)
	info := module + "-1.0.dist-info/"
	for _, e := range [][2]string{
		{module + ".py", text},
		{info + "METADATA", "Metadata-Version: 2.1\nName: " + module + "\nVersion: 1.0\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{info + "RECORD", module + ".py,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n"},
	} {
		part, err := w.Create(e[0])
		if err == nil {
			_, err = part.Write([]byte(e[1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	venv := filepath.Join(dir, "venv")
	for _, args := range [][]string{
		{python, "-m", "venv", "--without-pip", venv},
		{
			python, "-m", "pip", "--python", filepath.Join(venv, "bin", "python"), "install", "--quiet", "--no-index", "--no-deps",
			"--disable-pip-version-check", file,
		},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%q: %v\n%s", args, err, out) // a Python without venv or pip
		}
	}
	return filepath.Join(venv, "bin", "python")
}

// hostile does at its import what it must not be able to do, and keeps what came of it.
const hostile = `
import glob, os
done = {"pid": os.getpid(), "uid": os.getuid(), "environ": sorted(os.environ)}
def attempt(name, what):
    try:
        done[name] = str(what())
    except OSError as error:
        done[name] = type(error).__name__
attempt("etc", lambda: open("/etc/portico-was-here", "w").write("x"))
attempt("passwd", lambda: open("/etc/passwd", "a").write("x"))
attempt("key", lambda: open("%[1]s/pki/ca.key").read())
attempt("master", lambda: open("%[1]s/master.key").read())
attempt("list", lambda: os.listdir("%[1]s/pki"))
attempt("socket", lambda: os.listdir("%[1]s/run"))
attempt("root", lambda: os.setuid(0))
attempt("other", lambda: os.setuid(%[2]d))
attempt("self", lambda: open(__file__, "a").write("x"))
done["processes"] = [p for p in os.listdir("/proc") if p.isdigit() and os.stat("/proc/" + p).st_uid == 0]
`

func TestHostileWheelGetsNowhere(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("without root nothing is isolated")
	}
	l := forkLab(t)
	dir := l.cfg.Host.DataDir
	if err := os.Mkdir(filepath.Join(dir, "pki"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pki/ca.key", "master.key"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("the key"), 0o644); err != nil { // readable, if only it were seen
			t.Fatal(err)
		}
	}
	python := wheel(t, l.python, "hostile", fmt.Sprintf(hostile, dir, host.DefaultUserFirst+1))
	b := l.opened(t)
	tmpl := l.script(t, "blue", "import hostile, os\ndef init(): pass\ndef run(raw): return [hostile.done, os.getpid()]\n")
	tmpl.Python = python
	tmpl.Variables = map[string]online.Secret{"TOKEN": "secret"}
	ensure(t, b, tmpl, 1)
	set := await(t, b, "blue", "a ready instance", ready(1))
	l.way(t, "blue", "way=fork")
	var answer []json.RawMessage
	var done map[string]any
	if err := json.Unmarshal([]byte(value(t, b, set.Instances[0].ID)), &answer); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(answer[0], &done); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(done["pid"]) == string(answer[1]) {
		t.Error("the wheel was imported by the worker, not by its fork server")
	}
	for _, name := range []string{"etc", "passwd", "key", "master", "list", "socket", "root", "other", "self"} {
		switch done[name] {
		case "PermissionError", "FileNotFoundError", "OSError":
		default:
			t.Errorf("%s: the import came to %v", name, done[name])
		}
	}
	if uid, _ := done["uid"].(float64); uid < host.DefaultUserFirst {
		t.Errorf("it ran as user %v", done["uid"])
	}
	if strings.Contains(fmt.Sprint(done["environ"]), "TOKEN") || fmt.Sprint(done["processes"]) != "[]" {
		t.Errorf("it saw %v and %v", done["environ"], done["processes"])
	}
	if _, err := os.Stat("/etc/portico-was-here"); err == nil {
		_ = os.Remove("/etc/portico-was-here")
		t.Error("it wrote to /etc")
	}
}

// Where forking would change what the script sees, its workers are started as ever, and the log says why.
func TestWhatCannotBeForkedIsSpawned(t *testing.T) {
	l := forkLab(t)
	python := wheel(t, l.python, "busy", `
import os, threading, time
if os.environ.get("BUSY_SETTING") != "quiet":
    threading.Thread(target=time.sleep, args=(10000,), daemon=True).start()
`)
	b := l.opened(t)
	answer := "\ndef init(): pass\ndef run(raw): return os.environ.get('BUSY_SETTING', 'none')\n"
	for _, c := range []struct {
		set, script, want string
		change            func(*compute.Template)
	}{
		{"threads", "import os, busy" + answer, "importing busy leaves 1 more threads behind", func(t *compute.Template) { t.Python = python }},
		{"variable", "import os, decimal" + answer, "the variable PYTHONHASHSEED acts when the interpreter starts", func(t *compute.Template) {
			t.Variables = map[string]online.Secret{"PYTHONHASHSEED": "1"}
		}},
		{"shadow", "import os, fractions" + answer, "the code folder has a module decimal of its own", func(c *compute.Template) {
			if err := os.WriteFile(filepath.Join(c.CodeDir, "decimal.py"), []byte("Decimal = float\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"read", "import os, netrc, pydoc" + answer, "installed packages read the variable PYTHONDOCS", nil},
	} {
		tmpl := l.script(t, c.set, c.script)
		if c.change != nil {
			c.change(&tmpl)
		}
		if c.set == "read" {
			tmpl.Variables = map[string]online.Secret{"PYTHONDOCS": "/docs"}
			c.want = "the variable PYTHONDOCS"
		}
		ensure(t, b, tmpl, 1)
		set := await(t, b, c.set, "a ready instance", ready(1))
		if got := value(t, b, set.Instances[0].ID); got != `"none"` {
			t.Errorf("%s answers %s", c.set, got)
		}
		l.way(t, c.set, "way=spawn")
		l.way(t, c.set, c.want)
	}
}

// A fork server that is killed under load costs nothing: its forks run on, and the next start has another.
func TestForkServerIsKilledUnderLoad(t *testing.T) {
	l := forkLab(t)
	l.cfg.Spares = 1
	b := l.opened(t)
	tmpl := l.script(t, "blue", "import decimal, os\ndef init(): pass\ndef run(raw): return os.getpid()\n")
	ensure(t, b, tmpl, 2)
	set := await(t, b, "blue", "two ready instances", ready(2))
	stop, failed := make(chan struct{}), make(chan error, 2)
	for _, i := range set.Instances {
		u, _ := b.Upstream(i.ID)
		go func(u inference.Upstream) {
			for {
				select {
				case <-stop:
					failed <- nil
					return
				default:
				}
				if status, text, err := call(t.Context(), u, []byte(`{}`)); err != nil || status != http.StatusOK {
					failed <- fmt.Errorf("%d %s %w", status, text, err)
					return
				}
			}
		}(u)
	}
	killForkServers(t, l)
	ensure(t, b, tmpl, 3)
	set = await(t, b, "blue", "three ready instances", ready(3))
	close(stop)
	for range 2 {
		if err := <-failed; err != nil {
			t.Errorf("a request was lost: %v", err)
		}
	}
	for _, i := range set.Instances {
		if i.Restarts != 0 {
			t.Errorf("%s was restarted: %+v", i.ID, i.Exit)
		}
	}
}

func killForkServers(t *testing.T, l *lab) {
	t.Helper()
	client, err := host.Dial(t.Context(), l.cfg.Host.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	all, err := client.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, p := range all {
		if p.Labels["kind"] == "fork-server" && p.Running() {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed++
		}
	}
	if killed == 0 {
		t.Fatal("no fork server runs")
	}
}

// Forked workers are found again after the server is gone, and so is their fork server.
func TestForksAreTakenUpAgain(t *testing.T) {
	l := forkLab(t)
	b := l.opened(t)
	tmpl := l.script(t, "blue", "import decimal, os\ndef init(): pass\ndef run(raw): return os.getpid()\n")
	ensure(t, b, tmpl, 1)
	before := value(t, b, await(t, b, "blue", "a ready instance", ready(1)).Instances[0].ID)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = l.opened(t)
	set := await(t, b, "blue", "the instance", ready(1))
	if after := value(t, b, set.Instances[0].ID); after != before {
		t.Errorf("process %s, before %s", after, before)
	}
	ensure(t, b, tmpl, 2)
	await(t, b, "blue", "two ready instances", ready(2))
	if n := strings.Count(l.journal.String(), "a worker is started"); n != 2 {
		t.Errorf("%d workers were started, want 2", n)
	}
	if n := strings.Count(l.journal.String(), "way=fork"); n != 2 {
		t.Errorf("%d workers were forked, want 2", n)
	}
}

// A fork server outlives its instances for a while, and then leaves nothing.
func TestUnusedForkServersEnd(t *testing.T) {
	l := forkLab(t)
	b := l.opened(t)
	tmpl := l.script(t, "blue", "import decimal\ndef init(): pass\ndef run(raw): return 1\n")
	ensure(t, b, tmpl, 1)
	await(t, b, "blue", "a ready instance", ready(1))
	logs := filepath.Join(l.cfg.Host.DataDir, "host", "forks")
	left := func() (running, dirs int) {
		client, err := host.Dial(t.Context(), l.cfg.Host.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		all, err := client.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			if p.Labels["kind"] == "fork-server" && p.Running() {
				running++
			}
		}
		entries, err := os.ReadDir(logs)
		if err != nil {
			t.Fatal(err)
		}
		return running, len(entries)
	}
	tomorrow := time.Now().Add(24 * time.Hour)
	b.PruneForks(tomorrow) // its set is there
	if running, dirs := left(); running != 1 || dirs != 1 {
		t.Errorf("%d fork servers run and %d have output, want one", running, dirs)
	}
	if err := b.Delete(t.Context(), "blue"); err != nil {
		t.Fatal(err)
	}
	await(t, b, "blue", "its end", gone)
	b.PruneForks(time.Now()) // it was used a moment ago
	if running, _ := left(); running != 1 {
		t.Errorf("%d fork servers run, want one", running)
	}
	b.PruneForks(tomorrow)
	for deadline := time.Now().Add(testTimeout); ; time.Sleep(20 * time.Millisecond) {
		b.PruneForks(tomorrow)
		if running, dirs := left(); running == 0 && dirs == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a fork server is left, or its output")
		}
	}
}
