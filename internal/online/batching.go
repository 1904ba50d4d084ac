package online

import "time"

// Batching asks that requests which wait for a worker are scored together, by one run.
type Batching struct {
	MaxSize int           `json:"maxSize"`           // requests of one batch
	MaxWait time.Duration `json:"maxWait,omitempty"` // for which a batch that could start may be held back
}

// Bounds and defaults of batches.
const (
	MinBatchSize     = 2 // one request is no batch
	MaxBatchSize     = 256
	DefaultBatchWait = 5 * time.Millisecond
	MaxBatchWait     = time.Second
)
