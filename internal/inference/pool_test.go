package inference

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"portico/internal/compute"
)

const echoScript = `
def init(): pass
def run(raw_data): return raw_data
`

// mixScript does what its input says, so that one script serves most tests.
const mixScript = `
import ctypes, os, signal, sys, time
libc = ctypes.PyDLL(None)
def init(): pass
def run(raw_data):
    word, _, arg = raw_data.partition(" ")
    if word == "sleep": time.sleep(float(arg))
    elif word == "loop":
        end = time.monotonic() + float(arg)
        while time.monotonic() < end: pass
    elif word == "stubborn":
        end = time.monotonic() + float(arg)
        while time.monotonic() < end:
            try: time.sleep(0.01)
            except BaseException: pass
    elif word == "csleep":
        # Like a library that computes in C: nothing reaches Python before it returns.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        libc.usleep(int(float(arg) * 1e6))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    elif word == "until":
        while not os.path.exists(arg): time.sleep(0.002)
    elif word == "exit": os._exit(int(arg))
    elif word == "sysexit": sys.exit(int(arg))
    elif word == "kill": os.kill(os.getpid(), 9)
    elif word == "big": return "x" * int(arg)
    elif word == "pid": return os.getpid()
    return raw_data
`

// gate gives what makes a call of mixScript last, and what lets it go on.
func gate(t *testing.T) (call string, open func()) {
	path := filepath.Join(shortDir(t), "gate")
	return "until " + path, func() {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Error(err)
		}
	}
}

func TestPoolAnswers(t *testing.T) {
	p := newPool(t, newProcesses(t, echoScript), PoolConfig{})
	waitState(t, p, StateReady)
	answer, err := p.Do(t.Context(), newCall("hello", callTimeout))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"content-type": "application/json", "x-ms-run-function-failed": "False",
		"x-request-id": "0b9c5a1e-7f3e-4a37-9d3b-0123456789ab", "content-length": "",
	} {
		if got := answer.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if answer.Status != 200 || answer.ContentLength != int64(len(`"hello"`)) {
		t.Errorf("status %d, length %d", answer.Status, answer.ContentLength)
	}
	for _, n := range []int{0, 1, 4000, joinedBody, joinedBody + 1, 1 << 20, 5 << 20} {
		body := strings.Repeat("y", n)
		status, got, err := score(t.Context(), p, body, callTimeout)
		if err != nil || status != 200 || got != `"`+body+`"` {
			t.Fatalf("body of %d bytes: status %d, %d bytes back, %v", n, status, len(got), err)
		}
	}
	if s := p.Status(); s.Executing != 0 || s.Waiting != 0 || s.Workers[0].Finished == 0 {
		t.Errorf("status after the last answer: %+v", s)
	}
}

func TestPoolAdmitsAndQueues(t *testing.T) {
	p := newPool(t, newProcesses(t, mixScript), PoolConfig{MaxConcurrent: 2})
	waitState(t, p, StateReady)
	results := make(chan error, 2)
	busy, open := gate(t)
	for range 2 {
		go func() {
			_, _, err := score(t.Context(), p, busy, callTimeout)
			results <- err
		}()
	}
	waitStatus(t, p, "one executing, one waiting", func(s Status) bool { return s.Executing == 1 && s.Waiting == 1 })
	if _, _, err := score(t.Context(), p, "x", time.Second); !errors.Is(err, ErrBusy) {
		t.Errorf("a third call got %v, want ErrBusy", err)
	}
	open()
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestPoolUsesEveryWorker(t *testing.T) {
	p := newPool(t, newProcesses(t, mixScript), PoolConfig{Workers: 3, MaxConcurrent: 3})
	waitState(t, p, StateReady)
	busy, open := gate(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, _, err := score(t.Context(), p, busy, callTimeout); err != nil {
				t.Error(err)
			}
		})
	}
	waitStatus(t, p, "three at once", func(s Status) bool { return s.Executing == 3 && s.Waiting == 0 })
	open()
	wg.Wait()
	if s := p.Status(); s.Restarts != 0 {
		t.Errorf("%d restarts", s.Restarts)
	}
}

