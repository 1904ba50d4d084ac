package mlflow

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"portico/internal/environment"
	"portico/internal/online"
)

const pyfunc = "flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n    python_version: 3.11.7\n" +
	"    env:\n      conda: conda.yaml\n      virtualenv: python_env.yaml\n  sklearn: {}\nmlflow_version: 3.17.2\n"

func tree(files ...string) fstest.MapFS {
	out := fstest.MapFS{}
	for i := 0; i+1 < len(files); i += 2 {
		out[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	return out
}

func TestWhereTheModelIs(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		dir   string // empty: ErrNone
	}{
		"root":                    {[]string{"MLmodel", pyfunc}, "."},
		"root before a folder":    {[]string{"MLmodel", pyfunc, "a/MLmodel", "x"}, "."},
		"only folder":             {[]string{"model/MLmodel", pyfunc, "README.md", ""}, "model"},
		"two folders":             {[]string{"a/MLmodel", pyfunc, "b/x", ""}, ""},
		"two levels down":         {[]string{"a/b/MLmodel", pyfunc}, ""},
		"MLmodel is a folder":     {[]string{"MLmodel/x", ""}, ""},
		"no model":                {[]string{"model.pkl", ""}, ""},
		"the name in other cases": {[]string{"mlmodel", pyfunc}, ""},
	} {
		m, err := Read(tree(c.files...))
		switch {
		case c.dir == "" && !errors.Is(err, ErrNone):
			t.Errorf("%s: %v, want ErrNone", name, err)
		case c.dir != "" && (err != nil || m.Dir != c.dir):
			t.Errorf("%s: %+v %v, want folder %s", name, m, err, c.dir)
		}
	}
}

func TestWhatIsWrongWithAModel(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no pyfunc":  {"flavors: {keras: {}, spark: {}}", "no python_function flavor, which serves it without code; its flavors are: keras, spark"},
		"no flavors": {"run_id: x", "its flavors are: none"},
		"onnx file":  {"flavors: {onnx: {data: ../m.onnx}}", "which is not inside it"},
		"not YAML":   {"flavors: [", "cannot be read"},
		"a list":     {"- a", "cannot be read"},
		"too large":  {strings.Repeat("#", maxModelBytes+1), "larger than"},
	} {
		_, err := Read(tree(File, c.text))
		fault, ok := online.AsError(err)
		if !ok || fault.Code != online.CodeBadArgument || fault.Target != target || !strings.Contains(fault.Message, c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestONNXFlavor(t *testing.T) {
	for name, c := range map[string]struct {
		text, file string
		python     bool
	}{
		"both":         {"flavors: {python_function: {loader_module: mlflow.onnx}, onnx: {data: model.onnx}}", "model.onnx", true},
		"onnx alone":   {"flavors: {onnx: {data: data/m.onnx}}", "data/m.onnx", false},
		"without data": {"flavors: {onnx: {}}", "model.onnx", false},
		"another":      {"flavors: {python_function: {}, sklearn: {}}", "", true},
	} {
		m, err := Read(tree(File, c.text))
		if err != nil || m.ONNX != c.file || m.Python != c.python {
			t.Errorf("%s: %+v %v", name, m, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	const conda = "name: mlflow-env\nchannels: [conda-forge]\ndependencies:\n- python=3.11.7\n- pip<=24.0\n"
	for name, c := range map[string]struct {
		files []string
		want  []string // lines of the conda text
		not   string
		notes int
	}{
		"conda file first": {
			files: []string{"conda.yaml", conda + "- pip:\n  - mlflow==2.9.1\n  - x==1\n", "requirements.txt", "y"},
			want:  []string{"python=3.11.7", "mlflow==2.9.1", "x==1", "conda-forge"}, not: "mlflow-skinny",
		},
		"the small MLflow": {
			files: []string{"conda.yaml", conda + "- pip:\n  - mlflow_skinny==2.9.1\n  - NumPy\n"},
			want:  []string{"mlflow_skinny==2.9.1", "pandas"}, not: "numpy", notes: 1,
		},
		"MLflow as a conda package": {
			files: []string{"conda.yaml", conda + "- conda-forge::mlflow=2.9\n"},
			want:  []string{"conda-forge::mlflow=2.9"}, not: "mlflow-skinny",
		},
		"no MLflow": {
			files: []string{"conda.yaml", conda}, want: []string{"mlflow-skinny==3.17.2", "numpy", "pandas"}, notes: 3,
		},
		"python_env.yaml": {
			files: []string{
				"python_env.yaml", "python: 3.10\nbuild_dependencies: [pip==23.0]\ndependencies:\n- -r requirements.txt\n- z>1\n",
				"requirements.txt", "# by hand\nmlflow==2.9.1\r\n\nx==1\n",
			},
			want: []string{"python=3.10", "mlflow==2.9.1", "x==1", "z>1"}, not: "pip==23",
		},
		"requirements.txt alone": {
			files: []string{"requirements.txt", "mlflow\nx==1\n"}, want: []string{"python=3.11.7", "mlflow", "x==1"},
		},
	} {
		m, err := Read(tree(append(c.files, File, pyfunc)...))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		spec, notes, err := m.Environment()
		if err != nil || len(notes) != c.notes {
			t.Errorf("%s: notes %q, %v", name, notes, err)
			continue
		}
		if _, err := environment.Check(spec); err != nil {
			t.Errorf("%s: it cannot be built: %v\n%s", name, err, spec.CondaFile)
		}
		lines := strings.Split(spec.CondaFile, "\n")
		for _, want := range c.want {
			if !slices.ContainsFunc(lines, func(l string) bool { return strings.Trim(l, " -'\"") == want }) {
				t.Errorf("%s: no line %s in\n%s", name, want, spec.CondaFile)
			}
		}
		if c.not != "" && strings.Contains(spec.CondaFile, c.not) {
			t.Errorf("%s: %s in\n%s", name, c.not, spec.CondaFile)
		}
	}
}

func TestWhatIsWrongWithAnEnvironment(t *testing.T) {
	const named = "flavors:\n  python_function:\n    env: "
	for name, c := range map[string]struct {
		files []string
		want  string
	}{
		"none":                  {[]string{File, pyfunc}, "names no packages"},
		"a path out of it":      {[]string{File, named + "../conda.yaml\n"}, "names no packages"},
		"requirements missing":  {[]string{File, pyfunc, pythonFile, "dependencies: [-r lost.txt]"}, "lost.txt cannot be opened"},
		"requirements outside":  {[]string{File, pyfunc, pythonFile, "dependencies: [-r ../x]"}, "not inside it"},
		"conda file not YAML":   {[]string{File, pyfunc, condaFile, "a: ["}, "conda.yaml cannot be read"},
		"dependencies a text":   {[]string{File, pyfunc, condaFile, "dependencies: x"}, "not a list"},
		"a mapping of its own":  {[]string{File, pyfunc, condaFile, "dependencies: [{npm: [x]}]"}, "neither a text nor a list"},
		"larger than it may be": {[]string{File, pyfunc, condaFile, strings.Repeat("#", maxEnvironmentBytes+1)}, "larger than"},
	} {
		m, err := Read(tree(c.files...))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, _, err := m.Environment(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestLinksOutside: a link in the model shows nothing of what lies beside it.
func TestLinksOutside(t *testing.T) {
	dir := t.TempDir()
	model := filepath.Join(dir, "model")
	if err := os.Mkdir(model, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"secret.yaml": "dependencies: [secret]", "model/MLmodel": pyfunc} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../secret.yaml", filepath.Join(model, condaFile)); err != nil {
		t.Fatal(err)
	}
	m, err := Open(model)
	if err != nil {
		t.Fatal(err)
	}
	if spec, _, err := m.Environment(); err == nil {
		t.Errorf("the link was followed: %s", spec.CondaFile)
	}
	if _, err := Open(filepath.Join(dir, "absent")); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("a folder that is not there: %v", err)
	}
}
