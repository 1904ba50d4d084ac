package e2e

import (
	"archive/tar"
	"bytes"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// distribution is a root file system with a shell, as images have that were not made of one program: links in place of
// directories, accounts, files of other users, hard links, a program with the rights of its owner.
func distribution(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(h tar.Header, content string) {
		t.Helper()
		if h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	add(tar.Header{Name: "bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"}, "")
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	libraries, err := exec.CommandContext(t.Context(), "ldd", shell).Output()
	if err != nil {
		t.Skip("the libraries of the shell are not known: ", err)
	}
	names := map[string]string{"usr/bin/sh": shell}
	for _, path := range regexp.MustCompile(`(?m)/\S+`).FindAllString(string(libraries), -1) {
		names[strings.TrimPrefix(path, "/")] = path
	}
	for name, path := range names {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		add(tar.Header{Name: name, Mode: 0o755}, string(text))
	}
	add(tar.Header{Name: "etc/passwd", Mode: 0o644}, "root:x:0:0:root:/root:/bin/sh\nserver:x:1000:1001::/home/server:/bin/sh\n")
	add(tar.Header{Name: "etc/group", Mode: 0o644}, "root:x:0:\nstaff:x:50:\nserver:x:1001:\n")
	add(tar.Header{Name: "root/", Typeflag: tar.TypeDir, Mode: 0o700}, "")
	add(tar.Header{Name: "tmp", Typeflag: tar.TypeSymlink, Linkname: "/var/tmp"}, "") // to what is not there
	add(tar.Header{Name: "home/server/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 1000, Gid: 1001}, "")
	add(tar.Header{Name: "home/server/secret", Mode: 0o400, Uid: 1000, Gid: 1001}, "of the user")
	add(tar.Header{Name: "home/server/work/start.sh", Mode: 0o755}, "#!/bin/sh\nset -e\nexport MADE=\"$GREETING, $SECRET\"\nexec serve \"$@\" more\n")
	add(tar.Header{Name: "lacks.sh", Mode: 0o755}, "#!/bin/bash\n")
	add(tar.Header{Name: "usr/bin/gives", Mode: 0o6755}, "rights")
	add(tar.Header{Name: "srv/one", Mode: 0o644}, "linked")
	add(tar.Header{Name: "srv/two", Typeflag: tar.TypeLink, Linkname: "srv/one"}, "")
	add(tar.Header{Name: "srv/old", Mode: 0o644}, "old")
	add(tar.Header{Name: "srv/tree/old", Mode: 0o644}, "old")
	add(tar.Header{Name: "srv/large", Mode: 0o644}, strings.Repeat("0123456789abcdef", 512<<10))
	add(tar.Header{Name: "volume/content", Mode: 0o644}, "of the volume")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// make builds an image from instructions.
func (s *imageStore) make(tag, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "Containerfile"), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.podman("build", "--quiet", "--format", "docker", "--isolation", "chroot", "--tag", tag, ".")
}

// TestImagesThatPeopleBring runs images as they are found: a script as entrypoint with a command joined to it, a user and group by
// name, a working directory, layers that remove what others brought, and a shell's command without an entrypoint.
func TestImagesThatPeopleBring(t *testing.T) {
	t.Parallel()
	images := newImageStore(t)
	s := startWith(t, images.env, filepath.Join(t.TempDir(), "data"))
	s.needsRoots()
	if err := os.WriteFile(filepath.Join(images.dir, "base.tar"), distribution(t), 0o600); err != nil {
		t.Fatal(err)
	}
	images.make("localhost/brought:base", "FROM scratch\nADD base.tar /\nCOPY serve /usr/local/bin/serve\n")
	images.make("localhost/brought:script", `FROM localhost/brought:base
RUN ["/usr/local/bin/serve", "remove", "/srv/old", "/srv/tree"]
ENV GREETING="hello = world" EMPTY="" SECRET=open
EXPOSE 9999/tcp
VOLUME /volume
USER server:staff
WORKDIR /home/server/work
ENTRYPOINT ["./start.sh"]
CMD ["8501"]
`)
	images.make("localhost/brought:shell", "FROM localhost/brought:script\nUSER root\nENTRYPOINT []\nHEALTHCHECK --interval=1s CMD exit 1\nSHELL [\"/bin/sh\", \"-euc\"]\nCMD exec serve 8501 \"$GREETING\"\n")
	images.make("localhost/brought:nothing", "FROM localhost/brought:script\nENTRYPOINT []\nCMD []\n")
	dir := files(t, map[string]string{
		"endpoint.yml": endpointYAML("boxed"),
		"script.yml":   imageYAML("script", "localhost/brought:script", "instance_count: 1"),
		"shell.yml":    imageYAML("shell", "localhost/brought:shell", "instance_count: 1"),
		"nothing.yml":  imageYAML("nothing", "localhost/brought:nothing", "instance_count: 1"),
		"ends.yml":     imageYAML("ends", "localhost/brought:shell", "instance_count: 1", "command: sh -c 'echo there is no model here >&2; exit 7'"),
		"lacks.yml":    imageYAML("lacks", "localhost/brought:shell", "instance_count: 1", "command: /lacks.sh"),
	})
	s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")

	s.must("ml", "online-deployment", "create", "-f", filepath.Join(dir, "script.yml"), "-o", "none")
	got, a := s.boxed("script", http.MethodGet, "/", "")
	if strings.Join(got.Args, " ") != "serve 8501 more" || got.UID != 1000 || got.GID != 50 || got.Dir != "/home/server/work" {
		t.Errorf("script: %d %s", a.status, a.body)
	}
	for name, want := range map[string]string{
		"MADE": "hello = world, quite", "GREETING": "hello = world", "EMPTY": "", "SECRET": "quite", "HOME": "/home/server",
	} {
		if is, there := got.Env[name]; !there || is != want {
			t.Errorf("script: %s is %q, want %q", name, is, want)
		}
	}
	for path, want := range map[string]string{
		"/home/server/secret": `"of the user"`, "/usr/bin/gives": `-rwxr-xr-x "rights"`, "/srv/two": `"linked"`, "/srv/old": "no such file",
		"/srv/tree/old": "no such file", "/srv/tree": "no such file", "/srv/large": " 8388608 <nil>", "/volume/content": `"of the volume"`,
		"/tmp/.": "dtrwxrwxrwx <nil>", "/dev/shm": "dtrwxrwxrwx <nil>", "/volume": "<nil>", "/home/server": "<nil>", "/": "<nil>", "/bin/.": "<nil>",
	} {
		a := s.ask(http.MethodGet, "boxed", "/v1/file?path="+url.QueryEscape(path), s.key("boxed"), "", "azureml-model-deployment", "script")
		if a.status != http.StatusOK || !strings.Contains(string(a.body), want) {
			t.Errorf("%s is %s, want %s", path, a.body, want)
		}
	}

	s.must("ml", "online-deployment", "create", "-f", filepath.Join(dir, "shell.yml"), "-o", "none")
	if got, a := s.boxed("shell", http.MethodGet, "/", ""); strings.Join(got.Args, "|") != "serve|8501|hello = world" || got.UID != 0 || got.GID != 0 || got.Env["HOME"] != "/root" {
		t.Errorf("shell: %d %s", a.status, a.body)
	}

	// What cannot be started says what to mend.
	for name, wants := range map[string][]string{
		"nothing": {"names no program to start"}, "ends": {"exited with status 7", "there is no model here"},
		"lacks": {`the interpreter of its first line, "/bin/bash", is not`},
	} {
		r := s.cli("ml", "online-deployment", "create", "-f", filepath.Join(dir, name+".yml"), "-o", "none")
		for _, want := range wants {
			if r.code == 0 || !strings.Contains(r.err, want) {
				t.Errorf("%s: %d %s", name, r.code, r.err)
			}
		}
	}
}
