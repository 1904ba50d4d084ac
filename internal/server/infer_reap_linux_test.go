package server

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"portico/internal/testkit"
)

// TestInferReaps: as the first process of a container it takes leave of what workers' code leaves behind, and of no worker.
func TestInferReaps(t *testing.T) {
	if dir := os.Getenv("INFER_REAP_DIR"); dir != "" {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil { // which the first process always is
			t.Fatal(err)
		}
		beInfer(t, dir)
		return
	}
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
	address := spawnInfer(t, "INFER_REAP_DIR", script)
	ask := func(body string) string {
		resp, err := http.Post("http://"+address+"/score", "", strings.NewReader(body))
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
