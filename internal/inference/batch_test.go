package inference

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// batchScript does what each item says and tells how many came together.
const batchScript = `
import os, signal, time
def init(): pass
def run_batch(items):
    out = []
    for text in items:
        word, _, arg = text.partition(" ")
        if word == "sleep": time.sleep(float(arg))
        if word == "until":
            while not os.path.exists(arg): time.sleep(0.005)
        if word == "kill": os.kill(os.getpid(), 9)
        if word == "bad": raise ValueError("bad input")
        if word == "big": text = "x" * int(arg)
        out.append(f"{text} of {len(items)}")
    return out
`

func newBatchPool(t *testing.T, workers, concurrent int, b Batching) (*Pool, *processes) {
	t.Helper()
	l := newProcesses(t, batchScript, VariableBatching+"=true", "AZUREML_LOG_LEVEL=CRITICAL")
	p := newPool(t, l, PoolConfig{Workers: workers, MaxConcurrent: concurrent, Batching: b})
	waitState(t, p, StateReady)
	return p, l
}

// outcome is what one caller got.
type outcome struct {
	status int
	text   string
	err    error
}

// ask makes a call in the background.
func ask(ctx context.Context, t *testing.T, p *Pool, body string, timeout time.Duration) <-chan outcome {
	t.Helper()
	out := make(chan outcome, 1)
	go func() {
		status, text, err := score(ctx, p, body, timeout)
		out <- outcome{status, text, err}
	}()
	return out
}

// behind keeps the worker busy until calls have gathered behind it, and gives their outcomes.
func behind(t *testing.T, p *Pool, bodies ...string) (first <-chan outcome, rest []<-chan outcome) {
	t.Helper()
	item, open := gate(t)
	first = ask(t.Context(), t, p, item, time.Minute)
	waitStatus(t, p, "busy", func(s Status) bool { return s.Executing == 1 })
	for n, body := range bodies {
		rest = append(rest, ask(t.Context(), t, p, body, time.Minute))
		waitStatus(t, p, "waiting", func(s Status) bool { return s.Waiting == n+1 })
	}
	open()
	return first, rest
}

func TestBatchJoinsWhatWaits(t *testing.T) {
	p, _ := newBatchPool(t, 1, 16, Batching{MaxSize: 4})
	first, rest := behind(t, p, "a", "b", "c", "d", "e")
	if got := <-first; got.err != nil || !strings.HasSuffix(got.text, ` of 1"`) {
		t.Errorf("the first, which waits for nobody: %+v", got)
	}
	for i, want := range []string{"a of 4", "b of 4", "c of 4", "d of 4", "e of 1"} {
		if got := <-rest[i]; got.err != nil || got.status != 200 || got.text != `"`+want+`"` {
			t.Errorf("%+v, want %q", got, want)
		}
	}
}

// TestBatchIsHeldForThoseWhoComeBack: the caller of the run before is waited for, and only so long.
func TestBatchIsHeldForThoseWhoComeBack(t *testing.T) {
	p, _ := newBatchPool(t, 1, 16, Batching{MaxSize: 4, MaxWait: time.Minute})
	first, rest := behind(t, p, "a")
	<-first
	if got := <-ask(t.Context(), t, p, "again", 2*time.Minute); got.err != nil || got.text != `"again of 2"` {
		t.Errorf("who came back: %+v", got)
	}
	if got := <-rest[0]; got.err != nil || got.text != `"a of 2"` {
		t.Errorf("who was held back: %+v", got)
	}
}

func TestBatchIsBoundedInBytes(t *testing.T) {
	p, _ := newBatchPool(t, 1, 16, Batching{MaxSize: 8})
	large := "sleep 0 " + strings.Repeat(" ", batchBytes)
	half := strings.Repeat("h", batchBytes/2-200)
	first, rest := behind(t, p, half, half, half, large, "a")
	<-first
	for i, want := range []string{" of 2", " of 2", " of 2", " of 1", " of 2"} { // the small one fits beside the third
		if got := <-rest[i]; got.err != nil || !strings.HasSuffix(got.text, want+`"`) {
			t.Errorf("call %d: status %d, %v, want the ending %q", i, got.status, got.err, want)
		}
	}
}

func TestBatchAnswersMayBeLarge(t *testing.T) {
	p, _ := newBatchPool(t, 1, 16, Batching{MaxSize: 8})
	first, rest := behind(t, p, "big 3000000", "a", "big 10")
	<-first
	for i, n := range []int{3000000, 1, 10} {
		if got := <-rest[i]; got.err != nil || got.status != 200 || len(got.text) != n+len(`" of 3"`) {
			t.Errorf("call %d: status %d, %d bytes, %v", i, got.status, len(got.text), got.err)
		}
	}
	waitStatus(t, p, "idle", func(s Status) bool { return s.Executing == 0 })
}

