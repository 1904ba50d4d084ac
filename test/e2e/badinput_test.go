package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"portico/test/harness"
)

// snapshot is what the management API shows of everything, to prove that a refused request changed nothing.
func (s *server) snapshot() string {
	s.t.Helper()
	var b strings.Builder
	for _, path := range []string{"/onlineEndpoints", "/onlineEndpoints/bad", "/onlineEndpoints/bad/deployments", "/models", "/environments"} {
		a := s.api("GET", workspace+path, nil)
		fmt.Fprintf(&b, "%s %d %s %s\n", path, a.status, a.header.Get("ETag"), a.body)
	}
	return b.String()
}

// TestBadInputThroughTheAPI: each fault has a clear error in the wire's shape, and nothing changes.
func TestBadInputThroughTheAPI(t *testing.T) {
	s := start(t)
	s.deploy("bad", "blue", echoScript, "")
	endpoint := workspace + "/onlineEndpoints/bad"
	blue := endpoint + "/deployments/blue"
	spec := s.api("GET", blue, nil).json(t)
	etag := s.api("GET", endpoint, nil).header.Get("ETag")
	deployment := func(edit func(properties map[string]any)) map[string]any {
		properties := map[string]any{}
		for k, v := range spec["properties"].(map[string]any) {
			properties[k] = v
		}
		edit(properties)
		return map[string]any{"location": "local", "sku": map[string]any{"name": "Default", "capacity": 1}, "properties": properties}
	}
	props := func(kv ...any) map[string]any {
		p := map[string]any{"authMode": "Key", "traffic": map[string]any{"blue": 100}}
		for i := 0; i+1 < len(kv); i += 2 {
			p[kv[i].(string)] = kv[i+1]
		}
		return map[string]any{"location": "local", "properties": p}
	}
	cases := []struct {
		name, method, path string
		body               any
		header             []string
		status             int
		code, target, says string
	}{
		{"endpoint name too short", "PUT", workspace + "/onlineEndpoints/x", props(), nil, 400, "BadArgument", "", "3 to 32"},
		{"endpoint name with underscore", "PUT", workspace + "/onlineEndpoints/a_b_c", props(), nil, 400, "BadArgument", "", "letters"},
		{"traffic adds up to 90", "PUT", endpoint, props("traffic", map[string]any{"blue": 90}), nil, 400, "BadArgument", "properties.traffic", "90"},
		{"traffic to nobody", "PUT", endpoint, props("traffic", map[string]any{"blue": 50, "nobody": 50}), nil, 400, "BadArgument", "properties.traffic.nobody", "does not exist"},
		{"mirror onto live traffic", "PUT", endpoint, props("mirrorTraffic", map[string]any{"blue": 10}), nil, 400, "", "properties.mirrorTraffic.blue", "live traffic"},
		{"private endpoint", "PUT", endpoint, props("publicNetworkAccess", "disabled"), nil, 400, "NotImplemented", "properties.publicNetworkAccess", "publicNetworkAccess"},
		{"unknown auth mode", "PUT", endpoint, props("authMode", "Password"), nil, 400, "BadArgument", "properties.authMode", "Key"},
		{"wrong type", "PUT", endpoint, props("traffic", "all"), nil, 400, "", "properties.traffic", ""},
		{"not JSON", "PUT", endpoint, "{", nil, 400, "", "", ""},
		{"stale If-Match", "PUT", endpoint, props(), []string{"If-Match", `"1"`}, 412, "PreconditionFailed", "", "changed"},
		{"unknown instance type", "PUT", blue, deployment(func(p map[string]any) { p["instanceType"] = "Standard_D99" }), nil, 400, "BadArgument", "properties.instanceType", "catalogue"},
		{"missing script", "PUT", blue, deployment(func(p map[string]any) {
			p["codeConfiguration"] = map[string]any{"codeId": p["codeConfiguration"].(map[string]any)["codeId"], "scoringScript": "nothere.py"}
		}), nil, 400, "", "properties.codeConfiguration.scoringScript", "nothere.py"},
		{"script outside the code", "PUT", blue, deployment(func(p map[string]any) {
			p["codeConfiguration"] = map[string]any{"codeId": p["codeConfiguration"].(map[string]any)["codeId"], "scoringScript": "../../etc/passwd"}
		}), nil, 400, "BadArgument", "properties.codeConfiguration.scoringScript", "relative"},
		{"target utilization", "PUT", blue, deployment(func(p map[string]any) { p["scaleSettings"] = map[string]any{"scaleType": "TargetUtilization"} }), nil, 400, "NotImplemented", "properties.scaleSettings.scaleType", "TargetUtilization"},
		{"timeout beyond the bound", "PUT", blue, deployment(func(p map[string]any) { p["requestSettings"] = map[string]any{"requestTimeout": "PT5M"} }), nil, 400, "BadArgument", "properties.requestSettings.requestTimeout", "3m"},
		{"duration in no form", "PUT", blue, deployment(func(p map[string]any) { p["requestSettings"] = map[string]any{"requestTimeout": "5 seconds"} }), nil, 400, "", "properties.requestSettings.requestTimeout", ""},
		{"model that is not there", "PUT", blue, deployment(func(p map[string]any) { p["model"] = "azureml:nomodel:1" }), nil, 400, "", "properties.model", "nomodel"},
		{"too many instances", "PATCH", blue, map[string]any{"sku": map[string]any{"capacity": 51}}, nil, 400, "BadArgument", "sku.capacity", "50"},
		{"deletion with live traffic", "DELETE", blue, nil, nil, 409, "", "", "traffic"},
		{"unknown deployment", "GET", endpoint + "/deployments/red", nil, nil, 404, "ResourceNotFound", "", ""},
		{"unknown key type", "POST", endpoint + "/regenerateKeys", map[string]any{"keyType": "Tertiary"}, nil, 400, "BadArgument", "", "Primary"},
		{"tail beyond the bound", "POST", blue + "/getLogs", map[string]any{"tail": 50000}, nil, 400, "BadArgument", "tail", "5000"},
	}
	before := s.snapshot()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a := s.api(c.method, c.path+"?api-version=2024-04-01", c.body, c.header...)
			if a.status != c.status {
				t.Fatalf("status %d, not %d: %s", a.status, c.status, a.body)
			}
			e, _ := a.json(t)["error"].(map[string]any)
			code, message, target := fmt.Sprint(e["code"]), fmt.Sprint(e["message"]), fmt.Sprint(e["target"])
			if c.code != "" && code != c.code || a.header.Get("x-ms-error-code") != code {
				t.Errorf("code %q (header %q), not %q", code, a.header.Get("x-ms-error-code"), c.code)
			}
			if c.target != "" && target != c.target {
				t.Errorf("target %q, not %q", target, c.target)
			}
			if !strings.Contains(message, c.says) {
				t.Errorf("message %q does not say %q", message, c.says)
			}
			if a.header.Get("Retry-After") != "" {
				t.Error("an SDK would retry this: it has Retry-After")
			}
		})
	}
	if after := s.snapshot(); after != before {
		t.Errorf("something changed:\n%s\n%s", before, after)
	}
	if a := s.api("PUT", endpoint, map[string]any{"location": "local", "properties": map[string]any{"authMode": "Key", "nonsense": 1, "traffic": map[string]any{"blue": 100}}}); a.status != 200 || !strings.Contains(fmt.Sprint(a.header), "properties.nonsense") {
		t.Errorf("an unknown field must be named in a warning header: %d %v", a.status, a.header)
	}
	s.api("PATCH", endpoint, map[string]any{"tags": map[string]any{"seen": "yes"}})
	if a := s.api("PUT", endpoint, props(), "If-Match", etag); a.status != http.StatusPreconditionFailed {
		t.Errorf("an ETag from before a change is stale: %d", a.status)
	}
}

