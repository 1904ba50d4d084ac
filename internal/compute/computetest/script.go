package computetest

import (
	"crypto/rand"
	"embed"
	"encoding/hex"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico/internal/compute"
	"portico/internal/online"
)

//go:embed testdata/code/*.py
var scripts embed.FS

// The scripts that templates name.
const (
	scriptScore      = "score.py"
	scriptInitRaises = "init_raises.py"
	scriptInitExits  = "init_exits.py"
	scriptNoRun      = "no_run.py"
	scriptMissing    = "not_there.py"
)

// world holds the code and the model that the templates of one case point at.
type world struct {
	code, model, python string
}

func newWorld(t *testing.T, python string) *world {
	t.Helper()
	w := &world{code: filepath.Join(t.TempDir(), "code"), model: filepath.Join(t.TempDir(), "model"), python: python}
	for _, dir := range []string{w.code, w.model} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatalf("make %s: %v", dir, err)
		}
	}
	files, err := fs.Sub(scripts, "testdata/code")
	if err != nil {
		t.Fatalf("open the scripts: %v", err)
	}
	if err := os.CopyFS(w.code, files); err != nil {
		t.Fatalf("copy the scripts: %v", err)
	}
	if err := os.WriteFile(filepath.Join(w.model, "weights.txt"), []byte("1 2 3\n"), 0o644); err != nil {
		t.Fatalf("write the model: %v", err)
	}
	return w
}

// option changes a template before it is used.
type option func(*compute.Template)

func variables(v map[string]online.Secret) option {
	return func(t *compute.Template) { maps.Copy(t.Variables, v) }
}

func workers(n int) option {
	return func(t *compute.Template) { t.Workers, t.MaxConcurrent = n, n }
}

func timeout(d time.Duration) option {
	return func(t *compute.Template) { t.RequestTimeout = d }
}

// template makes a template of a new set.
func (w *world) template(script string, opts ...option) compute.Template {
	id := newID()
	workspace := online.WorkspaceID{Subscription: "sub", ResourceGroup: "group", Name: "space"}
	probe := online.Probe{
		InitialDelay: 30 * time.Second, Period: 10 * time.Second, Timeout: 2 * time.Second,
		SuccessThreshold: 1, FailureThreshold: 30,
	}
	t := compute.Template{
		Set: "set-" + id, Generation: 1, Digest: "digest-" + id, Endpoint: "shop", Deployment: "blue",
		DeploymentID: workspace.Deployment("shop", "blue"), UID: "uid-" + id,
		Type:   online.InstanceType{Name: "Test_1", CPUs: 1, MemoryMiB: 1024},
		Python: w.python, EnvironmentID: "environment", CodeDir: w.code, ScoringScript: script,
		ModelDir: w.model, ModelDigest: "model", Variables: map[string]online.Secret{},
		Workers: 1, MaxConcurrent: 1, RequestTimeout: 30 * time.Second, Liveness: probe, Readiness: probe,
	}
	for _, o := range opts {
		o(&t)
	}
	return t
}

func newID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func countLines(text, prefix string) int {
	n := 0
	for line := range strings.Lines(text) {
		if strings.Contains(line, prefix) {
			n++
		}
	}
	return n
}
