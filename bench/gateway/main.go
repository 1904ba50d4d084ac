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
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"portico/bench/side"
)

type options struct {
	portico, python, source string

	workers     int
	connections int
	rounds      int
	duration    time.Duration
	warm        time.Duration
	rate        float64
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	var o options
	flag.StringVar(&o.portico, "portico", "bin/portico", "the Portico binary")
	flag.StringVar(&o.python, "python", "python3", "Python with Flask and gunicorn")
	flag.StringVar(&o.source, "source", "bench/gateway", "folder of flask_app.py and score/")
	flag.IntVar(&o.workers, "workers", 1, "Python worker processes on each side")
	flag.IntVar(&o.connections, "connections", 16, "keep-alive connections of the load generator")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; the median counts")
	flag.DurationVar(&o.duration, "duration", 10*time.Second, "length of one measurement")
	flag.DurationVar(&o.warm, "warm", 2*time.Second, "length of the warm-up before each measurement")
	flag.Float64Var(&o.rate, "rate", 500, "requests per second of the fixed-rate measurement; 0 leaves it out")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "portico-bench-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	for _, path := range []*string{&o.source, &o.portico, &o.python} {
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("find %s: %w", *path, err)
		}
	}
	var sides []side.Side
	defer func() {
		for _, s := range sides {
			err = errors.Join(err, s.Stop())
		}
	}()
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
	plan := side.Plan{Rounds: o.rounds, Warm: o.warm, Modes: []side.Mode{
		{Title: "Closed loop, as fast as it goes", Connections: o.connections, Duration: o.duration},
	}}
	if o.rate > 0 {
		plan.Modes = append(plan.Modes, side.Mode{
			Title: fmt.Sprintf("%.0f requests per second", o.rate), Connections: o.connections, Duration: o.duration, Rate: o.rate,
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
func startPortico(ctx context.Context, o options, dir string) (side.Side, error) {
	s, p, err := side.Deployment{
		Portico: o.portico, Code: filepath.Join(o.source, "score"), Script: "score.py", Conda: "      - python",
		Workers: o.workers, Connections: max(o.connections, 1),
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
func startGunicorn(ctx context.Context, o options, dir, class string) (side.Side, error) {
	addr, err := side.FreeAddress()
	if err != nil {
		return side.Side{}, err
	}
	args := []string{"-m", "gunicorn", "--bind", addr, "--workers", strconv.Itoa(o.workers), "--worker-class", class,
		"--pythonpath", o.source + "," + filepath.Join(o.source, "score"), "--log-level", "warning"}
	if class == "gthread" {
		args = append(args, "--threads", strconv.Itoa(max(o.connections/o.workers, 1)), "--keep-alive", "75")
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
