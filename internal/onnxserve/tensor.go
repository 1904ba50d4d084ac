package onnxserve

import (
	"math"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"portico/internal/onnxrt"
)

// maxRank bounds the dimensions of what is read; ONNX models have few.
const maxRank = 16

// keptBytes is how much memory of one input is kept for the next request.
const keptBytes = 1 << 20

// tensor is an input that is being read from a request.
type tensor struct {
	info   *onnxrt.Info
	form   *form  // the model's shape is another; nil: it is not
	most   int64  // of the first dimension; 0: any
	size   int    // of an element
	data   []byte // of elements, at a multiple of eight; of texts, one behind the other
	ends   []int  // of texts: where each ends
	count  int    // of elements
	seen   bool
	rank   int // -1: not known yet
	dims   [maxRank]int64
	shape  []int64
	formed []int64 // the model's shape, where that is another
	rows   int64   // of a table: how many have a value for this input
	wanted int64   // of the protocol: the elements that the shape asks for
	kept   mark    // what was there before the request that is read now
}

// mark is how much of a tensor is there.
type mark struct{ data, ends int }

func newTensor(info *onnxrt.Info, f *form, most int64) *tensor {
	return &tensor{info: info, form: f, most: most, size: info.Element.Size(), shape: make([]int64, 0, maxRank)}
}

// reset prepares for the next request.
func (t *tensor) reset() {
	t.seen, t.rank, t.count, t.rows = false, -1, 0, 0
	for i := range t.dims {
		t.dims[i] = -1
	}
	t.data, t.ends, t.shape = t.data[:0], t.ends[:0], t.shape[:0]
}

// shrink lets go of memory that is not kept for the next request, and says whether there was any.
func (t *tensor) shrink() bool {
	if cap(t.data)+cap(t.ends)*int(unsafe.Sizeof(t.ends[0])) <= keptBytes {
		return false
	}
	t.data, t.ends = nil, nil
	return true
}

// again prepares for a request whose elements come behind those of others.
func (t *tensor) again() {
	data, ends := t.data, t.ends
	t.reset()
	t.data, t.ends = data, ends
	t.kept = mark{len(data), len(ends)}
}

// takeBack forgets the elements of the newest request.
func (t *tensor) takeBack() { t.data, t.ends = t.data[:t.kept.data], t.ends[:t.kept.ends] }

// grow makes room for more bytes, which lie at a multiple of eight.
func (t *tensor) grow(more int) {
	need := len(t.data) + more
	if need <= cap(t.data) {
		return
	}
	words := make([]uint64, (max(need, 2*cap(t.data), 256)+7)/8)
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 8*len(words))
	n := copy(bytes, t.data)
	t.data = bytes[:n]
}

// slot appends room for one element and gives its address.
func (t *tensor) slot() unsafe.Pointer {
	n := len(t.data)
	t.grow(t.size)
	t.data = t.data[:n+t.size]
	t.count++
	return unsafe.Add(unsafe.Pointer(unsafe.SliceData(t.data)), n)
}

// read takes a value at the given depth of a nested list, and learns the shape from it.
func (t *tensor) read(s *scanner, depth int) error {
	if s.next() != '[' {
		if t.rank < 0 {
			t.rank = depth
		} else if t.rank != depth {
			return t.ragged()
		}
		return t.element(s)
	}
	if t.rank >= 0 && depth >= t.rank {
		return t.ragged()
	}
	if depth >= maxRank {
		return badf("Input %q has more than %d dimensions.", t.info.Name, maxRank)
	}
	s.i++
	n := int64(0)
	if s.take(']') {
		if t.rank < 0 {
			t.rank = depth + 1
		}
	} else {
		for {
			if err := t.read(s, depth+1); err != nil {
				return err
			}
			n++
			if s.take(',') {
				continue
			}
			if s.take(']') {
				break
			}
			return s.wrong("',' or ']'")
		}
	}
	if t.dims[depth] < 0 {
		t.dims[depth] = n
	} else if t.dims[depth] != n {
		return t.ragged()
	}
	return nil
}

func (t *tensor) ragged() error {
	return badf("Input %q is not a regular list: its parts differ in length or depth.", t.info.Name)
}

