package onnxrt

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"unsafe"
)

// ErrTerminated says that Terminate ended the run.
var ErrTerminated = errors.New("the run was terminated")

// Runner runs a session, one run at a time. Only Terminate may be called by another goroutine. It keeps what one run
// made for the next, so a Runner is kept for as long as there may be requests.
type Runner struct {
	session *Session
	options uintptr
	inputs  []input
	words   []uintptr // the values of the inputs, in order, as Run takes them
	chosen  []int     // the outputs that are asked for
	names   []uintptr // of the chosen outputs
	results []uintptr // of the last run
	out     uintptr   // written by the library
	dims    []int64   // of the results, all together

	mu         sync.Mutex
	running    bool
	terminated bool
}

// input is a tensor that was made for an input. One with the same memory and shape is used again.
type input struct {
	value uintptr
	data  []byte // kept reachable; nil for strings
	shape []int64
}

// NewRunner makes a runner that gives every output.
func (s *Session) NewRunner() (*Runner, error) {
	r := &Runner{session: s, inputs: make([]input, len(s.Inputs)), words: make([]uintptr, len(s.Inputs))}
	if err := s.lib.call(fnCreateRunOptions, out(&r.options)); err != nil {
		return nil, err
	}
	return r, nil
}

// Close releases the runner.
func (r *Runner) Close() {
	r.Clear()
	for i := range r.inputs {
		r.Forget(i)
	}
	r.session.lib.release(fnReleaseRunOptions, r.options)
}

// SetTensor gives input i its elements, which lie in data as the machine has them. data must not change until the run
// has ended, and must have as many elements as the shape says.
func (r *Runner) SetTensor(i int, data []byte, shape []int64) error {
	in := &r.inputs[i]
	same := in.value != 0 && in.data != nil && unsafe.SliceData(in.data) == unsafe.SliceData(data) &&
		len(in.data) == len(data) && slices.Equal(in.shape, shape)
	if same {
		return nil
	}
	r.Forget(i)
	in.shape = append(in.shape[:0], shape...)
	in.data = data
	err := r.session.lib.call(fnCreateTensorWithDataAsOrtValue, r.session.lib.memory, address(data), uintptr(len(data)),
		address(in.shape), uintptr(len(in.shape)), uintptr(r.session.Inputs[i].Element), out(&r.out))
	if err != nil {
		return err
	}
	in.value = r.out
	return nil
}

// SetStrings gives input i texts, which lie one behind the other in data, each up to its end in ends. There must be as
// many as the shape says.
func (r *Runner) SetStrings(i int, data []byte, ends []int, shape []int64) error {
	if want := count(shape); want != len(ends) {
		return fmt.Errorf("%d texts for a shape of %d", len(ends), want)
	}
	r.Forget(i)
	in := &r.inputs[i]
	in.shape = append(in.shape[:0], shape...)
	lib := r.session.lib
	err := lib.call(fnCreateTensorAsOrtValue, lib.allocator, address(in.shape), uintptr(len(in.shape)), uintptr(String),
		out(&r.out))
	if err != nil {
		return err
	}
	in.value = r.out
	from := 0
	for n, end := range ends {
		if end > from {
			err := lib.call(fnGetResizedStringTensorElementBuffer, in.value, uintptr(n), uintptr(end-from), out(&r.out))
			if err != nil {
				return err
			}
			copy(unsafe.Slice((*byte)(pointer(r.out)), end-from), data[from:end])
		}
		from = end
	}
	return nil
}

// Forget releases input i, and lets go of the memory with its elements.
func (r *Runner) Forget(i int) {
	r.session.lib.release(fnReleaseValue, r.inputs[i].value)
	r.inputs[i].value, r.inputs[i].data = 0, nil
}

// Choose says which outputs the next runs give, by their indexes.
func (r *Runner) Choose(outputs []int) {
	if slices.Equal(r.chosen, outputs) {
		return
	}
	r.chosen = append(r.chosen[:0], outputs...)
	r.names = r.names[:0]
	for _, o := range outputs {
		r.names = append(r.names, r.session.outputNames[o])
	}
}

// Run runs the model on the inputs that were set. Its results are there until Clear.
func (r *Runner) Run() error {
	for i := range r.inputs {
		r.words[i] = r.inputs[i].value
	}
	r.results = append(r.results[:0], make([]uintptr, len(r.names))...)
	r.mu.Lock()
	r.running = true
	r.mu.Unlock()
	s := r.session
	err := s.lib.call(fnRun, s.handle, r.options, address(s.inputNames), address(r.words), uintptr(len(r.words)),
		address(r.names), uintptr(len(r.names)), address(r.results))
	r.mu.Lock()
	r.running = false
	terminated := r.terminated
	r.terminated = false
	r.mu.Unlock()
	runtime.KeepAlive(r)
	if !terminated {
		return err
	}
	if unset := s.lib.call(fnRunOptionsUnsetTerminate, r.options); unset != nil {
		return unset
	}
	if err != nil {
		return ErrTerminated
	}
	return nil // it had finished by then
}

