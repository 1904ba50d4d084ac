// Gateway measures what a caller of a scoring script gets through Portico, and what it gets from Flask + gunicorn with the
// same script: side by side, in turns, on one machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"portico/bench/side"
)

type options struct {
	*side.Command
	side.Load

	python, source string
	workers        int
	rate           float64
}

func main() {
	o := &options{Command: side.NewCommand(), Load: side.Load{Connections: 16, Rounds: 3, Duration: 10 * time.Second, Warm: 2 * time.Second}}
	o.Path(&o.python, "python", "python3", "Python with Flask and gunicorn")
	o.Path(&o.source, "source", "bench/gateway", "folder of flask_app.py and score/")
	flag.IntVar(&o.workers, "workers", 1, "Python worker processes on each side")
	flag.Float64Var(&o.rate, "rate", 500, "requests per second of the fixed-rate measurement; 0 leaves it out")
	o.Flags()
	o.Run(o.bench)
}

func (o *options) bench(ctx context.Context, dir string) (err error) {
	var sides []side.Side
	defer func() { err = errors.Join(err, side.Stop(sides)) }()
	for _, start := range []func() (side.Side, error){
		func() (side.Side, error) { return startPortico(ctx, o, dir) },
		func() (side.Side, error) { return startGunicorn(ctx, o, dir, "sync") },
		func() (side.Side, error) { return startGunicorn(ctx, o, dir, "gthread") },
	} {
		s, err := start()
		if err != nil {
			return err
		}
		sides = append(sides, s)
	}
	plan := side.Plan{Rounds: o.Rounds, Warm: o.Warm, Modes: []side.Mode{
		{Title: "Closed loop, as fast as it goes", Connections: o.Connections, Duration: o.Duration},
	}}
	if o.rate > 0 {
		plan.Modes = append(plan.Modes, side.Mode{
			Title: fmt.Sprintf("%.0f requests per second", o.rate), Connections: o.Connections, Duration: o.Duration, Rate: o.rate,
		})
	}
	rows, err := plan.Run(ctx, sides)
	if err != nil {
		return err
	}
	fmt.Printf("%d CPUs, %d workers on each side, %d bytes of JSON\n\n", runtime.NumCPU(), o.workers, len(body))
	plan.Report(os.Stdout, rows)
	return nil
}

// body is about 250 bytes of JSON, the size of a small row of features.
const body = `{"data": [[5.1, 3.5, 1.4, 0.2, 5.1, 3.5, 1.4, 0.2, 5.1, 3.5], [4.9, 3.0, 1.4, 0.2, 4.9, 3.0, 1.4, 0.2, 4.9, 3.0],` +
	` [6.2, 3.4, 5.4, 2.3, 6.2, 3.4, 5.4, 2.3, 6.2, 3.4]], "columns": ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]}`

// startPortico deploys the script behind a gateway.
func startPortico(ctx context.Context, o *options, dir string) (side.Side, error) {
	s, p, err := side.Deployment{
		Portico: o.Portico, Code: filepath.Join(o.source, "score"), Script: "score.py", Conda: "      - python",
		Workers: o.workers, Connections: max(o.Connections, 1),
	}.Serve(ctx, dir)
	if err != nil {
		return side.Side{}, err
	}
	s.Name = "Portico"
	return ready(ctx, s, p)
}

// startGunicorn runs the Flask application with one class of gunicorn worker. "sync" is what Azure's own inference
// server uses; it closes each connection. "gthread" keeps connections and is usually the fastest that needs no
// further package.
func startGunicorn(ctx context.Context, o *options, dir, class string) (side.Side, error) {
	addr, err := side.FreeAddress()
	if err != nil {
		return side.Side{}, err
	}
	args := []string{"-m", "gunicorn", "--bind", addr, "--workers", strconv.Itoa(o.workers), "--worker-class", class,
		"--pythonpath", o.source + "," + filepath.Join(o.source, "score"), "--log-level", "warning"}
	if class == "gthread" {
		args = append(args, "--threads", strconv.Itoa(max(o.Connections/o.workers, 1)), "--keep-alive", "75")
	}
	cmd := exec.Command(o.python, append(args, "flask_app:app")...) //nolint:noctx // Stop ends it, in order
	cmd.Dir = dir
	p, err := side.Launch(dir, "gunicorn-"+class, cmd)
	if err != nil {
		return side.Side{}, err
	}
	s := side.Of(p)
	s.Name, s.URL = "Flask + gunicorn "+class, "http://"+addr+"/score"
	return ready(ctx, s, p)
}

func ready(ctx context.Context, s side.Side, p *side.Process) (side.Side, error) {
	s.Body = []byte(body)
	if err := s.Ready(ctx, p, side.Equals(body)); err != nil {
		return side.Side{}, errors.Join(err, p.Stop())
	}
	return s, nil
}
