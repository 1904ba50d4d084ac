package onnxserve

import (
	"encoding/binary"
	"slices"

	"portico/internal/onnxrt"
)

// Tensors in binary form, an extension of the protocol: elements in row-major order, little-endian, without padding; a
// text is its length in 4 bytes and its bytes. Every machine that this runs on is little-endian, see worker pages.

const lengthBytes = 4 // before a text

// binary takes the elements in binary form. The shape is known.
func (t *tensor) binary(blob []byte) error {
	if t.info.Element == onnxrt.String {
		return t.binaryTexts(blob)
	}
	if want := t.wanted * int64(t.size); int64(len(blob)) != want {
		return badf("Input %q: expected %d bytes for shape %s, got %d.", t.info.Name, want, shapeText(t.shape, nil), len(blob))
	}
	if t.info.Element == onnxrt.Bool && slices.ContainsFunc(blob, func(b byte) bool { return b > 1 }) {
		return badf("Input %q: the bytes of a BOOL must be 0 or 1.", t.info.Name)
	}
	t.grow(len(blob))
	t.data = append(t.data, blob...)
	t.count = int(t.wanted)
	return nil
}

func (t *tensor) binaryTexts(blob []byte) error {
	for len(blob) > 0 && int64(t.count) <= t.wanted {
		if len(blob) < lengthBytes {
			return badf("Input %q: the binary data end inside a length.", t.info.Name)
		}
		n := int64(binary.LittleEndian.Uint32(blob))
		if blob = blob[lengthBytes:]; n > int64(len(blob)) {
			return badf("Input %q: the binary data end inside a text.", t.info.Name)
		}
		t.data = append(t.data, blob[:n]...)
		t.ends = append(t.ends, len(t.data))
		t.count++
		blob = blob[n:]
	}
	return t.counted()
}

// appendBinary appends a tensor in binary form.
func appendBinary(b []byte, v *onnxrt.Value) []byte {
	if v.Element != onnxrt.String {
		return append(b, v.Data...)
	}
	for i := range v.Count() {
		text := textOf(v, i)
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(text))), text...)
	}
	return b
}
