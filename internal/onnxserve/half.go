package onnxserve

import "math"

// half rounds to the nearest number of 16 bits (IEEE 754 binary16), ties to even.
func half(f float64) uint16 {
	sign := uint16(math.Float64bits(f) >> 48 & 0x8000)
	f = math.Abs(f)
	switch {
	case math.IsNaN(f):
		return sign | 0x7e00
	case f >= 65520: // halfway between the largest and what would follow
		return sign | 0x7c00
	case f < 0x1p-14: // subnormal: a multiple of 2^-24
		return sign | uint16(math.RoundToEven(f*0x1p24))
	}
	fraction, exponent := math.Frexp(f) // fraction in [0.5, 1)
	m := math.RoundToEven(fraction * 0x1p11)
	// A mantissa that rounds up to the next power of two carries into the exponent.
	return sign | uint16(int(m)-1<<10+(exponent+14)<<10)
}

// unhalf is the value of a number of 16 bits.
func unhalf(h uint16) float32 {
	exponent, mantissa := h>>10&0x1f, float64(h&0x3ff)
	var f float64
	switch {
	case exponent == 0:
		f = mantissa * 0x1p-24
	case exponent == 0x1f && mantissa != 0:
		return float32(math.NaN())
	case exponent == 0x1f:
		f = math.Inf(1)
	default:
		f = math.Ldexp(1+mantissa/0x1p10, int(exponent)-15)
	}
	if h&0x8000 != 0 {
		f = -f
	}
	return float32(f)
}

// brain rounds to the nearest bfloat16, ties to even.
func brain(f float64) uint16 {
	if math.IsNaN(f) {
		return 0x7fc0
	}
	bits := math.Float32bits(float32(f))
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

func unbrain(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }
