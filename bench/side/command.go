package side

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// Command is the command line of a benchmark.
type Command struct {
	Portico string // the binary

	paths []*string
}

// NewCommand begins one with the flag -portico.
func NewCommand() *Command {
	c := &Command{}
	c.Path(&c.Portico, "portico", "bin/portico", "the Portico binary; other programs of its own lie beside it")
	return c
}

// Path defines a flag for a file or folder, which Run makes absolute.
func (c *Command) Path(to *string, name, value, usage string) {
	flag.StringVar(to, name, value, usage)
	c.paths = append(c.paths, to)
}

// Run parses the command line and runs the benchmark with a folder of its own, until it ends or is interrupted. When it
// fails the process ends with status 1.
func (c *Command) Run(run func(ctx context.Context, dir string) error) {
	flag.Parse()
	if err := c.run(run); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (c *Command) run(run func(ctx context.Context, dir string) error) (err error) {
	for _, path := range c.paths {
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("find %s: %w", *path, err)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "portico-bench-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	return run(ctx, dir)
}

// Load says how a comparison loads its sides.
type Load struct {
	Connections, Rounds int
	Duration, Warm      time.Duration
}

// Flags defines the flags for it. What it holds now are their defaults.
func (l *Load) Flags() {
	flag.IntVar(&l.Connections, "connections", l.Connections, "keep-alive connections of the load generator")
	flag.IntVar(&l.Rounds, "rounds", l.Rounds, "rounds; the median counts")
	flag.DurationVar(&l.Duration, "duration", l.Duration, "length of one measurement")
	flag.DurationVar(&l.Warm, "warm", l.Warm, "length of the warm-up before measurements")
}

// Stop ends every side.
func Stop(sides []Side) error {
	var err error
	for _, s := range sides {
		err = errors.Join(err, s.Stop())
	}
	return err
}