// TestGPUTypeWithoutGPU runs where there is none.
func TestGPUTypeWithoutGPU(t *testing.T) {
	if _, err := os.Stat("/dev/nvidia0"); err == nil {
		t.Skip("this machine has a GPU")
	}
	s := shared(t)
	dir := files(t, map[string]string{
		"endpoint.yml": endpointYAML("gpu"), "conda.yaml": emptyConda, "src/score.py": echoScript,
		"d.yml": strings.Replace(deploymentYAML("gpu", "blue", ""), "Standard_DS3_v2", "Standard_NC6s_v3", 1),
	})
	s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
	r := s.cli("ml", "online-deployment", "create", "-f", filepath.Join(dir, "d.yml"))
	if r.code != 1 || !strings.Contains(r.err, "OutOfQuota") || !strings.Contains(r.err, "GPU") {
		t.Errorf("%d %s", r.code, r.err)
	}
}

// TestDeploymentsThatFail: the error of a failed start tells the reason, and another create mends it.
func TestDeploymentsThatFail(t *testing.T) {
	s := shared(t)
	cases := []struct{ name, script, conda, says string }{
		{"norun", "def init():\n    pass\n", emptyConda, "run"},
		{"raises", "def init():\n    raise ValueError('no such column: age')\ndef run(raw_data):\n    return 1\n", emptyConda, "no such column: age"},
		{"syntax", "def init(:\n", emptyConda, "SyntaxError"},
		{"exits", "import os\ndef init():\n    os._exit(7)\ndef run(raw_data):\n    return 1\n", emptyConda, "exit code 7"},
		{"nopackage", echoScript, "name: x\ndependencies:\n  - python\n  - pip:\n      - portico-no-such-package==99.9\n", "portico-no-such-package"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := files(t, map[string]string{
				"endpoint.yml": endpointYAML(c.name), "d.yml": deploymentYAML(c.name, "blue", ""), "conda.yaml": c.conda, "src/score.py": c.script,
			})
			s.must("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "endpoint.yml"), "-o", "none")
			r := s.cli("ml", "online-deployment", "create", "-f", filepath.Join(dir, "d.yml"), "--all-traffic")
			if r.code != 1 || !strings.Contains(r.err, c.says) {
				t.Fatalf("exit %d, error does not say %q:\n%s", r.code, c.says, r.err)
			}
			s.deploy(c.name, "blue", echoScript, "")
			if a := s.score(c.name, s.key(c.name), "1"); a.status != http.StatusOK {
				t.Errorf("after the mend: %d %s", a.status, a.body)
			}
		})
	}
}

