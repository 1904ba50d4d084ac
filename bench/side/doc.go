// Package side is what benchmarks share: it starts the servers that are compared, Portico among them, asks each once for
// the answer that every later one must equal, measures them in turns, and tells what CPU time they took.
package side
