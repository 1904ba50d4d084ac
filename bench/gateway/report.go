package main

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"portico/bench/load"
)

// row holds one side's measurements.
type row struct {
	side   side
	name   string // other than the side's
	closed []*load.Result
	fixed  []*load.Result
}

func (r *row) label() string {
	if r.name != "" {
		return r.name
	}
	return r.side.name
}

// median gives the middle of what f finds in the results.
func median(results []*load.Result, f func(*load.Result) float64) float64 {
	var all []float64
	for _, r := range results {
		all = append(all, f(r))
	}
	slices.Sort(all)
	if n := len(all); n%2 == 0 {
		return (all[n/2-1] + all[n/2]) / 2
	}
	return all[len(all)/2]
}

func percentile(share float64) func(*load.Result) float64 {
	return func(r *load.Result) float64 { return float64(r.Percentile(share)) / float64(time.Millisecond) }
}

func failures(results []*load.Result) int {
	n := 0
	for _, r := range results {
		n += r.Failures
	}
	return n
}

// report prints one table for each mode. Ratios compare with the first row.
func report(w io.Writer, o options, rows []*row) {
	fmt.Fprintf(w, "%d CPUs, %d workers on each side, %d connections, %d bytes of JSON, medians of %d runs of %s\n\n",
		runtime.NumCPU(), o.workers, o.connections, len(body), o.rounds, o.duration)
	rate := func(r *load.Result) float64 { return r.Rate() }
	first := median(rows[0].closed, rate)
	fmt.Fprintf(w, "Closed loop: as fast as it goes\n%-28s %10s %10s %9s %9s %9s  %s\n",
		"", "req/s", "min..max", "p50 ms", "p99 ms", "failed", rows[0].label()+" is")
	for _, r := range rows {
		got := median(r.closed, rate)
		low, high := spread(r.closed)
		fmt.Fprintf(w, "%-28s %10.0f %10s %9.2f %9.2f %9d  %.2f times as fast\n", r.label(), got,
			fmt.Sprintf("%.0f..%.0f", low, high), median(r.closed, percentile(0.5)), median(r.closed, percentile(0.99)),
			failures(r.closed), first/got)
	}
	if o.rate == 0 {
		return
	}
	fmt.Fprintf(w, "\nFixed rate: %.0f requests per second\n%-28s %10s %9s %9s %9s\n",
		o.rate, "", "req/s", "p50 ms", "p99 ms", "failed")
	for _, r := range rows {
		fmt.Fprintf(w, "%-28s %10.0f %9.2f %9.2f %9d\n", r.label(), median(r.fixed, rate),
			median(r.fixed, percentile(0.5)), median(r.fixed, percentile(0.99)), failures(r.fixed))
	}
}

func spread(results []*load.Result) (low, high float64) {
	for i, r := range results {
		if got := r.Rate(); i == 0 || got < low {
			low = got
		}
		high = max(high, r.Rate())
	}
	return low, high
}
