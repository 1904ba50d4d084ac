package side

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"portico/bench/load"
)

// Mode is one way to load a server.
type Mode struct {
	Title       string
	Connections int
	Duration    time.Duration
	Rate        float64 // requests per second; 0: closed loop, as fast as it goes
}

// Row holds the measurements of one side, for each mode one a round.
type Row struct {
	Side  Side
	Label string
	of    [][]one
}

type one struct {
	*load.Result
	cpu time.Duration // of the server
}

// perRequest is the server's CPU time per request in microseconds.
func (o one) perRequest() float64 { return float64(o.cpu.Microseconds()) / float64(o.Requests) }

// Plan is a comparison.
type Plan struct {
	Rounds int
	Warm   time.Duration // before the measurements of a row in a round
	Modes  []Mode
	Each   func(ctx context.Context) error // what else is measured, once a round; nil: nothing
}

// Run takes turns: every round goes through all rows. The first side gets a second row at the end, so that the difference
// between the two shows what this machine's noise alone can do.
func (p Plan) Run(ctx context.Context, sides []Side) ([]*Row, error) {
	var rows []*Row
	for _, s := range sides {
		rows = append(rows, &Row{Side: s, Label: s.Name, of: make([][]one, len(p.Modes))})
	}
	rows = append(rows, &Row{Side: sides[0], Label: sides[0].Name + " (again)", of: make([][]one, len(p.Modes))})
	for round := range p.Rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, p.Rounds)
		if p.Each != nil {
			if err := p.Each(ctx); err != nil {
				return nil, err
			}
		}
		for _, r := range rows {
			if err := p.once(ctx, r); err != nil {
				return nil, err
			}
		}
	}
	return rows, nil
}

func (p Plan) once(ctx context.Context, r *Row) error {
	cfg := load.Config{URL: r.Side.URL, Header: r.Side.Header, Body: r.Side.Body, Want: r.Side.Want}
	warm := Mode{Connections: p.Modes[0].Connections, Duration: p.Warm}
	for i, m := range append([]Mode{warm}, p.Modes...) {
		cfg.Connections, cfg.Duration, cfg.Rate = m.Connections, m.Duration, m.Rate
		before := r.Side.CPU()
		result, err := load.Run(ctx, cfg)
		if err != nil {
			return fmt.Errorf("measure %s: %w", r.Label, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if result.Requests == 0 {
			return fmt.Errorf("%s answers nothing: %w", r.Label, result.Failure)
		}
		if i > 0 {
			r.of[i-1] = append(r.of[i-1], one{result, r.Side.CPU() - before})
		}
	}
	return nil
}

// median gives the middle of what f finds in the measurements.
func median(all []one, f func(one) float64) float64 {
	values := make([]float64, 0, len(all))
	for _, o := range all {
		values = append(values, f(o))
	}
	slices.Sort(values)
	if n := len(values); n%2 == 0 {
		return (values[n/2-1] + values[n/2]) / 2
	}
	return values[len(values)/2]
}

func rate(o one) float64 { return o.Rate() }

func percentile(share float64) func(one) float64 {
	return func(o one) float64 { return float64(o.Percentile(share)) / float64(time.Millisecond) }
}

// Rate is the median of a row's requests per second in a mode.
func (r *Row) Rate(mode int) float64 { return median(r.of[mode], rate) }

// Percentile is the median of a row's latency in milliseconds that the share of the requests did not exceed.
func (r *Row) Percentile(mode int, share float64) float64 {
	return median(r.of[mode], percentile(share))
}

// Report prints one table for each mode: medians, the server's CPU time per request, and in the last two columns how many
// times the requests per second of a row the first row has, and how many times the first row's p50 a row has.
func (p Plan) Report(w io.Writer, rows []*Row) {
	for i, m := range p.Modes {
		fmt.Fprintf(w, "%s: %d connections, medians of %d runs of %s\n", m.Title, m.Connections, p.Rounds, m.Duration)
		fmt.Fprintf(w, "%-40s %8s %14s %8s %8s %8s %7s %9s %8s\n",
			"", "req/s", "min..max", "p50 ms", "p99 ms", "CPU us", "failed", "req/s 1:", "p50 :1")
		for _, r := range rows {
			p.line(w, i, r, rows[0])
		}
		fmt.Fprintln(w)
	}
}

func (p Plan) line(w io.Writer, mode int, r, first *Row) {
	all := r.of[mode]
	low, high, failed := all[0].Rate(), all[0].Rate(), 0
	for _, o := range all {
		low, high, failed = min(low, o.Rate()), max(high, o.Rate()), failed+o.Failures
	}
	half := percentile(0.5)
	fmt.Fprintf(w, "%-40s %8.0f %14s %8.3f %8.3f %8.1f %7d", r.Label, r.Rate(mode), fmt.Sprintf("%.0f..%.0f", low, high),
		median(all, half), median(all, percentile(0.99)), median(all, one.perRequest), failed)
	fmt.Fprintf(w, " %9.2f %8.2f\n", first.Rate(mode)/r.Rate(mode), median(all, half)/median(first.of[mode], half))
}