// TestBadYAML: an unknown key is refused with its line and a suggestion before anything is sent.
func TestBadYAML(t *testing.T) {
	s := shared(t)
	dir := files(t, map[string]string{
		"typo.yml":    "name: typo\nauth_mod: key\n",
		"nomodel.yml": deploymentYAML("typo", "blue", "model:\n  path: ./not-here\n"),
		"conda.yaml":  emptyConda, "src/score.py": echoScript,
	})
	r := s.cli("ml", "online-endpoint", "create", "-f", filepath.Join(dir, "typo.yml"))
	if r.code == 0 || !strings.Contains(r.err, "auth_mode") || !strings.Contains(r.err, "2") {
		t.Errorf("%d %s", r.code, r.err)
	}
	s.must("ml", "online-endpoint", "create", "-n", "typo", "-o", "none")
	if r := s.cli("ml", "online-deployment", "create", "-f", filepath.Join(dir, "nomodel.yml")); r.code == 0 || !strings.Contains(r.err, "not-here") {
		t.Errorf("%d %s", r.code, r.err)
	}
}

// TestGarbage sends ten megabytes of noise to both listeners, inside and outside of HTTP and TLS.
func TestGarbage(t *testing.T) {
	s := shared(t)
	s.deploy("noise", "blue", echoScript, "")
	key := s.key("noise")
	noise := make([]byte, 10<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	for _, target := range []string{s.ready.ManagementURL, s.ready.ScoringURL, s.ready.ScoringHTTPURL} {
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		sendRaw(t, u.Host, false, noise)
		if u.Scheme == "https" {
			sendRaw(t, u.Host, true, noise)
		}
	}
	if a := s.api("PUT", workspace+"/onlineEndpoints/noise", string(noise)); a.status != 400 && a.status != 413 {
		t.Errorf("management: %d %.200s", a.status, a.body)
	}
	if a := s.score("noise", key, string(noise)); a.status == http.StatusInternalServerError {
		t.Errorf("scoring: %d %.200s", a.status, a.body)
	}
	if a := s.score("noise", key, "1"); a.status != http.StatusOK {
		t.Errorf("after the noise: %d %s", a.status, a.body)
	}
}

// sendRaw writes bytes to a listener until it hangs up.
func sendRaw(t *testing.T, address string, secure bool, noise []byte) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if secure {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.Copy(conn, bytes.NewReader(noise)) // it may hang up at any byte
	_, _ = io.Copy(io.Discard, io.LimitReader(conn, 1<<20))
}

func TestSecondServerOnTheSameData(t *testing.T) {
	s := shared(t)
	ctx, cancel := context.WithTimeout(context.Background(), harness.WaitTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "serve", "--data-dir", s.dir, "--management", "127.0.0.1:0", "--scoring", "127.0.0.1:0").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another server") {
		t.Errorf("%v %s", err, out)
	}
	if a := s.api("GET", workspace+"/onlineEndpoints", nil); a.status != http.StatusOK {
		t.Errorf("the first server answers %d", a.status)
	}
}

