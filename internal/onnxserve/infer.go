package onnxserve

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// infer answers an inference request.
func (e *Executor) infer(r *Request) Answer {
	if string(r.Method) == "OPTIONS" {
		return e.options()
	}
	if string(r.Method) != "POST" {
		return e.failure("error", 405, "The method is not allowed for the requested path.")
	}
	q := inference{outputs: e.wanted[:0]}
	err := e.inferred(r, &q)
	e.wanted = q.outputs
	if err != nil {
		return e.failed("error", err)
	}
	return e.inferenceAnswer(&q)
}

// inferenceAnswer is the answer that was written.
func (e *Executor) inferenceAnswer(q *inference) Answer {
	if q.blobs == nil {
		return e.answer(200, jsonKind)
	}
	length := len(e.out) - e.head
	e.out = append(e.out, q.blobs...)
	a := e.answer(200, "application/octet-stream")
	a.JSONLength = length
	return a
}

// inference is what a request asks for beside its inputs.
type inference struct {
	id      []byte // a JSON text
	rest    []byte // of the body: tensors in binary form
	binary  bool   // outputs are wanted in binary form unless they say otherwise
	blobs   []byte // outputs in binary form
	outputs []wanted
	named   bool // the request names its outputs
}

// wanted is an output that a request asks for.
type wanted struct {
	output int
	binary bool
}

// numbers appends those of the outputs that are asked for.
func (q *inference) numbers(to []int) []int {
	for _, w := range q.outputs {
		to = append(to, w.output)
	}
	return to
}

func (e *Executor) inferred(r *Request, q *inference) error {
	e.reset()
	if err := e.readInference(r, q); err != nil {
		return err
	}
	e.some = q.numbers(e.some[:0])
	defer e.runner.Clear()
	if err := e.run(e.some); err != nil {
		return err
	}
	if err := e.note(e.some); err != nil {
		return err
	}
	return e.writeInference(q, e.result)
}

// readInference reads a request.
func (e *Executor) readInference(r *Request, q *inference) error {
	if err := plain(r); err != nil {
		return err
	}
	body := r.Body
	if r.JSONLength != nil {
		n, err := strconv.ParseUint(string(r.JSONLength), 10, 31)
		if err != nil || n > uint64(len(body)) {
			return badf("The field Inference-Header-Content-Length is not the length of a part of the body.")
		}
		body, q.rest = body[:n], body[n:]
	}
	if err := e.readDocument(&scanner{b: body}, q); err != nil {
		return err
	}
	if len(q.rest) > 0 {
		return badf("%d bytes follow the tensors that the request describes.", len(q.rest))
	}
	if !q.named {
		for _, o := range e.all {
			q.outputs = append(q.outputs, wanted{o, q.binary})
		}
	}
	return e.complete()
}

// once notes that a member was there. It may not be there twice: nobody could say which holds.
func once(seen *bool, name string) error {
	if *seen {
		return badf("%s stands there twice.", name)
	}
	*seen = true
	return nil
}

// readDocument reads the JSON of a request.
func (e *Executor) readDocument(s *scanner, q *inference) error {
	if !s.take('{') {
		return badf("The body must be a JSON object with inputs.")
	}
	outputs := -1
	var id, parameters, inputs, named bool
	for name, err := range s.members(e.name[:0]) {
		if err != nil {
			return err
		}
		s.next()
		from := s.i
		switch string(name) {
		case "id":
			if err = once(&id, "id"); err == nil {
				err = s.id(q)
			}
		case "parameters":
			if err = once(&parameters, "parameters"); err == nil {
				err = e.readParameters(s, q)
			}
		case "inputs":
			// With the parts of the body in place, tensors can be read where they stand.
			if err = once(&inputs, "inputs"); err == nil {
				err = s.list("inputs", func() error { return e.readInput(s, q) })
			}
		case "outputs":
			outputs = from
			if err = once(&named, "outputs"); err == nil {
				err = s.skip(1)
			}
		default:
			err = s.skip(1)
		}
		if err != nil {
			return err
		}
	}
	if err := s.end(); err != nil {
		return err
	}
	if !inputs {
		return badf("The body must be a JSON object with inputs.")
	}
	if outputs < 0 {
		return nil
	}
	s.i = outputs
	if s.next() == 'n' { // null, which is valid: it was skipped before
		return nil
	}
	err := e.readOutputs(s, q)
	q.named = len(q.outputs) > 0
	return err
}

// id reads the id of a request, which is answered as it was written.
func (s *scanner) id(q *inference) error {
	from := s.i
	switch s.next() {
	case 'n':
		_, err := s.word()
		return err
	case '"':
		err := s.skip(1)
		if q.id = s.b[from:s.i]; err == nil && !utf8.Valid(q.id) {
			return badf("The id of a request must be UTF-8.")
		}
		return err
	}
	return badf("The id of a request must be a text.")
}

