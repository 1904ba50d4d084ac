package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"portico/internal/testkit"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// familyScript leaves a child in the group, one in a session of its own, and a daemon without a parent.
const familyScript = `sleep 1001 & setsid sleep 1002 & (setsid sleep 1003 &) ; sleep 1000`

// crash kills the supervisor and waits until it is gone. Whoever comes next leaves none of its cgroups.
func (r *rig) crash() {
	r.t.Helper()
	r.t.Cleanup(func() { // after the end of who came next
		for _, base := range basesOf(r.t, r) {
			testkit.Until(r.t, "end of "+base, func() bool {
				_, err := os.Stat(base)
				return errors.Is(err, fs.ErrNotExist)
			})
		}
	})
	pid := r.Info().PID
	killPID(r.t, pid)
	<-r.Done()
	testkit.Until(r.t, "end of the host", func() bool { return !alive(pid) })
}

func TestNothingOutlivesAKilledHost(t *testing.T) {
	r := newRig(t)
	contained := r.Info().Capabilities.Contained
	var all []int
	for _, user := range []User{UserOwn, UserSeparate} {
		spec := r.shell("family-"+string(user), familyScript)
		spec.User = user
		p := r.start(spec)
		rec := recordOf(t, r.cfg.DataDir, spec.ID)
		testkit.Until(t, "start of the family", func() bool { return len(family(t, rec)) >= 4 })
		all = append(all, append(family(t, rec), p.PID)...)
	}
	r.start(r.shell("over", "exit 4"))
	r.exit("over")
	bystander := exec.Command("sleep", "1000") // another's process, which must not be touched
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = bystander.Process.Kill(), bystander.Wait() }()
	r.crash()
	if contained { // the kernel does it, nobody needs to come
		testkit.Until(t, "end of everything", func() bool { return countAlive(all) == 0 })
	}
	r.attach()
	if left := countAlive(all); left > 0 {
		t.Errorf("%d of %d processes live beside the next host", left, len(all))
	}
	if !alive(bystander.Process.Pid) {
		t.Error("a bystander was killed")
	}
	for id, want := range map[string]Exit{"family-own": {Code: -1, Lost: true}, "family-separate": {Code: -1, Lost: true}, "over": {Code: 4}} {
		if e := r.exit(id); e.Lost != want.Lost || e.Code != want.Code {
			t.Errorf("%s: %+v", id, e)
		}
	}
	r.start(r.shell("family-own", "sleep 1000"))
}

// sleepers are the members of a family that last: shells on their way to something else come and go.
func sleepers(t *testing.T, rec record) []int {
	t.Helper()
	return slices.DeleteFunc(family(t, rec), func(pid int) bool {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return string(name) != "sleep\n"
	})
}

func countAlive(pids []int) int {
	n := 0
	for _, pid := range pids {
		if alive(pid) {
			n++
		}
	}
	return n
}

