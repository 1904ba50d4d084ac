package reconcile

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico/internal/compute"
	"portico/internal/online"
	"portico/internal/store"
)

// oneTree holds one model, under every digest.
type oneTree struct{ dir string }

func (a oneTree) Path(string) (string, error) { return filepath.Join(a.dir, "tree"), nil }

func (a oneTree) Named(_ context.Context, _, name string) (string, error) {
	return a.dir, os.Rename(filepath.Join(a.dir, "tree"), filepath.Join(a.dir, name))
}

// asked remembers which environment was asked for.
type asked struct {
	spec    online.EnvironmentSpec
	version online.ID
	image   string
	program []string // of every image
}

func (a *asked) Ensure(_ context.Context, spec online.EnvironmentSpec, _ io.Writer) (Environment, error) {
	a.spec = spec
	return Environment{ID: "e", Python: "/python"}, nil
}

func (a *asked) EnsureImage(_ context.Context, version online.ID, image string, _ io.Writer) (Environment, error) {
	a.version, a.image = version, image
	return Environment{ID: "image-1", Image: &compute.Image{Tree: "/tree", Command: a.program}}, nil
}

type buffer struct{ bytes.Buffer }

func (*buffer) Close() error { return nil }

func TestPrepareMLflow(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"MLmodel": "flavors: {python_function: {}}\nmlflow_version: 3.1.0\n", "requirements.txt": "scikit-learn==1.9.1\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, "tree", "run"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "tree", "run", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var env asked
	var log buffer
	p := &preparations{env: &env, artifacts: oneTree{dir}, now: time.Now, done: func(online.ID) {},
		log: func(string) (io.WriteCloser, error) { return &log, nil }}
	d := &store.Deployment{Spec: online.DeploymentSpec{Runtime: online.RuntimeMLflow}}
	out, _, fault := p.run(t.Context(), &preparation{}, d,
		map[online.Kind]*online.AssetSpec{online.KindModel: {Digest: "d", Path: "saved"}})
	if fault != nil {
		t.Fatal(fault)
	}
	if want := filepath.Join(dir, "saved", "run"); out.mlflowModel != want || out.modelDir != dir {
		t.Errorf("%+v, want the model in %s", out, want)
	}
	for _, want := range []string{"scikit-learn==1.9.1", "mlflow-skinny==3.1.0", "pandas"} {
		if !strings.Contains(env.spec.CondaFile, want) {
			t.Errorf("no %s in the environment:\n%s", want, env.spec.CondaFile)
		}
	}
	if !strings.Contains(log.String(), "mlflow-skinny==3.1.0 is added") {
		t.Errorf("the build log does not say what was added: %s", &log.Buffer)
	}
}

// TestDigestOfRuntimes: a runtime is a difference, and its absence changes no digest of older versions.
func TestDigestOfRuntimes(t *testing.T) {
	script := online.DeploymentSpec{InstanceType: "Standard_DS3_v2", ScoringScript: "score.py"}
	model := script
	model.Runtime = online.RuntimeMLflow
	if Digest(&script) == Digest(&model) {
		t.Error("equal digests")
	}
	kept := script
	kept.Cache = &online.ResponseCache{TTL: time.Minute}
	varied := script
	varied.Cache = &online.ResponseCache{TTL: time.Minute, Vary: []string{"x-tenant"}}
	if Digest(&script) == Digest(&kept) {
		t.Error("nothing starts that would refuse a script that reads headers")
	}
	if Digest(&script) != Digest(&varied) {
		t.Error("a cache that instances do not see restarts them")
	}
	const before = "85c239e8beea8d9d0f0b178c5922e98d"
	if got := Digest(&script); got != before {
		t.Errorf("digest %s, it was %s before there were runtimes: every deployment would restart", got, before)
	}
}
