package telemetry

import (
	"encoding/binary"
	"math/bits"
	"time"
)

// Latencies are counted in buckets that grow by eighths of a power of two, so that a percentile is off by at most
// a sixteenth of its value, from 64 microseconds to beyond the longest request timeout (180 s).
const (
	lowestExponent  = 6  // 2^6 us
	highestExponent = 27 // 2^28 us = 268 s
	subBuckets      = 8
	bucketCount     = 1 + (highestExponent-lowestExponent+1)*subBuckets
)

func bucketOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	exponent := bits.Len64(us) - 1
	if exponent < lowestExponent {
		return 0
	}
	if exponent > highestExponent {
		return bucketCount - 1
	}
	sub := int(us>>(exponent-3)) & (subBuckets - 1)
	return 1 + (exponent-lowestExponent)*subBuckets + sub
}

// bucketBounds gives the half-open range of a bucket.
func bucketBounds(i int) (low, high time.Duration) {
	if i == 0 {
		return 0, time.Microsecond << lowestExponent
	}
	exponent, sub := lowestExponent+(i-1)/subBuckets, (i-1)%subBuckets
	width := time.Microsecond << (exponent - 3)
	low = time.Microsecond<<exponent + time.Duration(sub)*width
	return low, low + width
}

// statusCount counts the requests of one (status, model status).
type statusCount struct {
	status, model int
	n             uint64
}

// cell is what is known of a stretch of time: a minute while it lasts, or the sum of several.
type cell struct {
	statuses      []statusCount
	soft          uint64
	requestBytes  uint64
	responseBytes uint64
	latency       time.Duration // sum
	queue         time.Duration // sum
	fastest       time.Duration // of at least one request
	slowest       time.Duration
	buckets       [bucketCount]uint64
}

func (c *cell) count(status, model int, n uint64) {
	for i := range c.statuses {
		if s := &c.statuses[i]; s.status == status && s.model == model {
			s.n += n
			return
		}
	}
	c.statuses = append(c.statuses, statusCount{status, model, n})
}

func (c *cell) add(r *Record) {
	if len(c.statuses) == 0 || r.Total < c.fastest {
		c.fastest = r.Total
	}
	c.count(r.Status, r.ModelStatus, 1)
	if r.SoftFailure {
		c.soft++
	}
	c.requestBytes += uint64(max(r.RequestBytes, 0))
	c.responseBytes += uint64(max(r.ResponseBytes, 0))
	c.latency += r.Total
	c.queue += r.Queue
	c.slowest = max(c.slowest, r.Total)
	c.buckets[bucketOf(r.Total)]++
}

func (c *cell) requests() uint64 {
	n := uint64(0)
	for _, s := range c.statuses {
		n += s.n
	}
	return n
}

func (c *cell) reset() {
	*c = cell{statuses: c.statuses[:0]}
}

// pack writes a cell as a run of variable-length integers: most minutes fill few buckets, so that a minute takes
// around a hundred bytes instead of 1,400.
func (c *cell) pack() []byte {
	var b []byte
	put := func(v uint64) { b = binary.AppendUvarint(b, v) }
	put(uint64(len(c.statuses)))
	for _, s := range c.statuses {
		put(uint64(s.status))
		put(uint64(s.model))
		put(s.n)
	}
	put(c.soft)
	put(c.requestBytes)
	put(c.responseBytes)
	put(uint64(c.latency))
	put(uint64(c.queue))
	put(uint64(max(c.fastest, 0)))
	put(uint64(c.slowest))
	last := 0
	for i, n := range c.buckets {
		if n > 0 {
			put(uint64(i - last))
			put(n)
			last = i
		}
	}
	return b
}

// addPacked adds what pack wrote.
func (c *cell) addPacked(b []byte) {
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		b = b[n:]
		return v
	}
	first, n := len(c.statuses) == 0, next()
	for range n {
		status, model := int(next()), int(next())
		c.count(status, model, next())
	}
	c.soft += next()
	c.requestBytes += next()
	c.responseBytes += next()
	c.latency += time.Duration(next())
	c.queue += time.Duration(next())
	if fastest := time.Duration(next()); n > 0 && (first || fastest < c.fastest) {
		c.fastest = fastest
	}
	c.slowest = max(c.slowest, time.Duration(next()))
	at := 0
	for len(b) > 0 {
		at += int(next())
		c.buckets[at] += next()
	}
}

// merge adds another cell.
func (c *cell) merge(o *cell) {
	if len(o.statuses) > 0 && (len(c.statuses) == 0 || o.fastest < c.fastest) {
		c.fastest = o.fastest
	}
	for _, s := range o.statuses {
		c.count(s.status, s.model, s.n)
	}
	c.soft += o.soft
	c.requestBytes += o.requestBytes
	c.responseBytes += o.responseBytes
	c.latency += o.latency
	c.queue += o.queue
	c.slowest = max(c.slowest, o.slowest)
	for i, n := range o.buckets {
		c.buckets[i] += n
	}
}

// percentile gives the latency below which the given share (0 to 1) of the requests stayed, spread evenly inside
// its bucket and never above the slowest.
func (c *cell) percentile(share float64) time.Duration {
	total := uint64(0)
	for _, n := range c.buckets {
		total += n
	}
	if total == 0 {
		return 0
	}
	rank := share * float64(total)
	seen := 0.0
	for i, n := range c.buckets {
		if n == 0 {
			continue
		}
		if seen+float64(n) >= rank {
			low, high := bucketBounds(i)
			within := (rank - seen) / float64(n)
			return min(low+time.Duration(within*float64(high-low)), c.slowest)
		}
		seen += float64(n)
	}
	return c.slowest
}
