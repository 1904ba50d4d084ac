package onnxserve

import (
	"errors"
	"slices"
	"sync"

	"portico/internal/onnxrt"
)

// byRow is what is known of whether a model gives one result for each row of its inputs. That is believed after two
// different numbers of rows gave as many results: three results for three rows may be three that every run has.
type byRow struct {
	mu     sync.Mutex
	wanted bool // somebody joins rows
	seen   int64
	sure   bool
	apart  bool // it does not, or it fails on joined rows
}

// saw notes that a run of so many rows had as many results, or not.
func (b *byRow) saw(rows int64, matched bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !matched:
		b.apart = true
	case b.seen == 0:
		b.seen = rows
	case b.seen != rows:
		b.sure = true
	}
}

func (b *byRow) want() (apart bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wanted = true
	return b.apart
}

// curious says whether a further run can tell something.
func (b *byRow) curious() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wanted && !b.sure && !b.apart
}

func (b *byRow) known() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sure && !b.apart
}

// member is a request whose rows are joined with others'.
type member struct {
	index int
	rows  int64
}

// Joint answers several requests, those to /score by one run as far as their rows can be joined. It gives the answer of
// each once, in any order. An answer is valid until give returns.
func (e *Executor) Joint(requests []Request, give func(i int, a Answer)) {
	e.begin()
	var alone []int
	if e.model.rows.want() || !e.model.joinable() {
		for i := range requests {
			alone = append(alone, i)
		}
	} else {
		alone = e.together(requests, give)
	}
	var canceled bool
	for _, i := range alone {
		if canceled {
			e.begin()
			give(i, e.failed("message", onnxrt.ErrTerminated))
			continue
		}
		a := e.Handle(&requests[i])
		canceled = a.Terminated
		give(i, a)
	}
}

// joinable says whether the first dimension of every input is left open.
func (m *Model) joinable() bool {
	for i := range m.inputs {
		if info := &m.inputs[i]; !info.Ranked || len(info.Shape) == 0 || info.Shape[0] >= 0 {
			return false
		}
	}
	return len(m.inputs) > 0
}

// together answers what can be joined, and gives the indexes of the rest.
func (e *Executor) together(requests []Request, give func(i int, a Answer)) (alone []int) {
	e.reset()
	e.shapes = e.shapes[:0]
	var members []member
	total := int64(0)
	for i := range requests {
		if rows := e.join(&requests[i], total); rows > 0 {
			members = append(members, member{i, rows})
			total += rows
		} else {
			alone = append(alone, i)
		}
	}
	if len(members) < 2 {
		return back(alone, members)
	}
	for i, t := range e.inputs {
		t.shape = append(append(t.shape[:0], total), e.shapes[i][1:]...)
	}
	defer e.runner.Clear()
	err := e.run(e.all)
	if errors.Is(err, onnxrt.ErrTerminated) {
		for i := range requests {
			e.begin()
			give(i, e.failed("message", err))
		}
		return nil
	}
	if errors.Is(err, errLimit) {
		for _, m := range members {
			e.begin()
			give(m.index, e.failed("message", err))
		}
		return alone
	}
	if err != nil {
		return back(alone, members) // each by itself, so that only the one at fault fails
	}
	values, matched, err := e.results(total)
	if err == nil {
		e.model.rows.saw(total, matched)
	}
	if err != nil || !e.model.rows.known() {
		return back(alone, members)
	}
	at := int64(0)
	ran := e.ran
	for _, m := range members {
		e.begin()
		e.ran = ran
		err := e.writeOutputs(func(n int) error { return e.writeRows(&values[n], at, m.rows) })
		if err != nil {
			give(m.index, e.failed("message", err))
		} else {
			give(m.index, e.answer(200, jsonKind))
		}
		at += m.rows
	}
	return alone
}

func back(alone []int, members []member) []int {
	for _, m := range members {
		alone = append(alone, m.index)
	}
	slices.Sort(alone)
	return alone
}

// join reads a request behind what the inputs hold already, which has so many rows, and gives its number of rows. 0: it
// cannot be joined, and the inputs are as before.
func (e *Executor) join(r *Request, held int64) int64 {
	if string(r.Method) != "POST" || string(r.Path) != "/score" {
		return 0
	}
	for _, t := range e.inputs {
		t.again()
	}
	err := e.readBody(&scanner{b: r.Body})
	rows := int64(0)
	for i, t := range e.inputs {
		if err == nil {
			err = t.settle()
		}
		if err != nil || len(t.shape) == 0 || t.shape[0] == 0 || t.most > 0 && held+t.shape[0] > t.most || rows != 0 && t.shape[0] != rows ||
			len(e.shapes) > i && !slices.Equal(t.shape[1:], e.shapes[i][1:]) {
			for _, t := range e.inputs {
				t.takeBack()
			}
			return 0
		}
		rows = t.shape[0]
	}
	if len(e.shapes) == 0 {
		for _, t := range e.inputs {
			e.shapes = append(e.shapes, slices.Clone(t.shape))
		}
	}
	return rows
}

// results are the values of all outputs, and whether each has one part for a row.
func (e *Executor) results(rows int64) (values []onnxrt.Value, matched bool, err error) {
	matched = true
	for n := range e.all {
		v, err := e.runner.Result(n)
		if err != nil {
			return nil, false, err
		}
		values = append(values, v)
		length := int64(-1)
		switch {
		case v.Kind == onnxrt.Tensor && len(v.Shape) > 0:
			length = v.Shape[0]
		case v.Kind == onnxrt.Sequence:
			n, err := e.runner.Length(v)
			if err != nil {
				return nil, false, err
			}
			length = int64(n)
		}
		matched = matched && length == rows
	}
	return values, matched, nil
}

// commonRows is the number of rows of every input; 0 where they have none in common.
func (e *Executor) commonRows() int64 {
	rows := int64(0)
	for i, t := range e.inputs {
		if len(t.shape) == 0 || i > 0 && t.shape[0] != rows {
			return 0
		}
		rows = t.shape[0]
	}
	return rows
}

// note looks at the results of a run of one request, where they can tell whether the model answers row by row.
func (e *Executor) note() error {
	if !e.model.rows.curious() {
		return nil
	}
	rows := e.commonRows()
	if rows == 0 {
		return nil
	}
	_, matched, err := e.results(rows)
	if err == nil {
		e.model.rows.saw(rows, matched)
	}
	return err
}

// writeRows appends a part of a value that has one part for a row.
func (e *Executor) writeRows(v *onnxrt.Value, at, rows int64) error {
	if v.Kind == onnxrt.Sequence {
		e.out = append(e.out, '[')
		err := e.runner.Range(*v, int(at), int(at+rows), func(i int, inner onnxrt.Value) error {
			if i > int(at) {
				e.out = append(e.out, ", "...)
			}
			return e.writeValue(inner)
		})
		e.out = append(e.out, ']')
		return err
	}
	stride := int64(1)
	for _, d := range v.Shape[1:] {
		stride *= d
	}
	shape := append([]int64{rows}, v.Shape[1:]...)
	e.out, _ = appendNested(e.out, v, shape, int(at*stride))
	return nil
}
