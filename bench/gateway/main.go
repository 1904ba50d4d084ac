// The gateway benchmark measures what a caller gets from a scoring script behind Portico and behind Flask +
// gunicorn: the same script, the same machine, taking turns in one run. See bench/README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"portico/bench/load"
)

type options struct {
	portico, python, source string
	connections, rounds     int
	workers                 int
	duration, warm          time.Duration
	rate                    float64
	only                    string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	var o options
	flag.StringVar(&o.portico, "portico", "bin/portico", "the binary under test")
	flag.StringVar(&o.python, "python", "python3", "Python that has Flask and gunicorn")
	flag.StringVar(&o.source, "source", "bench/gateway", "folder of the script and the Flask application")
	flag.IntVar(&o.connections, "connections", 16, "concurrent connections")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; the median of each side counts")
	flag.IntVar(&o.workers, "workers", 1, "Python worker processes on each side (WORKER_COUNT; 1 is the default of both)")
	flag.DurationVar(&o.duration, "duration", 10*time.Second, "length of one measurement")
	flag.DurationVar(&o.warm, "warm", 2*time.Second, "length of the warm-up before each measurement")
	flag.Float64Var(&o.rate, "rate", 500, "requests per second of the fixed-rate measurement; 0 leaves it out")
	flag.StringVar(&o.only, "only", "", "peer: leave Portico out, to try the other side alone")
	flag.Parse()
	if o.only != "" && o.only != "peer" {
		return fmt.Errorf("-only %q is not peer", o.only)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "portico-bench-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	if o.source, err = filepath.Abs(o.source); err != nil {
		return fmt.Errorf("find the source: %w", err)
	}
	if o.portico, err = filepath.Abs(o.portico); err != nil {
		return fmt.Errorf("find portico: %w", err)
	}
	if o.python, err = filepath.Abs(o.python); err != nil {
		return fmt.Errorf("find Python: %w", err)
	}

	var sides []side
	defer func() {
		for _, s := range sides {
			err = errors.Join(err, s.stop())
		}
	}()
	start := func(s side, e error) error {
		if e == nil {
			sides = append(sides, s)
		}
		return e
	}
	if o.only == "" {
		if err := start(startPortico(ctx, o, dir)); err != nil {
			return err
		}
	}
	for _, class := range []string{"sync", "gthread"} {
		if err := start(startGunicorn(ctx, o, dir, class)); err != nil {
			return err
		}
	}
	return measure(ctx, o, sides)
}

// measure takes turns: every round goes through all sides, and Portico comes twice, so that the difference between
// its two rows shows what this machine's noise alone can do.
func measure(ctx context.Context, o options, sides []side) error {
	var rows []*row
	for _, s := range sides {
		rows = append(rows, &row{side: s})
	}
	again := &row{side: sides[0], name: sides[0].name + " (again)"}
	rows = append(rows, again)
	for round := range o.rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, o.rounds)
		for _, r := range rows {
			if err := r.once(ctx, o); err != nil {
				return err
			}
		}
	}
	report(os.Stdout, o, rows)
	return nil
}

func (r *row) once(ctx context.Context, o options) error {
	cfg := load.Config{
		URL: r.side.url, Header: r.side.header, Body: []byte(body), Want: r.side.want,
		Connections: o.connections, Duration: o.warm,
	}
	for _, part := range []struct {
		duration time.Duration
		rate     float64
		keep     *[]*load.Result
	}{{o.warm, 0, nil}, {o.duration, 0, &r.closed}, {o.duration, o.rate, &r.fixed}} {
		if part.keep == &r.fixed && o.rate == 0 {
			continue
		}
		cfg.Duration, cfg.Rate = part.duration, part.rate
		result, err := load.Run(ctx, cfg)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if result.Requests == 0 {
			return fmt.Errorf("%s answers nothing: %w", r.side.name, result.Failure)
		}
		if part.keep != nil {
			*part.keep = append(*part.keep, result)
		}
	}
	return nil
}

// body is about 250 bytes of JSON, the size of a small row of features.
const body = `{"data": [[5.1, 3.5, 1.4, 0.2, 5.1, 3.5, 1.4, 0.2, 5.1, 3.5], [4.9, 3.0, 1.4, 0.2, 4.9, 3.0, 1.4, 0.2, 4.9, 3.0],` +
	` [6.2, 3.4, 5.4, 2.3, 6.2, 3.4, 5.4, 2.3, 6.2, 3.4]], "columns": ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]}`

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }
