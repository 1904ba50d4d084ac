package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"portico/internal/online"
)

// rooted is a rig whose machine gives processes roots of their own.
func rooted(t *testing.T) *rig {
	t.Helper()
	r := sandboxed(t)
	if c := r.Info().Capabilities; !c.Roots {
		t.Skip("no roots of their own here: ", c.NoRoots)
	}
	return r
}

// tree makes a root file system with one static program, which this repository has: the Go tool builds it.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "bin", "inside"), "./testdata/inside")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "data/file": "from the tree"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"etc/resolv.conf": "/run/nowhere", "var": "/data/../../../../data", "etc/hosts": "../../../../../etc/hosts",
		"tmp": "../place/for/tmp", "place/for": "/deep/../data"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(link)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// inTree is a specification of the program of a tree.
func (r *rig) inTree(id, tree string, uid int, args ...string) ProcessSpec {
	r.t.Helper()
	scratch := filepath.Join(r.cfg.DataDir, "scratch", id)
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		r.t.Fatal(err)
	}
	return ProcessSpec{
		ID: id, Argv: append([]string{"inside"}, args...), User: UserSeparate,
		Env:  map[string]online.Secret{"PATH": "/usr/bin:/bin", "SECRET": "quite"},
		Root: &Root{Tree: tree, Scratch: scratch, UID: uid, GID: uid, Hostname: id},
		Log:  LogSpec{Dir: filepath.Join(r.cfg.DataDir, "log", id)},
	}
}