// Without cgroups and namespaces, the recorded pid and the mark must do.
func TestRecordsFindWhatLeftTheGroup(t *testing.T) {
	dir := t.TempDir()
	state := stateDir(dir)
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	start := func(mark string) *exec.Cmd {
		cmd := exec.Command("/bin/sh", "-c", familyScript)
		cmd.Env = []string{"PATH=/usr/bin:/bin", markVariable + "=" + mark}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	j, err := openJournal(state)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	type kin struct {
		cmd  *exec.Cmd
		rec  record
		dies bool
		pids []int
	}
	var kins []*kin
	for i, change := range []func(*record){
		func(*record) {},
		func(r *record) { r.StartTime-- },                      // the number belongs to another process now
		func(r *record) { r.BootID = "another boot" },          // and here everything does
		func(r *record) { r.Exit = &Exit{Code: 0, Signal: 0} }, // ended, as far as is recorded
	} {
		mark := newMark()
		k := &kin{cmd: start(mark), dies: i == 0}
		pid := k.cmd.Process.Pid
		k.rec = record{Process: Process{ID: fmt.Sprintf("p%d", i), PID: pid, StartTime: startTime(pid)}, BootID: boot, Mark: mark}
		testkit.Until(t, "start of the family", func() bool { return len(sleepers(t, k.rec)) == 4 })
		k.pids = append(sleepers(t, k.rec), pid)
		change(&k.rec)
		if i == 1 {
			k.rec.Mark = newMark()
		}
		if err := j.append(entry{Start: &k.rec}); err != nil {
			t.Fatal(err)
		}
		kins = append(kins, k)
	}
	go func() { _ = kins[0].cmd.Wait() }() // as the reaper of a real supervisor's orphans would
	n, killErr := killJournal(testContext(t), j)
	if again, err := killJournal(testContext(t), j); n != 3 || again != 0 || err != nil {
		t.Errorf("killed %d, then %d, %v", n, again, err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	for _, k := range kins {
		if left := countAlive(k.pids); k.dies && left > 0 || !k.dies && left != len(k.pids) {
			t.Errorf("%s: %d of %d processes live", k.rec.ID, left, len(k.pids))
		}
		if !k.dies {
			for _, pid := range k.pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			_ = k.cmd.Wait()
		}
	}
	if killErr != nil {
		t.Error(killErr)
	}
}

// A supervisor that is killed while it sets processes up must leave none that it did not record.
func TestKilledWhileStarting(t *testing.T) {
	for round := range 3 {
		t.Run(strconv.Itoa(round), func(t *testing.T) {
			r := newRig(t)
			marker := fmt.Sprintf("%d%d", 400000+os.Getpid(), round)
			ctx, cancel := context.WithCancel(r.ctx)
			defer cancel()
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := 0; ctx.Err() == nil; i++ {
					if _, err := r.Start(ctx, r.shell(fmt.Sprintf("p%d", i), "exec sleep "+marker)); err != nil {
						return
					}
				}
			}()
			testkit.Until(t, "some starts", func() bool {
				all, err := r.List(r.ctx)
				return err == nil && len(all) > round*3
			})
			r.crash()
			cancel()
			<-done
			r.attach()
			testkit.Until(t, "end of the stages", func() bool { return !commandRuns(t, marker) })
		})
	}
}

// commandRuns says whether some process has text in its command line.
func commandRuns(t *testing.T, text string) bool {
	t.Helper()
	pids, err := allPids()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if pid != os.Getpid() && strings.Contains(string(line), text) {
			return true
		}
	}
	return false
}

func TestManyClientsStartOneSupervisor(t *testing.T) {
	r := newRig(t)
	if err := r.Shutdown(r.ctx, 0); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	pids := make([]int, 5)
	for i := range pids {
		wg.Go(func() {
			c, err := EnsureRunning(r.ctx, r.cfg)
			if err != nil {
				t.Error(err)
				return
			}
			pids[i] = c.Info().PID
			_ = c.Close()
		})
	}
	wg.Wait()
	for _, pid := range pids {
		if pid != pids[0] {
			t.Fatalf("several hosts: %v", pids)
		}
	}
	r.attach()
	// The others look for the lock a moment longer, and would take it when the one that has it ends.
	testkit.Until(t, "the end of the other supervisors", func() bool { return countCommands(t, r.cfg.DataDir) == 1 })
}

func TestNamespaceEndsWithItsFirstProcess(t *testing.T) {
	r := newRig(t)
	if !r.Info().Capabilities.Contained {
		t.Skip("no process namespace: ", r.Info().Capabilities.Reductions)
	}
	p := r.start(r.shell("inside", "sleep 1000"))
	var first int
	pids, err := allPids()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if strings.HasPrefix(string(line), initName) && strings.Contains(string(stat), fmt.Sprintf("PPid:\t%d\n", r.Info().PID)) {
			first = pid
		}
	}
	if first == 0 {
		t.Fatal("the namespace has no first process")
	}
	killPID(t, first)
	<-r.Done() // the supervisor cannot start anything any more, and ends
	if alive(p.PID) {
		t.Error("a process outlived its namespace")
	}
	r.attach()
	if e := r.exit("inside"); e.Signal != int(syscall.SIGKILL) || e.Lost {
		t.Errorf("exit %+v", e)
	}
}

func TestPeersOfOtherUsersAreRefused(t *testing.T) {
	requireRoot(t)
	r := newRig(t)
	path, err := controlSocket(r.cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	// Even where permissions are wide open, which they are not.
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("control socket: %v, %v", info.Mode(), err)
	}
	for p := filepath.Dir(path); len(p) > len(os.TempDir()); p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	ask := func(uid uint32) string {
		// Which program connects does not matter, only whose it is.
		cmd := exec.CommandContext(r.ctx, "/proc/self/exe", "child", "ask", path)
		exe, err := os.Open("/proc/self/exe") // the binary may lie where the other user cannot reach
		if err != nil {
			t.Fatal(err)
		}
		defer exe.Close()
		cmd.Path, cmd.ExtraFiles = "/proc/self/fd/3", []*os.File{exe}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("uid %d: %v, %s", uid, err, out)
		}
		return string(out)
	}
	if got := ask(0); !strings.Contains(got, "protocol") {
		t.Errorf("the owner got %q", got)
	}
	if got := ask(65533); got != "" {
		t.Errorf("a stranger got %q", got)
	}
}

func TestListAfterManyExits(t *testing.T) {
	r := newRig(t)
	for i := range 20 {
		r.run(r.shell(fmt.Sprintf("p%d", i), "exit 3"))
	}
	r.crash()
	r.attach()
	all, err := r.List(r.ctx)
	if err != nil || len(all) != 20 {
		t.Fatalf("%d exits are known after a crash, %v", len(all), err)
	}
	for _, p := range all {
		if p.Exit == nil || p.Exit.Code != 3 || p.Exit.Lost {
			t.Errorf("%+v", p)
		}
	}
}

func TestDialWithoutHost(t *testing.T) {
	if _, err := Dial(testContext(t), t.TempDir()); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
}