// flat takes a list of elements whatever its nesting, as the protocol allows.
func (t *tensor) flat(s *scanner, depth int) error {
	if s.next() != '[' {
		if int64(t.count) == t.wanted {
			return badf("Input %q has more elements than the %d of its shape.", t.info.Name, t.wanted)
		}
		return t.element(s)
	}
	if depth >= maxRank {
		return badf("Input %q has more than %d dimensions.", t.info.Name, maxRank)
	}
	s.i++
	if s.take(']') {
		return nil
	}
	for {
		if err := t.flat(s, depth+1); err != nil {
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

// element takes one element.
func (t *tensor) element(s *scanner) error {
	c := s.next()
	switch {
	case t.info.Element == onnxrt.String:
		return t.text(s, c)
	case t.info.Element == onnxrt.Bool:
		if c != 't' && c != 'f' {
			return t.mismatch(s)
		}
		w, err := s.word()
		if err != nil {
			return err
		}
		*(*bool)(t.slot()) = w == 't'
		return nil
	case c == 'n' && t.float():
		if _, err := s.word(); err != nil {
			return err
		}
		t.put(math.NaN())
		return nil
	case c == '"' || c == '{' || c == 't' || c == 'f' || c == 'n':
		return t.mismatch(s)
	}
	from := s.i
	n, err := s.number()
	if err != nil {
		return err
	}
	if t.float() {
		t.put(n.float())
		return nil
	}
	if !t.whole(&n) {
		s.i = from
		return t.mismatch(s)
	}
	return nil
}

func (t *tensor) text(s *scanner, c byte) error {
	if c != '"' {
		return t.mismatch(s)
	}
	from := len(t.data)
	data, err := s.text(t.data)
	if err != nil {
		return err
	}
	if !utf8.Valid(data[from:]) {
		return badf("Input %q holds a text that is not UTF-8.", t.info.Name)
	}
	t.data = data
	t.ends = append(t.ends, len(data))
	t.count++
	return nil
}

// shown is how much of a wrong value an error shows.
const shown = 40

// mismatch says that the value that comes next is of another type.
func (t *tensor) mismatch(s *scanner) error {
	from := s.i
	if err := s.skip(0); err != nil {
		return err
	}
	got := string(s.b[from:s.i])
	if len(got) > shown {
		got = got[:shown] + "..."
	}
	return badf("Input %q: expected %s, got %s.", t.info.Name, t.info.Element, strconv.Quote(got))
}

func (t *tensor) float() bool {
	switch t.info.Element {
	case onnxrt.Float32, onnxrt.Float64, onnxrt.Float16, onnxrt.BFloat16:
		return true
	}
	return false
}

// put appends a floating-point element.
func (t *tensor) put(f float64) {
	at := t.slot()
	switch t.info.Element {
	case onnxrt.Float32:
		*(*float32)(at) = float32(f)
	case onnxrt.Float64:
		*(*float64)(at) = f
	case onnxrt.Float16:
		*(*uint16)(at) = half(f)
	default:
		*(*uint16)(at) = brain(f)
	}
}

// whole appends a whole number. False: it is none, or none of the element's type.
func (t *tensor) whole(n *number) bool {
	m, ok := n.magnitude()
	if !ok {
		return false
	}
	bits := uint(8 * t.size)
	if signed(t.info.Element) {
		limit := uint64(1) << (bits - 1)
		if n.negative {
			limit++
		}
		if m >= limit {
			return false
		}
	} else if n.negative && m != 0 || bits < 64 && m >= 1<<bits {
		return false
	}
	if n.negative {
		m = -m
	}
	at := t.slot()
	switch t.size {
	case 1:
		*(*uint8)(at) = uint8(m)
	case 2:
		*(*uint16)(at) = uint16(m)
	case 4:
		*(*uint32)(at) = uint32(m)
	default:
		*(*uint64)(at) = m
	}
	return true
}

func signed(e onnxrt.Element) bool {
	return e == onnxrt.Int8 || e == onnxrt.Int16 || e == onnxrt.Int32 || e == onnxrt.Int64
}

// settle turns what was read into a shape that the model takes. A list of values becomes a column where the model takes
// one, and nothing becomes an empty table.
func (t *tensor) settle() error {
	want := t.info.Shape
	rank := max(t.rank, 0)
	t.shape = append(t.shape[:0], t.dims[:rank]...)
	elements := int64(1)
	for i := range t.shape {
		t.shape[i] = max(t.shape[i], 0) // below an empty list
		elements *= t.shape[i]
	}
	if elements != int64(t.count) {
		return t.ragged()
	}
	if t.info.Ranked && len(t.shape) < len(want) {
		switch {
		case t.count == 0 && rank > 0:
			for _, d := range want[rank:] {
				t.shape = append(t.shape, max(d, 0))
			}
		case rank == 1 && len(want) == 2 && want[1] == 1:
			t.shape = append(t.shape, 1)
		}
	}
	return t.check()
}

// check compares the shape with the model's.
func (t *tensor) check() error {
	if !t.info.Ranked {
		return nil
	}
	if t.most > 0 && len(t.shape) > 0 && t.shape[0] > t.most {
		return badf("Input %q: expected at most %d rows (max_batch_size), got %d.", t.info.Name, t.most, t.shape[0])
	}
	good := len(t.shape) == len(t.info.Shape)
	for i := 0; good && i < len(t.shape); i++ {
		good = t.info.Shape[i] < 0 || t.info.Shape[i] == t.shape[i]
	}
	if good {
		return nil
	}
	return badf("Input %q: expected shape %s, got %s.", t.info.Name, shapeText(t.info.Shape, t.info.Symbols),
		shapeText(t.shape, nil))
}

// shapeText writes a shape; sizes that the model leaves open by their names.
func shapeText(shape []int64, symbols []string) string {
	text := "["
	for i, d := range shape {
		if i > 0 {
			text += ", "
		}
		switch {
		case d >= 0:
			text += strconv.FormatInt(d, 10)
		case i < len(symbols) && symbols[i] != "":
			text += symbols[i]
		default:
			text += "?"
		}
	}
	return text + "]"
}

// give hands the tensor to the runner as its i-th input.
func (t *tensor) give(r *onnxrt.Runner, i int) error {
	shape := t.shape
	if t.form != nil { // which check has compared
		t.formed, _ = reform(t.form.callers, t.form.model, t.shape, t.formed[:0])
		shape = t.formed
	}
	if t.info.Element == onnxrt.String {
		return r.SetStrings(i, t.data, t.ends, shape)
	}
	t.grow(t.size) // an empty tensor needs an address, too
	return r.SetTensor(i, t.data, shape)
}
