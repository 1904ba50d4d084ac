// Onnx measures how `portico infer` and `portico serve` answer for an ONNX model, against the same model in the process of the
// HTTP server, against the same model behind MLServer, and against `mlflow models serve` with a scikit-learn model of the same
// kind: side by side, in turns.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"portico/bench/side"
	"portico/internal/onnx"
)

type options struct {
	*side.Command
	side.Load

	inprocess, model, data, peers, venvs string
}

func main() {
	o := &options{Command: side.NewCommand(), Load: side.Load{Connections: 16, Rounds: 3, Duration: 4 * time.Second, Warm: time.Second}}
	o.Path(&o.inprocess, "inprocess", ".build/bench/inprocess", "the program to compare with")
	o.Path(&o.model, "model", "internal/onnxserve/testdata/iris.onnx", "logistic regression on iris")
	o.Path(&o.data, "data", ".build/onnx", "folder in which ONNX Runtime is installed")
	o.Path(&o.peers, "peers", "bench/onnx/peers", "folder of what other servers need")
	o.Path(&o.venvs, "venvs", ".build/bench", "folder of the environments and models of bench/runtime; servers that are not there are left out")
	o.Flags()
	o.Run(o.bench)
}

// Three rows of the iris data, as each server takes them.
const (
	rows   = `[[5.1, 3.5, 1.4, 0.2], [5.9, 3.0, 4.2, 1.5], [6.5, 3.0, 5.8, 2.2]]`
	body   = `{"input_data": ` + rows + `}`
	inputs = `{"inputs": ` + rows + `}`
	tensor = `{"id": "1", "inputs": [{"name": "X", "shape": [3, 4], "datatype": "FP32", ` +
		`"data": [5.1, 3.5, 1.4, 0.2, 5.9, 3.0, 4.2, 1.5, 6.5, 3.0, 5.8, 2.2]}]}`
)

func (o *options) bench(ctx context.Context, dir string) (err error) {
	library, err := onnx.Library(o.data)
	if err != nil {
		return err
	}
	sides, err := start(ctx, o, dir, library)
	defer func() { err = errors.Join(err, side.Stop(sides)) }()
	if err != nil {
		return err
	}
	plan := side.Plan{Rounds: o.Rounds, Warm: o.Warm, Modes: []side.Mode{
		{Title: "as fast as it goes", Connections: o.Connections, Duration: o.Duration},
		{Title: "one caller", Connections: 1, Duration: o.Duration},
	}}
	measured, err := plan.Run(ctx, sides)
	if err != nil {
		return err
	}
	fmt.Printf("logistic regression on 3x4 on %d CPUs, %d bytes of JSON\n\n", runtime.NumCPU(), len(body))
	plan.Report(os.Stdout, measured)
	for _, r := range measured {
		fmt.Printf("  %-40s %.2f of the in-process figure; one caller's p50 %.3f ms\n", r.Label, r.Rate(0)/measured[0].Rate(0),
			r.Percentile(1, 0.5))
	}
	return nil
}

