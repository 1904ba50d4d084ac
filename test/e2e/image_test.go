package e2e

import (
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"portico/internal/host"
)

// imageSeen is what the server in the image says of itself and of a request.
type imageSeen struct {
	Method, Target, Body, Model, Code, Writes, Earlier, Hostname, Dir, Host, Networks string
	PID, UID, GID                                                                     int
	Outside                                                                           bool
	Env                                                                               map[string]string
	Args                                                                              []string
}

// imageStore is a store of images of a test's own.
type imageStore struct {
	t     *testing.T
	graph string   // where its content lies
	env   []string // by which podman finds it
	dir   string   // what images are built from
}

// newImageStore makes one. It skips where podman is not.
func newImageStore(t *testing.T) *imageStore {
	t.Helper()
	if _, err := exec.LookPath("podman"); err != nil {
		t.Skip("podman is not installed")
	}
	if os.Geteuid() != 0 {
		t.Skip("images run only where the server is root")
	}
	dir := t.TempDir()
	s := &imageStore{t: t, graph: filepath.Join(dir, "graph"), dir: t.TempDir()}
	conf := filepath.Join(dir, "storage.conf")
	s.env = append(os.Environ(), "CONTAINERS_STORAGE_CONF="+conf)
	text := "[storage]\ndriver = \"vfs\"\ngraphroot = \"" + s.graph + "\"\nrunroot = \"" + filepath.Join(dir, "run") + "\"\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-o", filepath.Join(s.dir, "serve"), "./testdata/image")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return s
}

func (s *imageStore) podman(args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "podman", args...)
	cmd.Dir, cmd.Env = s.dir, s.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// build makes an image of testdata/image.