func (e *Executor) readParameters(s *scanner, q *inference) error {
	return s.parameters(&e.name, func(name string, value *scanner) error {
		if name != "binary_data_output" {
			return nil
		}
		var err error
		q.binary, err = value.flag(name)
		return err
	})
}

// parameters reads an object and calls each for its members.
func (s *scanner) parameters(scratch *[64]byte, each func(name string, value *scanner) error) error {
	if s.next() == 'n' {
		_, err := s.word()
		return err
	}
	if !s.take('{') {
		return badf("parameters must be an object.")
	}
	for name, err := range s.members(scratch[:0]) {
		if err != nil {
			return err
		}
		s.next()
		from := s.i
		own := string(name)
		if err := s.skip(2); err != nil {
			return err
		}
		if err := each(own, &scanner{b: s.b[:s.i], i: from}); err != nil {
			return err
		}
	}
	return nil
}

// flag reads a parameter that is true or false.
func (s *scanner) flag(name string) (bool, error) {
	if c := s.next(); c != 't' && c != 'f' {
		return false, badf("The parameter %s must be true or false.", name)
	}
	w, err := s.word()
	return w == 't', err
}

// list reads a list of objects.
func (s *scanner) list(what string, each func() error) error {
	if !s.take('[') {
		return badf("%s must be a list.", what)
	}
	if s.take(']') {
		return nil
	}
	for {
		if s.next() != '{' {
			return badf("%s must be a list of objects.", what)
		}
		s.i++
		if err := each(); err != nil {
			return err
		}
		if s.take(']') {
			return nil
		}
		if !s.take(',') {
			return s.wrong("',' or ']'")
		}
	}
}

// given is an input as a request describes it.
type given struct {
	t              *tensor
	datatype       [16]byte
	datatypeLength int
	shape, data    int // where they stand; -1: nowhere
	binary         int64
	read           bool
}

// readInput reads one input, whose members come in any order.
func (e *Executor) readInput(s *scanner, q *inference) error {
	g := given{shape: -1, data: -1, binary: -1}
	for name, err := range s.members(e.name[:0]) {
		if err != nil {
			return err
		}
		s.next()
		from := s.i
		switch string(name) {
		case "name":
			err = e.readName(s, &g)
		case "datatype":
			if s.next() != '"' {
				return badf("The datatype of an input must be a text.")
			}
			if g.datatypeLength > 0 {
				return badf("An input has two datatypes.")
			}
			var text []byte
			text, err = s.text(e.name[:0])
			g.datatypeLength = copy(g.datatype[:], text)
		case "shape":
			if g.shape >= 0 {
				return badf("An input has two shapes.")
			}
			g.shape = from
			err = s.skip(3)
		case "data":
			if g.data >= 0 {
				return badf("An input has data twice.")
			}
			g.data = from
			if g.t == nil || g.datatypeLength == 0 || g.shape < 0 {
				err = s.skip(3)
			} else {
				err = e.readElements(s, &g)
			}
		case "parameters":
			err = s.parameters(&e.name, func(name string, value *scanner) error { return g.parameter(name, value, len(q.rest)) })
		default:
			err = s.skip(3)
		}
		if err != nil {
			return err
		}
	}
	return e.closeInput(s, q, &g)
}

// sharedMemory begins the names of parameters by which tensors lie in memory that the server shares with its callers.
const sharedMemory = "shared_memory_"

func noSharedMemory(name string) error {
	if strings.HasPrefix(name, sharedMemory) {
		return badf("The parameter %s is not supported: tensors must be in the request and in its answer.", name)
	}
	return nil
}

// parameter reads one of an input. rest is how many bytes follow the JSON that no input has taken.
func (g *given) parameter(name string, value *scanner, rest int) error {
	if name != "binary_data_size" {
		return noSharedMemory(name)
	}
	n, err := value.number()
	size, ok := n.magnitude()
	if err != nil || !ok || n.negative || size > uint64(rest) {
		return badf("binary_data_size is not the size of data that follow the JSON.")
	}
	g.binary = int64(size)
	return nil
}

func (e *Executor) readName(s *scanner, g *given) error {
	if s.next() != '"' {
		return badf("The name of an input must be a text.")
	}
	if g.t != nil {
		return badf("Input %q has a second name.", g.t.info.Name)
	}
	name, err := s.text(e.name[:0])
	if err != nil {
		return err
	}
	if g.t = e.input(name); g.t == nil {
		return badf("The model has no input %q; its inputs are: %s.", name, e.inputNames())
	}
	if g.t.seen {
		return badf("Input %q is given twice.", name)
	}
	g.t.seen = true
	return nil
}