func TestBatchOneFails(t *testing.T) {
	p, _ := newBatchPool(t, 1, 16, Batching{MaxSize: 8})
	first, rest := behind(t, p, "a", "bad", "b")
	<-first
	for i, want := range []int{200, 500, 200} {
		if got := <-rest[i]; got.err != nil || got.status != want {
			t.Errorf("call %d: %+v, want %d", i, got, want)
		}
	}
}

func TestBatchWorkerDies(t *testing.T) {
	p, _ := newBatchPool(t, 1, 16, Batching{MaxSize: 3})
	first, rest := behind(t, p, "a", "kill", "b", "c", "d")
	if got := <-first; got.err != nil {
		t.Errorf("the one before: %+v", got)
	}
	for i, one := range rest {
		got := <-one
		var gone *LostError
		if i < 3 {
			if !errors.As(got.err, &gone) || !strings.Contains(gone.Cause, "ended by a signal (killed)") {
				t.Errorf("call %d of the batch that was running: %+v, want a LostError", i, got)
			}
		} else if got.err != nil || got.status != 200 {
			t.Errorf("call %d, which had not begun: %+v", i, got)
		}
	}
	if s := waitState(t, p, StateReady); s.Restarts != 1 {
		t.Errorf("%d restarts", s.Restarts)
	}
}

// TestBatchGivingUp: a caller whose deadline passes, or who hangs up, has his outcome at once, and the others their
// answers; when nobody is left the run is canceled.
func TestBatchGivingUp(t *testing.T) {
	p, _ := newBatchPool(t, 1, 16, Batching{MaxSize: 8})
	busy, free := gate(t)
	runs, finish := gate(t)
	first := ask(t.Context(), t, p, busy, time.Minute)
	waitStatus(t, p, "busy", func(s Status) bool { return s.Executing == 1 })
	gone, hangUp := context.WithCancel(t.Context())
	stays := ask(t.Context(), t, p, runs, time.Minute)
	late := ask(t.Context(), t, p, "late", 4*time.Second)
	leaves := ask(gone, t, p, "leaves", time.Minute)
	waitStatus(t, p, "three wait", func(s Status) bool { return s.Waiting == 3 })
	free()
	<-first
	waitStatus(t, p, "three run", func(s Status) bool { return s.Executing == 3 && s.Waiting == 0 })
	hangUp()
	if got := <-leaves; !errors.Is(got.err, context.Canceled) {
		t.Errorf("who hung up: %+v", got)
	}
	if got := <-late; !errors.Is(got.err, ErrDeadline) {
		t.Errorf("whose deadline passed: %+v", got)
	}
	finish()
	if got := <-stays; got.err != nil || !strings.HasPrefix(got.text, `"until `) {
		t.Errorf("who waited: %+v", got)
	}

	busy, free = gate(t)
	first = ask(t.Context(), t, p, busy, time.Minute)
	waitStatus(t, p, "busy", func(s Status) bool { return s.Executing == 1 })
	gone, hangUp = context.WithCancel(t.Context())
	both := []<-chan outcome{ask(gone, t, p, "sleep 600", time.Hour), ask(gone, t, p, "sleep 600", time.Hour)}
	waitStatus(t, p, "two wait", func(s Status) bool { return s.Waiting == 2 })
	free()
	<-first
	waitStatus(t, p, "two run", func(s Status) bool { return s.Executing == 2 && s.Waiting == 0 })
	hangUp()
	for _, one := range both {
		if got := <-one; !errors.Is(got.err, context.Canceled) {
			t.Errorf("who hung up: %+v", got)
		}
	}
	if got := <-ask(t.Context(), t, p, "next", time.Minute); got.err != nil || got.status != 200 {
		t.Errorf("the next: %+v", got)
	}
	if s := waitStatus(t, p, "idle", func(s Status) bool { return s.Executing == 0 }); s.Restarts != 0 {
		t.Errorf("%d restarts", s.Restarts)
	}
}

func TestBatchDrains(t *testing.T) {
	p, _ := newBatchPool(t, 1, 16, Batching{MaxSize: 8})
	first, rest := behind(t, p, "a", "b")
	if err := p.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	for _, one := range append(rest, first) {
		select {
		case got := <-one:
			if got.err != nil {
				t.Errorf("admitted before the drain: %+v", got)
			}
		case <-time.After(time.Minute):
			t.Error("a call outlives the drain")
		}
	}
}

func TestBatchTooLargeForItsPool(t *testing.T) {
	for _, cfg := range []PoolConfig{
		{Workers: 1, MaxConcurrent: 4, Batching: Batching{MaxSize: 5}},
		{Workers: 1, MaxConcurrent: 1000, Batching: Batching{MaxSize: batchSizeMax + 1}},
	} {
		if _, err := NewPool(cfg, nil, discardLog()); err == nil {
			t.Errorf("%+v was accepted", cfg.Batching)
		}
	}
}

