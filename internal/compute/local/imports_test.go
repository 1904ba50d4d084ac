package local

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"portico/internal/compute"
	"portico/internal/online"
)

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestImportsAreReadFromTheText(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"onlinescoring/score.py": `
import json, numpy as np  # import comment
from sklearn.linear_model import LogisticRegression as LR, Ridge
from scipy import (
    stats,
)
from . import relative
from helpers import clean
import own.part
try:
    import torch
except ImportError:
    torch = None
importlib.import_module("not_seen")
from joblib import load; load
`,
		"helpers.py":                    "import pandas\nfrom own import other\n",
		"onlinescoring/own/__init__.py": "import yaml\n",
		"onlinescoring/own/part.py":     "import requests\nimport helpers\n",
	})
	got := importsOf(&compute.Template{CodeDir: dir, ScoringScript: "onlinescoring/score.py"})
	for _, want := range []string{
		"json", "numpy", "sklearn.linear_model", "sklearn.linear_model.Ridge", "scipy", "torch", "joblib", "pandas", "requests",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is not among %v", want, got)
		}
	}
	for _, no := range []string{"helpers", "own", "own.part", "not_seen", "relative"} {
		if slices.Contains(got, no) {
			t.Errorf("%s is among %v", no, got)
		}
	}
	if !slices.IsSorted(got) {
		t.Errorf("%v", got)
	}
	if got := importsOf(&compute.Template{CodeDir: dir, ScoringScript: "none.py"}); len(got) != 0 {
		t.Errorf("a script that is not there imports %v", got)
	}
}

func TestImportsOfAnMLflowModel(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"MLmodel": "flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n  sklearn:\n    code: null\n"})
	got := importsOf(&compute.Template{ModelDir: dir, MLflowModel: dir})
	if want := []string{"mlflow.pyfunc", "mlflow.sklearn"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestHiddenModules(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"numpy/readme.md": "", "pandas.csv": "", "sub/__init__.py": "", "yaml.cpython-311-x86_64-linux-gnu.so": ""})
	for installed, want := range map[string]string{"numpy": "", "pandas": "", "sub": "sub", "yaml": "yaml", "other": ""} {
		if got := hidden([]string{dir}, []string{installed}); got != want {
			t.Errorf("%s: %q, want %q", installed, got, want)
		}
	}
}

func TestVariablesThatActAtImport(t *testing.T) {
	tmpl := &compute.Template{Python: "/env/bin/python"}
	read := func(name string) bool { return name == "HF_HOME" }
	for name, value := range map[string]string{
		"HF_HOME": "HF_HOME", "PYTHONHASHSEED": "PYTHONHASHSEED", "LD_LIBRARY_PATH": "LD_LIBRARY_PATH", "OMP_NUM_THREADS": "",
		"OMP_PROC_BIND": "OMP_PROC_BIND", "TOKEN": "", "HOME": "", "LANG": "LANG",
	} {
		if got := setFor(tmpl, map[string]online.Secret{name: "x"}, read); got != value {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}
	if got := setFor(tmpl, environment(tmpl, "i", "/scratch", 2, nil), read); got != "" {
		t.Errorf("the engine's own variables: %q", got)
	}
}