// TestFullDisk: writes answer 503, nothing acknowledged is lost, and scoring goes on.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=192m"); err != nil {
		t.Skipf("this machine does not let a test mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(small, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	t.Parallel()
	s := startIn(t, filepath.Join(small, "data"))
	s.deploy("full", "blue", echoScript, "")
	key := s.key("full")
	tag := func(n int) answer {
		tags := map[string]any{"n": fmt.Sprint(n)}
		for i := range 15 {
			tags[fmt.Sprint("padding", i)] = strings.Repeat("x", 250)
		}
		return s.api("PATCH", workspace+"/onlineEndpoints/full", map[string]any{"tags": tags})
	}
	if a := tag(0); a.status >= 300 {
		t.Fatalf("a write before the disk is full: %d %s", a.status, a.body)
	}
	fill, err := os.Create(filepath.Join(small, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	// To the last page: what is left is room that the store had taken before.
	for _, size := range []int{1 << 20, 4 << 10} {
		for block := make([]byte, size); err == nil; _, err = fill.Write(block) {
		}
		err = nil
	}
	fill.Close()
	last, refused := 0, answer{}
	for n := 1; n < 2000 && refused.status == 0; n++ {
		if a := tag(n); a.status < 300 {
			last = n
		} else {
			refused = a
		}
	}
	if refused.status != http.StatusServiceUnavailable {
		t.Fatalf("a write on a full disk answers %d %s", refused.status, refused.body)
	}
	if a := s.score("full", key, "1"); a.status != http.StatusOK {
		t.Errorf("scoring on a full disk: %d %s", a.status, a.body)
	}
	tags := func() string {
		e := s.api("GET", workspace+"/onlineEndpoints/full", nil).json(t)
		v, _ := e["tags"].(map[string]any)["n"].(string)
		return v
	}
	if tags() != fmt.Sprint(last) {
		t.Errorf("the last acknowledged write was %d and %q is stored", last, tags())
	}
	if err := os.Remove(fill.Name()); err != nil {
		t.Fatal(err)
	}
	s.eventually("writes are taken again", func() bool { return tag(9999).status < 300 })
	s.kill()
	s.up()
	if tags() != "9999" {
		t.Errorf("after a restart %q is stored", tags())
	}
}
