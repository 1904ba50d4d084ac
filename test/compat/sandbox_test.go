package compat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// sandboxVariable holds the order of the sandboxed process, which is this test binary started once more.
const sandboxVariable = "PORTICO_COMPAT_SANDBOX"

// sandboxOrder says what runs inside a sandbox.
type sandboxOrder struct {
	Argv   []string
	Ports  map[string]string // port on 127.0.0.1 inside -> Unix socket that leads to it outside
	Report string            // file for a sandboxReport
}

// sandboxReport says what the client asked the network for that is not ours.
type sandboxReport struct {
	NoRoute int // packets and connections that had no way out: names looked up at a public resolver, public hosts
	Lookups int // questions to a resolver on loopback
}

// door leads connections at a Unix socket to a port of this machine, for processes that have no other network.
type door struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup
}

func openDoor(socket, target string) (*door, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	d := &door{listener: l, target: target}
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		relay(l, func() (net.Conn, error) { return net.Dial("tcp", target) }, &d.wg)
	}()
	return d, nil
}

func (d *door) close() {
	d.listener.Close()
	d.wg.Wait()
}

// relay joins every accepted connection with one that dial makes, until the listener is closed.
func relay(l net.Listener, dial func() (net.Conn, error), wg *sync.WaitGroup) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		out, err := dial()
		if err != nil {
			in.Close()
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			join(in, out)
		}()
	}
}

// join copies both ways and passes on each end of stream as it comes.
func join(a, b net.Conn) {
	defer a.Close()
	defer b.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		oneWay(a, b)
	}()
	oneWay(b, a)
	<-done
}

func oneWay(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if err != nil {
		from.Close() // the other way must not wait for a peer that is gone
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// insideSandbox runs the client where it belongs: loopback only, the server's ports led outside by doors.
func insideSandbox(text string) int {
	var order sandboxOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		return sandboxFailed(err)
	}
	if err := loopbackUp(); err != nil {
		return sandboxFailed(fmt.Errorf("bring loopback up: %w", err))
	}
	var wg sync.WaitGroup
	for port, socket := range order.Ports {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			return sandboxFailed(err)
		}
		go relay(l, func() (net.Conn, error) { return net.Dial("unix", socket) }, &wg)
	}
	lookups, err := countLookups()
	if err != nil {
		return sandboxFailed(err)
	}
	os.Unsetenv(sandboxVariable)
	cmd := exec.Command(order.Argv[0], order.Argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return sandboxFailed(err)
	}
	noRoute, err := packetsWithoutRoute()
	if err != nil {
		return sandboxFailed(err)
	}
	doc, err := json.Marshal(sandboxReport{NoRoute: noRoute, Lookups: lookups()})
	if err == nil {
		err = os.WriteFile(order.Report, doc, 0o600)
	}
	if err != nil {
		return sandboxFailed(err)
	}
	return cmd.ProcessState.ExitCode() // the doors end with this process
}

func sandboxFailed(err error) int {
	fmt.Fprintln(os.Stderr, "sandbox:", err)
	return 125
}

// countLookups listens where a resolver on loopback would be. Nobody is answered.
func countLookups() (func() int, error) {
	c, err := net.ListenPacket("udp4", "0.0.0.0:53")
	if err != nil {
		return nil, fmt.Errorf("watch for look-ups of names: %w", err)
	}
	var mu sync.Mutex
	n := 0
	go func() {
		for buf := make([]byte, 1500); ; {
			if _, _, err := c.ReadFrom(buf); err != nil {
				return
			}
			mu.Lock()
			n++
			mu.Unlock()
		}
	}()
	return func() int { mu.Lock(); defer mu.Unlock(); return n }, nil
}

// packetsWithoutRoute reads the kernel's count for this network namespace.
func packetsWithoutRoute() (int, error) {
	four, err := os.ReadFile("/proc/self/net/snmp")
	if err != nil {
		return 0, err
	}
	lines := strings.Split(string(four), "\n")
	if len(lines) < 2 {
		return 0, fmt.Errorf("/proc/self/net/snmp is short: %q", four)
	}
	names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
	total, found := 0, false
	for i, name := range names {
		if name == "OutNoRoutes" && i < len(values) {
			if total, err = strconv.Atoi(values[i]); err != nil {
				return 0, err
			}
			found = true
		}
	}
	if !found {
		return 0, fmt.Errorf("/proc/self/net/snmp has no OutNoRoutes")
	}
	six, err := os.ReadFile("/proc/self/net/snmp6")
	if errors.Is(err, os.ErrNotExist) {
		return total, nil // a kernel without IPv6
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(six)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "Ip6OutNoRoutes" {
			n, err := strconv.Atoi(f[1])
			return total + n, err
		}
	}
	return total, nil
}

// sandboxed makes the command run in a sandbox that reaches the ports at these addresses. The returned function,
// called after the command ended, gives the report; ok is false where the platform has no such sandbox, and the
// command then runs as it is.
func sandboxed(t *testing.T, cmd *exec.Cmd, addresses []string) (report func() sandboxReport, ok bool) {
	t.Helper()
	if !isolate(cmd) {
		return nil, false
	}
	dir, err := os.MkdirTemp("", "door-") // short: a socket's path has a limit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	order := sandboxOrder{Argv: append([]string{cmd.Path}, cmd.Args[1:]...), Ports: map[string]string{},
		Report: filepath.Join(dir, "report")}
	for _, address := range addresses {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		if _, there := order.Ports[port]; there {
			continue
		}
		socket := filepath.Join(dir, port)
		d, err := openDoor(socket, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.close)
		order.Ports[port] = socket
	}
	doc, err := json.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path, cmd.Args = self, []string{self}
	cmd.Env = append(cmd.Env, sandboxVariable+"="+string(doc))
	return func() sandboxReport {
		doc, err := os.ReadFile(order.Report)
		if err != nil {
			t.Fatalf("the sandbox left no report: %v", err)
		}
		var r sandboxReport
		if err := json.Unmarshal(doc, &r); err != nil {
			t.Fatal(err)
		}
		return r
	}, true
}
