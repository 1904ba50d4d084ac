// Package onnxtest gives tests ONNX Runtime and the worker program. The library is installed below .build by the first test
// that needs it, which asks the package index; later ones find it there.
package onnxtest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"portico/internal/onnx"
)

// root is the repository.
func root(tb testing.TB) string {
	tb.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		tb.Fatal("where is this file?")
	}
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}

// Model is the path of one of the models that onnxserve's tests have.
func Model(tb testing.TB, name string) string {
	tb.Helper()
	return filepath.Join(root(tb), "internal", "onnxserve", "testdata", name+onnx.Extension)
}

// DataDir is a folder in which the library is installed as in a data directory.
func DataDir(tb testing.TB) string {
	tb.Helper()
	dir := filepath.Join(root(tb), ".build", "onnx")
	_, err := onnx.Library(dir)
	if errors.Is(err, onnx.ErrMissing) {
		var progress bytes.Buffer
		if _, err = onnx.Install(tb.Context(), dir, "", "python3", &progress); err != nil {
			tb.Log(progress.String())
		}
	}
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

// Library is the path of ONNX Runtime.
func Library(tb testing.TB) string {
	tb.Helper()
	path, err := onnx.Library(DataDir(tb))
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Build compiles the worker program into a folder and gives its path.
func Build(tb testing.TB, dir string) string {
	tb.Helper()
	path := filepath.Join(dir, onnx.Worker)
	cmd := exec.CommandContext(tb.Context(), "go", "build", "-o", path, "portico/cmd/"+onnx.Worker)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build the worker: %v\n%s", err, out)
	}
	return path
}
