package host

import (
	"bufio"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"portico/internal/online"
	"portico/internal/testkit"
)

func TestExitsAreTold(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct {
		name, script string
		code, signal int
	}{
		{"success", "echo fine", 0, 0},
		{"code", "echo sorry >&2; exit 7", 7, 0},
		{"signal", "kill -SEGV $$", -1, int(syscall.SIGSEGV)},
		{"killed", "kill -KILL $$", -1, int(syscall.SIGKILL)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := r.run(r.shell(tt.name, tt.script))
			if e.Code != tt.code || e.Signal != tt.signal || e.Lost || e.OOMKilled || e.At.IsZero() || e.MaxRSS == 0 {
				t.Fatalf("exit %+v, want code %d, signal %d", e, tt.code, tt.signal)
			}
		})
	}
	if got := r.output("success"); got != "fine\n" {
		t.Errorf("output %q", got)
	}
	if e := r.exit("code"); e.Tail != "sorry\n" {
		t.Errorf("tail %q", e.Tail)
	}
}

func TestStartIsIdempotent(t *testing.T) {
	r := newRig(t)
	spec := r.shell("one", "echo started; sleep 1000")
	spec.Labels = map[string]string{"set": "a"}
	pids := make([]int, 20)
	var wg sync.WaitGroup
	for i := range pids {
		wg.Go(func() {
			if p, err := r.Start(r.ctx, spec); err != nil {
				t.Error(err)
			} else {
				pids[i] = p.PID
			}
		})
	}
	wg.Wait()
	if pids = slices.Compact(pids); len(pids) != 1 || pids[0] == 0 {
		t.Fatalf("several processes were started: %v", pids)
	}
	all, err := r.List(r.ctx)
	if err != nil || len(all) != 1 || all[0].PID != pids[0] || all[0].Labels["set"] != "a" || !all[0].Running() {
		t.Fatalf("list %+v, %v", all, err)
	}
	testkit.Until(t, "output", func() bool { return r.output("one") == "started\n" })
	if startTime(pids[0]) != all[0].StartTime || all[0].StartTime == 0 {
		t.Errorf("start time %d, the kernel says %d", all[0].StartTime, startTime(pids[0]))
	}
	if err := r.Forget(r.ctx, "one"); !errors.Is(err, ErrBadRequest) {
		t.Errorf("forget of a running process: %v", err)
	}
	if err := r.Signal(r.ctx, "one", syscall.SIGTERM, true); err != nil {
		t.Fatal(err)
	}
	if e := r.exit("one"); e.Signal != int(syscall.SIGTERM) {
		t.Errorf("exit %+v", e)
	}
	again := r.start(spec)
	if again.PID == pids[0] || again.Exit != nil {
		t.Errorf("after its exit the same process was answered: %+v", again)
	}
	if err := r.Signal(r.ctx, "one", syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	r.exit("one")
	if err := r.Forget(r.ctx, "one"); err != nil {
		t.Error(err)
	}
	if all, err := r.List(r.ctx); err != nil || len(all) != 0 {
		t.Errorf("list after forget: %v, %v", all, err)
	}
	if err := r.Signal(r.ctx, "one", syscall.SIGTERM, false); !errors.Is(err, ErrNotFound) {
		t.Errorf("signal to nobody: %v", err)
	}
}

func TestStartErrorsAreNoExits(t *testing.T) {
	r := newRig(t)
	file := filepath.Join(r.cfg.DataDir, "plain")
	if err := os.WriteFile(file, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*ProcessSpec)
		want   error
		text   string
	}{
		{"no-program", func(s *ProcessSpec) { s.Argv = []string{"/no/such/program"} }, ErrStart, "no such file"},
		{"no-format", func(s *ProcessSpec) { s.Argv = []string{file} }, ErrStart, "exec format"},
		{"no-dir", func(s *ProcessSpec) { s.Dir = "/no/such/dir" }, ErrStart, "working directory"},
		{"log-is-file", func(s *ProcessSpec) { s.Log.Dir = file }, ErrStart, "log"},
		{"socket-elsewhere", func(s *ProcessSpec) { s.Socket = "/tmp/elsewhere.sock" }, ErrStart, "socket directory"},
		{"relative", func(s *ProcessSpec) { s.Argv = []string{"sh"} }, ErrBadRequest, "absolute"},
		{"no-argv", func(s *ProcessSpec) { s.Argv = nil }, ErrBadRequest, "argv"},
		{"bad id", func(*ProcessSpec) {}, ErrBadRequest, "id"},
		{"dots", func(s *ProcessSpec) { s.Dir = "/tmp/../etc" }, ErrBadRequest, "clean"},
		{"env", func(s *ProcessSpec) { s.Env = map[string]online.Secret{"a=b": ""} }, ErrBadRequest, "environment"},
		{"view-root", func(s *ProcessSpec) { s.View = []View{{Path: "/"}} }, ErrBadRequest, "view"},
		{"user", func(s *ProcessSpec) { s.User = "root" }, ErrBadRequest, "user"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := r.shell(tt.name, "exit 0")
			tt.change(&s)
			_, err := r.Start(r.ctx, s)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("error %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
	if all, err := r.List(r.ctx); err != nil || len(all) != 0 {
		t.Errorf("failed starts are listed: %+v, %v", all, err)
	}
}

func TestSocketListensBeforeTheProcess(t *testing.T) {
	r := newRig(t)
	dir, err := SocketDir(r.cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	spec := r.child("server", "accept")
	spec.Socket = filepath.Join(dir, "w1.sock")
	r.start(spec)
	conn, err := net.Dial("unix", spec.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
		t.Fatalf("answer %q, %v", line, err)
	}
	if e := r.exit("server"); e.Code != 0 {
		t.Fatalf("%+v, output %q", e, r.output("server"))
	}
	if _, err := os.Lstat(spec.Socket); !os.IsNotExist(err) {
		t.Errorf("the socket was left: %v", err)
	}
}

func TestEnvironmentIsNotOnDisk(t *testing.T) {
	r := newRig(t)
	spec := r.shell("secretive", `test "$KEY" = hunter2-and-more && sleep 1000`)
	spec.Env["KEY"] = "hunter2-and-more"
	r.start(spec)
	bad := r.shell("failing", "exit 0")
	bad.Env["KEY"], bad.Dir = "hunter2-and-more", "/no/such/dir"
	if _, err := r.Start(r.ctx, bad); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v", err)
	}
	files := 0
	err := filepath.WalkDir(r.cfg.DataDir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), "hunter2") {
			t.Errorf("%s holds the secret", path)
		}
		return err
	})
	if err != nil || files < 3 {
		t.Errorf("%d files were searched: %v", files, err)
	}
	if !r.isRunning("secretive") {
		t.Error("the process did not get its environment")
	}
}

func (r *rig) isRunning(id string) bool {
	r.t.Helper()
	all, err := r.List(r.ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return slices.ContainsFunc(all, func(p Process) bool { return p.ID == id && p.Running() })
}
