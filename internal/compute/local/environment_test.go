package local

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"portico/internal/compute"
	"portico/internal/online"
)

func TestEnvironment(t *testing.T) {
	t.Setenv("PORTICO_LOCAL_TEST_OWN", "the server's")
	tmpl := &compute.Template{
		Python: "/envs/e/bin/python", CodeDir: "/code", ScoringScript: "src/score.py", ModelDir: "/model", Workers: 2,
		Type: online.InstanceType{CPUs: 8},
		Variables: map[string]online.Secret{
			"OMP_NUM_THREADS": "5", "TOKEN": "secret", "PYTHONUNBUFFERED": "", "HOME": "/root", "AML_APP_ROOT": "/elsewhere",
		},
	}
	got := environment(tmpl, "blue-1-abc", "/scratch", 6, []int{2, 3})
	for name, want := range map[string]string{
		"AML_APP_ROOT": "/code", "AZUREML_ENTRY_SCRIPT": "src/score.py", "AZUREML_MODEL_DIR": "/model", "WORKER_COUNT": "2",
		"HOME": "/scratch", "TMPDIR": "/scratch", "HOSTNAME": "blue-1-abc", "TOKEN": "secret", "PYTHONUNBUFFERED": "",
		"OMP_NUM_THREADS": "5", "OPENBLAS_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "2,3",
		"PATH": "/envs/e/bin:/usr/local/bin:/usr/bin:/bin",
	} {
		if v, ok := got[name]; !ok || v.Reveal() != want {
			t.Errorf("%s is %q, want %q", name, v.Reveal(), want)
		}
	}
	if _, there := got["PORTICO_LOCAL_TEST_OWN"]; there {
		t.Error("the server's own environment reaches the worker")
	}
	tmpl.ModelDir = ""
	if v, there := environment(tmpl, "i", "/scratch", 6, nil)["AZUREML_MODEL_DIR"]; there {
		t.Errorf("without a model AZUREML_MODEL_DIR is %q", v.Reveal())
	}
}

func TestThreadsPerWorker(t *testing.T) {
	for _, c := range []struct{ cpus, workers, machine, want int }{
		{4, 1, 8, 4}, {4, 1, 2, 2}, {4, 3, 8, 1}, {1, 4, 8, 1}, {8, 2, 8, 4}, {8, 0, 8, 8},
	} {
		tmpl := &compute.Template{Type: online.InstanceType{CPUs: c.cpus}, Workers: c.workers}
		if got := threadsPerWorker(tmpl, c.machine); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		cpus, memory, workers int
		millis, mebibytes     int64
	}{
		{4, 1000, 1, 4000, 1000}, {4, 1000, 2, 2000, 500}, {2, 900, 3, 1000, 300},
	} {
		l := limitsOf(&compute.Template{Type: online.InstanceType{CPUs: c.cpus, MemoryMiB: c.memory}, Workers: c.workers})
		if l.CPUMillis != c.millis || l.MemoryBytes != c.mebibytes<<20 || l.Pids <= 0 {
			t.Errorf("%+v: %+v", c, l)
		}
	}
}

// tree makes files (text), directories (ending in "/") and links ("-> target") below a directory.
func tree(t *testing.T, root string, entries map[string]string) {
	t.Helper()
	for name, content := range entries {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, link := strings.CutPrefix(content, "-> "); link {
			err = os.Symlink(strings.ReplaceAll(target, "ROOT", root), path)
		} else {
			err = os.WriteFile(path, []byte(strings.ReplaceAll(content, "ROOT", root)), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestInterpreterPaths(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries map[string]string
		python  string
		want    []string // nil: refused
	}{
		{"an installation", map[string]string{"py/bin/python3": "x", "py/lib/python3.11/os.py": "x"}, "py/bin/python3", []string{"py"}},
		{
			"a virtual environment that links to its base",
			map[string]string{
				"venv/bin/python": "-> python3", "venv/bin/python3": "-> ROOT/py/bin/python3.11", "venv/pyvenv.cfg": "home = ROOT/py/bin\nversion = 3\n",
				"py/bin/python3.11": "x", "py/lib/python3.11/os.py": "x",
			}, "venv/bin/python", []string{"py", "venv"},
		},
		{
			"a virtual environment that is a copy",
			map[string]string{
				"venv/bin/python": "x", "venv/pyvenv.cfg": "version = 3\nhome=ROOT/py/bin\n", "py/lib/python3.11/os.py": "x",
			}, "venv/bin/python", []string{"py", "venv"},
		},
		{
			"a link on the way shows only itself",
			map[string]string{
				"venv/bin/python": "-> ROOT/home/bin/python3", "venv/pyvenv.cfg": "", "home/bin/python3": "-> ROOT/py/bin/python3",
				"home/secret": "x", "py/bin/python3": "x", "py/lib/python3.11/os.py": "x",
			}, "venv/bin/python", []string{"home/bin/python3", "py", "venv"},
		},
		{"not a Python installation", map[string]string{"home/bin/python": "x"}, "home/bin/python", nil},
		{"not there", nil, "py/bin/python", nil},
		{"links in a circle", map[string]string{"a/bin/python": "-> ROOT/b/bin/python", "b/bin/python": "-> ROOT/a/bin/python"}, "a/bin/python", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			tree(t, root, c.entries)
			got, err := interpreterPaths(filepath.Join(root, c.python))
			var want []string
			for _, w := range c.want {
				want = append(want, filepath.Join(root, w))
			}
			if (err != nil) != (c.want == nil) || !slices.Equal(got, want) {
				t.Errorf("got %v, %v; want %v", got, err, want)
			}
		})
	}
	if _, err := interpreterPaths("python3"); err == nil {
		t.Error("a relative path was accepted")
	}
}

// TestVariablesAreAdded: what the server gives comes beside a person's variables and the engine's, never over them.
func TestVariablesAreAdded(t *testing.T) {
	tmpl := &compute.Template{UID: "u-1"}
	l := &launcher{b: &Backend{cfg: Config{Variables: func(_ context.Context, t *compute.Template, _ string) (map[string]online.Secret, error) {
		return map[string]online.Secret{"MSI_ENDPOINT": online.Secret("http://" + t.UID), "PATH": "/evil", "MINE": "theirs"}, nil
	}}}, template: tmpl}
	env := map[string]online.Secret{"PATH": "/bin", "MINE": "mine"}
	if err := l.addVariables(context.Background(), env); err != nil {
		t.Fatal(err)
	}
	if want := (map[string]online.Secret{"PATH": "/bin", "MINE": "mine", "MSI_ENDPOINT": "http://u-1"}); !maps.Equal(env, want) {
		t.Errorf("%v", slices.Sorted(maps.Keys(env)))
	}
	cause := errors.New("the store is closed")
	l.b.cfg.Variables = func(context.Context, *compute.Template, string) (map[string]online.Secret, error) { return nil, cause }
	if err := l.addVariables(context.Background(), env); !errors.Is(err, cause) {
		t.Errorf("a worker would start without its identity: %v", err)
	}
}
