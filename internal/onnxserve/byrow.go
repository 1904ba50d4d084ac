package onnxserve

import (
	"slices"
	"sync"
)

// byRow is what is known of whether a model gives one result for each row of its inputs. That is believed of an output after
// two different numbers of rows gave as many results: three results for three rows may be three that every run has.
type byRow struct {
	mu      sync.Mutex
	wanted  bool // somebody joins rows
	failed  bool // the model fails on joined rows
	outputs []rowOutput
}

type rowOutput struct {
	seen        int64 // a number of rows that gave as many results
	sure, apart bool
}

// saw notes that output o of a run of so many rows had as many results, or not. True: that it has not is news.
func (b *byRow) saw(o int, rows int64, matched bool) (news bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch out := &b.outputs[o]; {
	case !matched:
		news, out.apart = !out.apart, true
	case out.seen == 0:
		out.seen = rows
	case out.seen != rows:
		out.sure = true
	}
	return news
}

// want says that somebody joins rows. True: the model fails on them.
func (b *byRow) want() (failed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wanted = true
	return b.failed
}

// fails notes that the model fails on joined rows. True: that is news.
func (b *byRow) fails() (news bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	news, b.failed = !b.failed, true
	return news
}

// curious says whether a further run can tell something of one of these outputs.
func (b *byRow) curious(outputs []int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wanted && !b.failed && slices.ContainsFunc(outputs, func(o int) bool { return !b.outputs[o].sure && !b.outputs[o].apart })
}

// apart says whether one of these outputs has not one result for each row.
func (b *byRow) apart(outputs []int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(outputs, func(o int) bool { return b.outputs[o].apart })
}

// known says whether each of these outputs surely has one result for each row.
func (b *byRow) known(outputs []int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !slices.ContainsFunc(outputs, func(o int) bool { return !b.outputs[o].sure || b.outputs[o].apart })
}
