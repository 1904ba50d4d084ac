// Package onnxserve answers requests with an ONNX model: Azure's /score, the Open Inference Protocol below /v2, and
// /swagger.json.
//
// It owns how values become tensors and tensors become values. It works on bytes that are there whole: it opens no
// socket, starts no goroutine, and knows no worker protocol.
package onnxserve
