package host

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"portico/internal/testkit"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestClientReattaches(t *testing.T) {
	r := newRig(t)
	before := r.start(r.shell("stays", "sleep 1000"))
	r.start(r.shell("leaves", "read line </dev/null; sleep 0.2; exit 5"))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	old := r.Info().PID
	r.attach()
	if r.Info().PID != old {
		t.Fatal("another host was started")
	}
	events, err := r.Watch(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	synced, seen := false, map[string]Process{}
	for ev := range events {
		synced = synced || ev.Synced
		if !ev.Synced {
			seen[ev.Process.ID] = ev.Process
		}
		if p := seen["leaves"]; synced && p.Exit != nil {
			break
		}
	}
	if p := seen["stays"]; p.PID != before.PID || !p.Running() {
		t.Errorf("re-attached to %+v, was %+v", p, before)
	}
	if p := seen["leaves"]; p.Exit == nil || p.Exit.Code != 5 {
		t.Errorf("exit %+v", p.Exit)
	}
}

func TestWatchIsInOrder(t *testing.T) {
	r := newRig(t)
	r.start(r.shell("first", "sleep 1000"))
	ctx, cancel := context.WithCancel(r.ctx)
	events, err := r.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	note := func(n int) {
		for ; n > 0; n-- {
			ev, ok := <-events
			if !ok {
				t.Fatalf("the watch ended after %v", got)
			}
			switch {
			case ev.Synced:
				got = append(got, "synced")
			case ev.Process.Running():
				got = append(got, "start "+ev.Process.ID)
			default:
				got = append(got, fmt.Sprintf("exit %s %d", ev.Process.ID, ev.Process.Exit.Code))
			}
		}
	}
	note(2)
	for i := range 3 {
		r.start(r.shell("short", fmt.Sprintf("exit %d", i)))
		note(2)
	}
	want := "start first, synced, start short, exit short 0, start short, exit short 1, start short, exit short 2"
	if strings.Join(got, ", ") != want {
		t.Errorf("events %v, want %s", got, want)
	}
	cancel()
	for range events { // is closed
	}
}

func TestListenSurvivesItsClient(t *testing.T) {
	r := newRig(t)
	l, err := r.Listen(r.ctx, "scoring", "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	serve := func(l net.Listener, word string) {
		conn, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, word)
		_ = conn.Close()
	}
	say := func() string {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		word, _ := io.ReadAll(conn)
		return string(word)
	}
	var wg sync.WaitGroup
	wg.Go(func() { serve(l, "one") })
	if got := say(); got != "one" {
		t.Errorf("answer %q", got)
	}
	wg.Wait()
	// The server goes. A client connects while there is none, and is answered by the next.
	_ = l.Close()
	_ = r.Close()
	waiting, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	r.attach()
	l, err = r.Listen(r.ctx, "scoring", "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if l.Addr().String() != address {
		t.Errorf("the port changed from %s to %s", address, l.Addr())
	}
	wg.Go(func() { serve(l, "two") })
	if word, err := io.ReadAll(waiting); string(word) != "two" {
		t.Errorf("the waiting client got %q, %v", word, err)
	}
	wg.Wait()
	// Another address replaces the socket.
	other, err := r.Listen(r.ctx, "scoring", "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if conn, err := net.Dial("tcp", address); err == nil {
		_ = conn.Close()
		t.Error("the replaced socket still listens")
	}
	if _, err := r.Listen(r.ctx, "second", "tcp", other.Addr().String()); !errors.Is(err, ErrAddress) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("the address of another name: %v", err)
	}
	if err := r.Unlisten(r.ctx, "scoring"); err != nil {
		t.Fatal(err)
	}
	_ = other.Close()
	if conn, err := net.Dial("tcp", other.Addr().String()); err == nil {
		_ = conn.Close()
		t.Error("the socket listens after unlisten")
	}
	for _, bad := range [][2]string{{"udp", "127.0.0.1:0"}, {"tcp", "no-port"}} {
		if _, err := r.Listen(r.ctx, "bad", bad[0], bad[1]); !errors.Is(err, ErrBadRequest) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestSecondSupervisorIsRefused(t *testing.T) {
	r := newRig(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(r.ctx, exe, r.cfg.Arguments()...)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), ErrRunning.Error()) {
		t.Errorf("second supervisor: %v, %s", err, out)
	}
	r.run(r.shell("works", "exit 0"))
}

func TestOrphanTimeout(t *testing.T) {
	r := newRig(t)
	if err := r.Shutdown(r.ctx, 0); err != nil {
		t.Fatal(err)
	}
	r.cfg.OrphanTimeout = 300 * time.Millisecond
	r.attach()
	p := r.start(r.shell("polite", `trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done`))
	// As long as a client is there nothing ends.
	time.Sleep(2 * r.cfg.OrphanTimeout) // the time-out is what is tested: there is no event to wait for
	if !r.isRunning("polite") {
		t.Fatal("ended although a client is there")
	}
	testkit.Until(t, "start of the script", func() bool { return alive(p.PID) })
	pid := r.Info().PID
	_ = r.Close()
	testkit.Until(t, "end of the host", func() bool { return !alive(pid) })
	if alive(p.PID) {
		t.Error("the process outlived its host")
	}
	if got := r.output("polite"); !strings.HasSuffix(got, "bye\n") {
		t.Errorf("it was not asked to end: %q", got)
	}
	if _, err := Dial(r.ctx, r.cfg.DataDir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("dial: %v", err)
	}
}

