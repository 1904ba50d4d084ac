package environment

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"portico/internal/online"
	"portico/test/registry"
)

// push makes an image of one file, puts it into a registry, and forgets it here.
func (s *store) push(to *registry.Registry, name, content string) {
	s.t.Helper()
	s.load("localhost/made", content)
	s.run(nil, "push", "--quiet", "--tls-verify=false", "--creds", registry.User+":"+registry.Password, "localhost/made", "docker://"+to.Address+"/"+name)
	s.run(nil, "rmi", "localhost/made")
}

// holds reads the file of an image.
func holds(t *testing.T, i Image) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(i.Tree, "app", "serve"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestPull has images from a registry, by tag and by digest: nothing is pulled twice, and a tag that moves is followed by
// versions that did not resolve it.
func TestPull(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	reg := registry.Start(t, false)
	s.more = map[string]string{"CONTAINERS_REGISTRIES_CONF": registry.Trusted(t, reg.Address)}
	s.push(reg, "team/words:1", "first")
	s.push(reg, "team/words:2", "other")
	b := s.builder(nil)
	name := reg.Address + "/team/words:1"
	var log bytes.Buffer
	get := func(version, reference string) Image {
		t.Helper()
		log.Reset()
		i, err := b.EnsureImage(t.Context(), version, reference, &log)
		if err != nil {
			t.Fatalf("%s: %v\n%s", reference, err, &log)
		}
		return i
	}
	const blobs = "GET /v2/team/words/blobs/"
	reg.Asked("")
	first := get("words:1", name)
	if asked := reg.Asked(blobs); holds(t, first) != "first" || len(asked) != 2 {
		t.Errorf("it holds %q, and took %q", holds(t, first), asked)
	}
	// The tag is asked for again, and its layers are not. (A configuration is small, and podman always fetches it.)
	if again := get("words:2", name); again.ID != first.ID {
		t.Errorf("%+v", again)
	}
	if asked := reg.Asked(blobs); len(asked) > 1 {
		t.Errorf("again it took %q", asked)
	}
	// A digest is what it is, with a tag beside it or without one.
	digest := s.run(nil, "image", "inspect", "--format", "{{.Digest}}", name)
	for version, reference := range map[string]string{"words:3": reg.Address + "/team/words@" + digest, "words:4": name + "@" + digest} {
		if same := get(version, reference); same.ID != first.ID {
			t.Errorf("%s: %+v", reference, same)
		}
	}
	if asked := reg.Asked(""); len(asked) > 0 {
		t.Errorf("for a digest that is here it asked %q", asked)
	}
	// One that is not here is pulled by its digest, whatever its tag is.
	s.run(nil, "pull", "--quiet", "--tls-verify=false", reg.Address+"/team/words:2")
	otherDigest := s.run(nil, "image", "inspect", "--format", "{{.Digest}}", reg.Address+"/team/words:2")
	s.run(nil, "rmi", reg.Address+"/team/words:2")
	if other := get("words:5", name+"@"+otherDigest); holds(t, other) != "other" {
		t.Errorf("by digest it holds %q", holds(t, other))
	}

	// A list of images for several machines is one as well. Versions that ask at once have one and the same.
	s.load("localhost/made", "for many")
	s.run(nil, "manifest", "create", "localhost/many")
	s.run(nil, "manifest", "add", "localhost/many", "containers-storage:localhost/made")
	s.run(nil, "manifest", "push", "--quiet", "--all", "--tls-verify=false", "localhost/many", "docker://"+reg.Address+"/team/many:1")
	s.run(nil, "manifest", "rm", "localhost/many")
	s.run(nil, "rmi", "localhost/made")
	many := reg.Address + "/team/many"
	var wg sync.WaitGroup
	var ids [4]string
	for i := range ids {
		wg.Go(func() {
			same, err := b.EnsureImage(t.Context(), fmt.Sprint("many:", i), many+":1", nil)
			if ids[i] = same.ID; err != nil || holds(t, same) != "for many" {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodHead, "http://"+reg.Address+"/v2/team/many/manifests/1", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	reg.Asked("")
	if same := get("many:5", many+"@"+response.Header.Get("Docker-Content-Digest")); same.ID != ids[0] || len(reg.Asked("")) > 0 {
		t.Errorf("by the list's digest: %+v, want %q", same, ids)
	}

	// The tag moves: the versions that have it keep theirs and ask nobody, the next one follows.
	s.push(reg, "team/words:1", "second")
	reg.Asked("")
	if kept := get("words:1", name); kept.ID != first.ID || len(reg.Asked("")) > 0 {
		t.Errorf("the first version became %+v", kept)
	}
	if moved := get("words:6", name); holds(t, moved) != "second" {
		t.Errorf("the next version holds %q", holds(t, moved))
	}
	// A registry that is out of order does not stop what is here; the log says so.
	reg.Interfere(refuse(http.StatusServiceUnavailable, `{"errors": [{"code": "UNAVAILABLE", "message": "come back later"}]}`))
	if kept := get("words:7", name); holds(t, kept) != "second" || !strings.Contains(log.String(), "note: "+name+" was not pulled") {
		t.Errorf("without its registry it is %+v\n%s", kept, &log)
	}
}

// refuse answers every request for content with a status.
func refuse(status int, body string) registry.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path == "/v2/" {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// inLayers lets a fault answer where the registry would give a blob.
func inLayers(answer func(w http.ResponseWriter, r *http.Request, blob []byte)) registry.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			next.ServeHTTP(w, r)
			return
		}
		got := httptest.NewRecorder()
		next.ServeHTTP(got, r)
		if blob := got.Body.Bytes(); bytes.HasPrefix(blob, []byte{0x1f, 0x8b}) { // it is no configuration
			answer(w, r, blob)
			return
		}
		next.ServeHTTP(w, r)
	}
}

// TestPullFaults has registries that fail in all ways: each is told, in time, and nothing of it is used later.
func TestPullFaults(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	reg := registry.Start(t, false)
	s.more = map[string]string{"CONTAINERS_REGISTRIES_CONF": registry.Trusted(t, reg.Address)}
	s.push(reg, "words:1", strings.Repeat("content ", 1000))
	downloads := t.TempDir() // where podman would put them by itself
	s.more["TMPDIR"] = downloads
	name := reg.Address + "/words:1"
	for what, c := range map[string]struct {
		fault  registry.Fault
		change func(*Config)
		says   string
	}{
		"401": {refuse(401, `{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}`), nil, "unauthorized"},
		"404": {refuse(404, `{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}`), nil, "manifest unknown"},
		"500": {refuse(500, "out of order"), nil, "500"},
		"no manifest": {func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
				_, _ = io.WriteString(w, `{"schemaVersion": 2, "layers": [`)
				return
			}
			next.ServeHTTP(w, r)
		}, nil, "could not be pulled"},
		"wrong content": {inLayers(func(w http.ResponseWriter, _ *http.Request, blob []byte) {
			blob[len(blob)/2]++
			_, _ = w.Write(blob)
		}), nil, "igest did not match"},
		"broken off": {inLayers(func(w http.ResponseWriter, _ *http.Request, blob []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
			_, _ = w.Write(blob[:len(blob)/2])
		}), nil, "EOF"},
		"hangs": {inLayers(func(w http.ResponseWriter, r *http.Request, blob []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
			_, _ = w.Write(blob[:len(blob)/2])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}), func(c *Config) { c.PullTimeout = 2 * time.Second }, "did not deliver " + name + " within 2s (image_pull_timeout)"},
		"endless": {inLayers(func(w http.ResponseWriter, r *http.Request, _ []byte) {
			for r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 64<<10))
				time.Sleep(time.Millisecond)
			}
		}), func(c *Config) { c.MaxImageBytes = 1 << 20 }, "bigger than 1 MiB"},
	} {
		t.Run(what, func(t *testing.T) {
			b := s.builder(c.change)
			var log bytes.Buffer
			reg.Interfere(c.fault)
			_, err := b.EnsureImage(t.Context(), "words:1", name, &log)
			reg.Interfere(nil)
			if !online.IsCode(err, online.CodeImageBuildFailure) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error()+log.String(), b.cfg.Dir) {
				t.Errorf("%v\n%s", err, &log)
			}
			for _, dir := range []string{filepath.Join(b.cfg.Dir, workDir), downloads} {
				if parts, err := os.ReadDir(dir); err != nil || len(parts) > 0 {
					t.Errorf("left in %s: %v %v", dir, parts, err)
				}
			}
			if left := s.left(b) + s.run(nil, "images", "--quiet", "--all"); left != "" {
				t.Errorf("left: %s", left)
			}
			// The same version has the whole image as soon as the registry gives it.
			i, err := b.EnsureImage(t.Context(), "words:1", name, nil)
			if c.change == nil && (err != nil || holds(t, i) != strings.Repeat("content ", 1000)) {
				t.Errorf("afterwards: %v", err)
			}
			s.run(nil, "rmi", "--all", "--force")
		})
	}
}