// Terminate ends a run that is under way at its next node; without one it does nothing.
func (r *Runner) Terminate() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.running || r.terminated {
		return nil
	}
	r.terminated = true
	return r.session.lib.call(fnRunOptionsSetTerminate, r.options)
}

// Clear releases the results of the last run, and its texts, which are copied anew for each run.
func (r *Runner) Clear() {
	for i := range r.inputs {
		if r.inputs[i].data == nil {
			r.Forget(i)
		}
	}
	for _, value := range r.results {
		r.session.lib.release(fnReleaseValue, value)
	}
	r.results, r.dims = r.results[:0], r.dims[:0]
}

// Result is the value of the n-th chosen output.
func (r *Runner) Result(n int) (Value, error) {
	return r.read(r.results[n], r.session.Outputs[r.chosen[n]].Kind)
}

// Value is something that a run made. It must not be used after Clear.
type Value struct {
	Kind Kind
	// Of a tensor: its shape, and its elements as the machine has them.
	Element Element
	Shape   []int64
	Data    []byte
	// Of a tensor of strings: where in Data each ends.
	Ends []int

	handle uintptr
}

// Count is the number of elements of a tensor.
func (v *Value) Count() int { return count(v.Shape) }

func count(shape []int64) int {
	n := 1
	for _, d := range shape {
		n *= int(d)
	}
	return n
}

// read looks at a value. KindOf an inner value is asked for when kind is 0.
func (r *Runner) read(handle uintptr, kind Kind) (Value, error) {
	lib := r.session.lib
	v := Value{Kind: kind, handle: handle}
	if kind == 0 {
		r.out = 0
		if err := lib.call(fnGetValueType, handle, out(&r.out)); err != nil {
			return v, err
		}
		v.Kind = Kind(r.out)
	}
	if v.Kind != Tensor {
		return v, nil
	}
	if err := lib.call(fnGetTensorTypeAndShape, handle, out(&r.out)); err != nil {
		return v, err
	}
	shape := r.out
	defer lib.release(fnReleaseTensorTypeAndShapeInfo, shape)
	r.out = 0
	if err := lib.call(fnGetTensorElementType, shape, out(&r.out)); err != nil {
		return v, err
	}
	v.Element = Element(r.out)
	if err := lib.call(fnGetDimensionsCount, shape, out(&r.out)); err != nil {
		return v, err
	}
	from := len(r.dims)
	r.dims = append(r.dims, make([]int64, r.out)...)
	v.Shape = r.dims[from:len(r.dims):len(r.dims)]
	if err := lib.call(fnGetDimensions, shape, address(v.Shape), uintptr(len(v.Shape))); err != nil {
		return v, err
	}
	n := v.Count()
	switch {
	case !v.Element.Known():
		return v, errUnsupported
	case n == 0:
		return v, nil
	case v.Element == String:
		return v, r.readStrings(&v, n)
	}
	if err := lib.call(fnGetTensorMutableData, handle, out(&r.out)); err != nil {
		return v, err
	}
	v.Data = unsafe.Slice((*byte)(pointer(r.out)), n*v.Element.Size())
	return v, nil
}

func (r *Runner) readStrings(v *Value, n int) error {
	lib := r.session.lib
	r.out = 0
	if err := lib.call(fnGetStringTensorDataLength, v.handle, out(&r.out)); err != nil {
		return err
	}
	length := r.out
	v.Data = make([]byte, length)
	offsets := make([]uintptr, n)
	err := lib.call(fnGetStringTensorContent, v.handle, address(v.Data), length, address(offsets), uintptr(n))
	if err != nil {
		return err
	}
	v.Ends = make([]int, n)
	for i := range n - 1 {
		v.Ends[i] = int(offsets[i+1])
	}
	v.Ends[n-1] = int(length)
	return nil
}

// Length is the number of elements of a sequence.
func (r *Runner) Length(v Value) (int, error) {
	r.out = 0
	err := r.session.lib.call(fnGetValueCount, v.handle, out(&r.out))
	return int(r.out), err
}

// Range calls each for the elements of a sequence from one up to another. What each gets is gone when it returns.
func (r *Runner) Range(v Value, from, to int, each func(i int, inner Value) error) error {
	for i := from; i < to; i++ {
		err := r.inner(v, i, func(inner Value) error { return each(i, inner) })
		if err != nil {
			return err
		}
	}
	return nil
}

// Pair calls with with the keys and the values of a map, which are tensors in the same order.
func (r *Runner) Pair(v Value, with func(keys, values Value) error) error {
	return r.inner(v, 0, func(keys Value) error {
		return r.inner(v, 1, func(values Value) error {
			if keys.Kind != Tensor || values.Kind != Tensor {
				return errUnsupported
			}
			return with(keys, values)
		})
	})
}

func (r *Runner) inner(v Value, i int, with func(inner Value) error) error {
	lib := r.session.lib
	if err := lib.call(fnGetValue, v.handle, uintptr(i), lib.allocator, out(&r.out)); err != nil {
		return err
	}
	handle := r.out
	defer lib.release(fnReleaseValue, handle)
	from := len(r.dims)
	defer func() { r.dims = r.dims[:from] }()
	value, err := r.read(handle, 0)
	if err != nil {
		return err
	}
	return with(value)
}
