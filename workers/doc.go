// Package workers holds the Python scoring worker inside the binary and lays it out on disk.
//
// It owns the tree python/portico_worker (see that package's own docstring for what the worker does) and its digest.
// Beside it lies python/portico_tools, which `portico model` runs. This package never starts a worker: a launcher does,
// with `python PATH`, where PATH is what Write returned.
package workers
