package onnxserve

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"portico/internal/onnxrt"
)

// protocol answers the Open Inference Protocol: path is what follows /v2.
func (e *Executor) protocol(r *Request, path string) Answer {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	switch {
	case path == "":
		return e.told(r, `{"name":"portico","version":`+quote(Version)+`,"extensions":["binary_tensor_data"]}`)
	case path == "/health/live":
		return e.told(r, `{"live":true}`)
	case path == "/health/ready":
		return e.told(r, `{"ready":true}`)
	case parts[0] != "models" || len(parts) < 2:
		return e.failure("error", 404, "The protocol has no such path.")
	}
	parts = parts[1:]
	if parts[0] != e.model.Name {
		return e.failure("error", 404, "There is no model "+strconv.Quote(parts[0])+"; this is "+e.model.Name+".")
	}
	parts = parts[1:]
	if len(parts) >= 2 && parts[0] == "versions" {
		if parts[1] != e.model.Version {
			return e.failure("error", 404, "The model has no version "+strconv.Quote(parts[1])+"; this is "+e.model.Version+".")
		}
		parts = parts[2:]
	}
	switch {
	case len(parts) == 0:
		return e.told(r, string(e.model.metadata()))
	case len(parts) == 1 && parts[0] == "ready":
		return e.told(r, `{"name":`+quote(e.model.Name)+`,"ready":true}`)
	case len(parts) == 1 && parts[0] == "infer":
		return e.infer(r)
	}
	return e.failure("error", 404, "The protocol has no such path.")
}

// Version is what the server says of itself.
var Version = "dev"

// told answers a question whose answer is known.
func (e *Executor) told(r *Request, document string) Answer {
	if string(r.Method) == "OPTIONS" {
		return e.options()
	}
	if !reads(r) {
		return e.failure("error", 405, "The method is not allowed for the requested path.")
	}
	e.out = append(e.out, document...)
	return e.answer(200, jsonKind)
}

type tensorMetadata struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
}

// describeProtocol is the model's metadata.
func (m *Model) describeProtocol() []byte {
	list := func(infos []onnxrt.Info) []tensorMetadata {
		out := []tensorMetadata{}
		for i := range infos {
			if t := carried(&infos[i]); t != nil {
				out = append(out, *t)
			}
		}
		return out
	}
	// Plain data always has a JSON form.
	document, _ := json.Marshal(struct {
		Name     string           `json:"name"`
		Versions []string         `json:"versions"`
		Platform string           `json:"platform"`
		Inputs   []tensorMetadata `json:"inputs"`
		Outputs  []tensorMetadata `json:"outputs"`
	}{m.Name, []string{m.Version}, "onnxruntime_onnx", list(m.inputs), list(m.outputs)})
	return document
}

// carried says how the protocol shows a value; nil: it cannot. A sequence of maps, a classifier's probabilities, is a
// table with a row for each map.
func carried(info *onnxrt.Info) *tensorMetadata {
	switch {
	case info.Kind == onnxrt.Tensor:
		shape := append([]int64{}, info.Shape...)
		return &tensorMetadata{info.Name, info.Element.Wire(), shape}
	case info.Kind == onnxrt.Sequence && info.Inner.Kind == onnxrt.Map && info.Inner.Inner.Kind == onnxrt.Tensor:
		return &tensorMetadata{info.Name, info.Inner.Inner.Element.Wire(), []int64{-1, -1}}
	}
	return nil
}

// infer answers an inference request.
func (e *Executor) infer(r *Request) Answer {
	if string(r.Method) == "OPTIONS" {
		return e.options()
	}
	if string(r.Method) != "POST" {
		return e.failure("error", 405, "The method is not allowed for the requested path.")
	}
	var q inference
	if err := e.inferred(r, &q); err != nil {
		return e.failed("error", err)
	}
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
	outputs bool   // the request names outputs
}