// start starts every server and waits until each answers rightly.
func start(ctx context.Context, o *options, dir, library string) ([]side.Side, error) {
	var sides []side.Side
	for _, c := range []struct {
		name, path, body string
		start            func() (side.Side, *side.Process, error)
		right            func(got any) bool
	}{
		{"in process", "/score", body, func() (side.Side, *side.Process, error) {
			return command(dir, o.inprocess, "--library", library, "--model", o.model, "--address", "%s:%s")
		}, labels("label")},
		{"portico infer", "/score", body, func() (side.Side, *side.Process, error) {
			return command(dir, o.Portico, "infer", "--model-dir", o.model, "--data-dir", o.data, "--access-log=false",
				"--host", "%s", "--port", "%s")
		}, labels("label")},
		{"portico serve (key, split, log)", "", body, func() (side.Side, *side.Process, error) {
			return side.Deployment{Portico: o.Portico, Model: o.model, Library: library, Workers: 1, Connections: o.Connections}.Serve(ctx, dir)
		}, labels("label")},
		{"MLServer", "/v2/models/iris/infer", tensor, func() (side.Side, *side.Process, error) { return o.mlserver(dir) }, tensors},
		{"mlflow models serve, scikit-learn", "/invocations", inputs, func() (side.Side, *side.Process, error) {
			mlflow := filepath.Join(o.venvs, "mlflow")
			if _, err := os.Stat(filepath.Join(mlflow, "models", "lr")); err != nil {
				return side.Side{}, nil, nil //nolint:nilerr // bench/runtime/run.sh makes it
			}
			return command(dir, filepath.Join(mlflow, "bin", "mlflow"), "models", "serve", "--model-uri",
				filepath.Join(mlflow, "models", "lr"), "--env-manager", "local", "--workers", "1", "--host", "%s", "--port", "%s")
		}, labels("predictions")},
	} {
		fmt.Fprintf(os.Stderr, "starting %s\n", c.name)
		s, p, err := c.start()
		if err != nil {
			return sides, fmt.Errorf("start %s: %w", c.name, err)
		}
		if p == nil {
			continue
		}
		s.Name, s.Body = c.name, []byte(c.body)
		s.URL += c.path
		sides = append(sides, s)
		if err := sides[len(sides)-1].Ready(ctx, p, c.right); err != nil {
			return sides, err
		}
	}
	return sides, nil
}

// labels approves an answer whose member of this name says which flowers the rows are.
func labels(member string) func(got any) bool {
	return func(got any) bool {
		object, ok := got.(map[string]any)
		return ok && fmt.Sprint(object[member]) == "[0 1 2]"
	}
}

// tensors does so for an answer of the Open Inference Protocol.
func tensors(got any) bool {
	object, _ := got.(map[string]any)
	outputs, _ := object["outputs"].([]any)
	if len(outputs) == 0 {
		return false
	}
	label, ok := outputs[0].(map[string]any)
	return ok && fmt.Sprint(label["data"]) == "[0 1 2]"
}

// mlserver starts MLServer with the same model and the same version of ONNX Runtime.
func (o *options) mlserver(dir string) (side.Side, *side.Process, error) {
	program := filepath.Join(o.venvs, "mlserver", "bin", "mlserver")
	if _, err := os.Stat(program); err != nil {
		return side.Side{}, nil, nil //nolint:nilerr // bench/runtime/run.sh makes it
	}
	model := filepath.Join(dir, "mlserver")
	doc, err := json.Marshal(map[string]any{
		"name": "iris", "implementation": "mlserveronnx.Onnx", "parameters": map[string]string{"uri": o.model},
	})
	if err == nil {
		err = os.Mkdir(model, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(model, "model-settings.json"), doc, 0o600)
	}
	if err != nil {
		return side.Side{}, nil, fmt.Errorf("write settings: %w", err)
	}
	return side.MLServer{Program: program, Model: model, Env: environ("PYTHONPATH=" + o.peers)}.Start(dir)
}

// environ is what every server is started with.
func environ(more ...string) []string {
	return append(append(os.Environ(), "OMP_NUM_THREADS=1", "MLFLOW_DISABLE_TELEMETRY=true"), more...)
}

// command starts a server that listens on a free address, whose parts replace each %s.
func command(dir, program string, args ...string) (side.Side, *side.Process, error) {
	address, err := side.FreeAddress()
	if err != nil {
		return side.Side{}, nil, err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return side.Side{}, nil, fmt.Errorf("read %s: %w", address, err)
	}
	for i, arg := range args {
		switch {
		case arg == "%s" && args[i-1] == "--host":
			args[i] = host
		case arg == "%s":
			args[i] = port
		case arg == "%s:%s":
			args[i] = address
		}
	}
	cmd := exec.Command(program, args...) //nolint:noctx // Stop ends it, in order
	cmd.Env = environ("PATH=" + filepath.Dir(program) + ":" + os.Getenv("PATH"))
	p, err := side.Launch(dir, filepath.Base(program)+"-"+port, cmd)
	if err != nil {
		return side.Side{}, nil, err
	}
	s := side.Of(p.AnyExit())
	s.URL = "http://" + address
	return s, p, nil
}
