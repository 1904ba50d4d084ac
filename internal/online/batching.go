package online

import "time"

// Batching asks that requests which wait for a worker are scored together, by one run. It is Portico's own: Azure has
// nothing like it.
type Batching struct {
	MaxSize int           `json:"maxSize"` // requests of one batch
	MaxWait time.Duration `json:"maxWait"` // for which a batch that could start may be held back
}

// Names of batching's settings on the wire.
const (
	PropertyBatchSize = "portico.batching.max-size"
	PropertyBatchWait = "portico.batching.max-wait"
)

// Bounds and defaults of batches.
const (
	MinBatchSize     = 2 // one request is no batch
	MaxBatchSize     = 256
	DefaultBatchWait = 5 * time.Millisecond
	MinBatchWait     = time.Millisecond
	MaxBatchWait     = time.Second
)

func (b *Batching) fill() {
	if b.MaxWait == 0 {
		b.MaxWait = DefaultBatchWait
	}
}

// concurrent is how many requests an instance of so many workers should admit: one batch runs on each worker while the
// next one gathers.
func (b *Batching) concurrent(workers int) int {
	return min(2*b.MaxSize*workers, MaxMaxConcurrent)
}

func (b *Batching) validate(maxConcurrent int) []*Error {
	var faults []*Error
	add := func(target, format string, args ...any) {
		faults = append(faults, Errorf(CodeBadArgument, target, format, args...))
	}
	const size, wait = "properties.properties." + PropertyBatchSize, "properties.properties." + PropertyBatchWait
	switch {
	case b.MaxSize == 0:
		add(size, "batching needs a max size: the most requests of one batch")
	case b.MaxSize < MinBatchSize || b.MaxSize > MaxBatchSize:
		add(size, "max size %d of a batch is not between %d and %d", b.MaxSize, MinBatchSize, MaxBatchSize)
	case b.MaxSize > maxConcurrent && maxConcurrent > 0:
		add("properties.requestSettings.maxConcurrentRequestsPerInstance",
			"max concurrent requests per instance %d is less than the max size %d of a batch, so no batch could be full; leave it out for %d",
			maxConcurrent, b.MaxSize, b.concurrent(1))
	}
	if b.MaxWait < MinBatchWait || b.MaxWait > MaxBatchWait {
		add(wait, "max wait %s of a batch is not between %s and %s", b.MaxWait, MinBatchWait, MaxBatchWait)
	}
	return faults
}
