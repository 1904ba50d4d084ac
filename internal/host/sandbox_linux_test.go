package host

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// sandboxed is a rig whose machine isolates fully.
func sandboxed(t *testing.T) *rig {
	t.Helper()
	requireRoot(t)
	r := newRig(t)
	if c := r.Info().Capabilities; !c.Users || !c.Mounts {
		t.Skip("no full isolation here: ", c.Reductions)
	}
	return r
}

// sandboxChecks are shell scripts that succeed in a process that is isolated and sees code.
func sandboxChecks(dataDir, code string) []struct{ name, script string } {
	return []struct{ name, script string }{
		{"user", `test $(id -u) -ge 60000 && test $(id -g) -eq $(id -u) && test "$(id -G)" = "$(id -u)"`},
		{"user-name", `test "$(id -un)" = portico`},
		{"no-data-dir", `! ls ` + filepath.Join(dataDir, "master.key") + ` && ! ls ` + stateDir(dataDir)},
		{"view", `grep seen ` + filepath.Join(code, "score.py")},
		{"view-read-only", `! touch ` + filepath.Join(code, "new")},
		{"no-home", `! ls -A /root && ! ls -A /home`},
		{"no-shadow", `! test -e /etc/shadow`},
		{"no-write-etc", `! touch /etc/new && ! sh -c 'echo x >>/etc/passwd'`},
		{"no-write-usr", `! touch /usr/new && ! touch /new && ! mkdir /var/new`},
		{"tmp", `test -z "$(ls -A /tmp | grep -v ^$(echo ` + dataDir + ` | cut -d/ -f3)$)" && echo x >/tmp/mine && cat /tmp/mine`},
		{"shm", `echo x >/dev/shm/mine && cat /dev/shm/mine`},
		{"devices", `echo x >/dev/null && head -c 4 /dev/urandom >/dev/null && ! test -e /dev/kmsg && ! test -e /dev/vda`},
		{"no-capabilities", `grep -q '^CapBnd:.0*$' /proc/self/status && grep -q '^CapEff:.0*$' /proc/self/status && grep -q '^CapInh:.0*$' /proc/self/status`},
		{"no-new-privileges", `grep -q '^NoNewPrivs:.1$' /proc/self/status`},
		{"no-mount", `! mount -t tmpfs x /tmp`},
		{"no-namespace", `! unshare -m true`},
		{"no-other-processes", `for p in /proc/[0-9]*; do test "$(stat -c %u $p)" = "$(id -u)" || exit 1; done`},
		{"no-signals", `! kill -0 1`},
		{"no-control-socket", `! ls ` + filepath.Join(dataDir, "run")},
		{"no-cgroups", `! ls /sys/fs/cgroup && ! ls /sys/kernel`},
		{"resolver", `test -e /etc/hosts && test -r /etc/ld.so.cache`},
		{"no-core-files", `test "$(ulimit -c)" = 0`},
		{"cores", `test -d /sys/devices/system/cpu`},
		{"own-session", `test "$(ps -o sid= -p $$ | tr -d ' ')" = "$$" || test "$(cut -d' ' -f6 /proc/$$/stat)" = "$$"`},
	}
}

