// Batching measures what joining requests does for a model with a fixed cost for a call, one request at a time and in batches:
// the same script behind `portico infer` and behind a deployment, and an ONNX model by the Open Inference Protocol; in turns, on
// one machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"portico/bench/side"
)

// wanted is how many times the requests per second of single requests batches must have.
const wanted = 3

type options struct {
	*side.Command
	side.Load

	source, model, data       string
	maxSize, maxWaitMS, times int
}

func main() {
	o := options{Command: side.NewCommand(), Load: side.Load{Connections: 32, Rounds: 3, Duration: 3 * time.Second, Warm: time.Second}}
	o.Path(&o.source, "source", "bench/batching/score", "folder of score.py")
	o.Path(&o.model, "model", "internal/onnxserve/testdata/slow-rows.onnx", "an ONNX model that costs as much as its input says, whatever its rows")
	o.Path(&o.data, "data", ".build/onnx", "folder in which ONNX Runtime is installed")
	flag.IntVar(&o.times, "times", 8000, "what it is asked for; so many cost some 10 ms")
	flag.IntVar(&o.maxSize, "max-size", 32, "requests of one batch")
	flag.IntVar(&o.maxWaitMS, "max-wait-ms", 5, "longest wait of a batch")
	o.Flags()
	o.Run(o.bench)
}

func (o *options) bench(ctx context.Context, dir string) (err error) {
	var sides []side.Side
	defer func() { err = errors.Join(err, side.Stop(sides)) }()
	for _, start := range []func(context.Context, string, bool) (side.Side, error){o.infer, o.serve, o.inferONNX} {
		for _, batches := range []bool{false, true} {
			s, err := start(ctx, dir, batches)
			if err != nil {
				return err
			}
			sides = append(sides, s)
		}
	}
	return o.compare(ctx, sides)
}

// compare measures, reports and judges. The sides are single and batched of one kind, then of the next.
func (o *options) compare(ctx context.Context, sides []side.Side) error {
	plan := side.Plan{Rounds: o.Rounds, Warm: o.Warm, Modes: []side.Mode{
		{Title: "Closed loop, as fast as it goes", Connections: o.Connections, Duration: o.Duration},
		{Title: "One caller", Connections: 1, Duration: o.Duration},
	}}
	rows, err := plan.Run(ctx, sides)
	if err != nil {
		return err
	}
	plan.Report(os.Stdout, rows)
	var failed error
	for i := 0; i < len(sides); i += 2 {
		single, batched := rows[i], rows[i+1]
		times, p99 := batched.Rate(0)/single.Rate(0), batched.Percentile(0, 0.99)
		bound := o.bound(single.Percentile(1, 0.99))
		fmt.Printf("%s: %.1f times the requests per second; p99 %.1f ms, bound %.1f ms; p50 of one caller %.2f ms, one by one %.2f ms\n",
			batched.Label, times, p99, bound, batched.Percentile(1, 0.5), single.Percentile(1, 0.5))
		if times < wanted || p99 > bound {
			failed = errors.Join(failed, fmt.Errorf("%s is beyond its bounds", batched.Label))
		}
	}
	return failed
}

// bound is what a request may take in milliseconds: the run that it finds, those of the callers before it, its own, and the
// wait of a batch. alone is what a run takes on this machine at this hour: the p99 of one caller without batches.
func (o *options) bound(alone float64) float64 {
	runs := 1 + (o.Connections+o.maxSize-1)/o.maxSize
	return float64(runs)*alone + float64(o.maxWaitMS)
}

// The request to the script and its answer.
const (
	body   = `{"data": [[5.1, 3.5, 1.4, 0.2], [4.9, 3.0, 1.4, 0.2], [6.2, 3.4, 5.4, 2.3]]}`
	answer = `[10.2, 9.5, 17.3]`
)

