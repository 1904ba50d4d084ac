// Package conformance holds the scoring contract of Azure's inference server, and of models without code, as a black-box suite: one table of scripts,
// requests and answers, run against `portico infer`, through the gateway of `portico serve`, and, with
// PORTICO_REFERENCE=1, against the reference server itself from the Python package index, to prove the table.
package conformance
