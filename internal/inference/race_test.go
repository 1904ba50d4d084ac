package inference

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestCancelNeverHitsNeighbour aims 100,000 cancels at a worker that answers requests of some microseconds on three
// connections: at the request that runs, at its neighbours, and at nothing. A request at which none was aimed must be
// answered with its own number, and the worker must come through.
func TestCancelNeverHitsNeighbour(t *testing.T) {
	const script = `
def init(): pass
def run(raw_data):
    n = int(raw_data)
    for i in range(n % 3000): pass
    return n
`
	cancels := 100_000
	if testing.Short() {
		cancels = 10_000
	}
	l := newProcesses(t, script, "AZUREML_LOG_LEVEL=CRITICAL")
	spec := WorkerSpec{ID: "race", Socket: shortDir(t) + "/s", Page: shortDir(t) + "/p"}
	proc, err := l.Launch(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	pg, err := openPage(spec.Page)
	if err != nil {
		t.Fatal(err)
	}
	for pg.state() != pageReady {
		time.Sleep(time.Millisecond)
	}

	var (
		numbers          atomic.Uint64
		aimed            sync.Map // number -> true, set before the cancel can reach the worker
		wg               sync.WaitGroup
		canceled, served atomic.Int64
	)
	for c := range depthMax {
		wg.Go(func() {
			conn, err := net.Dial("unix", spec.Socket)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			rng := rand.New(rand.NewPCG(uint64(c), 1))
			lk := newLink(conn)
			for n := numbers.Add(1); n <= uint64(cancels); n = numbers.Add(1) {
				aim := func() {
					for range rng.IntN(4000) { // some microseconds
					}
					at := [...]uint64{n, n, n - 1, n + 1, pg.running()}[rng.IntN(5)]
					aimed.Store(at, true)
					pg.cancel(at)
					if err := syscall.Kill(proc.PID(), syscall.SIGUSR1); err != nil {
						t.Error(err)
					}
				}
				status, body, err := rawExchange(lk, newCall(strconv.FormatUint(n, 10), time.Minute), n, aim)
				switch _, hit := aimed.Load(n); {
				case err != nil:
					t.Errorf("request %d: %v", n, err)
					return
				case status == 200 && body == strconv.FormatUint(n, 10):
					served.Add(1)
				case status == 503 && hit:
					canceled.Add(1)
				default:
					t.Errorf("request %d (canceled: %v): status %d, body %q", n, hit, status, body)
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d served, %d canceled", served.Load(), canceled.Load())
	if canceled.Load() == 0 || served.Load() == 0 {
		t.Errorf("the race did not happen: %d served, %d canceled", served.Load(), canceled.Load())
	}
	if stopped(proc.Done()) {
		t.Errorf("the worker died: %+v", proc.Exit())
	}
}

func rawExchange(lk *link, call *Call, number uint64, meanwhile func()) (int, string, error) {
	if err := lk.begin(call, "", number, time.Minute); err != nil {
		return 0, "", err
	}
	if err := lk.send(context.Background(), call); err != nil {
		return 0, "", err
	}
	meanwhile()
	_ = lk.conn.SetReadDeadline(time.Now().Add(time.Minute))
	h, err := lk.readHead(call.Method)
	if err != nil {
		return 0, "", err
	}
	for int64(lk.w-lk.r) < h.length {
		if err := lk.fill(maxAnswerHead); err != nil {
			return h.status, "", err
		}
	}
	body := string(lk.in[lk.r : lk.r+int(h.length)])
	lk.r, lk.w = 0, 0
	return h.status, body, nil
}

// TestPoolUnderCancels mixes callers that hang up, deadlines that pass and a worker that is killed, and demands of
// every call that nobody gave up: its own answer, or a LostError if it executed in the worker that was killed.
func TestPoolUnderCancels(t *testing.T) {
	const script = `
import time
def init(): pass
def run(raw_data):
    n, slow = raw_data.split()
    if slow == "1": time.sleep(0.05)
    return n
`
	l := newProcesses(t, script, "AZUREML_LOG_LEVEL=CRITICAL")
	p := newPool(t, l, PoolConfig{Workers: 2, MaxConcurrent: 12})
	waitState(t, p, StateReady)
	var wg sync.WaitGroup
	var lostCount, gaveUp atomic.Int64
	kills := 3
	for c := range 12 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(c), 7))
			for i := range 400 {
				id := fmt.Sprintf("%d-%d", c, i)
				ctx, timeout, patient := t.Context(), callTimeout, true
				cancel := func() {}
				slow := "0"
				switch rng.IntN(20) {
				case 0:
					slow = "1"
				case 1:
					patient, timeout = false, time.Duration(rng.IntN(3000))*time.Microsecond
				case 2:
					patient = false
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(3000))*time.Microsecond)
				case 3:
					patient, slow, timeout = false, "1", 5*time.Millisecond
				}
				status, body, err := score(ctx, p, id+" "+slow, timeout)
				cancel()
				var gone *LostError
				switch {
				case err == nil && status == 200 && body == `"`+id+`"`:
				case errors.As(err, &gone):
					lostCount.Add(1)
				case !patient && errors.Is(err, ErrDeadline):
					gaveUp.Add(1)
				default:
					t.Errorf("call %s (patient: %v): %d %q %v", id, patient, status, body, err)
				}
			}
		})
	}
	for range kills {
		finished := p.Status().Workers[0].Finished
		waitStatus(t, p, "at work", func(s Status) bool {
			return s.Workers[0].Finished > finished+50 && s.Workers[0].State == StateReady
		})
		if err := l.process("i-w0").Signal(t.Context(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitStatus(t, p, "restarting", func(s Status) bool {
			return s.Workers[0].State != StateReady || s.Workers[0].Finished < 50
		})
	}
	wg.Wait()
	t.Logf("%d gave up, %d lost", gaveUp.Load(), lostCount.Load())
	if lostCount.Load() > int64(kills) {
		t.Errorf("%d calls were lost with %d kills; only the one that executes may be", lostCount.Load(), kills)
	}
	s := waitStatus(t, p, "idle", func(s Status) bool { return s.Executing == 0 && s.Waiting == 0 })
	if s.Restarts > kills {
		t.Errorf("%d restarts after %d kills", s.Restarts, kills)
	}
}