// TestBatchPartWithoutBody: a body where there is none never becomes the answer of the next caller.
func TestBatchPartWithoutBody(t *testing.T) {
	inner := "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong"
	last := "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nright"
	for _, status := range []string{"204", "304"} {
		head := "HTTP/1.1 " + status + " X\r\n"
		for _, bad := range []string{
			head + fmt.Sprintf("content-length: %d\r\n\r\n", len(inner)) + inner, head + "transfer-encoding: chunked\r\n\r\n" + inner,
		} {
			var protocol *protocolError
			if parts, err := splitJoint([]byte(bad+last), 2); !errors.As(err, &protocol) || parts != nil {
				t.Errorf("%q: %v, %v", bad, parts, err)
			}
		}
		for _, good := range []string{head + "\r\n", head + "content-length: 0\r\n\r\n"} {
			parts, err := splitJoint([]byte(good+last), 2)
			if err != nil || fmt.Sprint(parts[0].answer.Status) != status || parts[1].answer.Status != 200 ||
				parts[1].answer.ContentLength != 5 {
				t.Errorf("%q: %v, %v", good, parts, err)
			}
		}
	}
}

// TestBatchUnderCancels mixes callers that hang up, deadlines that pass, bodies of all sizes, inputs that raise and
// workers that are killed. Every call gets its own outcome: its answer, a 500 if it is the bad one, or a LostError if
// it was in a batch that a killed worker executed.
func TestBatchUnderCancels(t *testing.T) {
	const maxSize, kills = 8, 3
	p, l := newBatchPool(t, 2, 40, Batching{MaxSize: maxSize, MaxWait: 2 * time.Millisecond})
	var wg sync.WaitGroup
	var lostCount, gaveUp, joined atomic.Int64
	for c := range 40 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(c), 11))
			for i := range 100 {
				id := fmt.Sprintf("id-%d-%d-%s", c, i, strings.Repeat("p", rng.IntN(3000)))
				ctx, timeout, patient, bad := t.Context(), 2*time.Minute, true, false
				cancel := func() {}
				switch rng.IntN(16) {
				case 0:
					id = fmt.Sprintf("sleep 0.02%d%d", c, i)
				case 1:
					patient, timeout = false, time.Duration(rng.IntN(4000))*time.Microsecond
				case 2:
					patient = false
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(4000))*time.Microsecond)
				case 3:
					patient, id, timeout = false, "sleep 0.05", 10*time.Millisecond
				case 4:
					bad, id = true, "bad "+id
				}
				status, body, err := score(ctx, p, id, timeout)
				cancel()
				size, own := strings.CutPrefix(body, `"`+id+" of ")
				var gone *LostError
				switch {
				case bad && err == nil && status == 500 && strings.Contains(body, "unexpected error"):
				case !bad && err == nil && status == 200 && own:
					if n, err := strconv.Atoi(strings.TrimSuffix(size, `"`)); err != nil || n < 1 || n > maxSize {
						t.Errorf("call %.40s was in a batch of %q", id, size)
					} else if n > 1 {
						joined.Add(1)
					}
				case errors.As(err, &gone):
					lostCount.Add(1)
				case !patient && errors.Is(err, ErrDeadline):
					gaveUp.Add(1)
				default:
					t.Errorf("call %.40s (patient: %v): %d %.80q %v", id, patient, status, body, err)
				}
			}
		})
	}
	for range kills {
		finished := p.Status().Workers[0].Finished
		waitStatus(t, p, "at work", func(s Status) bool {
			return s.Workers[0].Finished > finished+10 && s.Workers[0].State == StateReady
		})
		if err := l.process("i-w0").Signal(t.Context(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitStatus(t, p, "restarting", func(s Status) bool {
			return s.Workers[0].State != StateReady || s.Workers[0].Finished < 10
		})
	}
	wg.Wait()
	t.Logf("%d gave up, %d lost, %d answered in batches", gaveUp.Load(), lostCount.Load(), joined.Load())
	if lostCount.Load() > kills*maxSize {
		t.Errorf("%d calls were lost with %d kills; only a batch that executes may be", lostCount.Load(), kills)
	}
	if joined.Load() == 0 {
		t.Error("nothing was joined")
	}
	s := waitStatus(t, p, "idle", func(s Status) bool { return s.Executing == 0 && s.Waiting == 0 })
	if s.Restarts > kills {
		t.Errorf("%d restarts after %d kills", s.Restarts, kills)
	}
	if err := p.Drain(t.Context()); err != nil { // nothing that was admitted is left
		t.Error(err)
	}
}
