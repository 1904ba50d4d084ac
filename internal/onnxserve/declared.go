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
}

// narrow compares the model with what is declared of it, and takes over what that says more exactly.
func (m *Model) narrow(d Declared) error {
	m.maxBatch = d.MaxBatchSize
	m.inputs, m.outputs = slices.Clone(m.session.Inputs), slices.Clone(m.session.Outputs)
	for i := range m.outputs {
		m.chosen = append(m.chosen, i)
	}
	if err := narrowAll("input", m.inputs, d.Inputs, d.MaxBatchSize > 0); err != nil {
		return err
	}
	if err := narrowAll("output", m.outputs, d.Outputs, d.MaxBatchSize > 0); err != nil {
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
	all := m.outputs
	m.outputs, m.chosen = nil, nil
	for _, t := range d.Outputs {
		i := slices.IndexFunc(all, func(info onnxrt.Info) bool { return info.Name == t.Name })
		m.outputs, m.chosen = append(m.outputs, all[i]), append(m.chosen, i)
	}
	return nil
}

func mismatch(format string, args ...any) error { return fmt.Errorf("config.pbtxt: "+format, args...) }

// narrowAll does so for the inputs or the outputs.
func narrowAll(what string, infos []onnxrt.Info, declared []DeclaredTensor, batched bool) error {
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
		if err := narrowOne(what, &infos[i], &t, batched); err != nil {
			return err
		}
	}
	return nil
}

func narrowOne(what string, info *onnxrt.Info, t *DeclaredTensor, batched bool) error {
	shown := carried(info)
	if shown == nil {
		return mismatch("the %s %q of the model is neither a tensor nor a list of maps", what, t.Name)
	}
	if t.Datatype != "" && t.Datatype != shown.Datatype {
		return mismatch("the %s %q is declared as %s, and is %s in the model", what, t.Name, t.Datatype, shown.Datatype)
	}
	if len(t.Dims) == 0 || info.Kind != onnxrt.Tensor {
		return nil
	}
	full := slices.Clone(t.Dims)
	if batched {
		full = slices.Insert(full, 0, -1)
	}
	same := !info.Ranked || len(info.Shape) == len(full)
	for i := 0; same && info.Ranked && i < len(full); i++ {
		same = info.Shape[i] < 0 || info.Shape[i] == full[i]
	}
	if !same {
		return mismatch("the %s %q is declared with shape %s, and has %s in the model", what, t.Name, shapeText(full, nil),
			shapeText(info.Shape, info.Symbols))
	}
	info.Shape, info.Ranked = full, true
	return nil
}
