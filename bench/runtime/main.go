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
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"portico/bench/side"
)

type options struct {
	*side.Command
	side.Load

	source, venvs string
	scripts, only string
}

func main() {
	o := &options{Command: side.NewCommand(), Load: side.Load{Connections: 16, Rounds: 3, Duration: 4 * time.Second, Warm: time.Second}}
	o.Path(&o.source, "source", "bench/runtime", "folder of score/ and peers/")
	o.Path(&o.venvs, "venvs", ".build/bench", "folder of the peers' Python environments and models")
	flag.StringVar(&o.scripts, "scripts", "echo,lr", "what is served, one table each: echo, lr")
	flag.StringVar(&o.only, "only", "", "servers to compare, by their short names; all of them")
	o.Flags()
	o.Run(o.bench)
}

func (o *options) bench(ctx context.Context, dir string) error {
	for _, script := range strings.Split(o.scripts, ",") {
		if err := compare(ctx, o, filepath.Join(dir, script), script); err != nil {
			return err
		}
	}
	return nil
}

// compare measures every server with one script.
func compare(ctx context.Context, o *options, dir, script string) (err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	b := bench{o, script, dir}
	var sides []side.Side
	defer func() { err = errors.Join(err, side.Stop(sides)) }()
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
	plan := side.Plan{Rounds: o.Rounds, Warm: o.Warm, Modes: []side.Mode{
		{Title: script + ", as fast as it goes", Connections: o.Connections, Duration: o.Duration},
		{Title: script + ", one caller", Connections: 1, Duration: o.Duration},
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
	*options
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
		filepath.Join(b.source, "score", b.script+".py"), strconv.FormatFloat(b.Duration.Seconds(), 'f', -1, 64))
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
