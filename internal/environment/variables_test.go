package environment

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"portico/internal/online"
)

func TestVariables(t *testing.T) {
	dir := t.TempDir()
	cert := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(cert, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	given := map[string]string{
		"PIP_INDEX_URL": "https://i/simple", "PIP_EXTRA_INDEX_URL": "https://a https://b", "PIP_FIND_LINKS": dir + " https://w",
		"PIP_CERT": cert, "https_proxy": "http://p", "AWS_SECRET_ACCESS_KEY": "s", "PYTHONPATH": "/evil", "LD_PRELOAD": "/evil",
	}
	s := readSettings(func(n string) (string, bool) { v, ok := given[n]; return v, ok })
	pip, uv := s.environ(false, "A=b"), s.environ(true)
	for _, want := range []string{"A=b", "PIP_CERT=" + cert, "PIP_INDEX_URL=https://i/simple", "https_proxy=http://p", "LC_ALL=C.UTF-8"} {
		if !slices.Contains(pip, want) {
			t.Errorf("pip lacks %s: %q", want, pip)
		}
	}
	for _, want := range []string{"UV_DEFAULT_INDEX=https://i/simple", "UV_INDEX=https://a https://b", "UV_FIND_LINKS=" + dir + ",https://w", "SSL_CERT_FILE=" + cert} {
		if !slices.Contains(uv, want) {
			t.Errorf("uv lacks %s: %q", want, uv)
		}
	}
	for _, kv := range append(pip, uv...) {
		for _, no := range []string{"AWS", "PYTHONPATH", "LD_PRELOAD"} {
			if strings.HasPrefix(kv, no) {
				t.Errorf("%s is passed on", kv)
			}
		}
	}
	if !slices.Contains(s.paths, dir) || !slices.Contains(s.paths, cert) {
		t.Errorf("paths %q lack %s or %s", s.paths, dir, cert)
	}
	given["UV_INDEX_URL"] = "https://mine"
	s = readSettings(func(n string) (string, bool) { v, ok := given[n]; return v, ok })
	if uv = s.environ(true); slices.Contains(uv, "UV_DEFAULT_INDEX=https://i/simple") {
		t.Errorf("pip's index overrides uv's own: %q", uv)
	}
}

// A conda tool is given what was read, and nothing that was not. The tool here is a stand-in, and so is the
// interpreter that it makes: what is proved is the interface to it.
func TestCondaTool(t *testing.T) {
	tool := filepath.Join(t.TempDir(), "micromamba")
	script(t, tool, `prefix= file= args="$*"
while [ $# -gt 0 ]; do
  case $1 in --prefix) prefix=$2; shift;; --file) file=$2; shift;; esac; shift
done
[ -e "$prefix" ] && { echo "prefix exists"; exit 1; }
mkdir -p "$prefix/conda-meta" "$prefix/bin"
printf '#!/bin/sh\nexit 0\n' > "$prefix/bin/python"
chmod 755 "$prefix/bin/python"
cp "$file" "$prefix/input.yaml"
cp "$(dirname "$file")/requirements.txt" "$prefix/requirements.txt"
echo "$args" > "$prefix/args"
echo '{"name":"python","version":"3.11.9","build":"h1","files":[]}' > "$prefix/conda-meta/python.json"
echo '{"name":"libgcc","version":"13.2","build":"h2","files":[]}' > "$prefix/conda-meta/libgcc.json"`)
	b := newBuilder(t, func(c *Config) { c.Conda = tool })
	spec := online.EnvironmentSpec{CondaFile: "name: x\nchannels: [conda-forge]\ndependencies:\n" +
		"  - python=3.11\n  - libgcc  >=13\n  - pip: [tiny, --pre]\n"}
	env, err := b.Ensure(within(t), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(env.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	work := b.workPath(env.ID)
	want := "channels:\n  - \"conda-forge\"\ndependencies:\n  - \"python 3.11.*\"\n  - \"libgcc >=13\"\n  - pip\n" +
		"  - pip:\n      - \"-r " + work + "/requirements.txt\"\n"
	if got := read("input.yaml"); got != want {
		t.Errorf("input\n%s\nwant\n%s", got, want)
	}
	if got := read("requirements.txt"); got != "--pre\ntiny\n" {
		t.Errorf("requirements %q", got)
	}
	if got := read("args"); !strings.HasPrefix(got, "create --yes --quiet --prefix") {
		t.Errorf("arguments %q", got)
	}
	if env.Version != "3.11.9" || !strings.HasPrefix(env.ID, "conda-") {
		t.Errorf("version %s, id %s", env.Version, env.ID)
	}
	if lock, err := os.ReadFile(env.LockFile); err != nil || !strings.Contains(string(lock), "# conda: libgcc=13.2=h2\n") {
		t.Errorf("lock file %q, %v", lock, err)
	}
	// Curated environments and requirements do not go through conda.
	for _, spec := range []online.EnvironmentSpec{{Curated: "sklearn-1.5"}, {Requirements: "tiny"}} {
		if id, err := b.Key(context.Background(), spec); err != nil || strings.HasPrefix(id, "conda-") {
			t.Errorf("%+v: id %s, %v", spec, id, err)
		}
	}
}

func TestKey(t *testing.T) {
	b := newBuilder(t, nil)
	key := func(spec online.EnvironmentSpec) string {
		t.Helper()
		id, err := b.Key(within(t), spec)
		if err != nil {
			t.Fatal(err)
		}
		if !idRule.MatchString(id) {
			t.Fatalf("id %q", id)
		}
		return id
	}
	a := key(online.EnvironmentSpec{Requirements: "a\nb==1\n"})
	for _, same := range []online.EnvironmentSpec{
		{Requirements: "# c\n\nb==1\r\n  a # x"}, {Requirements: "a\nb==1", Image: "mcr/x"},
		{CondaFile: "dependencies: [{pip: [b==1, a]}]"},
	} {
		if got := key(same); got != a {
			t.Errorf("%+v has %s, want %s", same, got, a)
		}
	}
	seen := map[string]string{a: "a"}
	for _, other := range []string{"a\nb==2", "a", "--pre\na\nb==1", "--index-url https://x\na\nb==1", "--index-url https://y\na\nb==1"} {
		got := key(online.EnvironmentSpec{Requirements: other})
		if seen[got] != "" {
			t.Errorf("%q has the id of %q", other, seen[got])
		}
		seen[got] = other
	}
}
