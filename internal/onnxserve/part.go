package onnxserve

import (
	"fmt"

	"portico/internal/onnxrt"
)

// part is what a request gets of an output: all of it, or the rows that are its own.
type part struct {
	onnxrt.Value
	from, to int   // of a sequence: its elements
	length   int64 // how many rows it has; -1: none
}

// source gives the part of output o that is to be written.
type source func(o int) (part, error)

// result is all of output o of the newest run.
func (e *Executor) result(o int) (part, error) {
	v, err := e.runner.Result(e.at[o])
	p := part{Value: v, length: -1}
	switch {
	case err != nil:
		return p, err
	case v.Kind == onnxrt.Sequence:
		p.to, err = e.runner.Length(v)
		p.length = int64(p.to)
		return p, err
	case v.Kind == onnxrt.Tensor && len(v.Shape) > 0:
		p.length = v.Shape[0]
	}
	if f := e.model.outputForms[o]; f != nil {
		shape, ok := reform(f.model, f.callers, v.Shape, nil)
		if !ok {
			return p, fmt.Errorf("output %q has shape %s, where config.pbtxt reshapes %s", e.model.outputs[o].Name, shapeText(v.Shape, nil),
				shapeText(f.model, nil))
		}
		if p.Shape = shape; len(shape) == 0 || shape[0] != p.length {
			p.length = -1 // its rows are not those of the model
		}
	}
	return p, nil
}

// rows is the part of some rows. There must be that many.
func (p part) rows(at, n int64) part {
	if p.Kind == onnxrt.Sequence {
		p.from, p.to = int(at), int(at+n)
		return p
	}
	empty := p.Count() == 0
	stride := int64(1)
	for _, d := range p.Shape[1:] {
		stride *= d
	}
	p.Shape = append([]int64{n}, p.Shape[1:]...)
	from, to := int(at*stride), int((at+n)*stride)
	switch {
	case empty:
	case p.Element == onnxrt.String:
		p.Data, p.Ends = texts(p.Data, p.Ends, from, to)
	default:
		p.Data = p.Data[from*p.Element.Size() : to*p.Element.Size()]
	}
	return p
}

// texts are those of a tensor from one up to another, as a tensor of their own has them.
func texts(data []byte, ends []int, from, to int) ([]byte, []int) {
	start := 0
	if from > 0 {
		start = ends[from-1]
	}
	own := make([]int, 0, to-from)
	for _, end := range ends[from:to] {
		own = append(own, end-start)
	}
	return data[start:ends[to-1]], own
}

// writePart appends a part as JSON.
func (e *Executor) writePart(p *part) error {
	if p.Kind == onnxrt.Sequence {
		return e.writeSequence(p.Value, p.from, p.to)
	}
	return e.writeValue(p.Value)
}

// form is how the shape that callers see stands for the model's, where a configuration reshapes; -1: any size.
type form struct{ callers, model []int64 }

// reform appends to dst the shape of the pattern to that has the open sizes of a shape of the pattern from, in order. False:
// the shape is not of that pattern. Both patterns have as many open sizes.
func reform(from, to, shape, dst []int64) ([]int64, bool) {
	if len(shape) != len(from) {
		return dst, false
	}
	for i, d := range from {
		if d >= 0 && shape[i] != d {
			return dst, false
		}
	}
	i := 0
	for _, d := range to {
		if d < 0 {
			for from[i] >= 0 {
				i++
			}
			d = shape[i]
			i++
		}
		dst = append(dst, d)
	}
	return dst, true
}
