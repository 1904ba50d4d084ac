package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"portico/test/harness"
	"portico/test/registry"
)

// TestImageFromRegistry deploys from a registry that asks for a password: by tag, and by digest without asking again. A registry
// that hangs in the middle of a layer, or does not know the image, is the deployment's failure.
func TestImageFromRegistry(t *testing.T) {
	t.Parallel()
	images := newImageStore(t)
	reg := registry.Start(t, true)
	images.env = append(images.env, "CONTAINERS_REGISTRIES_CONF="+registry.Trusted(t, reg.Address))
	pair := base64.StdEncoding.EncodeToString([]byte(registry.User + ":" + registry.Password))
	auth := filepath.Join(t.TempDir(), "auth.json")
	if err := os.WriteFile(auth, fmt.Appendf(nil, `{"auths": {%q: {"auth": %q}}}`, reg.Address, pair), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startWith(t, images.env, filepath.Join(t.TempDir(), "data"), "--image-auth-file", auth)
	s.needsRoots()
	name := reg.Address + "/team/boxed"
	push := func(tag, more string) {
		images.build("localhost/made", more)
		images.podman("push", "--quiet", "--tls-verify=false", "--authfile", auth, "localhost/made", "docker://"+name+":"+tag)
		images.podman("rmi", "--all", "--force")
	}
	push("1", "CMD [\"8501\"]\n")
	push("slow", "ENV WHERE=slow\nCMD [\"8501\"]\n")
	create := func(deployment, image string) result {
		dir := files(t, map[string]string{"d.yml": imageYAML(deployment, image, "instance_count: 1")})
		return s.cli("ml", "online-deployment", "create", "-f", filepath.Join(dir, "d.yml"), "-o", "none")
	}
	s.must("ml", "online-endpoint", "create", "-f", filepath.Join(files(t, map[string]string{"e.yml": endpointYAML("boxed")}), "e.yml"), "-o", "none")

	reg.Asked("")
	if r := create("blue", name+":1"); r.code != 0 {
		t.Fatalf("by tag: %s", r.err)
	}
	if got, a := s.boxed("blue", http.MethodGet, "/", ""); got.Env["WHERE"] != "image" {
		t.Errorf("by tag: %d %s", a.status, a.body)
	}
	if asked := reg.Asked("GET /v2/team/boxed/blobs/"); len(asked) == 0 {
		t.Error("nothing was pulled")
	}
	digest := strings.TrimSpace(images.podman("image", "inspect", "--format", "{{.Digest}}", name+":1"))
	if r := create("green", name+"@"+digest); r.code != 0 {
		t.Errorf("by digest: %s", r.err)
	}
	if got, a := s.boxed("green", http.MethodGet, "/", ""); got.Env["WHERE"] != "image" {
		t.Errorf("by digest: %d %s", a.status, a.body)
	}
	if asked := reg.Asked(""); len(asked) > 0 {
		t.Errorf("a digest that is here was asked for: %q", asked)
	}

	if r := create("unknown", name+":none"); r.code == 0 || !strings.Contains(r.err, "ImageBuildFailure") || !strings.Contains(r.err, "manifest unknown") {
		t.Errorf("unknown: %d %s", r.code, r.err)
	}
	hangs, gone := make(chan struct{}, 100), make(chan struct{}, 100)
	reg.Interfere(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write([]byte("{"))
			_ = http.NewResponseController(w).Flush()
			hangs <- struct{}{}
			<-r.Context().Done()
			gone <- struct{}{}
			return
		}
		next.ServeHTTP(w, r)
	})
	await := func(what string, ch <-chan struct{}) {
		select {
		case <-ch:
		case <-time.After(harness.WaitTimeout):
			t.Fatal("never came: " + what)
		}
	}
	// Who deletes the deployment in the middle of a layer does not wait for the registry.
	dir := files(t, map[string]string{
		"slow.yml": imageYAML("slow", name+":slow", "instance_count: 1"), "wrong.yml": imageYAML("wrong", name+":slow", "instance_count: 1"),
	})
	s.must("ml", "online-deployment", "create", "-f", filepath.Join(dir, "wrong.yml"), "--no-wait", "-o", "none")
	await("the registry is asked for a layer", hangs)
	s.must("ml", "online-deployment", "delete", "-n", "wrong", "-e", "boxed", "--yes", "-o", "none")
	await("the pull ends with its deployment", gone)

	// A server that is killed in the middle of a layer takes the pull along. The next one begins it again, within its limit.
	s.must("ml", "online-deployment", "create", "-f", filepath.Join(dir, "slow.yml"), "--no-wait", "-o", "none")
	await("the registry is asked for a layer", hangs)
	s.kill()
	await("the pull ends with the server", gone)
	flags := s.Flags
	s.Flags = append(slices.Clone(flags), "--image-pull-timeout", "1s")
	s.up()
	if r := create("slow", name+":slow"); r.code == 0 || !strings.Contains(r.err, "did not deliver "+name+":slow within 1s (image_pull_timeout)") {
		t.Errorf("slow: %d %s", r.code, r.err)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("the server ends with %d", code)
	}
	reg.Interfere(nil)
	s.Flags = flags
	s.up()
	if r := create("slow", name+":slow"); r.code != 0 {
		t.Errorf("slow, again: %s", r.err)
	}
	if got, a := s.boxed("slow", http.MethodGet, "/", ""); got.Env["WHERE"] != "slow" {
		t.Errorf("slow, again: %d %s", a.status, a.body)
	}
	for _, secret := range []string{registry.Password, pair} {
		if strings.Contains(s.log.String()+s.must("config", "show"), secret) {
			t.Error("the server tells its credentials for a registry")
		}
	}
}
