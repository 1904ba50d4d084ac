package onnxworker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"portico/internal/inference"
)

// TestBatches: requests that wait are answered together, each with its own answer, its own error and its own deadline.
func TestBatches(t *testing.T) {
	t.Parallel()
	for _, slots := range []string{"1", "2"} {
		p := pool(t, newLauncher(t, "add", "ONNX_CONCURRENCY="+slots), inference.Batching{MaxSize: 8, MaxWait: 2 * time.Millisecond})
		var wg sync.WaitGroup
		var joined atomic.Int64
		for g := range 24 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(g), 5))
				for i := range 150 {
					n, patient := g*1000+i, true
					body, want, status := fmt.Sprintf(`{"input_data": {"a": [[%d]], "b": [[1]]}}`, n), fmt.Sprintf("[[%d.0]]", n+1), 200
					wait := 2 * patience
					switch rng.IntN(12) {
					case 0: // two rows
						body = fmt.Sprintf(`{"input_data": {"a": [[%d], [2]], "b": [[1], [1]]}}`, n)
						want = fmt.Sprintf("[[%d.0], [3.0]]", n+1)
					case 1: // another width
						body = fmt.Sprintf(`{"input_data": {"a": [[%d, 2]], "b": [[1, 1]]}}`, n)
						want = fmt.Sprintf("[[%d.0, 3.0]]", n+1)
					case 2:
						body, status = fmt.Sprintf(`{"input_data": {"a": [["%d"]]}}`, n), 400
					case 3:
						wait, patient = time.Duration(rng.IntN(2000))*time.Microsecond, false
					}
					c := call(body, wait)
					c.ID = fmt.Sprintf("id-%d", n)
					answer, err := p.Do(context.Background(), c)
					if err != nil {
						if patient || !errors.Is(err, inference.ErrDeadline) {
							t.Errorf("%s: %v", body, err)
						}
						continue
					}
					got, err := io.ReadAll(answer.Body)
					if err != nil || answer.Status != status || status == 200 && string(got) != want || answer.Get("x-request-id") != c.ID {
						t.Errorf("%s: %d %s %v, want %d %s", body, answer.Status, got, err, status, want)
					}
					if answer.Batch > 1 {
						joined.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if joined.Load() == 0 {
			t.Error("nothing was joined")
		}
		if s := p.Status(); s.Restarts != 0 || s.Executing != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// TestBatchIsCanceledWhenNobodyWaits: a run that nobody waits for any more ends, the requests behind it are not begun.
func TestBatchIsCanceledWhenNobodyWaits(t *testing.T) {
	t.Parallel()
	l := newLauncher(t, "slow", "ONNX_CONCURRENCY=1")
	p := pool(t, l, inference.Batching{MaxSize: 8})
	gone, hangUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	ask := func() {
		wg.Go(func() {
			if _, _, err := do(gone, p, call(forever, patience)); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
	await := func(what string, ok func(inference.Status) bool) {
		for end := time.Now().Add(patience); !ok(p.Status()); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("never %s: %+v", what, p.Status())
			}
		}
	}
	single, leave := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { _, _, err := do(single, p, call(forever, patience)); first <- err }()
	await("busy", func(s inference.Status) bool { return s.Executing == 1 })
	ask()
	ask()
	await("two wait", func(s inference.Status) bool { return s.Waiting == 2 })
	leave()
	<-first
	await("two run", func(s inference.Status) bool { return s.Executing == 2 && s.Waiting == 0 })
	hangUp()
	wg.Wait()
	if status, body, err := do(t.Context(), p, call(`{"input_data": [1000]}`, patience)); err != nil || status != 200 || body != "[1.0]" {
		t.Errorf("the next: %d %s %v", status, body, err)
	}
	if n := l.starts.Load(); n != 1 {
		t.Errorf("%d starts", n)
	}
}
