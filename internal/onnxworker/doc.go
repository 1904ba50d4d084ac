// Package onnxworker is the worker process that serves an ONNX model: the program portico-onnx.
//
// It owns the worker's side of the worker protocol, as the Python worker does: the status page, the connections,
// cancellation, the way out. It serves several requests at once, each on a lane of its own. What is answered is
// onnxserve's business.
package onnxworker
