package local_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
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

// template is a set of testdata/score.py.
func (l *lab) template(t *testing.T, set string) compute.Template {
	t.Helper()
	code := filepath.Join(t.TempDir(), "code")
	if err := os.Mkdir(code, 0o755); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/score.py")
	if err == nil {
		err = os.WriteFile(filepath.Join(code, "score.py"), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return compute.Template{
		Set: set, Generation: 1, Digest: "digest of " + set, Endpoint: "shop", Deployment: "blue", UID: "uid-" + set,
		Type:   online.InstanceType{Name: "Small", CPUs: 1, MemoryMiB: 512},
		Python: l.python, CodeDir: code, ScoringScript: "score.py", Workers: 1, MaxConcurrent: 1,
		RequestTimeout: 10 * time.Second, Liveness: online.DefaultProbe(), Readiness: online.DefaultProbe(),
	}
}

// opened opens the lab's engine until the test ends.
func (l *lab) opened(t *testing.T) *local.Backend {
	t.Helper()
	b := l.open(t, l)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close the engine: %v", err)
		}
	})
	return b
}

func ensure(t *testing.T, b *local.Backend, tmpl compute.Template, count int) {
	t.Helper()
	if err := b.Ensure(t.Context(), tmpl, count, nil); err != nil {
		t.Fatalf("ensure: %v", err)
	}
}

// await watches until a set satisfies ok. every sees each event of the set on the way.
func await(t *testing.T, b *local.Backend, set, what string, ok func(compute.Event) bool, every ...func(compute.Set)) compute.Set {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	events, err := b.Watch(ctx)
	if err != nil {
		t.Fatalf("watch: %v", err)
	}
	var last compute.Set
	for ev := range events {
		if ev.Synced || ev.Set.ID != set {
			continue
		}
		last = ev.Set
		for _, see := range every {
			see(last)
		}
		if ok(ev) {
			return last
		}
	}
	t.Fatalf("waited for %s; the set is %+v", what, last)
	return last
}

func ready(n int) func(compute.Event) bool {
	return func(ev compute.Event) bool {
		return !ev.Gone && len(ev.Set.Instances) == n && ev.Set.ReadyCount() == n
	}
}

func gone(ev compute.Event) bool { return ev.Gone }

func (l *lab) ask(t *testing.T, b *local.Backend, instance, order string, within time.Duration) (string, error) {
	t.Helper()
	u, ok := b.Upstream(instance)
	if !ok {
		t.Fatalf("instance %s cannot be called", instance)
	}
	answer, err := u.Do(t.Context(), &inference.Call{
		ID: "test", Method: "POST", Path: "/score", Body: []byte(order), Deadline: time.Now().Add(within),
	})
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var out any
	err = json.NewDecoder(answer.Body).Decode(&out)
	text, _ := json.Marshal(out)
	return string(text), err
}

func TestHostThatDiesIsReplaced(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := l.opened(t)
	tmpl := l.template(t, "blue")
	ensure(t, b, tmpl, 2)
	before := await(t, b, "blue", "two ready instances", ready(2))
	old := l.processes(t)
	client, err := host.Dial(t.Context(), l.cfg.Host.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := syscall.Kill(client.Info().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	after := await(t, b, "blue", "two instances ready after a restart", func(ev compute.Event) bool {
		return ready(2)(ev) && ev.Set.Instances[0].Restarts == 1 && ev.Set.Instances[1].Restarts == 1
	})
	for n, i := range after.Instances {
		if i.ID != before.Instances[n].ID || i.Exit == nil || !strings.Contains(i.Exit.Reason, "host") {
			t.Errorf("%+v, exit %+v", i, i.Exit)
		}
		if _, err := l.ask(t, b, i.ID, `{}`, testTimeout); err != nil {
			t.Errorf("call after the restart: %v", err)
		}
	}
	for _, p := range old {
		// A process that has ended, and that nobody has waited for yet, has no command line.
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID)); err == nil && len(text) > 0 {
			t.Errorf("process %d of the host that died still runs: %q", p.PID, text)
		}
	}
}

