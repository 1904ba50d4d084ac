// Package inference is what happens inside one instance: the worker protocol, the pool of worker processes,
// hand-over, prefetch, cancellation, deadlines and the reading of answers.
//
// It runs in two places with the same code: in the server, in front of the workers that the local host started,
// and in `portico infer`, in front of the workers that it started itself. It starts nothing: a Launcher does.
// It knows no endpoint, no traffic and no HTTP server library.
package inference
