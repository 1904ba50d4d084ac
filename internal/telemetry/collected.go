package telemetry

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Why an event of a data collector was not kept.
const (
	UncollectedQueue   = "queue_full"   // too much waits to be written
	UncollectedStorage = "storage_full" // the server's limit for collected data is reached, or the disk is full
	UncollectedWrite   = "write_failed"
	UncollectedSize    = "too_large"
	UncollectedInvalid = "invalid_event"
	UncollectedUnknown = "unknown_collection" // the deployment has none of that name, or it is not enabled
)

// MaxCollectedRows bounds the rows of history that are kept of collected data; the oldest minutes go first.
const MaxCollectedRows = 100_000

// Collected names what an event belongs to.
type Collected struct {
	Endpoint, Deployment, Instance, Collection string
	Reason                                     string // why it was not kept; empty: it was
}

// CollectedMinute counts the events of one kind in one minute.
type CollectedMinute struct {
	Time time.Time // its beginning, UTC
	Collected
	Events uint64
}

// collectedHistory adds up the events of data collectors by minute.
type collectedHistory struct {
	mu      sync.Mutex
	minutes map[int64]map[Collected]uint64
	rows    int
}

// Collected counts an event of a data collector.
func (t *Telemetry) Collected(c Collected) {
	if c.Reason == "" {
		t.prom.collected.WithLabelValues(c.Endpoint, c.Deployment, c.Collection).Inc()
	} else {
		t.prom.uncollected.WithLabelValues(c.Endpoint, c.Deployment, c.Collection, c.Reason).Inc()
	}
	t.collected.add(c, minuteOf(time.Now()))
}

func (h *collectedHistory) add(c Collected, minute int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.minutes == nil {
		h.minutes = map[int64]map[Collected]uint64{}
	}
	m := h.minutes[minute]
	if m == nil {
		m = map[Collected]uint64{}
		h.minutes[minute] = m
	}
	if _, known := m[c]; !known {
		c.Endpoint, c.Deployment, c.Instance = strings.Clone(c.Endpoint), strings.Clone(c.Deployment), strings.Clone(c.Instance)
		c.Collection = strings.Clone(c.Collection)
		h.rows++
	}
	m[c]++
	for h.rows > MaxCollectedRows && len(h.minutes) > 1 {
		h.dropOldest()
	}
}

func (h *collectedHistory) dropOldest() {
	oldest := int64(0)
	for minute := range h.minutes {
		if oldest == 0 || minute < oldest {
			oldest = minute
		}
	}
	h.rows -= len(h.minutes[oldest])
	delete(h.minutes, oldest)
}

func (h *collectedHistory) forget(cut int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for minute, m := range h.minutes {
		if minute < cut {
			h.rows -= len(m)
			delete(h.minutes, minute)
		}
	}
}

// CollectedMinutes gives what was counted of an endpoint's data collectors in every minute that overlaps [since, until),
// in order of time, and within a minute of deployment, instance, collection and reason.
func (t *Telemetry) CollectedMinutes(endpoint string, since, until time.Time) []CollectedMinute {
	from, to := minuteOf(since), minuteOf(until.Add(time.Minute-1))
	h := &t.collected
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []CollectedMinute
	for minute, m := range h.minutes {
		if minute < from || minute >= to {
			continue
		}
		for c, n := range m {
			if c.Endpoint == endpoint {
				out = append(out, CollectedMinute{Time: time.Unix(minute*60, 0).UTC(), Collected: c, Events: n})
			}
		}
	}
	slices.SortFunc(out, func(a, b CollectedMinute) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Deployment, b.Deployment), cmp.Compare(a.Instance, b.Instance),
			cmp.Compare(a.Collection, b.Collection), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}
