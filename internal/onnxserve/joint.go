package onnxserve

import (
	"errors"
	"fmt"
	"slices"

	"portico/internal/onnxrt"
)

// joinRuns is how many joint runs the requests of one batch may need at most: some are not of the shape of the others, or
// are more rows together than one run may have. Who has not had his turn then is answered by himself.
const joinRuns = 4

// Joint answers several requests, those that ask for a run by one run as far as their rows can be joined, whichever way they
// ask. It gives the answer of each once, in any order. An answer is valid until give returns.
func (e *Executor) Joint(requests []Request, give func(i int, a Answer)) {
	j := joint{e: e, requests: requests, give: give, statuses: make([]int, len(requests))}
	rest := make([]int, len(requests))
	for i := range rest {
		rest[i] = i
	}
	if !e.model.rows.want() && e.model.unjoinable == "" {
		for run := 0; run < joinRuns && len(rest) > 1 && !j.ended; run++ {
			rest = j.together(rest)
		}
	}
	j.alone = append(j.alone, rest...)
	slices.Sort(j.alone)
	for _, i := range j.alone {
		if j.ended {
			j.fail(i, onnxrt.ErrTerminated)
			continue
		}
		a := e.Handle(&requests[i])
		j.ended = a.Terminated
		j.answer(i, a)
	}
	j.judge()
}

// joint is several requests that are answered together.
type joint struct {
	e        *Executor
	requests []Request
	give     func(i int, a Answer)
	statuses []int // of the answers that were given
	alone    []int // those that are to be answered by themselves
	suspects []int // those whose joint run failed
	ended    bool  // nobody waits any more: nothing is begun
}

func (j *joint) answer(i int, a Answer) {
	j.statuses[i] = a.Status
	j.give(i, a)
}

// fail answers a request with an error in the form that it expects.
func (j *joint) fail(i int, err error) {
	j.e.begin()
	member := "message"
	if isProtocol(string(j.requests[i].Path)) {
		member = "error"
	}
	j.answer(i, j.e.failed(member, err))
}

// member is a request whose rows are joined with others'.
type member struct {
	index   int
	rows    int64
	infer   bool      // it asks by the protocol
	q       inference // then
	outputs []int     // that it asks for
}

// together answers what can be joined with the first of these, and gives those whose rows are for another run.
func (j *joint) together(of []int) (later []int) {
	e := j.e
	members, total, later := j.gather(of)
	if len(members) < 2 {
		j.apart(members)
		return later
	}
	for i, t := range e.inputs {
		t.shape = append(append(t.shape[:0], total), e.shapes[i][1:]...)
	}
	outputs := e.union(members)
	defer e.runner.Clear()
	err := e.run(outputs)
	switch {
	case errors.Is(err, onnxrt.ErrTerminated), errors.Is(err, errLimit):
		j.ended = errors.Is(err, onnxrt.ErrTerminated)
		for i := range members {
			j.fail(members[i].index, err)
		}
		return later
	case err != nil:
		j.apart(members) // so that only the one at fault fails
		for i := range members {
			j.suspects = append(j.suspects, members[i].index)
		}
		return later
	}
	parts, err := e.parts(outputs, total)
	if err != nil || !e.model.rows.known(outputs) {
		j.apart(members)
		return later
	}
	j.share(members, parts)
	return later
}

// gather reads the requests that fit the first into the inputs, one behind the other.
func (j *joint) gather(of []int) (members []member, total int64, later []int) {
	e := j.e
	e.reset()
	e.shapes = e.shapes[:0]
	for _, i := range of {
		m := member{index: i}
		switch e.join(&j.requests[i], &m, total) {
		case joined:
			members = append(members, m)
			total += m.rows
		case another:
			later = append(later, i)
		default:
			j.alone = append(j.alone, i)
		}
	}
	return members, total, later
}

func (j *joint) apart(members []member) {
	for i := range members {
		j.alone = append(j.alone, members[i].index)
	}
}

// share gives each member its rows of the results.
func (j *joint) share(members []member, parts []part) {
	e, at, ran := j.e, int64(0), j.e.ran
	for i := range members {
		m := &members[i]
		from := at
		at += m.rows
		e.begin()
		e.ran = ran
		own := func(o int) (part, error) { return parts[e.at[o]].rows(from, m.rows), nil }
		var err error
		if m.infer {
			err = e.writeInference(&m.q, own)
		} else {
			err = e.writeOutputs(own)
		}
		switch {
		case err != nil:
			j.fail(m.index, err)
		case m.infer:
			j.answer(m.index, e.inferenceAnswer(&m.q))
		default:
			j.answer(m.index, e.answer(200, jsonKind))
		}
	}
}

