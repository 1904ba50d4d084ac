package onnxserve

import (
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"

	"portico/internal/onnxrt"
)

// writeValue appends a value as JSON: nested lists, lists of the elements of a sequence, objects for maps.
func (e *Executor) writeValue(v onnxrt.Value) error {
	switch v.Kind {
	case onnxrt.Tensor:
		e.writeTensor(&v)
		return nil
	case onnxrt.Sequence:
		n, err := e.runner.Length(v)
		if err != nil {
			return err
		}
		return e.writeSequence(v, 0, n)
	}
	return e.writeMap(v)
}

// writeSequence appends the elements of a sequence from one up to another.
func (e *Executor) writeSequence(v onnxrt.Value, from, to int) error {
	e.out = append(e.out, '[')
	err := e.runner.Range(v, from, to, func(i int, inner onnxrt.Value) error {
		if i > from {
			e.out = append(e.out, ", "...)
		}
		return e.writeValue(inner)
	})
	e.out = append(e.out, ']')
	return err
}

// writeMap appends the keys and the values of a map, which are two tensors.
func (e *Executor) writeMap(v onnxrt.Value) error {
	return e.runner.Pair(v, func(keys, values onnxrt.Value) error {
		e.out = append(e.out, '{')
		for i := range keys.Count() {
			if i > 0 {
				e.out = append(e.out, ", "...)
			}
			if keys.Element == onnxrt.String {
				e.out = appendElement(e.out, &keys, i)
			} else {
				e.out = append(appendElement(append(e.out, '"'), &keys, i), '"')
			}
			e.out = appendElement(append(e.out, ": "...), &values, i)
		}
		e.out = append(e.out, '}')
		return nil
	})
}

// writeTensor appends the elements in nested lists.
func (e *Executor) writeTensor(v *onnxrt.Value) {
	if len(v.Shape) == 0 {
		e.out = appendElement(e.out, v, 0)
		return
	}
	e.out, _ = appendNested(e.out, v, v.Shape, 0)
}

func appendNested(b []byte, v *onnxrt.Value, shape []int64, at int) ([]byte, int) {
	b = append(b, '[')
	if len(shape) == 1 {
		b = appendElements(b, v, at, int(shape[0]))
		return append(b, ']'), at + int(shape[0])
	}
	for i := range shape[0] {
		if i > 0 {
			b = append(b, ", "...)
		}
		b, at = appendNested(b, v, shape[1:], at)
	}
	return append(b, ']'), at
}

// appendElements appends n elements of a tensor, from the one at.
func appendElements(b []byte, v *onnxrt.Value, at, n int) []byte {
	for i := at; i < at+n; i++ {
		if i > at {
			b = append(b, ", "...)
		}
		b = appendElement(b, v, i)
	}
	return b
}

// appendElement appends the i-th element of a tensor.
func appendElement(b []byte, v *onnxrt.Value, i int) []byte {
	d := v.Data
	switch v.Element {
	case onnxrt.Float32:
		return appendFloat(b, float64(math.Float32frombits(binary.NativeEndian.Uint32(d[4*i:]))), 32)
	case onnxrt.Float64:
		return appendFloat(b, math.Float64frombits(binary.NativeEndian.Uint64(d[8*i:])), 64)
	case onnxrt.Float16:
		return appendFloat(b, float64(unhalf(binary.NativeEndian.Uint16(d[2*i:]))), 32)
	case onnxrt.BFloat16:
		return appendFloat(b, float64(unbrain(binary.NativeEndian.Uint16(d[2*i:]))), 32)
	case onnxrt.Int64:
		return strconv.AppendInt(b, int64(binary.NativeEndian.Uint64(d[8*i:])), 10)
	case onnxrt.Int32:
		return strconv.AppendInt(b, int64(int32(binary.NativeEndian.Uint32(d[4*i:]))), 10)
	case onnxrt.Int16:
		return strconv.AppendInt(b, int64(int16(binary.NativeEndian.Uint16(d[2*i:]))), 10)
	case onnxrt.Int8:
		return strconv.AppendInt(b, int64(int8(d[i])), 10)
	case onnxrt.Uint64:
		return strconv.AppendUint(b, binary.NativeEndian.Uint64(d[8*i:]), 10)
	case onnxrt.Uint32:
		return strconv.AppendUint(b, uint64(binary.NativeEndian.Uint32(d[4*i:])), 10)
	case onnxrt.Uint16:
		return strconv.AppendUint(b, uint64(binary.NativeEndian.Uint16(d[2*i:])), 10)
	case onnxrt.Uint8:
		return strconv.AppendUint(b, uint64(d[i]), 10)
	case onnxrt.Bool:
		return strconv.AppendBool(b, d[i] != 0)
	}
	return appendText(b, textOf(v, i))
}

// textOf is the i-th text of a tensor of strings.
func textOf(v *onnxrt.Value, i int) []byte {
	from := 0
	if i > 0 {
		from = v.Ends[i-1]
	}
	return v.Data[from:v.Ends[i]]
}

// appendFloat appends the shortest decimal that reads back as the same number. JSON has no form for what is not finite:
// that is null.
func appendFloat(b []byte, f float64, bits int) []byte {
	if f != f || f-f != 0 {
		return append(b, "null"...)
	}
	if f == 0 && !math.Signbit(f) {
		return append(b, "0.0"...)
	}
	form := byte('f')
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e16) {
		form = 'e'
	}
	from := len(b)
	b = strconv.AppendFloat(b, f, form, -1, bits)
	if form == 'e' {
		return b
	}
	for _, c := range b[from:] {
		if c == '.' {
			return b
		}
	}
	return append(b, ".0"...) // so that it reads back as a floating-point number, as Python writes it
}

// quote makes a JSON text.
func quote(s string) string { return string(appendText(nil, []byte(s))) }

const hexDigits = "0123456789abcdef"

// appendText appends a JSON text. What is not UTF-8 becomes U+FFFD.
func appendText(b, s []byte) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(append(b, s[from:i]...), "\uFFFD"...)
				from = i + 1
			}
			i += size
			continue
		}
		b = append(b, s[from:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
		}
		i++
		from = i
	}
	return append(append(b, s[from:]...), '"')
}
