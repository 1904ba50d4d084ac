package onnxrt

import (
	"errors"
	"fmt"
)

// Kind says what a value is, numbered as in the library.
type Kind uint8

// The kinds that are carried.
const (
	Tensor   Kind = 1
	Sequence Kind = 2
	Map      Kind = 3
)

// Info describes an input or an output.
type Info struct {
	Name string
	Kind Kind
	// Of a tensor:
	Element Element
	Ranked  bool    // the model says how many dimensions there are
	Shape   []int64 // -1: any size
	Symbols []string
	// Of a sequence its elements, of a map its values; and of a map the type of its keys.
	Inner *Info
	Key   Element
}

// maxRank bounds the dimensions of a tensor.
const maxRank = 64

// errUnsupported: the model has a value of a kind that is not carried.
var errUnsupported = errors.New("is neither a tensor, nor a sequence, nor a map of supported elements")

// describe reads a type and releases it.
func (l *Library) describe(typeInfo uintptr) (*Info, error) {
	defer l.release(fnReleaseTypeInfo, typeInfo)
	var kind, cast uintptr // each call writes what it has: 4 or 8 bytes of a zero word
	if err := l.call(fnGetOnnxTypeFromTypeInfo, typeInfo, out(&kind)); err != nil {
		return nil, err
	}
	info := &Info{Kind: Kind(kind)}
	switch info.Kind {
	case Tensor:
		if err := l.call(fnCastTypeInfoToTensorInfo, typeInfo, out(&cast)); err != nil {
			return nil, err
		}
		return info, l.describeTensor(cast, info)
	case Sequence:
		if err := l.call(fnCastTypeInfoToSequenceTypeInfo, typeInfo, out(&cast)); err != nil {
			return nil, err
		}
		return info, l.describeInner(fnGetSequenceElementType, cast, info)
	case Map:
		if err := l.call(fnCastTypeInfoToMapTypeInfo, typeInfo, out(&cast)); err != nil {
			return nil, err
		}
		var key uintptr
		if err := l.call(fnGetMapKeyType, cast, out(&key)); err != nil {
			return nil, err
		}
		info.Key = Element(key)
		return info, l.describeInner(fnGetMapValueType, cast, info)
	}
	return nil, errUnsupported
}

func (l *Library) describeInner(fn int, of uintptr, info *Info) error {
	var inner uintptr
	err := l.call(fn, of, out(&inner))
	if err != nil {
		return err
	}
	info.Inner, err = l.describe(inner)
	return err
}

func (l *Library) describeTensor(shape uintptr, info *Info) error {
	var element, rank, ranked uintptr
	if err := l.call(fnGetTensorElementType, shape, out(&element)); err != nil {
		return err
	}
	if info.Element = Element(element); !info.Element.Known() {
		return errUnsupported
	}
	has := l.fn[fnTensorTypeAndShapeHasShape]
	if has != 0 {
		ranked = l.ask(fnTensorTypeAndShapeHasShape, shape)
	}
	if err := l.call(fnGetDimensionsCount, shape, out(&rank)); err != nil {
		return err
	}
	if rank > maxRank {
		return fmt.Errorf("has %d dimensions: %w", rank, errUnsupported)
	}
	info.Ranked = ranked&0xff != 0
	if rank == 0 {
		return nil
	}
	info.Shape = make([]int64, rank)
	names := make([]uintptr, rank)
	if err := l.call(fnGetDimensions, shape, address(info.Shape), rank); err != nil {
		return err
	}
	if err := l.call(fnGetSymbolicDimensions, shape, address(names), rank); err != nil {
		return err
	}
	for i, name := range names {
		info.Symbols = append(info.Symbols, text(name))
		info.Shape[i] = max(info.Shape[i], -1)
	}
	return nil
}
