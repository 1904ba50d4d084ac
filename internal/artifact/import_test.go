package artifact

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"portico/internal/durable"
	"portico/internal/online"
)

func openStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "artifacts"), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // t.TempDir cannot delete from read-only folders when the test is not root
		if err := removeTree(s.dir); err != nil {
			t.Error(err)
		}
	})
	return s
}

// tree writes files; a name that ends with * is executable.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		mode := fs.FileMode(0o640)
		if strings.HasSuffix(name, "*") {
			name, mode = strings.TrimSuffix(name, "*"), 0o750
		}
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o750), os.WriteFile(p, []byte(text), mode), os.Chmod(p, mode)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mustImport(t *testing.T, s *Store, source string) Tree {
	t.Helper()
	got, err := s.Import(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		out[rel] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestImportFolder(t *testing.T) {
	s := openStore(t)
	files := map[string]string{"score.py": "def run(x): return x\n", "sub/dir/data.bin": "\x00\x01", "run.sh*": "#!/bin/sh\n", "empty": ""}
	src := tree(t, files)
	got := mustImport(t, s, src)
	if got.Files != 4 || got.Bytes != 33 || got.IsFile || got.Name != filepath.Base(src) {
		t.Errorf("import gave %+v", got)
	}
	path, err := s.Path(got.Digest)
	if err != nil {
		t.Fatal(err)
	}
	have := contents(t, path)
	for name, text := range files {
		if have[strings.TrimSuffix(name, "*")] != text {
			t.Errorf("%s holds %q, want %q", name, have[name], text)
		}
	}
	for name, want := range map[string]fs.FileMode{".": 0o555, "sub": 0o555, "sub/dir": 0o555, "score.py": 0o444, "run.sh": 0o555, "..": 0o755, "../..": 0o755} {
		info, err := os.Stat(filepath.Join(path, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v (%v)", name, info.Mode().Perm(), want, err)
		}
	}
	if err := s.Verify(t.Context(), got.Digest); err != nil {
		t.Errorf("verify: %v", err)
	}

	// The source's own later changes do not reach the store: nothing is linked to what others own.
	if err := os.WriteFile(filepath.Join(src, "score.py"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), got.Digest); err != nil {
		t.Errorf("verify after the source changed: %v", err)
	}
}

// The digest is the manifest's, so it is the same on every machine, now and in years.
func TestDigestIsStable(t *testing.T) {
	s := openStore(t)
	got := mustImport(t, s, tree(t, map[string]string{"a.txt": "hello\n", "b/tool*": "x"}))
	const text = "portico-tree 1\n" +
		"file 6 5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03 \"a.txt\"\n" +
		"exec 1 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 \"b/tool\"\n"
	if want := digestOf([]byte(text)); got.Digest != want {
		t.Errorf("digest %s, want %s", got.Digest, want)
	}
	sum, err := exec.Command("sh", "-c", "printf '%s' \"$1\" | sha256sum", "sh", text).Output()
	if err != nil {
		t.Skipf("no sha256sum here: %v", err)
	}
	if want := "sha256:" + strings.Fields(string(sum))[0]; got.Digest != want {
		t.Errorf("digest %s, and sha256sum says %s", got.Digest, want)
	}
}

func TestDigestTellsTreesApart(t *testing.T) {
	s := openStore(t)
	seen := map[string]string{}
	for name, files := range map[string]map[string]string{
		"base": {"a": "1", "b": "2"}, "content": {"a": "1", "b": "3"}, "swapped": {"a": "2", "b": "1"}, "name": {"a": "1", "c": "2"},
		"mode": {"a": "1", "b*": "2"}, "moved": {"a": "1", "d/b": "2"}, "fewer": {"a": "1"}, "none": {},
		"name with a space and quotes": {"a": "1", `b" 2`: "2"},
	} {
		d := mustImport(t, s, tree(t, files)).Digest
		if other, ok := seen[d]; ok {
			t.Errorf("%q and %q have one digest", name, other)
		}
		seen[d] = name
	}
	again := mustImport(t, s, tree(t, map[string]string{"b": "2", "a": "1"}))
	if seen[again.Digest] != "base" {
		t.Error("the same files from another folder have another digest")
	}
}

func TestDigestProperty(t *testing.T) {
	type file struct {
		Exec bool
		Size int64
		Sum  byte
	}
	gen := rapid.MapOfN(rapid.StringMatching(`[a-z0-9 "\\]{1,6}(/[a-z]{1,3})?`),
		rapid.Custom(func(t *rapid.T) file {
			return file{rapid.Bool().Draw(t, "x"), rapid.Int64Range(0, 20).Draw(t, "n"), rapid.ByteRange(0, 3).Draw(t, "sum")}
		}), 0, 6)
	text := func(m map[string]file) string {
		var es []entry
		for p, f := range m { // in random order
			es = append(es, entry{path: p, executable: f.Exec, size: f.Size, sum: [32]byte{f.Sum}})
		}
		return string(manifest(es))
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		if same := fmt.Sprint(a) == fmt.Sprint(b); (text(a) == text(b)) != same {
			t.Fatalf("equal trees: %v; manifests\n%s\n%s", same, text(a), text(b))
		}
		var size int64
		for _, f := range a {
			size += f.Size
		}
		if n, bytes, err := totals([]byte(text(a))); err != nil || n != len(a) || bytes != size {
			t.Fatalf("totals %d, %d, %v of\n%s", n, bytes, err, text(a))
		}
	})
}

func TestImportFile(t *testing.T) {
	s := openStore(t)
	dir := tree(t, map[string]string{"model.pkl": "weights", "other.pkl": "weights"})
	got := mustImport(t, s, filepath.Join(dir, "model.pkl"))
	if !got.IsFile || got.Name != "model.pkl" || got.Files != 1 {
		t.Errorf("import of a file gave %+v", got)
	}
	path, err := s.Path(got.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if have := contents(t, path); len(have) != 1 || have["model.pkl"] != "weights" {
		t.Errorf("the tree holds %q", have)
	}
	if other := mustImport(t, s, filepath.Join(dir, "other.pkl")); other.Digest == got.Digest {
		t.Error("a file's name is part of its tree")
	}
}

func TestImportLinks(t *testing.T) {
	s := openStore(t)
	dir := tree(t, map[string]string{"real/model.pkl": "w"})
	for _, l := range [][2]string{{"real/model.pkl", "link.pkl"}, {"real", "alias"}, {"link.pkl", "twice.pkl"}} {
		if err := os.Symlink(l[0], filepath.Join(dir, l[1])); err != nil {
			t.Fatal(err)
		}
	}
	got := mustImport(t, s, dir)
	want := mustImport(t, s, tree(t, map[string]string{"real/model.pkl": "w", "link.pkl": "w", "alias/model.pkl": "w", "twice.pkl": "w"}))
	if got.Digest != want.Digest {
		t.Error("links inside the folder are stored as what they point to")
	}
}

func TestImportRefuses(t *testing.T) {
	outside := tree(t, map[string]string{"secret": "s"})
	for name, prepare := range map[string]func(dir string) error{
		"absolute link out": func(d string) error { return os.Symlink(filepath.Join(outside, "secret"), d+"/x") },
		"relative link out": func(d string) error { return os.Symlink("../../../../../../etc/passwd", d+"/x") },
		"folder link out":   func(d string) error { return os.Symlink(outside, d+"/x") },
		"link to nothing":   func(d string) error { return os.Symlink("nowhere", d+"/x") },
		"link to itself":    func(d string) error { return os.Symlink("x", d+"/x") },
		"link that loops":   func(d string) error { return os.Symlink(".", d+"/x") },
		"pipe":              func(d string) error { return syscall.Mkfifo(d+"/x", 0o600) },
		"socket": func(d string) error {
			l, err := net.Listen("unix", d+"/x")
			t.Cleanup(func() { _ = l.Close() }) // with the test at the latest
			return err
		},
		"newline in a name": func(d string) error { return os.WriteFile(d+"/a\nb", nil, 0o600) },
		"not UTF-8":         func(d string) error { return os.WriteFile(d+"/a\xff", nil, 0o600) },
		"too deep": func(d string) error {
			return os.MkdirAll(d+strings.Repeat("/d", maxDepth+1), 0o700)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			dir, err := os.MkdirTemp("", "src") // short: a socket's path is at most 108 bytes
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			if err := errors.Join(os.WriteFile(dir+"/a", []byte("1"), 0o600), prepare(dir)); err != nil {
				t.Skipf("this file system cannot hold it: %v", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, err = s.Import(ctx, dir)
			if !online.IsCode(err, online.CodeBadArgument) {
				t.Errorf("got %v, want BadArgument", err)
			}
			wantEmpty(t, s)
		})
	}
	s := openStore(t)
	if _, err := s.Import(t.Context(), "/dev/null"); !online.IsCode(err, online.CodeBadArgument) {
		t.Errorf("a device: %v", err)
	}
	if _, err := s.Import(t.Context(), filepath.Join(t.TempDir(), "absent")); !online.IsCode(err, online.CodeBadArgument) {
		t.Errorf("nothing there: %v", err)
	}
	wantEmpty(t, s)
}

// wantEmpty proves that a refused or failed import left nothing.
func wantEmpty(t *testing.T, s *Store) {
	t.Helper()
	names, err := os.ReadDir(s.dir)
	if err != nil || len(names) != 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

func TestImportLimits(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Limits{MaxFiles: 2, MaxBytes: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeTree(dir) })
	for name, files := range map[string]map[string]string{
		"files": {"a": "", "b": "", "c": ""}, "one large file": {"a": "12345"}, "bytes together": {"a": "123", "b": "45"},
	} {
		if _, err := s.Import(t.Context(), tree(t, files)); !online.IsCode(err, online.CodeTooLarge) {
			t.Errorf("%s: %v, want TooLarge", name, err)
		}
	}
	wantEmpty(t, s)
	if _, err := s.Import(t.Context(), tree(t, map[string]string{"a": "123", "b": "4"})); err != nil {
		t.Errorf("exactly the limits: %v", err)
	}
}

func TestImportCanceled(t *testing.T) {
	s := openStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Import(ctx, tree(t, map[string]string{"a": "1"})); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	wantEmpty(t, s)
}

func TestImportConcurrently(t *testing.T) {
	s := openStore(t)
	src := tree(t, map[string]string{"a": "1", "b/c": "2"})
	digests := make([]string, 8)
	var wg sync.WaitGroup
	for i := range digests {
		wg.Go(func() {
			for range 5 {
				got, err := s.Import(t.Context(), src)
				if err != nil {
					t.Errorf("import: %v", err)
					return
				}
				digests[i] = got.Digest
			}
		})
	}
	wg.Wait()
	held, err := s.List()
	if err != nil || len(held) != 1 {
		t.Fatalf("the store lists %v, %v", held, err)
	}
	for _, d := range digests {
		if d != held[0].Digest {
			t.Errorf("digest %s, want %s", d, held[0].Digest)
		}
	}
	names, err := os.ReadDir(s.dir)
	if err != nil || len(names) != 1 {
		t.Errorf("the store's folder holds %v, %v", names, err)
	}
}

func TestListRemove(t *testing.T) {
	s := openStore(t)
	a := mustImport(t, s, tree(t, map[string]string{"a": "12"}))
	b := mustImport(t, s, tree(t, map[string]string{"b": "345", "c": ""}))
	long := time.Now().Add(-time.Hour)
	folder, _ := folderOf(a.Digest)
	if err := os.Chtimes(filepath.Join(s.dir, folder), long, long); err != nil {
		t.Fatal(err)
	}
	held, err := s.List()
	if err != nil || len(held) != 2 {
		t.Fatalf("list: %v, %v", held, err)
	}
	for _, h := range held {
		want := map[string]Held{a.Digest: {a.Digest, 1, 2, h.Used}, b.Digest: {b.Digest, 2, 3, h.Used}}[h.Digest]
		if h != want {
			t.Errorf("listed %+v, want %+v", h, want)
		}
		if old := time.Since(h.Used) > time.Minute; old != (h.Digest == a.Digest) {
			t.Errorf("%s was used %v", h.Digest, h.Used)
		}
	}
	mustImport(t, s, tree(t, map[string]string{"a": "12"}))
	if h, err := s.held(a.Digest); err != nil || time.Since(h.Used) > time.Minute {
		t.Errorf("importing again must mark the tree as used: %+v, %v", h, err)
	}

	if err := errors.Join(s.Remove(a.Digest), s.Remove(a.Digest)); err != nil {
		t.Errorf("remove: %v", err)
	}
	for _, digest := range []string{a.Digest, "", "sha256:../../etc", "sha256:" + strings.Repeat("0", 64)} {
		if _, err := s.Path(digest); !errors.Is(err, ErrNotFound) {
			t.Errorf("path of %q: %v", digest, err)
		}
		if err := s.Verify(t.Context(), digest); !errors.Is(err, ErrNotFound) {
			t.Errorf("verify of %q: %v", digest, err)
		}
	}
	if err := s.Remove("../x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("remove of no digest: %v", err)
	}
	if err := s.Verify(t.Context(), b.Digest); err != nil {
		t.Errorf("the other tree: %v", err)
	}
	mustImport(t, s, tree(t, map[string]string{"a": "12"}))
	if err := s.Verify(t.Context(), a.Digest); err != nil {
		t.Errorf("imported again after its removal: %v", err)
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	for name, harm := range map[string]func(dir string) error{
		"a byte":     func(d string) error { return os.WriteFile(d+"/a", []byte("2"), 0o600) },
		"a bit":      func(d string) error { return os.Chmod(d+"/a", 0o755) },
		"one less":   func(d string) error { return os.Remove(d + "/a") },
		"one more":   func(d string) error { return os.WriteFile(d+"/b", nil, 0o600) },
		"other name": func(d string) error { return os.Rename(d+"/a", d+"/b") },
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			got := mustImport(t, s, tree(t, map[string]string{"a": "1"}))
			path, err := s.Path(got.Digest)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Chmod(path, 0o700), os.Chmod(path+"/a", 0o600), harm(path)); err != nil {
				t.Fatal(err)
			}
			if err := s.Verify(t.Context(), got.Digest); !errors.Is(err, ErrDamaged) {
				t.Errorf("verify: %v", err)
			}
		})
	}
}

// A crash leaves unfinished folders, read-only ones among them. The next start clears them and keeps the rest.
func TestOpenClearsUnfinished(t *testing.T) {
	s := openStore(t)
	got := mustImport(t, s, tree(t, map[string]string{"d/a": "1"}))
	for _, prefix := range []string{durable.TempPrefix, trashPrefix} {
		dir := filepath.Join(s.dir, prefix+"123", treeName)
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(dir+"/a", nil, 0o400), os.Chmod(dir, 0o500)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(s.dir, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(s.dir)
	if err != nil || len(names) != 1 {
		t.Errorf("after the start: %v, %v", names, err)
	}
	if err := s.Verify(t.Context(), got.Digest); err != nil {
		t.Error(err)
	}
}

// Instances run under user ids of their own: another user can read a tree and cannot change it.
func TestTreeForOtherUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to become another user")
	}
	base, err := os.MkdirTemp("", "portico-artifacts") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeTree(base) })
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Open(filepath.Join(base, "artifacts"), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	path, err := s.Path(mustImport(t, s, tree(t, map[string]string{"sub/a": "hello"})).Digest)
	if err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	as := func(script string) (string, error) {
		cmd := exec.Command("/bin/sh", "-c", script)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	quoted := strconv.Quote(path)
	if out, err := as("cat " + quoted + "/sub/a"); err != nil || out != "hello" {
		t.Errorf("another user reads %q, %v", out, err)
	}
	for _, script := range []string{"echo x >" + quoted + "/sub/a", "touch " + quoted + "/new", "rm -f " + quoted + "/sub/a"} {
		if out, err := as(script); err == nil {
			t.Errorf("another user could %s: %s", script, out)
		}
	}
}
