// Package local is the engine of one machine: instances are worker processes that the host supervises.
//
// An instance is a directory (instances/<id>/), WORKER_COUNT processes of the host and one inference.Pool in this
// process that calls them. The package owns sets and instances: how many run, when one is started, drained and
// ended, what a worker sees (environment, paths, limits), what is kept of its output, and what the machine can
// bear. The host starts and waits, the pool calls and restarts; this package says for whom and until when.
//
// It decides nothing across sets: counts come through Ensure, and only Ensure and Delete change them. It never
// runs user code itself, never gives a worker the server's own environment, and never writes a variable of a
// deployment to disk unsealed.
//
// The server may die at any time. Sets and instances are small files (record.go), processes are the host's;
// New puts both together again and nothing is started before the host has said what runs.
package local
