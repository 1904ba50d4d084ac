// Package onnxrt calls ONNX Runtime's C interface without cgo: the library is loaded at run time, and its table of
// functions is called by index.
//
// It owns the memory that crosses that border: what the library made is released here, and what Go made is kept
// reachable as long as the library may read it. It knows no JSON, no HTTP and no deployment. A program that imports it
// is linked dynamically, so `portico` itself never does.
package onnxrt
