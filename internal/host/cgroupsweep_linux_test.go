package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCgroupsOfPredecessorsAreSwept: also when they were in other cgroups than the one who comes next, and never another's.
func TestCgroupsOfPredecessorsAreSwept(t *testing.T) {
	requireRoot(t)
	mounts, err := cgroupMounts()
	if err != nil {
		t.Fatal(err)
	}
	parent, enter := "", ""
	for _, m := range mounts { // the test's own place in one of them, where supervisors are put
		dir := filepath.Join(m.places()[0], fmt.Sprintf("test-of-portico-%d", os.Getpid()))
		if makeCgroup(dir) == nil {
			parent, enter = dir, "echo $$ > "+dir+"/cgroup.procs || exit 1\n"
			break
		}
	}
	if parent == "" {
		t.Skip("no hierarchy in which this user may make cgroups")
	}
	t.Cleanup(func() { removeCgroups(t.Context(), []string{parent}) })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "host.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"+enter+"exec "+exe+" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, ctx: testContext(t), cfg: Config{DataDir: t.TempDir(), Executable: script}}
	r.attach()
	r.start(r.shell("member", "sleep 1000"))
	base := ""
	for _, dir := range recordOf(t, r.cfg.DataDir, "member").Cgroups {
		if filepath.Dir(filepath.Dir(dir)) == parent {
			base = filepath.Dir(dir)
		}
	}
	if base == "" {
		t.Skip("supervisors have no cgroup in that hierarchy")
	}
	r.crash()

	// A process that was being set up, and things that only look like a predecessor's.
	unrecorded := filepath.Join(base, "unrecorded.01234567")
	another := filepath.Join(parent, "portico-0123456789ab")
	outside := filepath.Join(t.TempDir(), filepath.Base(base))
	for _, dir := range []string{unrecorded, another, outside} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { removeCgroups(t.Context(), []string{another}) })
	record := filepath.Join(stateDir(r.cfg.DataDir), cgroupsFile)
	text, err := os.ReadFile(record)
	if err != nil || !slices.Contains(strings.Fields(string(text)), base) {
		t.Fatalf("%s is not recorded: %q, %v", base, text, err)
	}
	if err := os.WriteFile(record, fmt.Appendf(text, "%s\n%s\n", another, outside), 0o600); err != nil {
		t.Fatal(err)
	}

	r.cfg.Executable = "" // the next one is where this process is
	r.attach()
	if _, err := os.Stat(base); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s was left: %v", base, err)
	}
	for _, dir := range []string{another, outside} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("what is not the predecessor's: %v", err)
		}
	}
	if text, err := os.ReadFile(record); err != nil || strings.Contains(string(text), parent) {
		t.Errorf("recorded now: %q, %v", text, err)
	}
}

func TestCgroupKeyIsOfOneDirectory(t *testing.T) {
	dir := t.TempDir()
	first, err := cgroupKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := cgroupKey(dir); err != nil || again != first {
		t.Errorf("%s, then %s, %v", first, again, err)
	}
	// Another directory of the same path. The first stays, so that its number is not given out again.
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir + ".old") })
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if other, err := cgroupKey(dir); err != nil || other == first {
		t.Errorf("another directory has %s too, %v", other, err)
	}
}