func TestDrainEndsTheStubborn(t *testing.T) {
	for _, how := range []string{"signal", "verb"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t)
			polite := r.start(r.shell("polite", `trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done`))
			stubborn := r.start(r.shell("stubborn", `trap '' TERM; echo up; while :; do sleep 0.05; done`))
			for _, id := range []string{"polite", "stubborn"} {
				testkit.Until(t, "start", func() bool { return r.output(id) == "up\n" })
			}
			events, err := r.Watch(r.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if how == "verb" {
				if err := r.Shutdown(r.ctx, 200*time.Millisecond); err != nil {
					t.Fatal(err)
				}
			} else {
				if err := syscall.Kill(r.Info().PID, syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				testkit.Until(t, "drain", func() bool { return !alive(polite.PID) })
				if err := syscall.Kill(r.Info().PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
					t.Fatal(err) // the second one ends the grace
				}
			}
			exits := map[string]Exit{}
			for ev := range events { // until the host closes the connection
				if ev.Process.Exit != nil {
					exits[ev.Process.ID] = *ev.Process.Exit
				}
			}
			if e, ok := exits["polite"]; !ok || e.Code != 0 {
				t.Errorf("polite: %+v", e)
			}
			if e := exits["stubborn"]; e.Signal != int(syscall.SIGKILL) {
				t.Errorf("stubborn: %+v", e)
			}
			<-r.Done()
			for _, pid := range []int{polite.PID, stubborn.PID} {
				if alive(pid) {
					t.Errorf("%d lives on", pid)
				}
			}
			if _, err := r.Start(r.ctx, r.shell("late", "exit 0")); !errors.Is(err, ErrNotRunning) {
				t.Errorf("start after the end: %v", err)
			}
		})
	}
}

func TestGarbageIsAnswered(t *testing.T) {
	r := newRig(t)
	path, err := controlSocket(r.cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"no JSON":      "GET / HTTP/1.1\n",
		"unknown verb": `{"verb":"reboot"}` + "\n",
		"no spec":      `{"verb":"start"}` + "\n",
		"bad signal":   `{"verb":"signal","id":"x","signal":999}` + "\n",
		"too long":     `{"verb":"` + strings.Repeat("x", maxMessageBytes+10) + "\n",
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(conn, bytes.NewReader([]byte(text))) })
		line, err := bufio.NewReader(conn).ReadString('\n')
		if !strings.Contains(line, `"error"`) && name != "too long" { // what was not read resets that connection
			t.Errorf("%s: answer %q, %v", name, line, err)
		}
		_ = conn.Close()
		wg.Wait()
	}
	r.run(r.shell("works", "exit 0"))
}

func TestLongDataDirectory(t *testing.T) {
	r := &rig{t: t, ctx: testContext(t)}
	r.cfg.DataDir = filepath.Join(t.TempDir(), strings.Repeat("long-", 30))
	if err := os.Mkdir(r.cfg.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.attach()
	dir, err := SocketDir(r.cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	if len(dir) > maxSocketDirBytes || !ownPrivateDir(dir) {
		t.Errorf("socket directory %q", dir)
	}
	spec := r.child("far", "accept")
	spec.Socket = filepath.Join(dir, strings.Repeat("s", 40))
	r.start(spec)
	conn, err := net.Dial("unix", spec.Socket)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if e := r.exit("far"); e.Code != 0 {
		t.Errorf("%+v", e)
	}
	// It goes with the host, and comes back under the same name.
	if err := r.Shutdown(r.ctx, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the socket directory was left: %v", err)
	}
	r.attach()
	if again, err := SocketDir(r.cfg.DataDir); again != dir || err != nil {
		t.Errorf("socket directory %q, was %q, %v", again, dir, err)
	}
}

func TestEnsureRunningTellsWhyItFails(t *testing.T) {
	dir := t.TempDir()
	_, err := EnsureRunning(testContext(t), Config{DataDir: dir, UserFirst: 5, UserLast: 9})
	if err == nil || !strings.Contains(err.Error(), "user ids 5-9") {
		t.Errorf("error %v", err)
	}
	if _, err := EnsureRunning(testContext(t), Config{DataDir: filepath.Join(dir, "missing")}); err == nil {
		t.Error("a missing data directory was accepted")
	}
}

func TestParseUserIDs(t *testing.T) {
	for text, ok := range map[string]bool{"60000-64999": true, "1000-1000": true, "5": false, "9-5": false, "a-b": false, "": false} {
		first, last, err := ParseUserIDs(text)
		if (err == nil) != ok || ok && fmt.Sprintf("%d-%d", first, last) != text {
			t.Errorf("%q: %d, %d, %v", text, first, last, err)
		}
	}
}