func TestPoolDeadline(t *testing.T) {
	for _, body := range []string{"sleep 60", "loop 60", "stubborn 0.4", "csleep 0.4"} {
		t.Run(strings.Fields(body)[0], func(t *testing.T) {
			p := newPool(t, newProcesses(t, mixScript), PoolConfig{MaxConcurrent: 3})
			waitState(t, p, StateReady)
			start := time.Now()
			if _, _, err := score(t.Context(), p, body, 100*time.Millisecond); !errors.Is(err, ErrDeadline) {
				t.Fatalf("got %v, want ErrDeadline", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("the caller waited %s", took)
			}
			// While it goes on the slot is taken; afterwards the same process serves the next.
			status, got, err := score(t.Context(), p, "next", callTimeout)
			if err != nil || status != 200 || got != `"next"` {
				t.Errorf("next call: %d %q %v", status, got, err)
			}
			s := waitStatus(t, p, "idle", func(s Status) bool { return s.Executing == 0 })
			if s.Restarts != 0 || s.Exit != nil {
				t.Errorf("the worker was restarted: %+v", s)
			}
		})
	}
}

func TestPoolCallerHangsUp(t *testing.T) {
	p := newPool(t, newProcesses(t, mixScript), PoolConfig{MaxConcurrent: 3})
	waitState(t, p, StateReady)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	for range 2 { // one executes, one waits
		go func() { _, _, err := score(ctx, p, "sleep 60", 90*time.Second); errs <- err }()
	}
	waitStatus(t, p, "one executing, one waiting", func(s Status) bool { return s.Executing == 1 && s.Waiting == 1 })
	cancel()
	for range 2 {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	}
	waitStatus(t, p, "idle", func(s Status) bool { return s.Executing == 0 && s.Waiting == 0 })
}

func TestPoolWorkerDies(t *testing.T) {
	for body, cause := range map[string]string{
		"exit 7": "exited with status 7 while it executed this request",
		"kill":   "ended by a signal (killed) while it executed this request",
	} {
		t.Run(strings.Fields(body)[0], func(t *testing.T) {
			p := newPool(t, newProcesses(t, mixScript), PoolConfig{MaxConcurrent: 8})
			waitState(t, p, StateReady)
			busy, open := gate(t)
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, _, err := score(t.Context(), p, busy, callTimeout); err != nil {
					t.Errorf("the one before: %v", err)
				}
			})
			waitStatus(t, p, "busy", func(s Status) bool { return s.Executing == 1 })
			wg.Go(func() {
				_, _, err := score(t.Context(), p, body, callTimeout)
				var gone *LostError
				if !errors.As(err, &gone) || !strings.Contains(gone.Cause, cause) {
					t.Errorf("the one that dies: %v, want a LostError with %q", err, cause)
				}
			})
			waitStatus(t, p, "one waiting", func(s Status) bool { return s.Waiting == 1 })
			for range 4 {
				wg.Go(func() {
					if status, _, err := score(t.Context(), p, "x", callTimeout); err != nil || status != 200 {
						t.Errorf("one behind it: %d %v", status, err)
					}
				})
			}
			waitStatus(t, p, "all waiting", func(s Status) bool { return s.Waiting == 5 })
			open()
			wg.Wait()
			s := waitState(t, p, StateReady)
			if s.Restarts != 1 || s.Exit == nil || s.Exit.InInit || s.Exit.Permanent || s.Exit.Reason == "" {
				t.Errorf("status %+v, exit %+v", s, s.Exit)
			}
		})
	}
}

