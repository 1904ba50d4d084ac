// Package onnx finds ONNX models in trees of files, and keeps ONNX Runtime, the library that runs them.
//
// It owns the rules by which a tree is an ONNX model, and the version and digests of the library. It loads neither: that
// is for the worker process. Installing asks the machine's own package client and believes nothing but the digest.
package onnx
