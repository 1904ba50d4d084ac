package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"portico/internal/host"
)

// The test binary is also the host that a server starts, and the stage of its sandbox.
func TestMain(m *testing.M) {
	host.Stage()
	if len(os.Args) > 1 && os.Args[1] == "host" {
		os.Exit(runHost(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func runHost(args []string) int {
	f := flag.NewFlagSet("host", flag.ExitOnError)
	cfg := host.Config{}
	f.StringVar(&cfg.DataDir, "data-dir", "", "")
	f.DurationVar(&cfg.OrphanTimeout, "orphan-timeout", 0, "")
	f.DurationVar(&cfg.Grace, "grace", 0, "")
	_ = f.Parse(args) // ExitOnError
	if err := host.Run(context.Background(), cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// testClock is a wall clock that can be set.
type testClock struct{ offset atomic.Int64 }

func (c *testClock) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

// running is a server in this process.
type running struct {
	t     *testing.T
	cfg   Config
	ready ready
	http  *http.Client
	token string
	stop  func() error
}

func serveForTest(t *testing.T, clock func() time.Time) *running {
	t.Helper()
	dir := t.TempDir()
	cfg, values, err := Load(Sources{Flags: map[string]string{
		"data_dir": filepath.Join(dir, "data"), "management": "127.0.0.1:0", "scoring": "127.0.0.1:0",
		"ready_file": filepath.Join(dir, "ready.json"), "host_orphan_timeout": "20s",
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, cfg, values, clock, slog.New(slog.DiscardHandler)) }()
	r := &running{t: t, cfg: cfg}
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if doc, err := os.ReadFile(cfg.ReadyFile); err == nil {
			if err := json.Unmarshal(doc, &r.ready); err != nil {
				t.Fatal(err)
			}
			break
		}
		select {
		case err := <-done:
			stopped = true
			t.Fatalf("serve: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("serve is not ready")
		}
	}
	ca, err := os.ReadFile(r.ready.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	r.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	t.Cleanup(r.http.CloseIdleConnections)
	token, err := os.ReadFile(filepath.Join(cfg.DataDir, tokenFile))
	if err != nil {
		t.Fatal(err)
	}
	r.token = strings.TrimSpace(string(token))
	return r
}

func (r *running) api(method, path, body string) (int, map[string]any) {
	r.t.Helper()
	const ws = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/portico/providers/Microsoft.MachineLearningServices/workspaces/default"
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.ready.ManagementURL+ws+path+"?api-version=2024-04-01", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.http.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	doc, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	var v map[string]any
	_ = json.Unmarshal(doc, &v) // some answers have no body
	return resp.StatusCode, v
}

// upload registers a code version with one script and gives its id.
func (r *running) upload(script string) string {
	r.t.Helper()
	status, up := r.api("POST", "/codes/c/versions/1/startPendingUpload", `{"pendingUploadType": "TemporaryBlobReference"}`)
	ref, _ := up["blobReferenceForConsumption"].(map[string]any)
	credential, _ := ref["credential"].(map[string]any)
	sas, _ := credential["sasUri"].(string)
	if status != http.StatusOK || sas == "" {
		r.t.Fatalf("startPendingUpload: %d %v", status, up)
	}
	base, query, _ := strings.Cut(sas, "?")
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPut, base+"/src/score.py?"+query, strings.NewReader(script))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("x-ms-blob-type", "BlockBlob")
	resp, err := r.http.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		r.t.Fatalf("put blob: %d", resp.StatusCode)
	}
	status, code := r.api("PUT", "/codes/c/versions/1", fmt.Sprintf(`{"properties": {"codeUri": %q}}`, base+"/src"))
	id, _ := code["id"].(string)
	if status != http.StatusCreated || id == "" {
		r.t.Fatalf("register code: %d %v", status, code)
	}
	return id
}

const testScript = "def init():\n    pass\ndef run(raw_data):\n    return raw_data\n"

// prepare makes an endpoint, code and an environment, and gives the body of a deployment.
func (r *running) prepare(endpoint string) string {
	r.t.Helper()
	if status, v := r.api("PUT", "/onlineEndpoints/"+endpoint, `{"location": "local", "properties": {"authMode": "Key"}}`); status != http.StatusCreated {
		r.t.Fatalf("endpoint: %d %v", status, v)
	}
	code := r.upload(testScript)
	status, env := r.api("PUT", "/environments/e/versions/1", `{"properties": {"condaFile": "name: e\ndependencies:\n  - python\n"}}`)
	if status != http.StatusCreated {
		r.t.Fatalf("environment: %d %v", status, env)
	}
	return fmt.Sprintf(`{"location": "local", "sku": {"name": "Default", "capacity": 1}, "properties": {"endpointComputeType": "Managed",
		"instanceType": "Standard_DS3_v2", "environmentId": %q, "codeConfiguration": {"codeId": %q, "scoringScript": "score.py"},
		"scaleSettings": {"scaleType": "Default"}}}`, env["id"], code)
}

func (r *running) await(path, state string) map[string]any {
	r.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, v := r.api("GET", path, "")
		props, _ := v["properties"].(map[string]any)
		if props["provisioningState"] == state {
			return v
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s is not %s: %v", path, state, v)
		}
	}
}

// TestClockSetByAnHour: a wall clock that jumps forth and back changes no outcome: deployments come up, requests
// are answered, and what is deleted goes.
func TestClockSetByAnHour(t *testing.T) {
	clock := &testClock{}
	r := serveForTest(t, clock.now)
	body := r.prepare("clock")
	for i, jump := range []time.Duration{time.Hour, -time.Hour, 0} {
		name := fmt.Sprintf("/onlineEndpoints/clock/deployments/dep%d", i)
		if status, v := r.api("PUT", name, body); status != http.StatusCreated {
			t.Fatalf("put: %d %v", status, v)
		}
		clock.offset.Store(int64(jump))
		r.await(name, "Succeeded")
	}
	if status, v := r.api("PUT", "/onlineEndpoints/clock", `{"location": "local", "properties": {"authMode": "Key", "traffic": {"dep0": 50, "dep1": 50}}}`); status != http.StatusOK {
		t.Fatalf("traffic: %d %v", status, v)
	}
	status, keys := r.api("POST", "/onlineEndpoints/clock/listKeys", "")
	if status != http.StatusOK {
		t.Fatalf("keys: %d %v", status, keys)
	}
	clock.offset.Store(int64(-time.Hour))
	for range 20 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.ready.ScoringURL+"/endpoints/clock/score", strings.NewReader("1"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", fmt.Sprintf("Bearer %v", keys["primaryKey"]))
		resp, err := r.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("score: %d", resp.StatusCode)
		}
	}
	if status, _ := r.api("DELETE", "/onlineEndpoints/clock", ""); status != http.StatusAccepted {
		t.Fatalf("delete: %d", status)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if status, _ := r.api("GET", "/onlineEndpoints/clock", ""); status == http.StatusNotFound {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the endpoint is not deleted")
		}
	}
}

// TestBackupAndRestore: what a backup brings back serves again, and nothing secret lies clear in it.
func TestBackupAndRestore(t *testing.T) {
	r := serveForTest(t, time.Now)
	body := strings.Replace(r.prepare("kept"), `"scaleSettings"`, `"environmentVariables": {"PASSWORD": "hunter2-very-secret"}, "scaleSettings"`, 1)
	if status, v := r.api("PUT", "/onlineEndpoints/kept/deployments/blue", body); status != http.StatusCreated {
		t.Fatalf("put: %d %v", status, v)
	}
	r.await("/onlineEndpoints/kept/deployments/blue", "Succeeded")
	_, keys := r.api("POST", "/onlineEndpoints/kept/listKeys", "")
	file := filepath.Join(t.TempDir(), "backup")
	logger := slog.New(slog.DiscardHandler)
	if err := Backup(t.Context(), r.cfg, file, logger); err != nil {
		t.Fatal(err)
	}
	if err := Backup(t.Context(), r.cfg, file, logger); err == nil {
		t.Error("a second backup replaced the first")
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	other := r.cfg
	other.DataDir = filepath.Join(t.TempDir(), "restored")
	wrong := filepath.Join(t.TempDir(), "wrong.key")
	if err := os.WriteFile(wrong, []byte("not a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Restore(t.Context(), other, file, wrong, logger); err == nil {
		t.Error("restored with a wrong key")
	}
	if err := Restore(t.Context(), other, file, filepath.Join(r.cfg.DataDir, masterKeyFile), logger); err != nil {
		t.Fatal(err)
	}
	if err := Restore(t.Context(), other, file, filepath.Join(r.cfg.DataDir, masterKeyFile), logger); err == nil {
		t.Error("restored over a data directory")
	}
	secrets := []string{"hunter2-very-secret", fmt.Sprint(keys["primaryKey"]), r.token}
	unpacked := t.TempDir()
	if err := readArchive(t.Context(), file, unpacked); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{unpacked, filepath.Join(other.DataDir, "artifacts"), filepath.Join(r.cfg.DataDir, "logs")} {
		grepNone(t, dir, secrets)
	}
	grepNone(t, filepath.Join(r.cfg.DataDir, storeFile), secrets)
	grepNone(t, filepath.Join(r.cfg.DataDir, "host"), secrets)
	grepNone(t, filepath.Join(r.cfg.DataDir, "sets"), secrets)
	grepNone(t, filepath.Join(r.cfg.DataDir, "pki"), []string{"PRIVATE KEY"})
}

// grepNone fails when a file below path holds one of the texts.
func grepNone(t *testing.T, path string, texts []string) {
	t.Helper()
	err := filepath.WalkDir(path, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		doc, err := os.ReadFile(p)
		for i, text := range texts {
			if strings.Contains(string(doc), text) {
				t.Errorf("%s holds secret %d in clear", p, i)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
