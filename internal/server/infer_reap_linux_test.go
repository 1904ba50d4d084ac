package server

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portico/internal/testkit"
)

// TestInferReaps: as the first process of a container it takes leave of what workers' code leaves behind, and of no worker.
func TestInferReaps(t *testing.T) {
	if dir := os.Getenv("INFER_REAP_DIR"); dir != "" {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil { // which the first process always is
			t.Fatal(err)
		}
		_ = RunInfer(t.Context(), InferConfig{ // it is killed
			EntryScript: "score.py", AppRoot: dir, ReadyFile: filepath.Join(dir, "ready.json"), Output: os.Stderr,
		}, slog.New(slog.DiscardHandler))
		return
	}
	dir := t.TempDir()
	const script = `
import glob, os
def init(): pass
def run(raw_data):
    if raw_data == "exit": os._exit(3)
    if raw_data == "leave":
        child = os.fork()
        if child == 0:
            for _ in range(5):
                if os.fork() == 0: os._exit(0)
            os._exit(0)
        return os.waitpid(child, 0)[1]
    states = [open(path).read().rpartition(")")[2].split()[:2] for path in glob.glob("/proc/[0-9]*/stat")]
    return [state for state, parent in states if int(parent) == os.getppid()]
`
	if err := os.WriteFile(filepath.Join(dir, "score.py"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	var output strings.Builder
	cmd := exec.Command(os.Args[0], "-test.run=^TestInferReaps$")
	cmd.Env = append(os.Environ(), "INFER_REAP_DIR="+dir, "TMPDIR="+t.TempDir())
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed, and says so
	}()
	var ready struct{ Address string }
	testkit.Until(t, "ready", func() bool {
		doc, err := os.ReadFile(filepath.Join(dir, "ready.json"))
		return err == nil && json.Unmarshal(doc, &ready) == nil
	})
	ask := func(body string) string {
		resp, err := http.Post("http://"+ready.Address+"/score", "", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	for range 3 {
		if got := ask("leave"); got != "0" {
			t.Fatal(got)
		}
	}
	ask("exit") // a worker's own end is told apart, and it is started again
	testkit.Until(t, "one child, the worker", func() bool { got := ask("look"); return got == `["R"]` })
}