func TestPoolSysExitKeepsTheWorker(t *testing.T) {
	p := newPool(t, newProcesses(t, mixScript), PoolConfig{})
	waitState(t, p, StateReady)
	status, _, err := score(t.Context(), p, "sysexit 1", callTimeout)
	if err != nil || status != 500 {
		t.Errorf("sys.exit: %d %v, want 500", status, err)
	}
	if status, _, err := score(t.Context(), p, "x", callTimeout); err != nil || status != 200 {
		t.Errorf("next: %d %v", status, err)
	}
	if s := p.Status(); s.Restarts != 0 {
		t.Errorf("%d restarts", s.Restarts)
	}
}

func TestPoolExitsInInit(t *testing.T) {
	for _, c := range []struct {
		name, script, reason string
		permanent            bool
	}{
		{
			"raises", "def init(): raise ValueError('no such column')\ndef run(d): return d\n",
			"init() raised ValueError: no such column", false,
		},
		{"no run", "def init(): pass\n", "has no function run()", true},
		{"no such module", "import nothing_of_that_name\ndef init(): pass\ndef run(d): return d\n", "No module named", true},
		{
			"exits", "import os\ndef init(): os._exit(9)\ndef run(d): return d\n",
			"exited with status 9 before init() returned", false,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPool(t, newProcesses(t, c.script), PoolConfig{
				BackOff: BackOff{First: 10 * time.Millisecond, Max: 40 * time.Millisecond},
			})
			s := waitStatus(t, p, "an exit", func(s Status) bool { return s.Exit != nil })
			if !strings.Contains(s.Exit.Reason, c.reason) || s.Exit.Permanent != c.permanent || !s.Exit.InInit {
				t.Errorf("exit %+v, want reason %q, permanent %v", s.Exit, c.reason, c.permanent)
			}
			if c.permanent {
				waitState(t, p, StateFailed)
				if s := p.Status(); s.Restarts != 0 {
					t.Errorf("%d restarts of a script that cannot work", s.Restarts)
				}
				return
			}
			waitStatus(t, p, "restarted three times, with back-off", func(s Status) bool { return s.Restarts >= 3 })
		})
	}
}

func TestPoolLaunchFails(t *testing.T) {
	l := newProcesses(t, echoScript)
	l.broken = errors.New("no such interpreter")
	p := newPool(t, l, PoolConfig{BackOff: BackOff{First: 5 * time.Millisecond}, RestartWait: 10 * time.Millisecond})
	s := waitStatus(t, p, "an exit", func(s Status) bool { return s.Exit != nil })
	if !strings.Contains(s.Exit.Reason, "no such interpreter") {
		t.Errorf("exit %+v", s.Exit)
	}
	for end := time.Now().Add(90 * time.Second); ; {
		if _, _, err := score(t.Context(), p, "x", callTimeout); errors.Is(err, ErrClosed) {
			break
		} else if time.Now().After(end) {
			t.Fatalf("calls without a worker got %v, want ErrClosed", err)
		}
	}
	l.mu.Lock()
	l.broken = nil
	l.mu.Unlock()
	waitState(t, p, StateReady)
	if status, _, err := score(t.Context(), p, "x", callTimeout); err != nil || status != 200 {
		t.Errorf("after it came up: %d %v", status, err)
	}
}

func TestPoolKillsHungWorker(t *testing.T) {
	var turns, done atomic.Int32
	p := newPool(t, newProcesses(t, mixScript), PoolConfig{
		MaxConcurrent: 4, HangTimeout: 200 * time.Millisecond,
		KillTurn: func(context.Context) (func(), error) {
			turns.Add(1)
			return func() { done.Add(1) }, nil
		},
	})
	waitState(t, p, StateReady)
	ctx, cancel := context.WithCancel(t.Context())
	hung := make(chan error, 1)
	go func() { _, _, err := score(ctx, p, "csleep 600", 700*time.Second); hung <- err }()
	waitStatus(t, p, "hung", func(Status) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.workers[0].inc.page.running() != 0
	})
	cancel()
	if err := <-hung; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
	if status, _, err := score(t.Context(), p, "x", callTimeout); err != nil || status != 200 {
		t.Errorf("after the kill: %d %v", status, err)
	}
	// The turn ends a moment after the worker can be called again.
	s := waitStatus(t, p, "ready, its turn ended", func(s Status) bool { return s.State == StateReady && done.Load() > 0 })
	if s.Restarts != 1 || turns.Load() != 1 || done.Load() != 1 {
		t.Errorf("%d restarts, %d turns, %d ended; want one each", s.Restarts, turns.Load(), done.Load())
	}
}

