// Package conformance holds the contract of Azure's inference server, of models without code, of custom servers and of
// Triton's model repositories as a black-box suite: tables of scripts, models and servers, requests and answers, run
// against `portico infer` and through the gateway of `portico serve`. With PORTICO_REFERENCE=1 the scripts run against the
// reference server itself, from the Python package index, to prove their table. The table contract says which rows look
// at which rule, and what no row looks at, with the reason.
package conformance