func TestSandboxHidesAndProtects(t *testing.T) {
	r := sandboxed(t)
	if err := os.WriteFile(filepath.Join(r.cfg.DataDir, "master.key"), []byte("key"), 0o600); err != nil {
		t.Fatal(err)
	}
	code := filepath.Join(r.cfg.DataDir, "code")
	if err := os.Mkdir(code, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(code, "score.py"), []byte("seen"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range sandboxChecks(r.cfg.DataDir, code) {
		t.Run(tt.name, func(t *testing.T) {
			spec := r.shell(tt.name, tt.script)
			spec.User, spec.View = UserSeparate, []View{{Path: code}}
			spec.Env["PATH"] = "/usr/bin:/bin:/usr/sbin:/sbin"
			if e := r.run(spec); e.Code != 0 {
				t.Errorf("%+v, output %q", e, r.output(tt.name))
			}
		})
	}
}

func TestSandboxViews(t *testing.T) {
	r := sandboxed(t)
	private := filepath.Join(r.cfg.DataDir, "closed", "deep") // below a directory that only root may enter
	if err := os.MkdirAll(private, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(private), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(private, "file"), []byte("deep"), 0o644); err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(r.cfg.DataDir, "work")
	if err := os.MkdirAll(filepath.Join(work, "old"), 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(r.cfg.DataDir, "link")
	if err := os.Symlink(private, link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, script string
		view         []View
	}{
		{"below-a-closed-directory", "cat " + private + "/file && ! ls " + filepath.Dir(private) + "/../master.key", []View{{Path: private}}},
		{"one-file", "cat " + private + "/file", []View{{Path: filepath.Join(private, "file")}}},
		{"through-a-link", "cat " + link + "/file && cat " + private + "/file", []View{{Path: link}}},
		{"elsewhere", "cat /srv/model/file && ! ls " + private, []View{{Path: private, At: "/srv/model"}}},
		{"writable", "touch " + work + "/new " + work + "/old/new", []View{{Path: work, Writable: true}}},
		{"writable-again", "rm " + work + "/old/new", []View{{Path: work, Writable: true}}},
		{"writable-tmp", "touch /tmp/on-disk", []View{{Path: work, At: "/tmp", Writable: true}}},
		{"nested", "touch " + work + "/x && ! touch " + work + "/old/x",
			[]View{{Path: filepath.Join(work, "old")}, {Path: work, Writable: true}}},
		{"in-system", "test -x /usr/bin/env", []View{{Path: "/usr/bin"}, {Path: "/bin"}}},
		{"device", "head -c 1 /dev/zero", []View{{Path: "/dev/zero"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := r.shell(tt.name, tt.script)
			spec.User, spec.View = UserSeparate, tt.view
			if e := r.run(spec); e.Code != 0 {
				t.Errorf("%+v, output %q", e, r.output(tt.name))
			}
		})
	}
	if _, err := os.Stat(filepath.Join(work, "on-disk")); err != nil {
		t.Error(err)
	}
	spec := r.shell("missing", "exit 0")
	spec.User, spec.View = UserSeparate, []View{{Path: "/no/such/path"}}
	if _, err := r.Start(r.ctx, spec); !errors.Is(err, ErrStart) || !strings.Contains(err.Error(), "view /no/such/path") {
		t.Errorf("missing view: %v", err)
	}
}

// A view that leads through a symbolic link of the sandbox must not reach the machine's own files.
func TestViewsDoNotEscape(t *testing.T) {
	r := sandboxed(t)
	base, outside := filepath.Join(r.cfg.DataDir, "base"), filepath.Join(r.cfg.DataDir, "outside")
	for _, dir := range []string{base, outside} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(base, "door")); err != nil {
		t.Fatal(err)
	}
	spec := r.shell("escape", "exit 0")
	spec.User = UserSeparate
	spec.View = []View{{Path: base, Writable: true}, {Path: "/usr/share", At: filepath.Join(base, "door", "planted")}}
	if _, err := r.Start(r.ctx, spec); !errors.Is(err, ErrStart) {
		t.Errorf("start: %v", err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside holds %v, %v", entries, err)
	}
}

// What user code may write to is set up by root the next time: a link that it leaves must lead nowhere new.
func TestLinksInWritableViewsDoNotEscape(t *testing.T) {
	r := sandboxed(t)
	work, secret := filepath.Join(r.cfg.DataDir, "work"), filepath.Join(r.cfg.DataDir, "secret")
	for _, dir := range []string{filepath.Join(work, "cache"), secret} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	spec := r.shell("user", "rmdir "+work+"/cache && ln -s "+secret+" "+work+"/cache && ln -s "+secret+" "+work+"/other")
	spec.User, spec.View = UserSeparate, []View{{Path: work, Writable: true}}
	if e := r.run(spec); e.Code != 0 {
		t.Fatalf("%+v, %q", e, r.output("user"))
	}
	for _, writable := range []bool{false, true} {
		spec.View = []View{{Path: work, Writable: true}, {Path: filepath.Join(work, "cache"), Writable: writable}}
		if _, err := r.Start(r.ctx, spec); !errors.Is(err, ErrStart) || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("start: %v", err)
		}
	}
	spec.View, spec.Argv[2] = []View{{Path: work, Writable: true}}, "! ls "+work+"/other/"
	if e := r.run(spec); e.Code != 0 {
		t.Errorf("%+v, %q", e, r.output("user"))
	}
	info, err := os.Lstat(secret)
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("the target of the link was given away: %+v, %v", info.Sys(), err)
	}
}

func TestUserIDsAreExclusive(t *testing.T) {
	requireRoot(t)
	first := newUsers(t, 63000, 63002)
	second := newUsers(t, 63000, 63002)
	seen := map[int]bool{}
	var leases []*userLease
	for _, u := range []*users{first, second, first} {
		l, err := u.take()
		if err != nil {
			t.Fatal(err)
		}
		if seen[l.uid] {
			t.Fatalf("%d was given out twice", l.uid)
		}
		seen[l.uid] = true
		leases = append(leases, l)
	}
	if _, err := second.take(); !errors.Is(err, ErrLimit) {
		t.Errorf("a fourth id: %v", err)
	}
	leases[1].release()
	l, err := first.take()
	if err != nil || l.uid != leases[1].uid {
		t.Errorf("after a release: %+v, %v", l, err)
	}
}

func newUsers(t *testing.T, first, last int) *users {
	t.Helper()
	u, err := openUsers(first, last)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.file.Close() })
	return u
}