func TestRootOfItsOwn(t *testing.T) {
	r := rooted(t)
	tree := tree(t)
	model := filepath.Join(r.cfg.DataDir, "model")
	if err := os.Mkdir(model, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(model, "words"), []byte("of the model"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []int{0, 1000} {
		t.Run(fmt.Sprint(uid), func(t *testing.T) {
			id := fmt.Sprintf("look-%d", uid)
			spec := r.inTree(id, tree, uid, "look")
			spec.View = []View{{Path: model, At: "/var/models/m/1"}}
			p, err := r.Start(r.ctx, spec)
			if err != nil {
				t.Fatal(err)
			}
			exit := r.exit(id)
			said := r.output(id)
			if exit.Code != 0 {
				t.Fatalf("exit %+v\n%s", exit, said)
			}
			for _, want := range []string{
				fmt.Sprintf("ids %d %d []", uid, uid), "hostname " + id, "model of the model", "file from the tree",
				"CapEff 0000000000000000", "CapBnd 0000000000000000", "NoNewPrivs 1", "write / ok", "write /etc ok", "write /data ok",
				"write /tmp ok", "write /dev/shm ok", "write /var/models/m/1 refused", "write /dev/stdout ok", "device /dev/null ok",
				"processes 1", "interfaces [lo]", "mount refused", "device node refused", "hosts 127.0.0.1 localhost", "owner of / " + fmt.Sprint(uid),
			} {
				if !strings.Contains(said, want+"\n") {
					t.Errorf("it does not say %q", want)
				}
			}
			if strings.Contains(said, "outside") || t.Failed() {
				t.Errorf("it says:\n%s", said)
			}
			if p.UID < 60000 {
				t.Errorf("outside it is user %d", p.UID)
			}
			if _, err := os.Stat(filepath.Join(tree, "new")); err == nil {
				t.Error("the tree was changed")
			}
		})
	}
}

// TestNoRootsIsNoReduction: what runs is as isolated as ever where images cannot run.
func TestNoRootsIsNoReduction(t *testing.T) {
	none := func() error { return nil }
	p := &platform{cgroups: &cgroups{}, users: &users{}}
	c := p.capabilities(none, none, none, func(bool) error { return errors.New("no overlay") })
	if c.Roots || c.NoRoots != "no overlay" || strings.Contains(strings.Join(c.Reductions, " "), "overlay") {
		t.Errorf("%+v", c)
	}
}

// TestRootNetwork has two processes that listen on one port.
func TestRootNetwork(t *testing.T) {
	r := rooted(t)
	tree := tree(t)
	for _, id := range []string{"one", "two"} {
		if _, err := r.Start(r.ctx, r.inTree(id, tree, 1000, "serve", "80")); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"one", "two", "one"} {
		if got := r.read(id, 80); got != "this is "+id {
			t.Errorf("%s says %q", id, got)
		}
	}
	if _, err := r.DialIn(r.ctx, "one", 81); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port without a listener: %v", err)
	}
	if _, err := r.DialIn(r.ctx, "three", 80); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such process: %v", err)
	}
	ctx, cancel := context.WithCancel(r.ctx)
	cancel()
	if _, err := r.DialIn(ctx, "one", 80); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := r.Start(r.ctx, r.shell("plain", "sleep 100")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.DialIn(r.ctx, "plain", 80); !errors.Is(err, ErrNotFound) {
		t.Errorf("a process without a network of its own: %v", err)
	}
	if err := r.Signal(r.ctx, "one", syscall.SIGTERM, true); err != nil {
		t.Fatal(err)
	}
	r.exit("one")
	if _, err := r.DialIn(r.ctx, "one", 80); !errors.Is(err, ErrNotFound) {
		t.Errorf("an ended process: %v", err)
	}
}

func TestRootThatCannotBe(t *testing.T) {
	r := rooted(t)
	tree := tree(t)
	if err := os.Mkdir(filepath.Join(tree, "scripts"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"bash": "#! /bin/bash -e\n", "windows": "#!/bin/inside\r\n", "text": "echo", "plain": "#!/bin/inside\n"} {
		mode := os.FileMode(0o755)
		if name == "plain" {
			mode = 0o644
		}
		if err := os.WriteFile(filepath.Join(tree, "scripts", name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		change func(*ProcessSpec)
		err    error
		says   string
	}{
		"no tree":     {func(s *ProcessSpec) { s.Root.Tree += "/none" }, ErrStart, "tree"},
		"no scratch":  {func(s *ProcessSpec) { s.Root.Scratch += "/none" }, ErrStart, "writable file system"},
		"no program":  {func(s *ProcessSpec) { s.Argv[0] = "other" }, ErrStart, "it is in no directory of PATH"},
		"escape":      {func(s *ProcessSpec) { s.Argv[0] = "/../../../bin/sh" }, ErrBadRequest, "clean path"},
		"of machine":  {func(s *ProcessSpec) { s.Argv[0] = "/bin/sh" }, ErrStart, "no such file"},
		"interpreter": {func(s *ProcessSpec) { s.Argv[0] = "/scripts/bash" }, ErrStart, `the interpreter of its first line, "/bin/bash -e", is not`},
		"line ends":   {func(s *ProcessSpec) { s.Argv[0] = "/scripts/windows" }, ErrStart, "save the script with Unix line ends"},
		"no script":   {func(s *ProcessSpec) { s.Argv[0] = "/scripts/text" }, ErrStart, "no script that begins with #!"},
		"mode":        {func(s *ProcessSpec) { s.Argv[0] = "/scripts/plain" }, ErrStart, "not executable (chmod +x)"},
		"directory":   {func(s *ProcessSpec) { s.Argv[0] = "/scripts" }, ErrStart, "it is not a file"},
		"own user":    {func(s *ProcessSpec) { s.User = UserOwn }, ErrBadRequest, "separate user"},
		"over a file": {func(s *ProcessSpec) {
			s.View = []View{{Path: r.cfg.DataDir, At: "/etc/passwd"}}
		}, ErrStart, "view /etc/passwd"},
		"over /proc": {func(s *ProcessSpec) {
			s.View = []View{{Path: r.cfg.DataDir, At: "/data"}, {Path: tree, At: "/data/none"}}
		},
			ErrStart, "it lies in another view"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := r.inTree(strings.NewReplacer(" ", "-", "/", "-").Replace(name), tree, 0, "look")
			c.change(&spec)
			_, err := r.Start(r.ctx, spec)
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

func (r *rig) read(id string, port int) string {
	r.t.Helper()
	for {
		conn, err := r.DialIn(r.ctx, id, port)
		if errors.Is(err, syscall.ECONNREFUSED) && r.ctx.Err() == nil {
			continue // it does not listen yet
		}
		if err != nil {
			r.t.Fatal(err)
		}
		defer conn.Close()
		text, err := io.ReadAll(conn)
		if err != nil {
			r.t.Fatal(err)
		}
		return string(text)
	}
}

// outward gives an address of this machine that is no loopback, with a listener.
func outward(t *testing.T) net.Listener {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			l, err := net.Listen("tcp4", net.JoinHostPort(n.IP.String(), "0"))
			if err == nil {
				t.Cleanup(func() { _ = l.Close() })
				return l
			}
		}
	}
	t.Skip("this machine has no address but the loopback's")
	return nil
}

// TestRootEgress reaches out of a network of its own, to another address of this machine and not to its loopback. What
// makes the way out ends with the process, and the process with it.
func TestRootEgress(t *testing.T) {
	r := rooted(t)
	if why := r.Info().Capabilities.NoEgress; why != "" {
		t.Skip("no way out of networks here: ", why)
	}
	out := outward(t)
	loopback, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer loopback.Close()
	_, port, _ := net.SplitHostPort(loopback.Addr().String())
	tree := tree(t)
	hidden := net.JoinHostPort("10.0.2.2", port) // by which the program stands for the loopback
	for _, c := range []struct {
		id       string
		egress   bool
		out      string
		resolver string
	}{{"open", true, "ok", "nameserver " + egressResolver}, {"shut", false, "refused", ""}} {
		spec := r.inTree(c.id, tree, 0, "dial", out.Addr().String(), hidden)
		spec.Root.Egress = c.egress
		if _, err := r.Start(r.ctx, spec); err != nil {
			t.Fatal(err)
		}
		for !strings.Contains(r.output(c.id), "all are tried") && r.ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		said := r.output(c.id)
		if !strings.Contains(said, "dial "+out.Addr().String()+" "+c.out) || !strings.Contains(said, "dial "+hidden+" refused") ||
			!strings.HasPrefix(said, "resolver "+c.resolver) {
			t.Errorf("%s says:\n%s", c.id, said)
		}
	}
	if n := len(waysOut(t, r)); n != 1 {
		t.Fatalf("%d ways out run", n)
	}
	if err := r.Signal(r.ctx, "open", syscall.SIGTERM, true); err != nil {
		t.Fatal(err)
	}
	r.exit("open")
	if left := waysOut(t, r); len(left) != 0 {
		t.Errorf("%v is left of the way out", left)
	}
	spec := r.inTree("again", tree, 0, "serve", "80")
	spec.Root.Egress = true
	if _, err := r.Start(r.ctx, spec); err != nil {
		t.Fatal(err)
	}
	for _, pid := range waysOut(t, r) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	if exit := r.exit("again"); exit.Signal != int(syscall.SIGKILL) {
		t.Errorf("without a way out: %+v", exit)
	}
}

// A way out that ends before its process counts as running takes that with it too.
func TestEgressThatEndsAtOnce(t *testing.T) {
	dir := t.TempDir()
	// It is ready as soon as it is in the process's cgroups, and gone. The one of the host's own trial gets into none.
	script := `#!/bin/sh
was=$(cat /proc/self/cgroup) tries=0
while [ "$(cat /proc/self/cgroup)" = "$was" ] && [ $tries -lt 100 ]; do tries=$((tries + 1)); done
printf 1 >&3
`
	if err := os.WriteFile(filepath.Join(dir, "slirp4netns"), []byte(script), 0o755); err != nil { //nolint:gosec // it is a program
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	r := rooted(t)
	if why := r.Info().Capabilities.NoEgress; why != "" {
		t.Fatal("no way out of networks here: ", why)
	}
	spec := r.inTree("cut-off", tree(t), 0, "serve", "80")
	spec.Root.Egress = true
	if _, err := r.Start(r.ctx, spec); err != nil {
		t.Fatal(err)
	}
	if exit := r.exit("cut-off"); exit.Signal != int(syscall.SIGKILL) {
		t.Errorf("without a way out: %+v", exit)
	}
}

// waysOut lists the processes that are one, of the rig's supervisor.
func waysOut(t *testing.T, r *rig) []int {
	t.Helper()
	all, err := allPids()
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, pid := range all {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, state, _ := strings.Cut(string(stat), ") ")
		if strings.HasPrefix(string(line), "slirp4netns\x00") && strings.HasPrefix(strings.TrimLeft(state, "RSD"), fmt.Sprintf(" %d ", r.Info().PID)) {
			pids = append(pids, pid)
		}
	}
	return pids
}
