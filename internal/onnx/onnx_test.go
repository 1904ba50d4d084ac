package onnx_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"portico/internal/online"
	"portico/internal/onnx"
	"portico/internal/onnx/onnxtest"
)

func tree(files ...string) fstest.MapFS {
	out := fstest.MapFS{}
	for _, f := range files {
		out[f] = &fstest.MapFile{}
	}
	return out
}

func TestReadFindsTheModel(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		want  onnx.Model
	}{
		"a file":               {[]string{"model.onnx"}, onnx.Model{File: "model.onnx"}},
		"beside others":        {[]string{"iris.ONNX", "iris.onnx.data", "README.md", "a/b", "c/d"}, onnx.Model{File: "iris.ONNX"}},
		"in the only folder":   {[]string{"iris/m.onnx", "README.md"}, onnx.Model{File: "iris/m.onnx"}},
		"a repository":         {[]string{"iris/1/model.onnx", "iris/labels.txt"}, onnx.Model{File: "iris/1/model.onnx", Name: "iris", Version: "1"}},
		"the highest version":  {[]string{"iris/9/model.onnx", "iris/10/model.onnx", "iris/old/model.onnx"}, onnx.Model{File: "iris/10/model.onnx", Name: "iris", Version: "10"}},
		"a repository, deeper": {[]string{"models/iris/3/model.onnx"}, onnx.Model{File: "models/iris/3/model.onnx", Name: "iris", Version: "3"}},
		"beside another thing": {[]string{"iris/1/model.onnx", "docs/readme.md"}, onnx.Model{File: "iris/1/model.onnx", Name: "iris", Version: "1"}},
	} {
		m, err := onnx.Read(tree(c.files...))
		if err != nil || *m != c.want {
			t.Errorf("%s: %+v %v, want %+v", name, m, err, c.want)
		}
	}
	for _, files := range [][]string{{"model.pkl"}, {"a/b/model.onnx", "a/c/x"}, {"a/model.onnx", "b/x"}, {"model.onnx/x"}} {
		if m, err := onnx.Read(tree(files...)); !errors.Is(err, onnx.ErrNone) {
			t.Errorf("%v: %+v %v", files, m, err)
		}
	}
	for _, c := range []struct {
		files []string
		code  online.Code
		want  string
	}{
		{[]string{"a.onnx", "b.onnx"}, online.CodeBadArgument, "several ONNX models: a.onnx, b.onnx"},
		{[]string{"a/1/model.onnx", "b/1/model.onnx"}, online.CodeNotImplemented, "holds 2 models"},
		{[]string{"a/1/model.pt"}, online.CodeNotImplemented, "no .onnx file in a/1"},
	} {
		_, err := onnx.Read(tree(c.files...))
		if fault, ok := online.AsError(err); !ok || fault.Code != c.code || !strings.Contains(fault.Message, c.want) {
			t.Errorf("%v: %v", c.files, err)
		}
	}
}

func TestInstallBelievesTheDigestOnly(t *testing.T) {
	library := onnxtest.Library(t)
	wheel := filepath.Join(t.TempDir(), "onnxruntime.whl")
	pack := func(content []byte) {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for name, text := range map[string][]byte{
			"onnxruntime/capi/libonnxruntime." + filepath.Ext(library)[1:] + ".9": content, "onnxruntime/LICENSE": []byte("x"),
		} {
			w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store}) // packing 35 MB takes long
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(text); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(z.Close(), os.WriteFile(wheel, b.Bytes(), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(library)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := onnx.Library(dir); !errors.Is(err, onnx.ErrMissing) || !strings.Contains(err.Error(), "portico runtime install onnx") {
		t.Error(err)
	}
	content[1000] ^= 1
	pack(content)
	for _, from := range []string{wheel, "onnx_test.go", filepath.Join(dir, "nothing")} {
		if _, err := onnx.Install(t.Context(), dir, from, "", os.Stderr); err == nil {
			t.Errorf("%s was installed", from)
		}
	}
	if entries, err := filepath.Glob(filepath.Join(dir, "runtime", "onnx", "*")); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
	content[1000] ^= 1
	pack(content)
	for _, from := range []string{wheel, library} {
		path, err := onnx.Install(t.Context(), dir, from, "", os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		if found, err := onnx.Library(dir); err != nil || found != path {
			t.Errorf("%s %v, want %s", found, err, path)
		}
	}
	// What changed since is not loaded.
	path, err := onnx.Library(dir)
	if err != nil {
		t.Fatal(err)
	}
	content[1000] ^= 1
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, content, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := onnx.Library(dir); err == nil || !strings.Contains(err.Error(), "is not ONNX Runtime "+onnx.LibraryVersion) {
		t.Error(err)
	}
}
