package server

import (
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico/internal/testkit"
)

// spawnInfer runs the calling test in a process of its own, which finds the script's folder in a variable and is to
// call beInfer, until the test's end. It gives the address once that is ready.
func spawnInfer(t *testing.T, variable, script string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "score.py"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	var output strings.Builder
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), variable+"="+dir, "TMPDIR="+t.TempDir())
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed, and says so
		if t.Failed() {
			t.Log(output.String())
		}
	})
	var ready struct{ Address string }
	testkit.Until(t, "ready", func() bool {
		doc, err := os.ReadFile(filepath.Join(dir, "ready.json"))
		return err == nil && json.Unmarshal(doc, &ready) == nil
	})
	return ready.Address
}

// beInfer serves the script of a folder until the process is killed.
func beInfer(t *testing.T, dir string) {
	t.Helper()
	_ = RunInfer(t.Context(), InferConfig{
		EntryScript: "score.py", AppRoot: dir, ReadyFile: filepath.Join(dir, "ready.json"), Output: os.Stderr,
	}, slog.New(slog.DiscardHandler))
}
