package onnxserve

import (
	"fmt"
	"slices"

	"portico/internal/onnxrt"
)

// Declared is what the configuration of a model repository says of a model. Zero: nothing.
type Declared struct {
	// MaxBatchSize is how many rows one run may have. Unless it is 0 the dims of inputs and outputs lack the dimension of
	// rows, which comes first in the model.
	MaxBatchSize int64            `json:"max_batch_size"`
	Inputs       []DeclaredTensor `json:"inputs"`  // all of the model's, or none
	Outputs      []DeclaredTensor `json:"outputs"` // those that callers see; none: all
}

// DeclaredTensor is an input or output. What is empty is as the model has it.
type DeclaredTensor struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"` // of the Open Inference Protocol
	Dims     []int64 `json:"dims"`     // -1: any size
	// Reshape is what the model has where callers see Dims: of as many elements, with as many open sizes, which stand for those of
	// Dims in order. nil: Dims.
	Reshape *[]int64 `json:"reshape"`
}

// narrow compares the model with what is declared of it, and takes over what that says more exactly.
func (m *Model) narrow(d Declared) error {
	m.maxBatch = d.MaxBatchSize
	m.inputs, m.outputs = slices.Clone(m.session.Inputs), slices.Clone(m.session.Outputs)
	m.inputForms, m.outputForms = make([]*form, len(m.inputs)), make([]*form, len(m.outputs))
	for i := range m.outputs {
		m.chosen = append(m.chosen, i)
	}
	if err := narrowAll("input", m.inputs, m.inputForms, d.Inputs, d.MaxBatchSize > 0); err != nil {
		return err
	}
	if err := narrowAll("output", m.outputs, m.outputForms, d.Outputs, d.MaxBatchSize > 0); err != nil {
		return err
	}
	for i := range m.inputs {
		if name := m.inputs[i].Name; len(d.Inputs) > 0 && !slices.ContainsFunc(d.Inputs, func(t DeclaredTensor) bool { return t.Name == name }) {
			return mismatch("the model's input %q is not declared", name)
		}
	}
	if len(d.Outputs) == 0 {
		return nil
	}
	all, forms := m.outputs, m.outputForms
	m.outputs, m.outputForms, m.chosen = nil, nil, nil
	for _, t := range d.Outputs {
		i := slices.IndexFunc(all, func(info onnxrt.Info) bool { return info.Name == t.Name })
		m.outputs, m.outputForms, m.chosen = append(m.outputs, all[i]), append(m.outputForms, forms[i]), append(m.chosen, i)
	}
	return nil
}

func mismatch(format string, args ...any) error { return fmt.Errorf("config.pbtxt: "+format, args...) }

// narrowAll does so for the inputs or the outputs.
func narrowAll(what string, infos []onnxrt.Info, forms []*form, declared []DeclaredTensor, batched bool) error {
	for i := range infos {
		info := &infos[i]
		if batched && info.Kind == onnxrt.Tensor && info.Ranked && (len(info.Shape) == 0 || info.Shape[0] >= 0) {
			return mismatch("with a max_batch_size the first dimension of every %s must be open, but that of %q is fixed: %s", what, info.Name,
				shapeText(info.Shape, info.Symbols))
		}
	}
	for _, t := range declared {
		i := slices.IndexFunc(infos, func(info onnxrt.Info) bool { return info.Name == t.Name })
		if i < 0 {
			return mismatch("the model has no %s %q; it has: %s", what, t.Name, names(infos))
		}
		var err error
		if forms[i], err = narrowOne(what, &infos[i], &t, batched); err != nil {
			return err
		}
	}
	return nil
}

// narrowOne does so for one of them. The form is that of one which is reshaped.
func narrowOne(what string, info *onnxrt.Info, t *DeclaredTensor, batched bool) (*form, error) {
	shown := carried(info)
	if shown == nil {
		return nil, mismatch("the %s %q of the model is neither a tensor nor a list of maps", what, t.Name)
	}
	if t.Datatype != "" && t.Datatype != shown.Datatype {
		return nil, mismatch("the %s %q is declared as %s, and is %s in the model", what, t.Name, t.Datatype, shown.Datatype)
	}
	if info.Kind != onnxrt.Tensor && t.Reshape != nil {
		return nil, mismatch("the %s %q is reshaped, and is no tensor in the model", what, t.Name)
	}
	if len(t.Dims) == 0 || info.Kind != onnxrt.Tensor {
		return nil, nil
	}
	callers, model := t.Dims, t.Dims
	scalar := !batched && info.Ranked && len(info.Shape) == 0 && !slices.ContainsFunc(t.Dims, func(d int64) bool { return d != 1 })
	switch {
	case t.Reshape != nil:
		model = *t.Reshape
	case scalar: // dims cannot be empty, so a single value has some
		model = nil
	}
	if batched {
		callers, model = slices.Concat([]int64{-1}, callers), slices.Concat([]int64{-1}, model)
	}
	same := !info.Ranked || len(info.Shape) == len(model)
	for i := 0; same && info.Ranked && i < len(model); i++ {
		same = info.Shape[i] < 0 || info.Shape[i] == model[i]
	}
	if !same {
		return nil, mismatch("the %s %q is declared with shape %s, and has %s in the model", what, t.Name, shapeText(model, nil),
			shapeText(info.Shape, info.Symbols))
	}
	info.Shape, info.Ranked = slices.Clone(callers), true
	if t.Reshape == nil && !scalar {
		return nil, nil
	}
	info.Symbols = nil // they name the sizes of the model
	return &form{callers: info.Shape, model: slices.Clone(model)}, nil
}
