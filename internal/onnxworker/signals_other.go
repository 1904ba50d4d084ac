//go:build !linux

package onnxworker

// blockSignals does nothing here.
func blockSignals() func() { return func() {} }
