package environment

import (
	"slices"
	"strings"
	"testing"

	"portico/internal/online"
)

func TestCondaFiles(t *testing.T) {
	for _, c := range []struct{ name, in, packages, pip, fault string }{
		{"usual", "name: model-env\nchannels:\n  - conda-forge\ndependencies:\n  - python=3.9\n  - numpy=1.23.5\n  - pip=23.0.1\n" +
			"  - scikit-learn=1.2.2\n  - pip:\n    - azureml-defaults==1.53.0\n    - joblib>=1.0,<2 # comment\n",
			"numpy==1.23.5.* pip==23.0.1.* scikit-learn==1.2.2.*", "azureml-defaults==1.53.0 joblib>=1.0,<2", ""},
		{"renamed", "dependencies: [pytorch=2.1, py-xgboost, matplotlib-base]", "torch==2.1.* xgboost matplotlib", "", ""},
		{"exported prefix", "prefix: /opt/x\ndependencies: []", "", "", ""},
		{"null dependencies", "dependencies:", "", "", ""},
		{"null pip", "dependencies: [{pip: }]", "", "", ""},
		{"unknown packages", "dependencies: [libgcc-ng, cudatoolkit=11.8, numpy]", "", "", "cudatoolkit, libgcc-ng"},
		{"empty", "", "", "", "empty"},
		{"a text", "numpy", "", "", "mapping"},
		{"a list", "- numpy", "", "", "mapping"},
		{"no dependencies", "name: x", "", "", "no 'dependencies'"},
		{"two documents", "dependencies: []\n---\ndependencies: []\n", "", "", "more than one"},
		{"twice", "dependencies: []\ndependencies: []\n", "", "", "twice"},
		{"tabs", "dependencies:\n\t- x", "", "", "YAML"},
		{"unknown key", "dependencys: []", "", "", "line 1: the key \"dependencys\""},
		{"variables", "dependencies: []\nvariables: {A: b}", "", "", "environment_variables"},
		{"channel mapping", "channels: {a: b}\ndependencies: []", "", "", "line 1: 'channels' must be a list"},
		{"dependency mapping", "dependencies:\n  - numpy: 1.2\n", "", "", "line 2"},
		{"dependency list", "dependencies:\n  - [numpy]\n", "", "", "line 2"},
		{"pip twice", "dependencies:\n  - pip: [a]\n  - pip: [b]\n", "", "", "line 3"},
		{"python twice", "dependencies:\n  - python=3.9\n  - python=3.10\n", "", "", "line 3: python is pinned twice"},
		{"python garbage", "dependencies:\n  - python=3.x\n", "", "", "line 2"},
		{"python four parts", "dependencies:\n  - python=3.9.1.1\n", "", "", "line 2"},
		{"pip file", "dependencies: [{pip: [-r requirements.txt]}]", "", "", "write its lines here"},
		{"pip editable", "dependencies: [{pip: ['-e .']}]", "", "", "working copy"},
		{"pip mapping", "dependencies: [{pip: {a: b}}]", "", "", "'pip' must be a list"},
		{"alternatives", "dependencies: ['numpy=1.25|1.26']", "", "", "alternatives"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := parseConda(c.in)
			var reqs []string
			if err == nil {
				reqs, _, err = f.mapped()
			}
			if c.fault != "" {
				if !online.IsCode(err, online.CodeBadArgument) || !strings.Contains(err.Error(), c.fault) {
					t.Fatalf("got %v, want a BadArgument with %q", err, c.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(reqs, " "); got != c.packages {
				t.Errorf("packages %q, want %q", got, c.packages)
			}
			if got := strings.Join(f.Pip.Packages, " "); got != c.pip {
				t.Errorf("pip %q, want %q", got, c.pip)
			}
		})
	}
}

func TestCondaFileLimits(t *testing.T) {
	for what, text := range map[string]string{
		"size":  "dependencies: []\n#" + strings.Repeat("x", MaxSpecBytes),
		"count": "dependencies: [" + strings.Repeat("numpy, ", MaxDependencies) + "numpy]",
		"bomb": "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n" +
			"dependencies: [*c,*c,*c,*c,*c,*c,*c,*c]",
	} {
		if _, err := parseConda(text); !online.IsCode(err, online.CodeBadArgument) {
			t.Errorf("%s: got %v, want BadArgument", what, err)
		}
	}
}

func TestRequirements(t *testing.T) {
	for _, c := range []struct{ in, options, packages, fault string }{
		{"numpy\n\n# only a comment\npandas>=2 # why\n", "", "numpy|pandas>=2", ""},
		{"a==1 \\\n  --hash=sha256:abc\n", "", "a==1 --hash=sha256:abc", ""},
		{"uvicorn[standard]>=0.2; python_version >= '3.9'", "", "uvicorn[standard]>=0.2; python_version >= '3.9'", ""},
		{"x @ https://example.org/x.whl#sha256=1", "", "x @ https://example.org/x.whl#sha256=1", ""},
		{"git+https://example.org/r.git@main", "", "git+https://example.org/r.git@main", ""},
		{"--index-url https://i/simple\n-f https://w\n--pre\nx", "--index-url https://i/simple|--find-links https://w|--pre", "x", ""},
		{"--extra-index-url=https://i/simple\nx", "--extra-index-url https://i/simple", "x", ""},
		{"a\r\nb\r\n", "", "a|b", ""},
		{"-r base.txt", "", "", "line 1"},
		{"a\n-c limits.txt", "", "", "line 2"},
		{"-e .", "", "", "working copy"},
		{"./wheel.whl", "", "", "path of another machine"},
		{"/abs/x.whl", "", "", "path of another machine"},
		{"x @ file:///etc/passwd", "", "", "path of another machine"},
		{"-f /tmp/wheels", "", "", "path of another machine"},
		{"--index-url file:///x", "", "", "path of another machine"},
		{"--target /x", "", "", "not supported"},
		{"--pre yes", "", "", "takes no value"},
		{"--index-url", "", "", "needs a value"},
		{"--extra-index-url https://${TOKEN}@i/simple", "", "", "environment variable"},
		{"!!bad", "", "", "not a requirement"},
		{"a b c", "", "", "not a requirement"},
		{"a\x01", "", "", "control character"},
	} {
		r, err := parseRequirements(c.in, "requirements")
		if c.fault != "" {
			if !online.IsCode(err, online.CodeBadArgument) || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%q: got %v, want %q", c.in, err, c.fault)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
			continue
		}
		if o, p := strings.Join(r.Options, "|"), strings.Join(r.Packages, "|"); o != c.options || p != c.packages {
			t.Errorf("%q: options %q packages %q, want %q and %q", c.in, o, p, c.options, c.packages)
		}
	}
}

func TestRequirementsHideCredentials(t *testing.T) {
	_, err := parseRequirements("--target https://user:hunter2@index/simple", "requirements")
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Fatalf("got %v", err)
	}
	_, err = parseRequirements("x ${A} https://user:hunter2@index/simple", "requirements")
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Fatalf("got %v", err)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name        string
		in          online.EnvironmentSpec
		note, fault string
	}{
		{"nothing", online.EnvironmentSpec{}, "", ""},
		{"image only", online.EnvironmentSpec{Image: "mcr/x"}, "without an inferenceConfig", ""},
		{"no image", online.EnvironmentSpec{Image: "docker-archive:/etc/x"}, "", "not the name of an image"},
		{"server packages", online.EnvironmentSpec{Requirements: "azureml_defaults\ninference-schema"}, "azureml-defaults: installed", ""},
		{"conda with image", online.EnvironmentSpec{Image: "x", CondaFile: "dependencies: []"}, "", ""},
		{"two sources", online.EnvironmentSpec{Requirements: "a", CondaFile: "dependencies: []"}, "", "one source"},
		{"windows", online.EnvironmentSpec{OSType: "Windows"}, "", "operating system"},
		{"linux", online.EnvironmentSpec{OSType: "linux"}, "", ""},
		{"curated", online.EnvironmentSpec{Curated: "sklearn-1.5"}, "", ""},
		{"curated of Azure", online.EnvironmentSpec{Curated: "azureml://registries/azureml/environments/sklearn-1.5/labels/latest"}, "stands in for", ""},
		{"no such curated", online.EnvironmentSpec{Curated: "AzureML-tensorflow-1.15"}, "", "sklearn-1.5"},
	} {
		notes, err := Check(c.in)
		if c.fault != "" {
			if !online.IsCode(err, online.CodeBadArgument) || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%s: got %v, want %q", c.name, err, c.fault)
			}
			continue
		}
		if err != nil || (c.note == "") != (len(notes) == 0) || !strings.Contains(strings.Join(notes, "\n"), c.note) {
			t.Errorf("%s: notes %q, error %v; want %q", c.name, notes, err, c.note)
		}
	}
}

