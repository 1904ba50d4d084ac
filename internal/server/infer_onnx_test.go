package server

import (
	"testing"
	"time"

	"portico/internal/inference"
	"portico/internal/online"
)

// TestInferBatchesAsConfigured: a model's configuration asks for batches unless the command line says something of them.
func TestInferBatchesAsConfigured(t *testing.T) {
	own := inference.Batching{MaxSize: 3, MaxWait: time.Millisecond}
	for name, c := range map[string]struct {
		cfg        InferConfig
		configured *online.Batching
		want       int
	}{
		"configured":      {InferConfig{MaxConcurrent: 256}, &online.Batching{MaxSize: 8}, 8},
		"fewer at once":   {InferConfig{MaxConcurrent: 4}, &online.Batching{MaxSize: 8}, 4},
		"the default":     {InferConfig{}, &online.Batching{MaxSize: 8}, 8},
		"of the command":  {InferConfig{Batching: own}, &online.Batching{MaxSize: 8}, 3},
		"off":             {InferConfig{Batching: inference.Batching{MaxSize: 1}}, &online.Batching{MaxSize: 8}, 1},
		"nothing is said": {InferConfig{}, nil, 0},
	} {
		if c.cfg.batchAsConfigured(c.configured); c.cfg.Batching.MaxSize != c.want {
			t.Errorf("%s: %+v, want %d", name, c.cfg.Batching, c.want)
		}
	}
}