// closeInput reads what could not be read on the way.
func (e *Executor) closeInput(s *scanner, q *inference, g *given) error {
	switch {
	case g.t == nil:
		return badf("An input has no name.")
	case g.datatypeLength == 0 || g.shape < 0:
		return badf("Input %q has no datatype or no shape.", g.t.info.Name)
	case g.binary >= 0 && g.data >= 0:
		return badf("Input %q has both data and binary_data_size.", g.t.info.Name)
	case g.read:
		return nil
	case g.binary >= 0:
		if err := e.readShape(s, g); err != nil {
			return err
		}
		blob := q.rest[:g.binary]
		q.rest = q.rest[g.binary:]
		return g.t.binary(blob)
	case g.data < 0:
		return badf("Input %q has no data.", g.t.info.Name)
	}
	after := s.i
	s.i = g.data
	err := e.readElements(s, g)
	s.i = after
	return err
}

// readShape compares datatype and shape with the model's.
func (e *Executor) readShape(s *scanner, g *given) error {
	t := g.t
	datatype := g.datatype[:g.datatypeLength]
	if string(datatype) != t.info.Element.Wire() {
		return badf("Input %q: expected datatype %s, got %s.", t.info.Name, t.info.Element.Wire(), datatype)
	}
	after := s.i
	s.i = g.shape
	t.wanted = 1
	sizes := int64(1) // of those that are not 0
	ok := s.take('[')
	for first := true; ok && !s.take(']'); first = false {
		if !first && !s.take(',') {
			ok = false
			break
		}
		s.next()
		n, err := s.number()
		size, whole := n.magnitude()
		if ok = err == nil && whole && !n.negative && size <= maxElements && len(t.shape) < maxRank; ok {
			t.shape = append(t.shape, int64(size))
			t.wanted *= int64(size)
			sizes *= max(int64(size), 1)
			ok = sizes <= maxElements
		}
	}
	s.i = after
	if !ok {
		return badf("Input %q: the shape must be a list of at most %d sizes, of at most %d elements together.",
			t.info.Name, maxRank, int64(maxElements))
	}
	if t.wanted == 0 && sizes > maxEmpty {
		return badf("Input %q: the sizes of a tensor without elements must not be more than %d together.", t.info.Name, maxEmpty)
	}
	return t.check()
}

// maxElements bounds the elements of one tensor, so that sizes can be multiplied.
const maxElements = 1 << 31

// maxEmpty bounds the sizes of a tensor without elements, which no data bound: a model may answer something for each.
const maxEmpty = 1 << 20

func (e *Executor) readElements(s *scanner, g *given) error {
	if err := e.readShape(s, g); err != nil {
		return err
	}
	g.read = true
	if s.next() != '[' {
		return badf("Input %q: data must be a list.", g.t.info.Name)
	}
	if err := g.t.flat(s, 0); err != nil {
		return err
	}
	return g.t.counted()
}

// counted sees that there are as many elements as the shape says.
func (t *tensor) counted() error {
	if int64(t.count) == t.wanted {
		return nil
	}
	return badf("Input %q: expected %d elements for shape %s, got %d.", t.info.Name, t.wanted, shapeText(t.shape, nil), t.count)
}

func (e *Executor) readOutputs(s *scanner, q *inference) error {
	return s.list("outputs", func() error {
		index, binary := -1, q.binary
		for name, err := range s.members(e.name[:0]) {
			if err != nil {
				return err
			}
			switch string(name) {
			case "name":
				index, err = e.readOutputName(s, q)
			case "parameters":
				err = s.parameters(&e.name, func(name string, value *scanner) error {
					var err error
					switch name {
					case "binary_data":
						binary, err = value.flag(name)
					case "classification":
						err = badf("The parameter classification is not supported.")
					default:
						err = noSharedMemory(name)
					}
					return err
				})
			default:
				err = s.skip(3)
			}
			if err != nil {
				return err
			}
		}
		if index < 0 {
			return badf("An output has no name.")
		}
		q.outputs = append(q.outputs, wanted{index, binary})
		return nil
	})
}

func (e *Executor) readOutputName(s *scanner, q *inference) (int, error) {
	if s.next() != '"' {
		return -1, badf("The name of an output must be a text.")
	}
	name, err := s.text(e.name[:0])
	if err != nil {
		return -1, err
	}
	outputs := e.model.outputs
	for i := range outputs {
		if outputs[i].Name != string(name) {
			continue
		}
		if slices.ContainsFunc(q.outputs, func(w wanted) bool { return w.output == i }) {
			return -1, badf("Output %q is named twice.", name)
		}
		return i, nil
	}
	return -1, badf("The model has no output %q; its outputs are: %s.", name, names(outputs))
}
