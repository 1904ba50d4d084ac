// Package compat drives the official clients of Azure Machine Learning, unmodified, against the real binary: the
// Python SDK in its newest version and in one about a year older, the management clients for metrics, cost and
// autoscale, the Go SDK, and curl. Each client runs with nothing changed but what `portico env` prints, in a network
// namespace that holds nothing but loopback, so that a client that looks for a public host fails and is counted.
//
// The Python code of the documentation page is not kept here: the test reads it from docs/compatibility.md, so that
// what people paste is what was run.
package compat