// TestPoolManyTimeouts: callers that time out by the hundred cost no restart.
func TestPoolManyTimeouts(t *testing.T) {
	p := newPool(t, newProcesses(t, mixScript), PoolConfig{MaxConcurrent: 50})
	waitState(t, p, StateReady)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 20 {
				if _, _, err := score(t.Context(), p, "loop 60", 5*time.Millisecond); !errors.Is(err, ErrDeadline) {
					t.Errorf("got %v, want ErrDeadline", err)
				}
			}
		})
	}
	wg.Wait()
	if status, _, err := score(t.Context(), p, "x", callTimeout); err != nil || status != 200 {
		t.Errorf("after 1,000 time-outs: %d %v", status, err)
	}
	if s := p.Status(); s.Restarts != 0 {
		t.Errorf("%d restarts", s.Restarts)
	}
}

func TestPoolReattaches(t *testing.T) {
	l := newProcesses(t, mixScript)
	dir := shortDir(t)
	first, err := NewPool(PoolConfig{Instance: "i", Dir: dir, Workers: 1, MaxConcurrent: 4}, l, discardLog())
	if err != nil {
		t.Fatal(err)
	}
	waitState(t, first, StateReady)
	_, pid, err := score(t.Context(), first, "pid", callTimeout)
	if err != nil {
		t.Fatal(err)
	}
	slow := make(chan error, 1)
	busy, open := gate(t)
	go func() { _, _, err := score(t.Context(), first, busy, callTimeout); slow <- err }()
	waitStatus(t, first, "busy", func(s Status) bool { return s.Executing == 1 })
	for first.workers[0].inc.page.running() == 0 {
		time.Sleep(time.Millisecond)
	}
	first.Detach()

	second := newPool(t, l, PoolConfig{Instance: "i", Dir: dir, MaxConcurrent: 4})
	s := waitState(t, second, StateReady)
	if s.Executing != 1 {
		t.Errorf("the request of the pool before counts as %d, want 1", s.Executing)
	}
	open()
	status, again, err := score(t.Context(), second, "pid", callTimeout)
	if err != nil || status != 200 || again != pid {
		t.Errorf("answer of %q (%d, %v), want the same process %q", again, status, err, pid)
	}
	if err := <-slow; err != nil {
		t.Errorf("the request under way at the change: %v", err)
	}
	if l.launches != 1 {
		t.Errorf("%d launches", l.launches)
	}
}

func TestPoolTellsExitThatHappenedMeanwhile(t *testing.T) {
	l := newProcesses(t, mixScript)
	dir := shortDir(t)
	first, err := NewPool(PoolConfig{Instance: "i", Dir: dir, Workers: 1, MaxConcurrent: 1}, l, discardLog())
	if err != nil {
		t.Fatal(err)
	}
	waitState(t, first, StateReady)
	first.Detach()
	proc := l.process("i-w0")
	if err := proc.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-proc.Done()
	second := newPool(t, l, PoolConfig{Instance: "i", Dir: dir})
	s := waitState(t, second, StateReady)
	if s.Exit == nil || s.Exit.Signal != "killed" || s.Restarts != 1 {
		t.Errorf("exit %+v after %d restarts, want the kill and one", s.Exit, s.Restarts)
	}
}

