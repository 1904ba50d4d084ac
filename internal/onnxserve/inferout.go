package onnxserve

import (
	"bytes"
	"strconv"

	"portico/internal/onnxrt"
)

// writeInference writes the answer.
func (e *Executor) writeInference(q *inference, from source) error {
	b := append(e.out, `{"model_name":`...)
	b = appendText(b, []byte(e.model.Name))
	b = append(b, `,"model_version":`...)
	b = appendText(b, []byte(e.model.Version))
	if q.id != nil {
		b = append(append(b, `,"id":`...), q.id...)
	}
	e.out = append(b, `,"outputs":[`...)
	written := 0
	for _, w := range q.outputs {
		info := &e.model.outputs[w.output]
		if carried(info) == nil {
			if !q.named {
				continue
			}
			return badf("Output %q is neither a tensor nor a list of maps, so the protocol cannot carry it; use /score.", info.Name)
		}
		p, err := from(w.output)
		if err != nil {
			return err
		}
		if written++; written > 1 {
			e.out = append(e.out, ',')
		}
		var keys []byte
		if p.Kind == onnxrt.Sequence {
			if p.Value, keys, err = e.table(&p, info); err != nil {
				return err
			}
		}
		e.writeOutput(q, info.Name, &p.Value, keys, w.binary)
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
func (e *Executor) table(p *part, info *onnxrt.Info) (table onnxrt.Value, keys []byte, err error) {
	table = onnxrt.Value{Kind: onnxrt.Tensor, Element: info.Inner.Inner.Element, Shape: []int64{0, 0}}
	if table.Element.Size() == 0 {
		return table, nil, badf("Output %q holds texts by key, which the protocol cannot carry; use /score.", info.Name)
	}
	err = e.runner.Range(p.Value, p.from, p.to, func(i int, row onnxrt.Value) error {
		return e.runner.Pair(row, func(k, values onnxrt.Value) error {
			list := append(appendElements([]byte{'['}, &k, 0, k.Count()), ']')
			if i > p.from && !bytes.Equal(list, keys) {
				return badf("Output %q has rows of different keys, which the protocol cannot carry; use /score.", info.Name)
			}
			keys = list
			table.Shape = []int64{int64(p.to - p.from), int64(k.Count())}
			table.Data = append(table.Data, values.Data...)
			return nil
		})
	})
	if keys == nil {
		keys = []byte("[]")
	}
	return table, keys, err
}
