package environment

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"portico/internal/online"
)

func TestCheckImage(t *testing.T) {
	for _, ok := range []string{
		"ubuntu", "words:1", "docker.io/tensorflow/serving:2.16.1", "localhost:5000/a/b_c:latest", "mcr.microsoft.com/azureml/x@sha256:" + strings.Repeat("0a", 32),
	} {
		if err := CheckImage(ok); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for _, bad := range []string{
		"", "-v", "--all", "a b", "docker-archive:/etc/image", "dir:/etc", "oci:/tmp/x:1", "docker://x/y", "../x", "/x", "x/../y", "a\nb", "x@sha256:1",
		strings.Repeat("x", MaxReference+1),
	} {
		if err := CheckImage(bad); !online.IsCode(err, online.CodeBadArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestImageOf reads configurations with the accounts of a tree.
func TestImageOf(t *testing.T) {
	tree := t.TempDir()
	if err := os.Mkdir(filepath.Join(tree, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\nserver:x:1000:1001::/home/server:\nodd:x:no:0::/:\n", "group": "root:x:0:\nstaff:x:50:\n",
	} {
		if err := os.WriteFile(filepath.Join(tree, "etc", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for user, want := range map[string]Image{
		"":            {UID: 0, GID: 0, Home: "/root"},
		"server":      {UID: 1000, GID: 1001, Home: "/home/server"},
		"1000":        {UID: 1000, GID: 1001, Home: "/home/server"},
		"server:50":   {UID: 1000, GID: 50, Home: "/home/server"},
		"7777":        {UID: 7777, GID: 0, Home: "/"},
		"7777:staff":  {UID: 7777, GID: 50, Home: "/"},
		"7777:8888":   {UID: 7777, GID: 8888, Home: "/"},
		"root:server": {UID: -1}, "nobody": {UID: -1}, "odd": {UID: -1}, "-1": {UID: -1}, "4294967296": {UID: -1},
	} {
		var found inspected
		found.ID, found.Config.User = "abc", user
		found.Config.Entrypoint, found.Config.Cmd, found.Config.StopSignal = []string{"serve"}, []string{"80"}, "quit"
		got, err := imageOf(&found, tree)
		if want.UID < 0 {
			if !online.IsCode(err, online.CodeImageBuildFailure) {
				t.Errorf("%q: %+v, %v", user, got, err)
			}
			continue
		}
		want.Digest, want.Entrypoint, want.Command, want.Dir, want.StopSignal = "sha256:abc", []string{"serve"}, []string{"80"}, "/", 3
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%q: %+v, %v", user, got, err)
		}
	}
	for field, change := range map[string]func(*inspected){
		"working directory": func(i *inspected) { i.Config.WorkingDir = "work" },
		"stop signal":       func(i *inspected) { i.Config.StopSignal = "SIGNONE" },
	} {
		var found inspected
		change(&found)
		if _, err := imageOf(&found, tree); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	// Absolute links begin at the tree's root, also in the place of directories.
	for link, to := range map[string]string{"store/etc/passwd": "/store/../../nss/passwd", "nss": "store/real"} {
		if err := os.MkdirAll(filepath.Join(tree, filepath.Dir(link)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(tree, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(tree, "etc"), filepath.Join(tree, "store", "real")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/store/etc", filepath.Join(tree, "etc")); err != nil {
		t.Fatal(err)
	}
	var linked inspected
	linked.Config.User = "server"
	if got, err := imageOf(&linked, tree); err != nil || got.UID != 1000 || got.Home != "/home/server" {
		t.Errorf("by links: %+v %v", got, err)
	}
	// A file of accounts that leads out of the tree is not followed.
	passwd := filepath.Join(tree, "store", "real", "passwd")
	for _, to := range []string{"/etc/passwd", "../../../../../../../../etc/passwd", "/../etc/../etc/passwd"} {
		if err := os.Remove(passwd); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, passwd); err != nil {
			t.Fatal(err)
		}
		var found inspected
		found.Config.User = "nobody"
		if got, err := imageOf(&found, tree); err == nil {
			t.Errorf("the machine's accounts were asked by %s: %+v", to, got)
		}
	}
}

// store is podman with a store of a test's own.
type store struct {
	t    *testing.T
	conf string
	more map[string]string // variables of the server's
}

func newStore(t *testing.T) *store {
	t.Helper()
	if _, err := exec.LookPath("podman"); err != nil || os.Geteuid() != 0 {
		t.Skip("podman is not installed, or this is not root")
	}
	dir := t.TempDir()
	s := &store{t: t, conf: filepath.Join(dir, "storage.conf")}
	text := fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", filepath.Join(dir, "graph"), filepath.Join(dir, "run"))
	if err := os.WriteFile(s.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	info := exec.CommandContext(t.Context(), "podman", "info")
	info.Env = append(os.Environ(), "CONTAINERS_STORAGE_CONF="+s.conf)
	if out, err := info.CombinedOutput(); err != nil {
		t.Skipf("podman does not work here: %v\n%s", err, out)
	}
	return s
}

func (s *store) getenv(name string) (string, bool) {
	if name == "CONTAINERS_STORAGE_CONF" {
		return s.conf, true
	}
	if value, ok := s.more[name]; ok {
		return value, true
	}
	return os.LookupEnv(name)
}

func (s *store) run(stdin io.Reader, args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "podman", args...)
	cmd.Env, cmd.Stdin = append(os.Environ(), "CONTAINERS_STORAGE_CONF="+s.conf), stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// load makes an image of one file.
func (s *store) load(tag, content string) {
	s.t.Helper()
	s.run(archive(s.t, tar.Header{Name: "app/serve", Typeflag: tar.TypeReg, Linkname: content, Mode: 0o4755}), "import", "--quiet",
		"--change", `ENTRYPOINT ["/app/serve"]`, "--change", "ENV A=b", "--change", "USER 7:8", "--change", "WORKDIR /app", "-", tag)
}

func (s *store) builder(change func(*Config)) *Builder {
	s.t.Helper()
	cfg := Config{Dir: filepath.Join(s.t.TempDir(), "environments"), Runner: ExecRunner{}, Getenv: s.getenv, Pythons: nil, OnlyPythons: true}
	if change != nil {
		change(&cfg)
	}
	b, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(b.Close)
	return b
}

// left is what builds left behind beside what is complete.
func (s *store) left(b *Builder) string {
	s.t.Helper()
	made, err := filepath.Glob(filepath.Join(b.cfg.Dir, "image-*"))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.run(nil, "ps", "--all", "--quiet") + strings.Join(made, " ")
}

func TestEnsureImage(t *testing.T) {
	s := newStore(t)
	s.load("localhost/words:latest", "first")
	b := s.builder(nil)
	var log bytes.Buffer
	first, err := b.EnsureImage(t.Context(), "words:1", "localhost/words:latest", &log)
	if err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	want := Image{
		ID: first.ID, Tree: filepath.Join(b.cfg.Dir, first.ID, treeDir), Digest: first.Digest, Entrypoint: []string{"/app/serve"},
		Env: first.Env, Dir: "/app", UID: 7, GID: 8, Home: "/",
	}
	if !reflect.DeepEqual(first, want) || !slices.Contains(first.Env, "A=b") || !strings.HasPrefix(first.Digest, "sha256:") {
		t.Errorf("%+v", first)
	}
	if info, err := os.Stat(filepath.Join(first.Tree, "app", "serve")); err != nil || info.Mode() != 0o755 {
		t.Errorf("%v %v", info, err)
	}
	if !strings.Contains(log.String(), first.Digest) || strings.Contains(log.String(), b.cfg.Dir) {
		t.Errorf("log:\n%s", &log)
	}
	if d, err := b.Describe(first.ID); err != nil || d.Source != "image localhost/words:latest" || d.Bytes == 0 {
		t.Errorf("%+v %v", d, err)
	}

	// The tag moves and its first image goes: the version that has it keeps it, another gets the new one.
	s.run(nil, "rmi", "localhost/words:latest")
	s.load("localhost/words:latest", "second")
	again, err := b.EnsureImage(t.Context(), "words:1", "localhost/words:latest", nil)
	if err != nil || !reflect.DeepEqual(again, first) {
		t.Errorf("%+v %v", again, err)
	}
	var wg sync.WaitGroup
	var others [3]Image
	for i := range others {
		wg.Go(func() {
			var err error
			if others[i], err = b.EnsureImage(t.Context(), fmt.Sprint("words:", 2+i%2), "localhost/words:latest", nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if others[0].ID == first.ID || others[0].ID != others[1].ID || others[0].ID != others[2].ID {
		t.Errorf("%+v", others)
	}
	if text, _ := os.ReadFile(filepath.Join(others[0].Tree, "app", "serve")); string(text) != "second" {
		t.Errorf("the new image holds %q", text)
	}
	// A builder that starts anew keeps what was complete.
	b.Close()
	later := s.builder(func(c *Config) { c.Dir = b.cfg.Dir })
	if again, err := later.EnsureImage(t.Context(), "words:1", "localhost/words:latest", nil); err != nil || !reflect.DeepEqual(again, first) {
		t.Errorf("%+v %v", again, err)
	}
	if err := later.Remove(first.ID); err != nil {
		t.Fatal(err)
	}
	_, err = later.EnsureImage(t.Context(), "words:1", "localhost/words:latest", nil)
	if !online.IsCode(err, online.CodeImageBuildFailure) || !strings.Contains(err.Error(), first.Digest) {
		t.Errorf("an image that is gone everywhere: %v", err)
	}
	if left := s.run(nil, "ps", "--all", "--quiet"); left != "" {
		t.Errorf("containers are left: %s", left)
	}
}

func TestEnsureImageThatCannotBe(t *testing.T) {
	s := newStore(t)
	s.load("localhost/big", strings.Repeat("x", 1<<20))
	s.run(archive(t, tar.Header{Name: "serve", Typeflag: tar.TypeReg}), "import", "--quiet", "--arch", "s390x", "-", "localhost/other")
	for name, c := range map[string]struct {
		change    func(*Config)
		reference string
		code      online.Code
		says      string
	}{
		"not here":   {nil, "localhost/none", online.CodeImageBuildFailure, "podman build or podman load"},
		"not pulled": {func(c *Config) { c.NeverPull = true }, "registry.invalid/none", online.CodeImageBuildFailure, "does not pull"},
		"of others":  {nil, "localhost/other", online.CodeImageBuildFailure, "made for linux/s390x"},
		"no name":    {nil, "docker-archive:/etc/x", online.CodeBadArgument, "not the name of an image"},
		"no podman":  {func(c *Config) { c.Podman = never }, "localhost/big", online.CodeNotImplemented, "podman"},
		"too big":    {func(c *Config) { c.MaxImageBytes = 512 << 10 }, "localhost/big", online.CodeImageBuildFailure, "bigger than"},
		"too slow":   {func(c *Config) { c.BuildTimeout = time.Millisecond }, "localhost/big", online.CodeImageBuildFailure, "build timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			b := s.builder(c.change)
			_, err := b.EnsureImage(t.Context(), name, c.reference, nil)
			if !online.IsCode(err, c.code) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			if left := s.left(b); left != "" {
				t.Errorf("left: %s", left)
			}
		})
	}
	// Who gives up is told so, and nothing stays.
	b := s.builder(nil)
	ctx, cancel := context.WithCancel(t.Context())
	gone := errors.New("gone")
	_, err := b.EnsureImage(ctx, "v", "localhost/big", writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "unpacking") {
			cancel()
			return 0, gone
		}
		return len(p), nil
	}))
	cancel()
	if !errors.Is(err, gone) && !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	b.Close()
	if left := s.left(b); left != "" {
		t.Errorf("left: %s", left)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