func (s *imageStore) build(tag, more string) {
	s.t.Helper()
	text := "FROM scratch\nCOPY serve /app/bin/serve\nENV PATH=/app/bin WHERE=image SECRET=open\nSTOPSIGNAL SIGQUIT\n" + more + "ENTRYPOINT [\"serve\"]\n"
	if err := os.WriteFile(filepath.Join(s.dir, "Containerfile"), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.podman("build", "--quiet", "--tag", tag, ".")
}

// holding finds a file that holds a text.
func holding(t *testing.T, dir, text string) (found string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if strings.Contains(string(content), text) {
			found = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// imageYAML is a deployment of an image.
func imageYAML(name, image string, more ...string) string {
	return serverYAML("boxed", name, 8501, "  image: "+image+"\n", more...)
}

// needsRoots skips where the kernel does not let the host give processes root file systems of their own.
func (s *server) needsRoots() {
	s.t.Helper()
	c, err := host.Dial(s.t.Context(), s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if capable := c.Info().Capabilities; !capable.Roots {
		s.t.Skip("images cannot run here: ", capable.NoRoots)
	}
}

func (s *server) boxed(deployment, method, path, body string) (imageSeen, answer) {
	s.t.Helper()
	return told[imageSeen](s, method, "boxed", path, body, "azureml-model-deployment", deployment)
}

// TestImage runs a real image: two instances that listen on one port, as root and as another user, with a model and code, a
// tag that moves, a crash, a server that is killed, and an image that podman forgets.
func TestImage(t *testing.T) {
	t.Parallel()
	images := newImageStore(t)
	s := startWith(t, images.env, filepath.Join(t.TempDir(), "data"))
	s.needsRoots()
	images.build("localhost/boxed:latest", "CMD [\"8501\"]\n")
	images.build("localhost/boxed:user", "USER 1000:1001\nWORKDIR /srv/here\nCMD [\"80\"]\n")
	dir := files(t, map[string]string{
		"endpoint.yml": endpointYAML("boxed"), "words.txt": "one two", "src/settings.txt": "of the code",
		"blue.yml": imageYAML("blue", "localhost/boxed:latest", "instance_count: 2",
			"model: {name: words, version: 1, path: ./words.txt}", "model_mount_path: /opt/models", "code_configuration: {code: ./src}"),
		"green.yml": imageYAML("green", "localhost/boxed:user", "instance_count: 1", "command: serve {port}"),
		"gone.yml":  imageYAML("gone", "localhost/none:1", "instance_count: 1"),
	})
	s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
	s.must("ml", "online-deployment", "create", "-f", filepath.Join(dir, "blue.yml"), "--all-traffic", "-o", "none")

	first := map[string]imageSeen{}
	s.eventually("both instances answer on one port", func() bool {
		got, a := s.boxed("blue", "PATCH", "/v1/words?x=1", "hello")
		if a.status != 200 || got.Method != http.MethodPatch || got.Target != "/v1/words?x=1" || got.Body != "hello" || got.UID != 0 || got.GID != 0 ||
			got.Model != "one two" || got.Code != "of the code" || got.Writes != "ok" || got.Dir != "/" || got.Outside || !strings.HasPrefix(got.Networks+" tap0", "lo tap0") ||
			got.Env["SECRET"] != "quite" || got.Env["WHERE"] != "image" || got.Env["AZUREML_MODEL_DIR"] != "/opt/models/words/1" {
			t.Fatalf("%d %s", a.status, a.body)
		}
		if _, known := first[got.Hostname]; !known {
			first[got.Hostname] = got
		}
		return len(first) == 2
	})
	for host, was := range first {
		if was.Earlier != "" {
			t.Errorf("%s finds what another instance wrote: %q", host, was.Earlier)
		}
	}
	if a := s.ask("GET", "boxed", "/v1/stream", s.key("boxed"), ""); a.status != 200 || !strings.Contains(string(a.body), "data: last") {
		t.Errorf("stream: %d %s", a.status, a.body)
	}

	// Another user, another command, and the same port again.
	s.must("ml", "online-deployment", "create", "-f", filepath.Join(dir, "green.yml"), "-o", "none")
	if got, a := s.boxed("green", "GET", "/", ""); got.UID != 1000 || got.GID != 1001 || got.Dir != "/srv/here" || got.Writes != "ok" ||
		strings.Join(got.Args, " ") != "serve 8501" {
		t.Errorf("green: %d %s", a.status, a.body)
	}

	// A crash costs one request; the next process begins with the image as it is.
	_, a := s.boxed("green", "POST", "/v1/exit", "{}")
	if a.status != 424 || !strings.Contains(string(a.body), "exited with status 3") {
		t.Errorf("exit: %d %s", a.status, a.body)
	}
	s.eventually("a new process serves", func() bool {
		got, a := s.boxed("green", "GET", "/", "")
		return a.status == 200 && got.Earlier == ""
	})

	// The image is deleted, and its tag means another one: the deployment keeps what it was made from.
	images.podman("rmi", "--force", "localhost/boxed:latest", "localhost/boxed:user")
	images.build("localhost/boxed:latest", "ENV WHERE=newer\nCMD [\"8501\"]\n")
	// The server is killed while they answer.
	answering, err := s.http.Do(s.request(t.Context(), "GET", "boxed", "/v1/endless", s.key("boxed"), ""))
	if err != nil {
		t.Fatal(err)
	}
	defer answering.Body.Close()
	if _, err := answering.Body.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	s.kill()
	if _, err := io.Copy(io.Discard, answering.Body); err == nil {
		t.Error("an answer of a server that was killed came to an end")
	}
	s.up()
	s.eventually("the same processes serve", func() bool {
		got, a := s.boxed("blue", "GET", "/", "")
		was := first[got.Hostname]
		return a.status == 200 && was.PID == got.PID && was.PID != 0 && strings.HasPrefix(got.Earlier, was.Earlier)
	})
	if _, a := s.boxed("blue", "POST", "/v1/exit", "{}"); a.status != 424 {
		t.Errorf("exit: %d %s", a.status, a.body)
	}
	s.eventually("a new process of the old image serves", func() bool {
		got, a := s.boxed("blue", "GET", "/", "")
		return a.status == 200 && got.PID != first[got.Hostname].PID && got.Env["WHERE"] == "image"
	})

	// What a deployment is told is nowhere in podman's store.
	if at := holding(t, images.graph, "SECRET=open"); at == "" {
		t.Error("the image's own variables are not found either")
	}
	if at := holding(t, images.graph, "SECRET=quite"); at != "" {
		t.Errorf("%s holds a variable of the deployment", at)
	}
	if left := strings.TrimSpace(images.podman("ps", "--all", "--quiet")); left != "" {
		t.Errorf("containers are left: %s", left)
	}
	if log := s.must("ml", "online-deployment", "get-logs", "-n", "blue", "-e", "boxed"); !strings.Contains(log, "the server listens on 8501") || !strings.Contains(log, "an answer was given up") {
		t.Errorf("log: %s", log)
	}

	// An image that nobody has is the build's failure, with podman's own words.
	r := s.cli("ml", "online-deployment", "create", "-f", filepath.Join(dir, "gone.yml"), "-o", "none")
	if r.code == 0 || !strings.Contains(r.err, "ImageBuildFailure") || !strings.Contains(r.err, "localhost/none:1") {
		t.Errorf("gone: %d %s", r.code, r.err)
	}

	// The end is the signal that the image names.
	if code := s.stop(); code != 0 {
		t.Errorf("the server ends with %d", code)
	}
	if holding(t, s.dir, "the server was asked to end") == "" {
		t.Error("no program was asked to end by the image's signal")
	}
}

// TestWithoutImages starts a server that finds no podman: it says so, and of its isolation only what is true.
func TestWithoutImages(t *testing.T) {
	t.Parallel()
	s := startWith(t, append(os.Environ(), "PATH="+t.TempDir()), filepath.Join(t.TempDir(), "data"))
	dir := files(t, map[string]string{"endpoint.yml": endpointYAML("boxed"), "blue.yml": imageYAML("blue", "localhost/boxed", "instance_count: 1")})
	s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
	r := s.cli("ml", "online-deployment", "create", "-f", filepath.Join(dir, "blue.yml"), "-o", "none")
	said := 0
	for line := range strings.Lines(s.log.String()) {
		switch {
		case strings.Contains(line, "OCI images cannot be run on this machine"):
			said++
		case strings.Contains(line, "isolation is reduced") && strings.Contains(line, "images"):
			t.Error(line)
		}
	}
	if r.code == 0 || !strings.Contains(r.err, "NotImplemented") || said != 1 {
		t.Errorf("%d %s", r.code, r.err)
	}
}
