// Command portico-onnx is the worker that serves an ONNX model. `portico` starts it; it is of no use alone. It is a program of
// its own because loading a library makes it dynamically linked, which `portico` is not.
package main

import (
	"os"

	"portico/internal/onnxworker"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(onnxworker.Main(version)) }