// judge remembers of a model that it fails on joined rows, if each of those that failed together was answered by itself.
func (j *joint) judge() {
	for _, i := range j.suspects {
		if j.statuses[i] != 200 {
			return
		}
	}
	if len(j.suspects) > 0 && j.e.model.rows.fails() {
		j.e.model.tell("the model fails on the rows of several requests together, and not on those of one: they are scored one by one")
	}
}

// Unjoinable says why requests are not joined; empty: they are, unless the model turns out not to answer row by row.
func (m *Model) Unjoinable() string { return m.unjoinable }

// closed says which input does not leave its first dimension open, for callers and in the model.
func (m *Model) closed() string {
	for i := range m.inputs {
		info, f := &m.inputs[i], m.inputForms[i]
		switch {
		case !info.Ranked:
			return fmt.Sprintf("the model does not say how many dimensions the input %q has", info.Name)
		case len(info.Shape) == 0 || info.Shape[0] >= 0:
			return fmt.Sprintf("the first dimension of the input %q is not open: %s", info.Name, shapeText(info.Shape, info.Symbols))
		case f != nil && f.model[0] >= 0:
			return fmt.Sprintf("the first dimension of the input %q is not that of the model, because config.pbtxt reshapes it", info.Name)
		}
	}
	if len(m.inputs) == 0 {
		return "the model has no inputs"
	}
	return ""
}

// verdict is what becomes of a request among others.
type verdict int

const (
	never   verdict = iota // it is answered by itself
	another                // it does not fit the others
	joined
)

// join reads a request behind what the inputs hold already, which has so many rows. Unless it is joined the inputs are as
// before.
func (e *Executor) join(r *Request, m *member, held int64) verdict {
	what := e.model.runs(r)
	if what == runsNothing {
		return never
	}
	for _, t := range e.inputs {
		t.again()
	}
	m.infer, m.outputs = what == runsInference, e.all
	var err error
	if m.infer {
		if err = e.readInference(r, &m.q); m.q.named {
			m.outputs = m.q.numbers(nil)
		}
	} else {
		err = e.readScore(r)
	}
	v := never
	if err == nil {
		v = e.fits(m, held)
	}
	if v != joined {
		for _, t := range e.inputs {
			t.takeBack()
		}
		return v
	}
	if len(e.shapes) == 0 {
		for _, t := range e.inputs {
			e.shapes = append(e.shapes, slices.Clone(t.shape))
		}
	}
	return joined
}

// fits says whether what was read can be joined with what was there, and how many rows it has.
func (e *Executor) fits(m *member, held int64) verdict {
	if m.rows = e.commonRows(); m.rows == 0 || e.model.rows.apart(m.outputs) {
		return never
	}
	if most := e.model.maxBatch; most > 0 && held+m.rows > most {
		return another
	}
	for i, t := range e.inputs {
		if t.count == 0 { // no elements: nothing bounds the rows
			return never
		}
		if len(e.shapes) > i && !slices.Equal(t.shape[1:], e.shapes[i][1:]) {
			return another
		}
	}
	return joined
}

// union is the outputs that any of these asks for.
func (e *Executor) union(members []member) []int {
	e.some = e.some[:0]
	for _, o := range e.all {
		if slices.ContainsFunc(members, func(m member) bool { return slices.Contains(m.outputs, o) }) {
			e.some = append(e.some, o)
		}
	}
	return e.some
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
func (e *Executor) note(outputs []int) error {
	if !e.model.rows.curious(outputs) {
		return nil
	}
	rows := e.commonRows()
	if rows == 0 {
		return nil
	}
	_, err := e.parts(outputs, rows)
	return err
}

// parts are the values of the outputs of a run on so many rows. Whether each has one part for a row is remembered.
func (e *Executor) parts(outputs []int, rows int64) ([]part, error) {
	parts := make([]part, len(outputs))
	for n, o := range outputs {
		var err error
		if parts[n], err = e.result(o); err != nil {
			return nil, err
		}
	}
	for n, o := range outputs {
		if e.model.rows.saw(o, rows, parts[n].length == rows) {
			e.model.tell(fmt.Sprintf("the output %q has not one result for each row: requests that ask for it are scored one by one",
				e.model.outputs[o].Name))
		}
	}
	return parts, nil
}