func TestPoolDrains(t *testing.T) {
	p := newPool(t, newProcesses(t, mixScript), PoolConfig{MaxConcurrent: 4})
	waitState(t, p, StateReady)
	answered := make(chan error, 2)
	busy, open := gate(t)
	for range 2 {
		go func() { _, _, err := score(t.Context(), p, busy, callTimeout); answered <- err }()
	}
	waitStatus(t, p, "busy", func(s Status) bool { return s.Executing+s.Waiting == 2 })
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := p.Drain(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a drain that has no time: %v", err)
	}
	if _, _, err := score(t.Context(), p, "x", time.Second); !errors.Is(err, ErrClosed) {
		t.Errorf("a call while it drains got %v, want ErrClosed", err)
	}
	open()
	if err := p.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-answered; err != nil {
			t.Errorf("a call that was admitted: %v", err)
		}
	}
	if s := p.Status(); s.State != StateDraining {
		t.Errorf("state %s", s.State)
	}
}

func TestPoolWatch(t *testing.T) {
	l := newProcesses(t, "import time\ndef init(): time.sleep(0.1)\ndef run(d): return d\n")
	p := newPool(t, l, PoolConfig{})
	events := p.Watch(t.Context())
	var states []State
	var exit *compute.Exit
	next := func() Event {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatal("the watch ended")
			}
			return e
		case <-time.After(90 * time.Second):
			t.Fatalf("no event after %v", states)
		}
		return Event{}
	}
	until := func(want State) {
		for {
			e := next()
			states = append(states, e.State)
			if e.Exit != nil {
				exit = e.Exit
			}
			if e.State == want && e.Status.State == want {
				return
			}
		}
	}
	until(StateReady)
	if got := fmt.Sprintf("%v", states); got != "[Starting InitRunning Ready]" {
		t.Errorf("states %s", got)
	}
	if err := l.process("i-w0").Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(StateReady)
	if exit == nil || exit.Signal != "killed" || exit.InInit {
		t.Errorf("exit %+v", exit)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := StateReady
	for e := range events {
		last = e.State
	}
	if last != StateClosed {
		t.Errorf("the watch ended with %s", last)
	}
}

// TestPoolCloseUnderLoad: nobody is left waiting, and no process is left running.
func TestPoolCloseUnderLoad(t *testing.T) {
	l := newProcesses(t, mixScript)
	p := newPool(t, l, PoolConfig{Workers: 2, MaxConcurrent: 16})
	waitState(t, p, StateReady)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				_, _, err := score(t.Context(), p, "sleep 0.01", callTimeout)
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("got %v", err)
					return
				}
			}
		})
	}
	waitStatus(t, p, "some answers", func(s Status) bool { return s.Workers[0].Finished > 5 })
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	wg.Wait()
	for _, id := range []string{"i-w0", "i-w1"} {
		if proc := l.process(id); !stopped(proc.Done()) || proc.exit.Code != 0 {
			t.Errorf("%s: exit %+v, want status 0", id, proc.exit)
		}
	}
}

// TestBrokenSocketIsNotExecutedTwice: a script that closes its worker's sockets loses its answer after it has run. Its
// request is not sent to the next worker.
func TestBrokenSocketIsNotExecutedTwice(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	p := newPool(t, newProcesses(t, `
import os
def init(): pass
def run(raw_data):
    with open(os.environ["COUNT"], "a") as f: f.write("x")
    if raw_data == "break": os.closerange(3, 1024)
    return "fine"
`, "COUNT="+count), PoolConfig{MaxConcurrent: 2})
	waitState(t, p, StateReady)
	_, err := p.Do(t.Context(), newCall("break", callTimeout))
	var gone *LostError
	if !errors.As(err, &gone) || !strings.Contains(gone.Cause, "exited with status") {
		t.Errorf("%v, want a LostError with the cause", err)
	}
	answer, err := p.Do(t.Context(), newCall("x", callTimeout))
	if err != nil || answer.Status != 200 {
		t.Fatalf("after the restart: %+v %v", answer, err)
	}
	_ = answer.Body.Close()
	if ran, err := os.ReadFile(count); err != nil || string(ran) != "xx" {
		t.Errorf("the script ran %d times for two requests (%v)", len(ran), err)
	}
}
