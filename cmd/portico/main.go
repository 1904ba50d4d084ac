// Command portico is the server, its command line and the supervisor of its workers in one binary.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"portico/internal/cli"
	"portico/internal/host"
	"portico/internal/server"
)

func main() {
	// Before anything else: between fork and user code this program is the stage that builds a worker's sandbox.
	host.Stage()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks to stop in order; a second one ends the process at once.
	context.AfterFunc(ctx, stop)
	app := &cli.App{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Version: server.Version}
	if filepath.Base(os.Args[0]) == cli.AzName { // a link that `portico shim install` made
		os.Exit(app.RunAz(ctx, os.Args[1:]))
	}
	os.Exit(app.Run(ctx, cli.Arguments(os.Args)))
}