// authFile writes a file as podman login does.
func authFile(t *testing.T, address, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "auth.json")
	pair := base64.StdEncoding.EncodeToString([]byte(registry.User + ":" + password))
	if err := os.WriteFile(path, fmt.Appendf(nil, `{"auths": {%q: {"auth": %q}}}`, address, pair), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPullWithCredentials pulls from a registry that asks for a password, which no log and no error ever holds.
func TestPullWithCredentials(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	reg := registry.Start(t, true)
	s.more = map[string]string{"CONTAINERS_REGISTRIES_CONF": registry.Trusted(t, reg.Address), "HOME": t.TempDir(), "XDG_RUNTIME_DIR": t.TempDir()}
	s.push(reg, "words:1", "secret words")
	name := reg.Address + "/words:1"
	const wrong = "Another-Passw0rd"
	// A registry that tells everybody what it was shown.
	tells := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		_, password, ok := r.BasicAuth()
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		refuse(403, fmt.Sprintf(`{"errors": [{"code": "DENIED", "message": "not with %s, that is %s"}]}`, r.Header.Get("Authorization"), password))(w, r, next)
	}
	for what, c := range map[string]struct {
		fault   registry.Fault
		file    string // of the setting
		ofHost  string // that podman is told of otherwise
		missing string // in the error; empty: it works
	}{
		"none":        {nil, "", "", "authentication required"},
		"by setting":  {nil, authFile(t, reg.Address, registry.Password), authFile(t, reg.Address, wrong), ""},
		"of the host": {nil, "", authFile(t, reg.Address, registry.Password), ""},
		"wrong":       {nil, authFile(t, reg.Address, wrong), "", "authentication required"},
		"of another":  {nil, authFile(t, "other.invalid", registry.Password), "", "authentication required"},
		"told":        {tells, authFile(t, reg.Address, registry.Password), "", "not with Basic [redacted], that is [redacted]"},
		"told, host":  {tells, "", authFile(t, reg.Address, registry.Password), "not with Basic [redacted], that is [redacted]"},
	} {
		t.Run(what, func(t *testing.T) {
			s.more["REGISTRY_AUTH_FILE"] = c.ofHost
			b := s.builder(func(cfg *Config) { cfg.AuthFile = c.file })
			var log bytes.Buffer
			reg.Interfere(c.fault)
			i, err := b.EnsureImage(t.Context(), "words:1", name, &log)
			switch {
			case c.missing == "" && (err != nil || holds(t, i) != "secret words"):
				t.Errorf("%v\n%s", err, &log)
			case c.missing != "" && (!online.IsCode(err, online.CodeImageBuildFailure) || !strings.Contains(err.Error(), c.missing)):
				t.Errorf("%v\n%s", err, &log)
			}
			for _, secret := range []string{
				registry.Password, wrong, base64.StdEncoding.EncodeToString([]byte(registry.User + ":" + registry.Password)), c.file + c.ofHost,
			} {
				if secret != "" && strings.Contains(fmt.Sprint(err)+log.String(), secret) {
					t.Errorf("%s is told: %v\n%s", secret, err, &log)
				}
			}
			s.run(nil, "rmi", "--all", "--force")
		})
	}
}

