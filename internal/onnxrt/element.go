package onnxrt

// Element is the type of a tensor's elements, numbered as in the library.
type Element uint8

// The types that are carried.
const (
	Float32  Element = 1
	Uint8    Element = 2
	Int8     Element = 3
	Uint16   Element = 4
	Int16    Element = 5
	Int32    Element = 6
	Int64    Element = 7
	String   Element = 8
	Bool     Element = 9
	Float16  Element = 10
	Float64  Element = 11
	Uint32   Element = 12
	Uint64   Element = 13
	BFloat16 Element = 16
)

// elements are the names, of ONNX and of the Open Inference Protocol, and the size in bytes.
var elements = [17]struct {
	name, wire string
	size       int
}{
	Float32: {"float32", "FP32", 4}, Float64: {"float64", "FP64", 8}, Float16: {"float16", "FP16", 2},
	BFloat16: {"bfloat16", "BF16", 2}, String: {"string", "BYTES", 0}, Bool: {"bool", "BOOL", 1},
	Int8: {"int8", "INT8", 1}, Int16: {"int16", "INT16", 2}, Int32: {"int32", "INT32", 4}, Int64: {"int64", "INT64", 8},
	Uint8: {"uint8", "UINT8", 1}, Uint16: {"uint16", "UINT16", 2}, Uint32: {"uint32", "UINT32", 4},
	Uint64: {"uint64", "UINT64", 8},
}

// Known says whether tensors of this type can be carried.
func (e Element) Known() bool { return int(e) < len(elements) && elements[e].name != "" }

// String is ONNX's name of the type.
func (e Element) String() string {
	if e.Known() {
		return elements[e].name
	}
	return "a type that is not supported"
}

// Wire is the name of the type in the Open Inference Protocol.
func (e Element) Wire() string { return elements[e].wire }

// Size is that of an element in bytes; 0 for strings.
func (e Element) Size() int { return elements[e].size }
