package access

import (
	"math"
	"sync"
	"time"
)

// Bounds of a Limiter.
const (
	// AttemptBurst is how many attempts one source may make at once, AttemptRate how many a second it may go on with.
	AttemptBurst = 100
	AttemptRate  = 20
	// maxSources is how many sources are told apart. Beyond it the ones that wait least are forgotten.
	maxSources = 4096
	rounding   = 1e-6 // of an attempt
)

// Limiter bounds how often each of many sources may try something. The zero value is ready; it is safe for
// concurrent use.
type Limiter struct {
	mu      sync.Mutex
	sources map[string]bucket
}

// bucket is empty when spent reaches AttemptBurst; it refills by AttemptRate a second.
type bucket struct {
	spent float64
	at    time.Time
}

func (b bucket) level(now time.Time) float64 {
	// A clock that was set back must not lock anybody out: no time has passed then.
	passed := max(now.Sub(b.at), 0)
	return max(b.spent-passed.Seconds()*AttemptRate, 0)
}

// Allow counts an attempt of a source. When it may not be made, wait is how long until it may.
func (l *Limiter) Allow(source string, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	spent := l.sources[source].level(now)
	// Levels are sums of fractions: what is over by no more than their rounding is not over.
	if over := spent + 1 - AttemptBurst; over > rounding {
		return time.Duration(math.Ceil(over / AttemptRate * float64(time.Second))), false
	}
	if l.sources == nil {
		l.sources = map[string]bucket{}
	}
	if _, known := l.sources[source]; !known && len(l.sources) >= maxSources {
		l.forget(now)
	}
	l.sources[source] = bucket{spent: spent + 1, at: now}
	return 0, true
}

// forget drops the sources whose buckets are full again and, if that is none, the one that has spent least.
func (l *Limiter) forget(now time.Time) {
	least, found := "", float64(AttemptBurst+1)
	for source, b := range l.sources {
		level := b.level(now)
		if level == 0 {
			delete(l.sources, source)
		} else if level < found {
			least, found = source, level
		}
	}
	if len(l.sources) >= maxSources {
		delete(l.sources, least)
	}
}