// TestAuthFile reads what podman login and others write. What cannot be read is told without its content.
func TestAuthFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.json")
	for text, want := range map[string]string{
		`{}`: "", `{"credHelpers": {"a.example": "secretservice"}}`: "",
		`{"auths": {"a.example": {"auth": "dXNlcjpwYTpzcw=="}, "b.example": {}}}`:         "dXNlcjpwYTpzcw== pa:ss",
		`{"auths": {"a.example": {"auth": "bm9uZQ==", "identitytoken": "longer-token"}}}`: "bm9uZQ== longer-token",
		`{"auths": {"a.example": {"auth": "hunter2"`:                                      "error", `hunter2`: "error", `["hunter2"]`: "error",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readAuth(path)
		if want == "error" {
			_, newErr := New(Config{Dir: t.TempDir(), Runner: ExecRunner{}, AuthFile: path, OnlyPythons: true}, nil)
			if err == nil || newErr == nil || strings.Contains(err.Error()+newErr.Error(), "hunter2") || !strings.Contains(newErr.Error(), path) {
				t.Errorf("%s: %v, %v", text, err, newErr)
			}
			continue
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	if _, err := New(Config{Dir: t.TempDir(), Runner: ExecRunner{}, AuthFile: path + ".none", OnlyPythons: true}, nil); err == nil {
		t.Error("a file that is not there is taken")
	}
}

// TestPullTransport: plain HTTP only where podman's configuration says so, TLS only with an authority that the server trusts.
func TestPullTransport(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	reg := registry.Start(t, false)
	s.push(reg, "words:1", "words")
	secure, certificate := reg.TLS(t)
	authority := filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(authority, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		address, missing string
		more             map[string]string
	}{
		"plain":             {reg.Address, "server gave HTTP response to HTTPS client", map[string]string{}},
		"plain, as told":    {reg.Address, "", map[string]string{"CONTAINERS_REGISTRIES_CONF": registry.Trusted(t, reg.Address)}},
		"TLS":               {secure, "", map[string]string{"SSL_CERT_FILE": authority}},
		"TLS of a stranger": {secure, "certificate signed by unknown authority", map[string]string{}},
	} {
		t.Run(what, func(t *testing.T) {
			s.more = c.more
			i, err := s.builder(nil).EnsureImage(t.Context(), "words:1", c.address+"/words:1", nil)
			s.run(nil, "rmi", "--all", "--force")
			if c.missing == "" && (err != nil || holds(t, i) != "words") || c.missing != "" && (err == nil || !strings.Contains(err.Error(), c.missing)) {
				t.Errorf("%v", err)
			}
		})
	}
}