func TestCuratedNames(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"sklearn-1.5", "sklearn-1.5"},
		{"SKLearn-1.5", "sklearn-1.5"},
		{"azureml:sklearn-1.5@latest", "sklearn-1.5"},
		{"azureml:AzureML-sklearn-1.5:12", "sklearn-1.5"},
		{"azureml://registries/azureml/environments/sklearn-1.5/versions/3", "sklearn-1.5"},
		{"azureml://registries/azureml/environments/minimal-py311-inference/labels/latest", "minimal"},
		{"xgboost-2", "xgboost-2"},
		{"AzureML-sklearn-1.0-ubuntu20.04-py38-cpu", ""},
		{"../../etc/passwd", ""},
		{"", ""},
	} {
		got, err := CuratedName(c.in)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q: %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

// Each curated environment has a file that reads without a fault, and each file is listed.
func TestCuratedFiles(t *testing.T) {
	entries, err := curatedFiles.ReadDir("curated")
	if err != nil {
		t.Fatal(err)
	}
	list := Curated()
	if len(entries) != len(list) {
		t.Errorf("%d files, %d names", len(entries), len(list))
	}
	if !slices.IsSortedFunc(list, func(a, b CuratedEnvironment) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("the list is not sorted by name")
	}
	for _, c := range list {
		w, err := readSpec(online.EnvironmentSpec{Curated: c.Name})
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		if len(w.Reqs.Packages) == 0 || len(w.Conda.Packages) != 0 || len(w.python()) == 0 {
			t.Errorf("%s: pins Python and names packages of the index only: %+v", c.Name, w)
		}
	}
}
