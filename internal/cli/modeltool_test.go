package cli

import (
	"archive/zip"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// wheel writes a package with one module, so that pip has something to install without an index.
func wheel(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+"-1.0-py3-none-any.whl")
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	info := name + "-1.0.dist-info/"
	for _, f := range [][2]string{
		{name + ".py", "VALUE = 42\n"}, {info + "METADATA", "Metadata-Version: 2.1\nName: " + name + "\nVersion: 1.0\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{info + "RECORD", name + ".py,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n"},
	} {
		w, err := z.Create(f[0])
		if err == nil {
			_, err = w.Write([]byte(f[1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, path, b.String())
	return path
}

// TestToolEnvironment: it is built once with what it needs, and anew when a build was cut short.
func TestToolEnvironment(t *testing.T) {
	base, version, err := findToolPython(context.Background())
	if err != nil {
		t.Skip(err) // a machine without a Python that the tools' packages exist for
	}
	var out bytes.Buffer
	a := &App{Err: &out}
	list := []string{"probe @ file://" + wheel(t, "probe")}
	dir := toolEnvironment(t.TempDir(), base, version, list)
	write(t, filepath.Join(dir, "bin", "python"), "half of a program")
	t.Setenv("PIP_NO_INDEX", "1")
	for range 2 {
		python, err := a.buildToolEnvironment(context.Background(), dir, base, list)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := exec.Command(python, "-c", "import probe; print(probe.VALUE)").Output(); err != nil || string(got) != "42\n" {
			t.Errorf("%q, %v", got, err)
		}
	}
	if strings.Count(out.String(), "Building") != 1 {
		t.Errorf("%s", &out)
	}
	if other := toolEnvironment(filepath.Dir(dir), base, version, append(list, "x==1")); other == dir {
		t.Error("other packages, the same environment")
	}
}

func TestToolRequirements(t *testing.T) {
	const own = "# of the tool\nnumpy==2\nonnx==1\n# of the model\nscikit-learn==1.9\nscipy==1\n"
	for _, c := range []struct {
		model, given []string
		want         string
	}{
		{nil, nil, "numpy==2 onnx==1 scikit-learn==1.9 scipy==1"},
		{nil, []string{"scikit_learn==1.5.2"}, "numpy==2 onnx==1 scikit_learn==1.5.2"},
		{[]string{"numpy<2", "scikit-learn==1.4"}, []string{"scikit-learn==1.5"}, "onnx==1 scikit-learn==1.5 numpy<2"},
		{[]string{"xgboost==3.2"}, nil, "numpy==2 onnx==1 scikit-learn xgboost==3.2"},
	} {
		got, err := toolRequirements(own, c.model, c.given)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%v, %v: %v, %v; want %s", c.model, c.given, got, err, c.want)
		}
	}
	for _, bad := range []string{"--index-url=http://x", "a b", "-r other.txt", "a==1\n--pre", "", "a @ https://x/a.whl", "a; os_name=='x'"} {
		if _, err := toolRequirements(own, nil, []string{bad}); ExitCode(err) != ExitUsage {
			t.Errorf("%q: %v", bad, err)
		}
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "MLmodel"), "flavors:\n  sklearn: {}\n  python_function: {}\n")
	write(t, filepath.Join(dir, "requirements.txt"), "mlflow==3\nmlflow-skinny==3\nscikit-learn==1.5 # as trained\n--pre\nx @ https://evil/x.whl\n")
	if got, err := mlflowRequirements(dir); err != nil || !slices.Equal(got, []string{"scikit-learn==1.5"}) {
		t.Errorf("%v, %v", got, err)
	}
}

// TestModelToolRefusals: what is wrong with a command line is said before anything is built.
func TestModelToolRefusals(t *testing.T) {
	f := newFakeServer(t)
	dir := t.TempDir()
	file, there, pickled := filepath.Join(dir, "m.onnx"), filepath.Join(dir, "there.onnx"), filepath.Join(dir, "m.pkl")
	write(t, file, "x")
	write(t, pickled, "x")
	write(t, there, "x")
	for want, args := range map[string][]string{
		"SOURCE cannot be read":        {"optimize", filepath.Join(dir, "none.onnx"), "out"},
		"is a folder":                  {"optimize", dir, "out"},
		"give --overwrite":             {"optimize", file, there},
		"--level":                      {"optimize", file, "out", "--level", "all"},
		"--rounds":                     {"optimize", file, "out", "--rounds", "0"},
		"--timeout":                    {"optimize", file, "out", "--timeout", "0s"},
		"there is no folder":           {"convert", pickled, filepath.Join(dir, "none", "out")},
		"is an ONNX model already":     {"convert", file, "out"},
		"--samples cannot be read":     {"convert", pickled, "out", "--samples", filepath.Join(dir, "none.json")},
		"--output":                     {"convert", pickled, "out", "-o", "jsn"},
		"--python names one":           {"convert", pickled, "out", "--python", "python3", "--requirement", "a==1"},
		"is not NAME==VERSION":         {"convert", pickled, "out", "--requirement", "--pre"},
		"no MLmodel file":              {"convert", dir, "out"},
		"accepts 2 arg(s), received 1": {"convert", file},
	} {
		o := f.portico(append([]string{"model"}, args...)...)
		if o.code != ExitUsage || !strings.Contains(o.err, want) {
			t.Errorf("%v: exit %d, %s", args, o.code, o.err)
		}
	}
}

// TestToolProcess: a tool sees nothing of this process's environment, and ends at its time-out with all that it started.
func TestToolProcess(t *testing.T) {
	t.Setenv("PORTICO_TOKEN", "secret")
	dir := t.TempDir()
	python := filepath.Join(dir, "python")
	write(t, python, "#!/bin/sh\nenv > "+dir+"/env\necho '{\"argument\": \"'$3'\"}' > \"$6\"\n")
	if err := os.Chmod(python, 0o700); err != nil {
		t.Fatal(err)
	}
	var noise bytes.Buffer
	tool := &modelTool{name: "convert", source: "s", target: "t", timeout: time.Minute}
	report, err := tool.run(context.Background(), python, &noise)
	if err != nil || report["argument"] != "convert" {
		t.Fatalf("%v, %v", report, err)
	}
	env, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil || strings.Contains(string(env), "secret") || !strings.Contains(string(env), "PYTHONPATH=") {
		t.Errorf("%v: %s", err, env)
	}
	write(t, python, "#!/bin/sh\necho why it failed >&2\nexit 7\n")
	if _, err = tool.run(context.Background(), python, &noise); err == nil || !strings.Contains(noise.String(), "why it failed") {
		t.Errorf("%v, %s", err, &noise)
	}
	write(t, python, "#!/bin/sh\necho '{\"error\": \"what to change\"}' > \"$6\"\nexit 2\n")
	if _, err = tool.run(context.Background(), python, &noise); err == nil || err.Error() != "what to change" {
		t.Errorf("%v", err)
	}
	write(t, python, "#!/bin/sh\nsleep 600 &\nsleep 600\n")
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err = tool.run(ctx, python, &noise); err == nil || !strings.Contains(err.Error(), "--timeout") {
		t.Errorf("%v", err)
	}
}
