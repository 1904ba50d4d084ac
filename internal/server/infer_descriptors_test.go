package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"
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
		beInfer(t, dir)
		return
	}
	const script = "import os\ndef init(): pass\ndef run(raw_data): return os.getpid()\n"
	address := spawnInfer(t, "INFER_FEW_DIR", script)
	var held []net.Conn
	defer func() {
		for _, conn := range held {
			conn.Close()
		}
	}()
	for range 2 * descriptors {
		conn, err := net.Dial("tcp", address)
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
