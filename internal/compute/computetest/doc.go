// Package computetest is the suite that an engine must pass before it may run anybody's model.
//
// It owns the proof of compute.Backend: Run opens an engine in a place of its own (a Lab), asks it for sets of real
// Python scoring scripts and looks only at what the contract shows: watched events, answers, logs, capacity.
// Watched events may arrive late, repeated and out of order, as from an engine far away: the suite keeps the
// newest of each set by Sequence and never depends on a state that passes. It never looks inside an engine.
package computetest
