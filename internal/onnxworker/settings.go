package onnxworker

import (
	"encoding/json"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
	"time"

	"portico/internal/onnxrt"
	"portico/internal/onnxserve"
)

// Environment variables. Those with the prefix PORTICO_ are set by whoever starts the worker; the others are settings
// of the deployment.
const (
	varLibrary = "PORTICO_ONNX_LIBRARY" // file of ONNX Runtime
	varModel   = "PORTICO_ONNX_MODEL"   // file of the model
	varName    = "PORTICO_ONNX_NAME"    // of the model, in the Open Inference Protocol
	varVersion = "PORTICO_ONNX_VERSION" // likewise
	// varDeclared is what the configuration of a model repository says, an onnxserve.Declared in JSON; may be empty.
	varDeclared = "PORTICO_ONNX_DECLARED"

	varBatching = "PORTICO_BATCHING" // "true": joint requests come

	varThreads      = "ONNX_THREADS"      // threads of one run
	varConcurrency  = "ONNX_CONCURRENCY"  // requests at once
	varOptimization = "ONNX_OPTIMIZATION" // of the graph: none, basic, extended, all
	varProviders    = "ONNX_PROVIDERS"    // execution providers: only the processor's is there

	// Those of the reference inference server.
	varOrigins = "AML_CORS_ORIGINS"   // whose pages may read the answers
	varTimeout = "SCORING_TIMEOUT_MS" // of one run

	// varShare is how many processors are this worker's share; engines size thread pools with it.
	varShare = "OMP_NUM_THREADS"
)

const (
	maxThreads = 256
	// defaultTimeoutMS is the reference server's; it, and what is longer, is left to the deadline of a request.
	defaultTimeoutMS = 3_600_000
	maxConcurrency   = lanesMax - 2 // two lanes are for requests that come ahead of their turn
)

type settings struct {
	library, model, name, version string
	declared                      onnxserve.Declared
	concurrency                   int
	runLimit                      time.Duration // 0: none
	batching                      bool
	origins                       *origins
	options                       onnxrt.Options
}

var optimizations = map[string]onnxrt.Optimization{
	"none": onnxrt.OptimizeNone, "basic": onnxrt.OptimizeBasic, "extended": onnxrt.OptimizeExtended, "": onnxrt.OptimizeAll,
	"all": onnxrt.OptimizeAll,
}

func readSettings(getenv func(string) string) (*settings, error) {
	s := &settings{library: getenv(varLibrary), model: getenv(varModel), name: getenv(varName), version: getenv(varVersion),
		batching: getenv(varBatching) == "true"}
	for name, value := range map[string]string{varLibrary: s.library, varModel: s.model, varName: s.name, varVersion: s.version} {
		if value == "" {
			return nil, fmt.Errorf("the worker is started without %s", name)
		}
	}
	if text := getenv(varDeclared); text != "" {
		if err := json.Unmarshal([]byte(text), &s.declared); err != nil {
			return nil, fmt.Errorf("read %s: %w", varDeclared, err)
		}
	}
	share := runtime.NumCPU()
	if n, err := strconv.Atoi(getenv(varShare)); err == nil && n > 0 {
		share = n
	}
	var err error
	if s.options.Threads, err = number(getenv, varThreads, 1, maxThreads); err != nil {
		return nil, err
	}
	// A run that uses several threads needs as many processors.
	ahead := max(share/s.options.Threads, 1)
	if s.concurrency, err = number(getenv, varConcurrency, min(ahead, maxConcurrency), maxConcurrency); err != nil {
		return nil, err
	}
	timeout, err := number(getenv, varTimeout, defaultTimeoutMS, math.MaxInt32)
	if err != nil {
		return nil, err
	}
	if timeout < defaultTimeoutMS {
		s.runLimit = time.Duration(timeout) * time.Millisecond
	}
	if s.origins, err = readOrigins(getenv(varOrigins)); err != nil {
		return nil, err
	}
	level, ok := optimizations[strings.ToLower(getenv(varOptimization))]
	if !ok {
		return nil, fmt.Errorf("the setting %s is %.40q, which is not one of none, basic, extended, all", varOptimization,
			getenv(varOptimization))
	}
	s.options.Optimization = level
	if p := getenv(varProviders); p != "" && p != "CPUExecutionProvider" {
		return nil, fmt.Errorf("the setting %s is %.80q, but only CPUExecutionProvider is implemented", varProviders, p)
	}
	return s, nil
}

func number(getenv func(string) string, name string, fallback, most int) (int, error) {
	text := getenv(name)
	if text == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("the setting %s is %.40q, which is not a number from 1 to %d", name, text, most)
	}
	return n, nil
}
