package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"portico/internal/testkit"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func mustCanonical(t *testing.T, dir string) string {
	t.Helper()
	root, err := canonical(dir)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestPageIsSharedAndKeepsItsSize(t *testing.T) {
	r := newRig(t)
	spec := r.child("paged", "page")
	spec.Page = filepath.Join(r.cfg.DataDir, "page")
	hold := r.shell("held", "sleep 1000")
	hold.Page = filepath.Join(r.cfg.DataDir, "page2")
	r.start(hold)
	// The caller reads and writes the page of a running process by its path.
	f, err := os.OpenFile(hold.Page, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mapped, err := syscall.Mmap(int(f.Fd()), 0, PageBytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Munmap(mapped) }()
	for _, b := range mapped {
		if b != 0 {
			t.Fatal("a new page is not zeroed")
		}
	}
	copy(mapped, "kept")
	if e := r.run(spec); e.Code != 0 {
		t.Fatalf("%+v, output %q", e, r.output("paged"))
	}
	if got := r.output("paged"); !strings.Contains(got, "truncate: operation not permitted") {
		t.Errorf("a process could shrink its page: %q", got)
	}
	for id, want := range map[string]string{"paged": "hello", "held": "kept"} {
		if id == "held" {
			if err := r.Signal(r.ctx, id, syscall.SIGKILL, true); err != nil {
				t.Fatal(err)
			}
			r.exit(id)
		}
		path := map[string]string{"paged": spec.Page, "held": hold.Page}[id]
		info, err := os.Lstat(path)
		text, readErr := os.ReadFile(path)
		if err != nil || readErr != nil || !info.Mode().IsRegular() || len(text) != PageBytes || !strings.HasPrefix(string(text), want) {
			t.Errorf("%s: the page after the exit: %v %v, %d bytes, begins %.8q", id, err, readErr, len(text), text)
		}
	}
}

func TestOnlyStatedDescriptorsAreInherited(t *testing.T) {
	r := newRig(t)
	dir, err := SocketDir(r.cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	full := r.child("full", "descriptors")
	full.Socket, full.Page = filepath.Join(dir, "d.sock"), filepath.Join(r.cfg.DataDir, "d.page")
	bare := r.child("bare", "descriptors")
	for _, tt := range []struct {
		spec ProcessSpec
		want []string
	}{
		{full, []string{"0 /dev/null", "1 pipe", "2 pipe", "3 socket", "4 /memfd:portico-page"}},
		{bare, []string{"0 /dev/null", "1 pipe", "2 pipe"}},
	} {
		if e := r.run(tt.spec); e.Code != 0 {
			t.Fatalf("%+v", e)
		}
		var got []string
		for line := range strings.Lines(r.output(tt.spec.ID)) {
			// What the program opened itself: its poller, its limits and the directory that it lists.
			if !strings.Contains(line, "anon_inode") && !strings.Contains(line, "/sys/fs/cgroup") && !strings.Contains(line, "/fd\n") {
				name, _, _ := strings.Cut(strings.TrimSpace(line), ":[")
				got = append(got, strings.TrimSuffix(name, " (deleted)"))
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s inherited %q, want %q", tt.spec.ID, got, tt.want)
		}
	}
}

func TestEverythingThatAProcessStartedEndsWithIt(t *testing.T) {
	r := newRig(t)
	// A child in the group, one in a session of its own, and a daemon whose parent is gone.
	script := `sleep 1001 & echo $!; setsid sleep 1002 & (setsid sh -c 'echo $$ >%s; exec sleep 1003' &) ; sleep 1000`
	for _, user := range []User{UserOwn, UserSeparate} {
		t.Run(string(user), func(t *testing.T) {
			id := "family-" + string(user)
			dir := filepath.Join(r.cfg.DataDir, id)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			spec := r.shell(id, fmt.Sprintf(script, filepath.Join(dir, "daemon")))
			spec.User, spec.View = user, []View{{Path: dir, Writable: true}}
			p := r.start(spec)
			mark := recordOf(t, r.cfg.DataDir, id)
			testkit.Until(t, "start of the daemon", func() bool {
				text, _ := os.ReadFile(filepath.Join(dir, "daemon"))
				return len(strings.Fields(string(text))) == 1 && len(family(t, mark)) >= 4
			})
			before := family(t, mark)
			if err := r.Signal(r.ctx, id, syscall.SIGKILL, false); err != nil {
				t.Fatal(err)
			}
			if e := r.exit(id); e.Signal != int(syscall.SIGKILL) || e.OOMKilled {
				t.Errorf("exit %+v", e)
			}
			for _, pid := range before {
				if alive(pid) {
					t.Errorf("process %d lives after the exit of %d was told", pid, p.PID)
				}
			}
		})
	}
}

// family lists the processes that carry the mark of a record.
func family(t *testing.T, rec record) []int {
	t.Helper()
	rec.Cgroups = nil
	pids, err := members(&rec)
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

func TestMemoryLimit(t *testing.T) {
	requireRoot(t)
	r := newRig(t)
	if !r.Info().Capabilities.Memory {
		t.Skip("no memory controller: ", r.Info().Capabilities.Reductions)
	}
	spec := r.child("big", "allocate", "512")
	spec.User, spec.Limits.MemoryBytes = UserSeparate, 64<<20
	if e := r.run(spec); !e.OOMKilled || e.Signal != int(syscall.SIGKILL) {
		t.Errorf("exit %+v, output %q", e, r.output("big"))
	}
	spec = r.child("small", "allocate", "16")
	spec.User, spec.Limits.MemoryBytes = UserSeparate, 256<<20
	if e := r.run(spec); e.OOMKilled || e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
}

func TestPidsLimit(t *testing.T) {
	requireRoot(t)
	r := newRig(t)
	if !r.Info().Capabilities.Pids {
		t.Skip("no pids controller: ", r.Info().Capabilities.Reductions)
	}
	spec := r.shell("bomb", "for i in $(seq 100); do sleep 1000 & done; echo all")
	spec.User, spec.Limits.Pids = UserSeparate, 16
	if e := r.run(spec); e.Code == 0 {
		t.Errorf("100 processes fit into 16: %+v %q", e, r.output("bomb"))
	}
	if left := cgroupsOf(t, r); len(left) > 0 {
		t.Errorf("cgroups were left: %v", left)
	}
}

// cgroupsOf finds the cgroups of processes of a data directory.
func cgroupsOf(t *testing.T, r *rig) []string {
	t.Helper()
	var found []string
	for _, base := range basesOf(t, r) {
		entries, err := os.ReadDir(base)
		if errors.Is(err, fs.ErrNotExist) {
			continue // one of the places where it might be
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() {
				found = append(found, filepath.Join(base, e.Name()))
			}
		}
	}
	return found
}

// basesOf lists where a supervisor that this process starts may have cgroups.
func basesOf(t *testing.T, r *rig) []string {
	t.Helper()
	mounts, err := cgroupMounts()
	if err != nil {
		t.Fatal(err)
	}
	key, err := cgroupKey(mustCanonical(t, r.cfg.DataDir))
	if err != nil {
		t.Fatal(err)
	}
	return cgroupBases(mounts, key)
}

func TestCPULimit(t *testing.T) {
	requireRoot(t)
	r := newRig(t)
	if !r.Info().Capabilities.CPU {
		t.Skip("no cpu controller: ", r.Info().Capabilities.Reductions)
	}
	spec := r.shell("spin", "end=$(($(date +%s)+3)); while [ $(date +%s) -lt $end ]; do :; done")
	spec.User, spec.Limits.CPUMillis = UserSeparate, 100
	if e := r.run(spec); e.Code != 0 || e.UserTime+e.SystemTime > 2*time.Second {
		t.Errorf("a tenth of a core for at most 4 s gave %v: %+v", e.UserTime+e.SystemTime, e)
	}
}

func TestStartsLeaveNoDescriptors(t *testing.T) {
	r := newRig(t)
	dir, err := SocketDir(r.cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	starts := 500
	if testing.Short() {
		starts = 60
	}
	count := func() int {
		entries, err := os.ReadDir("/proc/" + strconv.Itoa(r.Info().PID) + "/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	round := func(n int) {
		var wg sync.WaitGroup
		limit := make(chan struct{}, 8)
		for i := range n {
			limit <- struct{}{}
			wg.Go(func() {
				defer func() { <-limit }()
				id := fmt.Sprintf("p%d", i)
				spec := r.shell(id, "exit 0")
				spec.User = UserSeparate
				spec.Socket, spec.Page = filepath.Join(dir, id), filepath.Join(r.cfg.DataDir, "page-"+id)
				if i%10 == 0 {
					spec.Argv = []string{"/no/such/program"}
				}
				if _, err := r.Start(r.ctx, spec); (err != nil) != (i%10 == 0) {
					t.Errorf("start %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		testkit.Until(t, "the end of all", func() bool {
			all, err := r.List(r.ctx)
			return err == nil && !slices.ContainsFunc(all, func(p Process) bool { return p.Running() })
		})
	}
	round(10)
	if left := cgroupsOf(t, r); len(left) > 0 {
		t.Errorf("cgroups were left: %v", left)
	}
	before := count()
	round(starts)
	testkit.Until(t, fmt.Sprintf("return to %d descriptors", before), func() bool { return count() <= before+2 })
}

// residentKiB is how much memory a process has.
func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kib, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return kib
		}
	}
	t.Fatalf("no memory is told of %d", pid)
	return 0
}

// One process prints a gigabyte: the supervisor stays small and others are served meanwhile.
func TestFloodOfOutput(t *testing.T) {
	r := newRig(t)
	bytes := 1 << 30
	if testing.Short() {
		bytes = 64 << 20
	}
	spec := r.child("flood", "flood", fmt.Sprint(bytes))
	spec.Log.FileBytes, spec.Log.Files = 1<<20, 3
	r.start(spec)
	for i := 0; r.isRunning("flood"); i++ {
		if e := r.run(r.shell(fmt.Sprintf("other%d", i), "echo here")); e.Code != 0 {
			t.Fatalf("%+v", e)
		}
		if kib := residentKiB(t, r.Info().PID); kib > 100<<10 {
			t.Fatalf("the host has %d KiB of memory", kib)
		}
	}
	if e := r.exit("flood"); e.Code != 0 || !strings.HasSuffix(e.Tail, "the end\n") {
		t.Fatalf("exit %+v", e)
	}
	text := r.output("flood")
	if len(text) > 3<<20 || len(text) < 2<<20 || !strings.HasSuffix(text, "the end\n") {
		t.Errorf("%d bytes are kept", len(text))
	}
}

// The supervisor's own log is put aside when it is long, while it runs.
func TestHostLogIsBounded(t *testing.T) {
	r := newRig(t)
	log := filepath.Join(stateDir(r.cfg.DataDir), hostLogName)
	if err := os.Truncate(log, hostLogMaxBytes+1); err != nil {
		t.Fatal(err)
	}
	r.run(r.shell("one", "exit 0"))
	testkit.Until(t, "a new log", func() bool {
		info, err := os.Stat(log)
		return err == nil && info.Size() < hostLogMaxBytes
	})
	r.run(r.shell("two", "exit 0"))
	if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), "id=two") {
		t.Errorf("the new log: %v, %q", err, text)
	}
	if info, err := os.Stat(log + ".old"); err != nil || info.Size() <= hostLogMaxBytes {
		t.Errorf("the old log: %v, %v", info, err)
	}
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: isolation is reduced for other users")
	}
}

func killPID(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// recordOf reads what the journal knows of a process.
func recordOf(t *testing.T, dataDir, id string) record {
	t.Helper()
	f, err := os.Open(filepath.Join(stateDir(dataDir), journalName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	j := &journal{records: map[string]*record{}}
	if _, err := j.replay(f); err != nil {
		t.Fatal(err)
	}
	if j.records[id] == nil {
		t.Fatalf("%s is not in the journal", id)
	}
	return *j.records[id]
}
