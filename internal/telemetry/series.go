package telemetry

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type seriesKey struct {
	endpoint, deployment string
	mirror               bool // copies are counted apart: callers of the endpoint did not send them
}

// clone frees the key of the memory that the record's strings share.
func (k seriesKey) clone() seriesKey {
	return seriesKey{strings.Clone(k.endpoint), strings.Clone(k.deployment), k.mirror}
}

// series is everything counted of one deployment (or of the requests that reached none of an endpoint). Its lock
// is shared only by requests of that deployment.
type series struct {
	mu      sync.Mutex
	minute  int64 // Unix minute that live belongs to; 0 when live is empty
	live    cell
	last    int64 // minute of the newest count; of its making, while nothing was counted
	history []packedMinute
	prom    *promSeries
	byCode  []codeCounter // resolved counters of the statuses seen
}

type codeCounter struct {
	status, model int
	counter       prometheus.Counter
}

// packedMinute is immutable. The clock may have been set back, so that a minute can occur twice and out of order.
type packedMinute struct {
	minute int64
	data   []byte
}

// packedOverhead is what a packedMinute takes besides its data: the struct and the slack of an allocation.
const packedOverhead = 48

func (p packedMinute) size() int64 { return int64(cap(p.data)) + packedOverhead }

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }

// newSeries makes a series that is about to be counted in: it is not idle, although it has nothing yet.
func newSeries(prom *promSeries, now time.Time) *series {
	return &series{prom: prom, last: minuteOf(now)}
}

func (s *series) record(r *Record) {
	minute := minuteOf(r.Arrival.Add(r.Total))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.minute != minute {
		s.packLocked()
		s.minute = minute
		s.last = minute
	}
	s.live.add(r)
	s.counterLocked(r.Status, r.ModelStatus).Inc()
	s.prom.add(r)
}

// dropped notes that something was counted in a minute although there is no record of it.
func (s *series) dropped(minute int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = max(s.last, minute)
}

func (s *series) counterLocked(status, model int) prometheus.Counter {
	for i := range s.byCode {
		if c := &s.byCode[i]; c.status == status && c.model == model {
			return c.counter
		}
	}
	c := codeCounter{status, model, s.prom.status(status, model)}
	s.byCode = append(s.byCode, c)
	return c.counter
}

func (s *series) packLocked() {
	if len(s.live.statuses) > 0 {
		s.history = append(s.history, packedMinute{s.minute, s.live.pack()})
		s.live.reset()
	}
	s.minute = 0
}

// finish packs the live minute when it is another than now.
func (s *series) finish(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.minute != now {
		s.packLocked()
	}
}

// past gives the packed minutes. The slice is never written again below its length.
func (s *series) past() []packedMinute {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.history[:len(s.history):len(s.history)]
}

// forget drops the minutes before cut.
func (s *series) forget(cut int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := 0
	for _, p := range s.history {
		if p.minute < cut {
			old++
		}
	}
	if old == 0 {
		return
	}
	kept := make([]packedMinute, 0, len(s.history)-old)
	for _, p := range s.history {
		if p.minute >= cut {
			kept = append(kept, p)
		}
	}
	s.history = kept
}

// idleSince says whether nothing is kept and nothing was counted in or after the minute cut.
func (s *series) idleSince(cut int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.history) == 0 && s.minute == 0 && s.last < cut
}

// each calls fn with every minute of [from, to) that has requests. A minute may come in several parts.
func (s *series) each(from, to int64, fn func(minute int64, c *cell)) {
	s.mu.Lock()
	if s.minute >= from && s.minute < to && len(s.live.statuses) > 0 {
		live := s.live
		live.statuses = slices.Clone(s.live.statuses)
		defer fn(s.minute, &live)
	}
	history := s.history[:len(s.history):len(s.history)]
	s.mu.Unlock()
	for _, p := range history {
		if p.minute >= from && p.minute < to {
			var c cell
			c.addPacked(p.data)
			fn(p.minute, &c)
		}
	}
}

// sum adds the minutes of [from, to) to c.
func (s *series) sum(c *cell, from, to int64) {
	s.mu.Lock()
	if s.minute >= from && s.minute < to {
		c.merge(&s.live)
	}
	history := s.history[:len(s.history):len(s.history)]
	s.mu.Unlock()
	for _, p := range history {
		if p.minute >= from && p.minute < to {
			c.addPacked(p.data)
		}
	}
}