func (e *Executor) inferred(r *Request, q *inference) error {
	body := r.Body
	if r.JSONLength != nil {
		n, err := strconv.Atoi(string(r.JSONLength))
		if err != nil || n < 0 || n > len(body) {
			return badf("The field Inference-Header-Content-Length is not the length of a part of the body.")
		}
		body, q.rest = body[:n], body[n:]
	}
	e.reset()
	e.some, e.binary = e.some[:0], e.binary[:0]
	if err := e.readInference(&scanner{b: body}, q); err != nil {
		return err
	}
	if len(q.rest) > 0 {
		return badf("%d bytes follow the tensors that the request describes.", len(q.rest))
	}
	if err := e.complete(); err != nil {
		return err
	}
	outputs := e.some
	if !q.outputs {
		outputs = e.all
		for range outputs {
			e.binary = append(e.binary, q.binary)
		}
	}
	defer e.runner.Clear()
	if err := e.run(outputs); err != nil {
		return err
	}
	return e.writeInference(q, outputs)
}

// readInference reads the JSON of a request.
func (e *Executor) readInference(s *scanner, q *inference) error {
	if !s.take('{') {
		return badf("The body must be a JSON object with inputs.")
	}
	inputs, outputs := -1, -1
	for name, err := range s.members(e.name[:0]) {
		if err != nil {
			return err
		}
		s.next()
		from := s.i
		switch string(name) {
		case "id":
			if s.next() != '"' {
				return badf("The id of a request must be a text.")
			}
			err = s.skip(1)
			q.id = s.b[from:s.i]
		case "parameters":
			err = s.parameters(&e.name, func(name string, value *scanner) error {
				if name != "binary_data_output" {
					return nil
				}
				q.binary, err = value.flag(name)
				return err
			})
		case "inputs":
			// With the parts of the body in place, tensors can be read where they stand.
			inputs = from
			err = e.readInputs(s, q)
		case "outputs":
			outputs = from
			err = s.skip(1)
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
	if inputs < 0 {
		return badf("The body must be a JSON object with inputs.")
	}
	if outputs < 0 {
		return nil
	}
	s.i = outputs
	err := e.readOutputs(s, q)
	q.outputs = len(e.some) > 0
	return err
}

// parameters reads an object and calls each for its members.
func (s *scanner) parameters(scratch *[64]byte, each func(name string, value *scanner) error) error {
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

func (e *Executor) readInputs(s *scanner, q *inference) error {
	return s.list("inputs", func() error { return e.readInput(s, q) })
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
			var text []byte
			text, err = s.text(e.name[:0])
			g.datatypeLength = copy(g.datatype[:], text)
		case "shape":
			g.shape = from
			err = s.skip(3)
		case "data":
			g.data = from
			if g.t == nil || g.datatypeLength == 0 || g.shape < 0 {
				err = s.skip(3)
			} else {
				err = e.readElements(s, &g)
			}
		case "parameters":
			err = s.parameters(&e.name, func(name string, value *scanner) error {
				if name != "binary_data_size" {
					return nil
				}
				n, err := value.number()
				size, ok := n.magnitude()
				if err != nil || !ok || n.negative || size > uint64(len(q.rest)) {
					return badf("binary_data_size is not the size of data that follow the JSON.")
				}
				g.binary = int64(size)
				return nil
			})
		default:
			err = s.skip(3)
		}
		if err != nil {
			return err
		}
	}
	return e.closeInput(s, q, &g)
}

func (e *Executor) readName(s *scanner, g *given) error {
	if s.next() != '"' {
		return badf("The name of an input must be a text.")
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
	case g.read:
		return nil
	case g.binary >= 0 && g.data < 0:
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
			ok = t.wanted <= maxElements
		}
	}
	s.i = after
	if !ok {
		return badf("Input %q: the shape must be a list of at most %d sizes, of at most %d elements together.",
			t.info.Name, maxRank, int64(maxElements))
	}
	return t.check()
}

// maxElements bounds the elements of one tensor, so that sizes can be multiplied.
const maxElements = 1 << 31

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
				index, err = e.readOutputName(s)
			case "parameters":
				err = s.parameters(&e.name, func(name string, value *scanner) error {
					var err error
					switch name {
					case "binary_data":
						binary, err = value.flag(name)
					case "classification":
						err = badf("The parameter classification is not supported.")
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
		e.some, e.binary = append(e.some, index), append(e.binary, binary)
		return nil
	})
}

