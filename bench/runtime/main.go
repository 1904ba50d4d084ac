// Runtime measures Portico's inference runtime against the Python model servers that people use instead, each with the same
// two models: side by side, in turns, on one machine, with one worker each.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"portico/bench/side"
)

type options struct {
	portico, source, venvs string
	scripts, only          string
	connections, rounds    int
	duration, warm         time.Duration
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	var o options
	flag.StringVar(&o.portico, "portico", "bin/portico", "the Portico binary")
	flag.StringVar(&o.source, "source", "bench/runtime", "folder of score/ and peers/")
	flag.StringVar(&o.venvs, "venvs", ".build/bench", "folder of the peers' Python environments and models")
	flag.StringVar(&o.scripts, "scripts", "echo,lr", "what is served, one table each: echo, lr")
	flag.StringVar(&o.only, "only", "", "servers to compare, by their short names; all of them")
	flag.IntVar(&o.connections, "connections", 16, "keep-alive connections of the load generator")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; the median counts")
	flag.DurationVar(&o.duration, "duration", 4*time.Second, "length of one measurement")
	flag.DurationVar(&o.warm, "warm", time.Second, "length of the warm-up before a row's measurements")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	for _, path := range []*string{&o.source, &o.portico, &o.venvs} {
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("find %s: %w", *path, err)
		}
	}
	for _, script := range strings.Split(o.scripts, ",") {
		if err := compare(ctx, o, script); err != nil {
			return err
		}
	}
	return nil
}

// compare measures every server with one script.
func compare(ctx context.Context, o options, script string) (err error) {
	dir, err := os.MkdirTemp("", "portico-bench-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	b := bench{o, script, dir}
	var sides []side.Side
	defer func() {
		for _, s := range sides {
			err = errors.Join(err, s.Stop())
		}
	}()
	for _, c := range servers {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), c.short) {
			continue
		}
		fmt.Fprintf(os.Stderr, "starting %s\n", c.name)
		s, err := b.start(ctx, c)
		if err != nil {
			return err
		}
		sides = append(sides, s)
	}
	if len(sides) == 0 {
		return fmt.Errorf("-only %q names no server", o.only)
	}
	plan := side.Plan{Rounds: o.rounds, Warm: o.warm, Modes: []side.Mode{
		{Title: script + ", as fast as it goes", Connections: o.connections, Duration: o.duration},
		{Title: script + ", one caller", Connections: 1, Duration: o.duration},
	}}
	var limits []float64
	plan.Each = func(ctx context.Context) error {
		calls, err := b.limit(ctx)
		limits = append(limits, calls)
		return err
	}
	rows, err := plan.Run(ctx, sides)
	if err != nil {
		return err
	}
	fmt.Printf("%s on %d CPUs, 1 worker each, %d bytes of JSON\n\n", script, runtime.NumCPU(), len(body))
	plan.Report(os.Stdout, rows)
	slices.Sort(limits)
	limit := limits[len(limits)/2]
	fmt.Printf("A plain loop of run() and JSON in one Python, without a server: %.0f calls/s (%.1f us each).\n", limit, 1e6/limit)
	for _, r := range rows {
		fmt.Printf("  %-40s %.2f of it\n", r.Label, r.Rate(0)/limit)
	}
	fmt.Println()
	return nil
}

// bench is the comparison with one script.
type bench struct {
	options
	script string // echo or lr
	dir    string // for this run's files
}

// body is three rows of the iris data, as Azure's servers take it and as others do.
const (
	rows   = `[[5.1, 3.5, 1.4, 0.2], [5.9, 3.0, 4.2, 1.5], [6.5, 3.0, 5.8, 2.2]]`
	flat   = `[5.1, 3.5, 1.4, 0.2, 5.9, 3.0, 4.2, 1.5, 6.5, 3.0, 5.8, 2.2]`
	body   = `{"data": ` + rows + `}`
	tensor = `{"id": "1", "inputs": [{"name": "data", "shape": [3, 4], "datatype": "FP64", "data": ` + flat + `}]}`
	inputs = `{"inputs": ` + rows + `}`
)

// classes is what the logistic regression says of the rows.
const classes = `[0, 1, 2]`

// limit is calls per second of the script without a server.
func (b bench) limit(ctx context.Context) (float64, error) {
	cmd := exec.CommandContext(ctx, b.python("azmlinfsrv"), filepath.Join(b.source, "limit.py"),
		filepath.Join(b.source, "score", b.script+".py"), strconv.FormatFloat(b.duration.Seconds(), 'f', -1, 64))
	cmd.Stdin, cmd.Stderr = strings.NewReader(body), os.Stderr
	cmd.Env = environ()
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("measure the script alone: %w", err)
	}
	limit, err := strconv.ParseFloat(string(bytes.TrimSpace(out)), 64)
	if err != nil {
		return 0, fmt.Errorf("measure the script alone: %w", err)
	}
	return limit, nil
}

func (b bench) python(venv string) string { return filepath.Join(b.venvs, venv, "bin", "python") }

// environ is what every server is started with: one thread for linear algebra, as one worker has one CPU.
func environ(more ...string) []string {
	return append(append(os.Environ(), "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1"), more...)
}
