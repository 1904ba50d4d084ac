package server

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"portico/internal/testkit"
)

// TestInferFewDescriptors: callers who hold more connections open than the process may have descriptors are served, as far as
// they are taken up, and cost no worker its life.
func TestInferFewDescriptors(t *testing.T) {
	const descriptors = 96
	if dir := os.Getenv("INFER_FEW_DIR"); dir != "" {
		few := syscall.Rlimit{Cur: descriptors, Max: descriptors}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
			t.Fatal(err)
		}
		_ = RunInfer(t.Context(), InferConfig{ // it is killed
			EntryScript: "score.py", AppRoot: dir, ReadyFile: filepath.Join(dir, "ready.json"), Output: os.Stderr,
		}, slog.New(slog.DiscardHandler))
		return
	}
	dir := t.TempDir()
	const script = "import os\ndef init(): pass\ndef run(raw_data): return os.getpid()\n"
	if err := os.WriteFile(filepath.Join(dir, "score.py"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	var output strings.Builder
	cmd := exec.Command(os.Args[0], "-test.run=^TestInferFewDescriptors$")
	cmd.Env = append(os.Environ(), "INFER_FEW_DIR="+dir, "TMPDIR="+t.TempDir())
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
	var held []net.Conn
	defer func() {
		for _, conn := range held {
			conn.Close()
		}
	}()
	for range 2 * descriptors {
		conn, err := net.Dial("tcp", ready.Address)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	pids := map[string]bool{}
	for _, conn := range held[:20] { // the first ones are taken up
		pids[askOver(t, conn)] = true
	}
	if len(pids) != 1 {
		t.Errorf("they were answered by %v", pids)
	}
}

// askOver sends a request over an open connection and gives the answer's body.
func askOver(t *testing.T, conn net.Conn) string {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprint(conn, "POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s %v", resp.StatusCode, body, err)
	}
	return string(body)
}