func (e *Executor) readOutputName(s *scanner) (int, error) {
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
		for _, o := range e.some {
			if o == i {
				return -1, badf("Output %q is named twice.", name)
			}
		}
		return i, nil
	}
	return -1, badf("The model has no output %q; its outputs are: %s.", name, names(outputs))
}

// writeInference writes the answer.
func (e *Executor) writeInference(q *inference, outputs []int) error {
	b := append(e.out, `{"model_name":`...)
	b = appendText(b, []byte(e.model.Name))
	b = append(b, `,"model_version":`...)
	b = appendText(b, []byte(e.model.Version))
	if q.id != nil {
		b = append(append(b, `,"id":`...), q.id...)
	}
	e.out = append(b, `,"outputs":[`...)
	written := 0
	for n, o := range outputs {
		info := &e.model.outputs[o]
		if carried(info) == nil {
			if !q.outputs {
				continue
			}
			return badf("Output %q is neither a tensor nor a list of maps, so the protocol cannot carry it; use /score.", info.Name)
		}
		v, err := e.runner.Result(n)
		if err != nil {
			return err
		}
		if written++; written > 1 {
			e.out = append(e.out, ',')
		}
		var keys []byte
		if v.Kind == onnxrt.Sequence {
			if v, keys, err = e.table(v, info); err != nil {
				return err
			}
		}
		e.writeOutput(q, info.Name, &v, keys, e.binary[n])
	}
	e.out = append(e.out, "]}"...)
	return nil
}

// writeOutput writes one output, and its elements too unless they are wanted in binary form.
func (e *Executor) writeOutput(q *inference, name string, v *onnxrt.Value, keys []byte, binary bool) {
	b := append(e.out, `{"name":`...)
	b = appendText(b, []byte(name))
	b = append(append(append(b, `,"datatype":"`...), v.Element.Wire()...), `","shape":[`...)
	for i, d := range v.Shape {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, d, 10)
	}
	b = append(b, ']')
	if keys != nil || binary {
		b = append(b, `,"parameters":{`...)
		if keys != nil {
			b = append(append(b, `"keys":`...), keys...)
		}
		if binary {
			if keys != nil {
				b = append(b, ',')
			}
			before := len(q.blobs)
			if q.blobs == nil {
				q.blobs = []byte{}
			}
			q.blobs = appendBinary(q.blobs, v)
			b = strconv.AppendInt(append(b, `"binary_data_size":`...), int64(len(q.blobs)-before), 10)
		}
		b = append(b, '}')
	}
	if !binary {
		b = append(b, `,"data":[`...)
		b = appendElements(b, v, 0, v.Count())
		b = append(b, ']')
	}
	e.out = append(b, '}')
}

// table makes a sequence of maps a tensor with a row for each. keys is the JSON list of the keys of the columns.
func (e *Executor) table(v onnxrt.Value, info *onnxrt.Info) (table onnxrt.Value, keys []byte, err error) {
	table = onnxrt.Value{Kind: onnxrt.Tensor, Element: info.Inner.Inner.Element, Shape: []int64{0, 0}}
	if table.Element.Size() == 0 {
		return table, nil, badf("Output %q holds texts by key, which the protocol cannot carry; use /score.", info.Name)
	}
	err = e.runner.Inner(v, func(i, n int, row onnxrt.Value) error {
		return e.runner.Pair(row, func(k, values onnxrt.Value) error {
			list := append(appendElements([]byte{'['}, &k, 0, k.Count()), ']')
			if i > 0 && !bytes.Equal(list, keys) {
				return badf("Output %q has rows of different keys, which the protocol cannot carry; use /score.", info.Name)
			}
			keys = list
			table.Shape = []int64{int64(n), int64(k.Count())}
			table.Data = append(table.Data, values.Data...)
			return nil
		})
	})
	if keys == nil {
		keys = []byte("[]")
	}
	return table, keys, err
}
