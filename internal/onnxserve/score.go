package onnxserve

// score answers /score: input_data becomes the inputs, and the outputs the answer.
func (e *Executor) score(r *Request) Answer {
	if string(r.Method) == "OPTIONS" {
		return e.options()
	}
	if string(r.Method) != "POST" {
		return e.message(405, notAllowed)
	}
	if err := e.scored(r); err != nil {
		return e.failed("message", err)
	}
	return e.answer(200, jsonKind)
}

func (e *Executor) scored(r *Request) error {
	e.reset()
	if err := e.readScore(r); err != nil {
		return err
	}
	defer e.runner.Clear()
	if err := e.run(e.all); err != nil {
		return err
	}
	if err := e.note(e.all); err != nil {
		return err
	}
	return e.writeOutputs(e.result)
}

// readScore reads a request.
func (e *Executor) readScore(r *Request) error {
	if err := plain(r); err != nil {
		return err
	}
	if err := e.readBody(&scanner{b: r.Body}); err != nil {
		return err
	}
	for _, t := range e.inputs {
		if err := t.settle(); err != nil {
			return err
		}
	}
	return nil
}

const needsInputData = "The body must be a JSON object with input_data."

// readBody finds input_data in the body.
func (e *Executor) readBody(s *scanner) error {
	if s.next() != '{' {
		if len(s.b) > 0 && s.next() != 0 {
			if err := s.skip(0); err != nil {
				return err
			}
		}
		return badf(needsInputData)
	}
	s.i++
	found := false
	for name, err := range s.members(e.name[:0]) {
		if err != nil {
			return err
		}
		switch string(name) {
		case "input_data":
			if found {
				return badf("The body has input_data twice.")
			}
			found = true
			err = e.readData(s)
		case "params":
			err = noParams(s)
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
	if !found {
		return badf("A value is not provided for the 'input_data' parameter. %s", needsInputData)
	}
	return nil
}

// noParams takes a params that asks for nothing.
func noParams(s *scanner) error {
	s.next()
	from := s.i
	if err := s.skip(1); err != nil {
		return err
	}
	inner := scanner{b: s.b[from:s.i]}
	if inner.take('{') && inner.take('}') || string(inner.b) == "null" {
		return nil
	}
	return badf("The model takes no params.")
}

// readData reads the value of input_data.
func (e *Executor) readData(s *scanner) error {
	switch s.next() {
	case '{':
		return e.readObject(s)
	case '[':
		ahead := scanner{b: s.b, i: s.i + 1}
		if ahead.next() == '{' {
			return e.readRecords(s)
		}
	}
	if len(e.inputs) != 1 {
		return badf("The model has %d inputs: give input_data as an object of their names (%s).", len(e.inputs),
			e.inputNames())
	}
	return e.inputs[0].read(s, 0)
}

// readObject reads a table, or an object of inputs by name.
func (e *Executor) readObject(s *scanner) error {
	s.i++
	e.spans = e.spans[:0]
	table, data := true, -1
	for name, err := range s.members(e.name[:0]) {
		if err != nil {
			return err
		}
		s.next()
		e.spans = append(e.spans, span{string(name), s.i})
		switch string(name) {
		case "data":
			data = s.i
		case "columns", "index":
		default:
			table = false
		}
		if err := s.skip(2); err != nil {
			return err
		}
	}
	after := s.i
	var err error
	if table && data >= 0 && !e.inputsNamed() {
		err = e.readTable(s, data)
	} else {
		err = e.readNamed(s)
	}
	s.i = after
	return err
}

// inputsNamed says whether every name of the object is that of an input.
func (e *Executor) inputsNamed() bool {
	for _, m := range e.spans {
		if e.input([]byte(m.name)) == nil {
			return false
		}
	}
	return true
}

func (e *Executor) readNamed(s *scanner) error {
	for _, m := range e.spans {
		t := e.input([]byte(m.name))
		if t == nil {
			return badf("The model has no input %q; its inputs are: %s.", m.name, e.inputNames())
		}
		if t.seen {
			return badf("Input %q is given twice.", m.name)
		}
		t.seen = true
		s.i = m.at
		if err := t.read(s, 0); err != nil {
			return err
		}
	}
	return e.complete()
}

// complete sees that no input is missing.
func (e *Executor) complete() error {
	for _, t := range e.inputs {
		if !t.seen {
			return badf("Input %q is missing: expected %s %s.", t.info.Name, t.info.Element,
				shapeText(t.info.Shape, t.info.Symbols))
		}
	}
	return nil
}

// readTable reads rows whose columns are named. With one input the rows are its values; with several each column is one.
func (e *Executor) readTable(s *scanner, data int) error {
	if len(e.inputs) == 1 {
		s.i = data
		e.inputs[0].seen = true
		return e.inputs[0].read(s, 0)
	}
	columns, err := e.readColumns(s)
	if err != nil {
		return err
	}
	s.i = data
	if !s.take('[') {
		return badf("input_data.data must be a list of rows.")
	}
	rows := int64(0)
	if !s.take(']') {
		for {
			if err := readRow(s, columns, rows); err != nil {
				return err
			}
			rows++
			if s.take(']') {
				break
			}
			if !s.take(',') {
				return s.wrong("',' or ']'")
			}
		}
	}
	e.closeRows(rows)
	return nil
}

// readColumns finds the input of each column.
func (e *Executor) readColumns(s *scanner) ([]*tensor, error) {
	at := -1
	for _, m := range e.spans {
		if m.name == "columns" {
			at = m.at
		}
	}
	if s.i = at; at < 0 || !s.take('[') {
		return nil, badf("input_data.columns must list the names of the model's inputs: %s.", e.inputNames())
	}
	var columns []*tensor
	for !s.take(']') {
		if len(columns) > 0 && !s.take(',') {
			return nil, s.wrong("',' or ']'")
		}
		if s.next() != '"' {
			return nil, badf("input_data.columns must be a list of texts.")
		}
		name, err := s.text(e.name[:0])
		if err != nil {
			return nil, err
		}
		t := e.input(name)
		if t == nil {
			return nil, badf("The model has no input %q; its inputs are: %s.", name, e.inputNames())
		}
		if t.seen {
			return nil, badf("Input %q is given twice.", name)
		}
		t.seen = true
		columns = append(columns, t)
	}
	return columns, e.complete()
}

func readRow(s *scanner, columns []*tensor, row int64) error {
	if !s.take('[') {
		return badf("Row %d of input_data.data is no list.", row)
	}
	for i, t := range columns {
		if i > 0 && !s.take(',') {
			return badf("Row %d of input_data.data has %d values for %d columns.", row, i, len(columns))
		}
		if err := t.read(s, 1); err != nil {
			return err
		}
	}
	if !s.take(']') {
		return badf("Row %d of input_data.data has more values than the %d columns.", row, len(columns))
	}
	return nil
}

// closeRows notes of every input how many rows there were.
func (e *Executor) closeRows(rows int64) {
	for _, t := range e.inputs {
		t.dims[0], t.rank = rows, max(t.rank, 1)
	}
}

// readRecords reads a list of objects, each a row with its inputs by name.
func (e *Executor) readRecords(s *scanner) error {
	s.i++
	rows := int64(0)
	for {
		if !s.take('{') {
			return badf("Row %d of input_data is no object, but others are.", rows)
		}
		for name, err := range s.members(e.name[:0]) {
			if err != nil {
				return err
			}
			t := e.input(name)
			if t == nil {
				return badf("The model has no input %q; its inputs are: %s.", name, e.inputNames())
			}
			if t.rows != rows {
				return badf("Row %d of input_data has input %q twice, or an earlier row has none.", rows, name)
			}
			t.rows, t.seen = rows+1, true
			if err := t.read(s, 1); err != nil {
				return err
			}
		}
		rows++
		for _, t := range e.inputs {
			if t.rows != rows {
				return badf("Row %d of input_data has no input %q.", rows-1, t.info.Name)
			}
		}
		if s.take(']') {
			e.closeRows(rows)
			return nil
		}
		if !s.take(',') {
			return s.wrong("',' or ']'")
		}
	}
}

// writeOutputs writes the outputs: the value of a single one, an object of several.
func (e *Executor) writeOutputs(from source) error {
	for _, o := range e.all {
		p, err := from(o)
		if err != nil {
			return err
		}
		if len(e.all) == 1 {
			return e.writePart(&p)
		}
		if o == 0 {
			e.out = append(e.out, '{')
		} else {
			e.out = append(e.out, ", "...)
		}
		e.out = appendText(e.out, []byte(e.model.outputs[o].Name))
		e.out = append(e.out, ": "...)
		if err := e.writePart(&p); err != nil {
			return err
		}
	}
	e.out = append(e.out, '}')
	return nil
}