// Both the server and the host die: nothing of the old is left, and the instances come back with their exits told.
func TestHostAndServerDie(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := l.opened(t)
	tmpl := l.template(t, "blue")
	tmpl.Workers, tmpl.MaxConcurrent = 2, 2
	ensure(t, b, tmpl, 1)
	before := await(t, b, "blue", "a ready instance", ready(1)).Instances[0]
	client, err := host.Dial(t.Context(), l.cfg.Host.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(client.Info().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-client.Done()
	b = l.opened(t)
	after := await(t, b, "blue", "a ready instance", func(ev compute.Event) bool {
		return ready(1)(ev) && ev.Set.Instances[0].Restarts == 2
	}).Instances[0]
	if after.ID != before.ID || after.Exit == nil || !strings.Contains(after.Exit.Reason, "host") {
		t.Errorf("%+v, exit %+v", after, after.Exit)
	}
	if n := len(l.processes(t)); n != 2 {
		t.Errorf("the host has %d processes, want 2", n)
	}
}

func TestStrictPolicyRefuses(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.cfg.Overcommit = local.OvercommitStrict
	l.cfg.Machine = local.Machine{CPUs: 3, MemoryMiB: 4096}
	b := l.opened(t)
	tmpl := l.template(t, "blue")
	tmpl.Type.CPUs = 2
	ensure(t, b, tmpl, 1)
	err := b.Ensure(t.Context(), tmpl, 2, nil)
	if !errors.Is(err, compute.ErrCapacity) || !strings.Contains(err.Error(), "2 + 1 x 2 (Small) = 4, this machine has 3") {
		t.Errorf("a second instance: %v", err)
	}
	other := l.template(t, "green")
	other.Type.CPUs = 2
	if err := b.Ensure(t.Context(), other, 1, nil); !errors.Is(err, compute.ErrCapacity) {
		t.Errorf("an instance of another set: %v", err)
	}
	s := await(t, b, "blue", "a ready instance", ready(1))
	if s.Count != 1 {
		t.Errorf("a refused Ensure changed the count to %d", s.Count)
	}
	if err := b.Delete(t.Context(), "blue"); err != nil {
		t.Fatal(err)
	}
	await(t, b, "blue", "its end", gone)
	ensure(t, b, other, 1)
}

func TestStopEndsProcessesAndKeepsInstances(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := l.opened(t)
	tmpl := l.template(t, "blue")
	ensure(t, b, tmpl, 2)
	before := await(t, b, "blue", "two ready instances", ready(2))
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	if err := b.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if left := l.processes(t); len(left) != 0 {
		t.Errorf("after Stop the host has %+v", left)
	}
	if err := b.Ensure(ctx, tmpl, 3, nil); err == nil {
		t.Error("a stopped engine took an order")
	}
	b = l.opened(t)
	after := await(t, b, "blue", "two ready instances", ready(2))
	for n, i := range after.Instances {
		if i.ID != before.Instances[n].ID || i.Restarts != 0 || i.Exit != nil {
			t.Errorf("%+v after Stop, and %+v before", i, before.Instances[n])
		}
	}
}

func TestStartFailureIsTold(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := l.opened(t)
	tmpl := l.template(t, "blue")
	tmpl.ModelDir = filepath.Join(t.TempDir(), "deleted")
	ensure(t, b, tmpl, 1)
	i := await(t, b, "blue", "a failed start and its repetition", func(ev compute.Event) bool {
		i := ev.Set.Instances[0]
		return i.Restarts >= 1 && i.Exit != nil
	}).Instances[0]
	if i.Exit.Code != -1 || !i.Exit.InInit || !strings.Contains(i.Exit.Reason, "the deployment's model is not on this machine") {
		t.Errorf("exit %+v", i.Exit)
	}
}

func TestHungWorkersAreKilledOneAtATime(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.cfg.HangTimeout = 300 * time.Millisecond
	b := l.opened(t)
	tmpl := l.template(t, "blue")
	tmpl.Variables = map[string]online.Secret{"INIT_SECONDS": "1"}
	ensure(t, b, tmpl, 2)
	s := await(t, b, "blue", "two ready instances", ready(2))
	results := make(chan error, 2)
	for _, i := range s.Instances {
		go func() {
			_, err := l.ask(t, b, i.ID, `{"hang": true}`, 200*time.Millisecond)
			results <- err
		}()
	}
	for range s.Instances {
		if err := <-results; !errors.Is(err, inference.ErrDeadline) {
			t.Errorf("a request that hangs: %v, want %v", err, inference.ErrDeadline)
		}
	}
	s = await(t, b, "blue", "both restarted", func(ev compute.Event) bool {
		return ready(2)(ev) && ev.Set.Instances[0].Restarts == 1 && ev.Set.Instances[1].Restarts == 1
	}, func(s compute.Set) {
		if s.ReadyCount() == 0 {
			t.Errorf("both instances reload at once: %+v", s.Instances)
		}
	})
	for _, i := range s.Instances {
		if i.Exit == nil || i.Exit.InInit || i.Exit.Reason == "" {
			t.Errorf("exit %+v", i.Exit)
		}
	}
}

func TestVariablesAreSealed(t *testing.T) {
	const secret = "the-clear-text-of-a-variable"
	t.Parallel()
	l := newLab(t)
	b := l.opened(t)
	tmpl := l.template(t, "blue")
	tmpl.Variables = map[string]online.Secret{"PASSWORD": secret}
	ensure(t, b, tmpl, 1)
	await(t, b, "blue", "a ready instance", ready(1))
	err := filepath.WalkDir(l.cfg.Host.DataDir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), secret) {
			t.Errorf("%s holds the clear text", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(l.journal.String(), secret) {
		t.Error("the engine's log holds the clear text")
	}
}

// requireMounts skips a test where workers have no file system of their own. The engine is open.
func (l *lab) requireMounts(t *testing.T) {
	t.Helper()
	client, err := host.Dial(t.Context(), l.cfg.Host.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if !client.Info().Capabilities.Mounts {
		t.Skip("this machine has no mount namespaces for the host")
	}
}

// A worker sees neither the data directory nor its neighbours where the machine can hide them.
func TestWorkerSeesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := l.opened(t)
	l.requireMounts(t)
	tmpl := l.template(t, "blue")
	ensure(t, b, tmpl, 2)
	s := await(t, b, "blue", "two ready instances", ready(2))
	me, neighbour := s.Instances[0].ID, s.Instances[1].ID
	data := l.cfg.Host.DataDir
	for path, want := range map[string]string{
		tmpl.CodeDir: `["score.py"]`,
		filepath.Join(data, "instances", neighbour): `"FileNotFoundError"`,
		filepath.Join(data, "host"):                 `"FileNotFoundError"`,
		filepath.Join(data, "sets"):                 `"FileNotFoundError"`,
		filepath.Join(data, "instances", me, "w0"):  `["tmp"]`,
	} {
		order, _ := json.Marshal(map[string]string{"list": path})
		if got, err := l.ask(t, b, me, string(order), testTimeout); err != nil || got != want {
			t.Errorf("list %s: %s, %v; want %s", path, got, err, want)
		}
	}
}

// TestScriptsManagersHaveRoomForTheirSockets: what multiprocessing makes sockets for works although the scratch folder's
// path is longer than that of a socket may be.
func TestScriptsManagersHaveRoomForTheirSockets(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := l.opened(t)
	l.requireMounts(t)
	const script = `
import multiprocessing, os, tempfile
def init(): pass
def run(raw_data):
    with multiprocessing.Manager() as manager, tempfile.NamedTemporaryFile() as file:
        return [len(manager.list([1, 2])), os.path.realpath(file.name).startswith(os.environ["HOME"])]
`
	for _, way := range []string{"fork", "spawn"} {
		tmpl := l.script(t, way+strings.Repeat("-long", 11), script)
		if way == "spawn" {
			tmpl.Variables = map[string]online.Secret{"PYTHONHASHSEED": "1"} // for which a new interpreter is needed
		}
		ensure(t, b, tmpl, 1)
		s := await(t, b, tmpl.Set, "a ready instance", ready(1))
		if got := value(t, b, s.Instances[0].ID); got != "[2, true]" {
			t.Errorf("%s: %s", way, got)
		}
	}
}

func TestEndedInstancesAreKeptForAWhile(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.cfg.KeepPerUID = 2
	b := l.opened(t)
	tmpl := l.template(t, "blue")
	var ids []string
	for range 3 {
		ensure(t, b, tmpl, 1)
		ids = append(ids, await(t, b, "blue", "a ready instance", ready(1)).Instances[0].ID)
		ensure(t, b, tmpl, 0)
		await(t, b, "blue", "no instance", ready(0))
	}
	for n, id := range ids {
		r, err := b.Logs(t.Context(), compute.LogQuery{UID: tmpl.UID, Instance: id})
		if err == nil {
			r.Close()
		}
		_, stat := os.Stat(filepath.Join(l.cfg.Host.DataDir, "instances", id))
		if kept := n > 0; (err == nil) != kept || (stat == nil) != kept {
			t.Errorf("output of instance %d of 3: %v, %v", n+1, err, stat)
		}
		if _, err := os.Stat(filepath.Join(l.cfg.Host.DataDir, "instances", id, "w0", "tmp")); err == nil {
			t.Errorf("the scratch directory of %s is still there", id)
		}
	}
}

func TestProcessesOfUnknownInstancesEnd(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	if err := l.open(t, l).Close(); err != nil {
		t.Fatal(err)
	}
	client, err := host.Dial(t.Context(), l.cfg.Host.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	start := func(id, kind string) {
		_, err := client.Start(t.Context(), host.ProcessSpec{
			ID: id, Argv: []string{"/bin/sleep", "600"}, User: host.UserSeparate,
			Labels: map[string]string{"kind": kind, "instance": "unknown", "start": "1"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	start("left-behind", "worker")
	start("somebody-elses", "build")
	l.opened(t)
	deadline := time.Now().Add(testTimeout)
	for {
		all := l.processes(t)
		if len(all) == 1 && all[0].ID == "somebody-elses" && all[0].Running() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the host still has %+v", all)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// An engine that is closed while an instance drains leaves it to the next one.
func TestDrainGoesOnAfterReopen(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := l.opened(t)
	tmpl := l.template(t, "blue")
	ensure(t, b, tmpl, 1)
	i := await(t, b, "blue", "a ready instance", ready(1)).Instances[0]
	asked := make(chan error, 1)
	go func() {
		_, err := l.ask(t, b, i.ID, `{"say": "executing", "sleep": 1}`, testTimeout)
		asked <- err
	}()
	l.awaitOutput(t, b, tmpl.UID, "executing")
	if err := b.Delete(t.Context(), "blue"); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	<-asked // the caller has lost its server, whatever came of it
	b = l.opened(t)
	deadline := time.Now().Add(testTimeout)
	for len(l.processes(t)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("the host still has %+v", l.processes(t))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := b.Delete(t.Context(), "blue"); err != nil {
		t.Errorf("delete again: %v", err)
	}
}

func (l *lab) awaitOutput(t *testing.T, b *local.Backend, uid, text string) {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	for time.Now().Before(deadline) {
		r, err := b.Logs(t.Context(), compute.LogQuery{UID: uid})
		if err == nil {
			var out strings.Builder
			_, err = io.Copy(&out, r)
			r.Close()
			if err == nil && strings.Contains(out.String(), text) {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited for %q in the output", text)
}

func TestBadTemplatesAreRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := l.opened(t)
	for name, change := range map[string]func(*compute.Template){
		"set id":  func(t *compute.Template) { t.Set = "../evil" },
		"no code": func(t *compute.Template) { t.CodeDir = "" },
		"workers": func(t *compute.Template) { t.Workers = 0 },
		"timeout": func(t *compute.Template) { t.RequestTimeout = 0 },
		"digest":  func(t *compute.Template) { t.Digest = "" },
	} {
		tmpl := l.template(t, "blue")
		change(&tmpl)
		if err := b.Ensure(t.Context(), tmpl, 1, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := b.Ensure(t.Context(), l.template(t, "blue"), -1, nil); err == nil {
		t.Error("-1 instances: accepted")
	}
}
