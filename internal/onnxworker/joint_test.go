package onnxworker_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
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

// TestBatchesOfInferences: requests of the Open Inference Protocol, in JSON and in binary form, and requests to /score meet
// in the same batches, and everybody gets his own answer, in the form that he asked for.
func TestBatchesOfInferences(t *testing.T) {
	t.Parallel()
	p := pool(t, newLauncher(t, "add", "ONNX_CONCURRENCY=1"), inference.Batching{MaxSize: 8, MaxWait: 2 * time.Millisecond})
	var wg sync.WaitGroup
	var joined, alone atomic.Int64
	for g := range 16 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 7))
			for i := range 150 {
				a := addition(rng.IntN(6), g*1000+i)
				answer, err := p.Do(context.Background(), a.call)
				if err != nil {
					t.Errorf("%s: %v", a.call.Body, err)
					continue
				}
				got, err := io.ReadAll(answer.Body)
				if err != nil || answer.Status != a.status || string(got) != a.want || answer.Get("x-request-id") != a.call.ID ||
					answer.Get("inference-header-content-length") != a.length {
					t.Errorf("%q: %d %q %v, want %d %q", a.call.Body, answer.Status, got, err, a.status, a.want)
				}
				if answer.Batch > 1 {
					joined.Add(1)
				} else if answer.Batch == 1 {
					alone.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if joined.Load() == 0 {
		t.Errorf("nothing was joined, %d were alone", alone.Load())
	}
}

// asked is a request and what it must be answered.
type asked struct {
	call         *inference.Call
	status       int
	want, length string // of the body, and of the JSON in it where something follows
}

// addition asks for n + 1 in one of several ways.
func addition(way, n int) asked {
	a := asked{call: call("", 2*patience), status: 200}
	a.call.ID = fmt.Sprintf("id-%d", n)
	a.call.Path = "/v2/models/add/infer"
	tensor := func(name, rest string) string {
		return fmt.Sprintf(`{"name": %q, "datatype": "FP32", "shape": [1, 1], %s}`, name, rest)
	}
	one := tensor("b", `"data": [1]`)
	head := func(output string) string {
		return fmt.Sprintf(`{"model_name":"add","model_version":"1","id":"%d","outputs":[{"name":"sum","datatype":"FP32","shape":[1,1],%s}]}`, n, output)
	}
	number := func(n int) string { return string(binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(n)))) }
	body := fmt.Sprintf(`{"id": "%d", "inputs": [%s, %s]}`, n, tensor("a", fmt.Sprintf(`"data": [%d]`, n)), one)
	a.want = head(fmt.Sprintf(`"data":[%d.0]`, n+1))
	switch way {
	case 1: // in binary form there and back
		body = fmt.Sprintf(`{"id": "%d", "parameters": {"binary_data_output": true}, "inputs": [%s, %s]}`, n, tensor("a", `"parameters": {"binary_data_size": 4}`), one)
		a.call.Header = []inference.Field{{Name: "Inference-Header-Content-Length", Value: strconv.Itoa(len(body))}}
		body += number(n)
		a.want = head(`"parameters":{"binary_data_size":4}`)
		a.length = strconv.Itoa(len(a.want))
		a.want += number(n + 1)
	case 2:
		body, a.want, a.call.Path = fmt.Sprintf(`{"input_data": {"a": [[%d]], "b": [[1]]}}`, n), fmt.Sprintf("[[%d.0]]", n+1), "/score"
	case 4:
		a.call.Header = []inference.Field{{Name: "Content-Encoding", Value: "gzip"}}
		a.status, a.want = 415, `{"error": "The content-encoding \"gzip\" of the body is not supported; send it as it is."}`
	case 3:
		body, a.status, a.want = `{"inputs": [`+tensor("a", fmt.Sprintf(`"data": ["%d"]`, n))+`]}`, 400,
			fmt.Sprintf(`{"error": "Input \"a\": expected float32, got \"\\\"%d\\\"\"."}`, n)
	}
	a.call.Body = []byte(body)
	return a
}

// TestWhyNothingIsJoinedIsSaid: at the start for the inputs of a model, and for an output when it is found out.
func TestWhyNothingIsJoinedIsSaid(t *testing.T) {
	t.Parallel()
	l := newLauncher(t, "slow", inference.VariableBatching+"=true")
	pool(t, l, inference.Batching{MaxSize: 8})
	const closed = `batching: requests are scored one by one: the first dimension of the input "times" is not open: [1]`
	for end := time.Now().Add(patience); !l.log.has(closed); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the log has no %s", closed)
		}
	}
	l = newLauncher(t, "partly", inference.VariableBatching+"=true", "ONNX_CONCURRENCY=1")
	p := pool(t, l, inference.Batching{MaxSize: 8, MaxWait: 2 * time.Millisecond})
	if l.log.has("batching: ") {
		t.Error("the model is joined as far as is known")
	}
	const why = `batching: the output "total" has not one result for each row`
	ask := func() {
		c := call(`{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}], "outputs": [{"name": "total"}]}`, patience)
		c.Path = "/v2/models/partly/infer"
		if status, body, err := do(t.Context(), p, c); err != nil || status != 200 || !strings.Contains(body, `"data":[3.0]`) {
			t.Errorf("%d %s %v", status, body, err)
		}
	}
	for end := time.Now().Add(patience); !l.log.has(why); {
		if time.Now().After(end) {
			t.Fatalf("the log has no %s", why)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(ask)
		}
		wg.Wait()
	}
}