func (o *options) infer(ctx context.Context, dir string, batches bool) (side.Side, error) {
	s, p, err := o.launch(dir, batches, "--entry-script", "score.py", "--app-root", o.source)
	if err != nil {
		return side.Side{}, err
	}
	s.URL += "/score"
	s.Name, s.Body = "portico infer", []byte(body)
	return ready(ctx, s, p, batches, sums)
}

// inferONNX serves the ONNX model, one run at a time, which is asked by the Open Inference Protocol.
func (o *options) inferONNX(ctx context.Context, dir string, batches bool) (side.Side, error) {
	s, p, err := o.launch(dir, batches, "--model-dir", o.model, "--data-dir", o.data, "--env", "ONNX_CONCURRENCY=1")
	if err != nil {
		return side.Side{}, err
	}
	s.URL += "/v2/models/slow-rows/infer"
	s.Name = "portico infer, ONNX by /v2"
	s.Body = fmt.Appendf(nil, `{"inputs": [{"name": "times", "datatype": "INT64", "shape": [1], "data": [%d]}]}`, o.times)
	return ready(ctx, s, p, batches, func(got any) bool {
		doc, _ := got.(map[string]any)
		outputs, _ := doc["outputs"].([]any)
		if len(outputs) != 1 {
			return false
		}
		end, _ := outputs[0].(map[string]any)
		return fmt.Sprint(end["data"]) == "[1]"
	})
}

// launch starts `portico infer` on an address of its own.
func (o *options) launch(dir string, batches bool, args ...string) (side.Side, *side.Process, error) {
	address, err := side.FreeAddress()
	if err != nil {
		return side.Side{}, nil, err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return side.Side{}, nil, fmt.Errorf("split %s: %w", address, err)
	}
	args = append([]string{"infer", "--host", host, "--port", port}, args...)
	if batches {
		args = append(args, "--batching-max-size", strconv.Itoa(o.maxSize), "--batching-max-wait-ms", strconv.Itoa(o.maxWaitMS))
	}
	cmd := exec.Command(o.Portico, args...) //nolint:noctx // Stop ends it, in order
	cmd.Dir = dir
	p, err := side.Launch(dir, "infer-"+port, cmd)
	if err != nil {
		return side.Side{}, nil, err
	}
	s := side.Of(p)
	s.URL = "http://" + address
	return s, p, nil
}

func (o *options) serve(ctx context.Context, dir string, batches bool) (side.Side, error) {
	d := side.Deployment{
		Portico: o.Portico, Code: o.source, Script: "score.py", Conda: "      - python", Workers: 1,
		Connections: max(o.Connections, o.maxSize),
	}
	if batches {
		d.More = fmt.Sprintf("batching:\n  max_size: %d\n  max_wait_ms: %d\n", o.maxSize, o.maxWaitMS)
	}
	s, p, err := d.Serve(ctx, dir)
	if err != nil {
		return side.Side{}, err
	}
	s.Name, s.Body = "portico serve", []byte(body)
	return ready(ctx, s, p, batches, sums)
}

// ready waits until the server answers rightly, and names its way of answering.
func ready(ctx context.Context, s side.Side, p *side.Process, batches bool, right func(got any) bool) (side.Side, error) {
	if batches {
		s.Name += ", batches"
	} else {
		s.Name += ", one by one"
	}
	if err := s.Ready(ctx, p, right); err != nil {
		return side.Side{}, errors.Join(err, p.Stop())
	}
	return s, nil
}

// sums approves what the script answers.
func sums(got any) bool { return side.Equals(answer)(rounded(got)) }

// rounded gives sums of floating point numbers as a person would write them.
func rounded(got any) any {
	values, ok := got.([]any)
	if !ok {
		return got
	}
	out := make([]any, len(values))
	for i, value := range values {
		out[i] = value
		if f, ok := value.(float64); ok {
			out[i] = float64(int64(f*10+0.5)) / 10
		}
	}
	return out
}
