package telemetry

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Minute is what was counted of requests that ended in one minute. Times are milliseconds.
type Minute struct {
	Time          time.Time // its beginning, UTC
	Statuses      []StatusRow
	RequestBytes  uint64
	ResponseBytes uint64
	Latency       float64 // sum
	Fastest       float64
	Slowest       float64

	cell cell
}

// Requests is how many requests ended in the minute.
func (m *Minute) Requests() uint64 { return m.cell.requests() }

// Percentile is the latency in milliseconds below which a share (0 to 1) of all requests of some minutes stayed; 0
// without any request.
func Percentile(share float64, minutes ...Minute) float64 {
	if len(minutes) == 1 {
		return ms(minutes[0].cell.percentile(share))
	}
	var all cell
	for i := range minutes {
		all.merge(&minutes[i].cell)
	}
	return ms(all.percentile(share))
}

// Series is the history of one deployment, or of the requests of an endpoint that reached none.
type Series struct {
	Deployment string // empty: the requests that reached none
	Mirror     bool   // copies that the deployment was offered as a shadow
	Minutes    []Minute
}

// Minutes gives the minutes that overlap [since, until) in which requests of an endpoint ended, by deployment in
// order of name. The minute that is not over yet is in it.
func (t *Telemetry) Minutes(endpoint string, since, until time.Time) []Series {
	from, to := minuteOf(since), minuteOf(until.Add(time.Minute-1))
	var out []Series
	for key, s := range *t.series.Load() {
		if key.endpoint != endpoint {
			continue
		}
		cells := map[int64]*cell{}
		s.each(from, to, func(minute int64, c *cell) {
			if known := cells[minute]; known != nil {
				known.merge(c)
			} else {
				cells[minute] = c
			}
		})
		if len(cells) == 0 {
			continue
		}
		one := Series{Deployment: key.deployment, Mirror: key.mirror}
		for minute, c := range cells {
			one.Minutes = append(one.Minutes, c.minute(minute))
		}
		slices.SortFunc(one.Minutes, func(a, b Minute) int { return a.Time.Compare(b.Time) })
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b Series) int {
		return cmp.Or(cmp.Compare(a.Deployment, b.Deployment), compareBool(a.Mirror, b.Mirror))
	})
	return out
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (c *cell) minute(at int64) Minute {
	m := Minute{Time: time.Unix(at*60, 0).UTC(), RequestBytes: c.requestBytes, ResponseBytes: c.responseBytes,
		Latency: ms(c.latency), Fastest: ms(c.fastest), Slowest: ms(c.slowest), cell: *c}
	for _, s := range c.statuses {
		m.Statuses = append(m.Statuses, StatusRow{s.status, s.model, s.n})
	}
	slices.SortFunc(m.Statuses, func(a, b StatusRow) int {
		return cmp.Or(cmp.Compare(a.Status, b.Status), cmp.Compare(a.ModelStatus, b.ModelStatus))
	})
	return m
}

// ConnectionMinute is what is known of the connections of all scoring listeners in one minute.
type ConnectionMinute struct {
	Time   time.Time // its beginning, UTC
	Active float64   // open at one time, averaged over what has passed of the minute
	Most   int       // open at one time
	Least  int
	Opened int
}

// Connections gives the minutes that overlap [since, until). Minutes before the server started are not in it.
func (t *Telemetry) Connections(since, until time.Time) []ConnectionMinute {
	return t.connections.between(minuteOf(since), minuteOf(until.Add(time.Minute-1)), time.Now())
}

// connectionHistory adds up connections by minute. Its lock is taken once a connection, not once a request.
type connectionHistory struct {
	mu      sync.Mutex
	active  int
	last    time.Time // until when minutes are filled; zero before the first event
	minutes map[int64]*connectionCell
}

type connectionCell struct {
	open        time.Duration // sum over connections of the time that each was open
	passed      time.Duration // of the minute
	most, least int
	opened      int
}

// maxFill bounds the minutes that are filled in one go, should the clock be set forward.
const maxFill = 2 * 24 * 60

func (h *connectionHistory) count(delta int, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.advance(now)
	c := h.cell(minuteOf(now)) // begins with what was open before
	h.active += delta
	c.most, c.least = max(c.most, h.active), min(c.least, h.active)
	if delta > 0 {
		c.opened += delta
	}
}

func (h *connectionHistory) cell(minute int64) *connectionCell {
	c := h.minutes[minute]
	if c == nil {
		if h.minutes == nil {
			h.minutes = map[int64]*connectionCell{}
		}
		c = &connectionCell{most: h.active, least: h.active}
		h.minutes[minute] = c
	}
	return c
}

// advance fills the time from last to now with what was open.
func (h *connectionHistory) advance(now time.Time) {
	now = now.Round(0) // minutes are wall-clock minutes
	if h.last.IsZero() || now.Before(h.last) || now.Sub(h.last) > maxFill*time.Minute {
		h.last = now
	}
	for at := h.last; ; {
		end := time.Unix((minuteOf(at)+1)*60, 0)
		if end.After(now) {
			end = now
		}
		c := h.cell(minuteOf(at))
		c.open += time.Duration(h.active) * end.Sub(at)
		c.passed += end.Sub(at)
		if at = end; !at.Before(now) {
			break
		}
	}
	h.last = now
}

func (h *connectionHistory) forget(cut int64, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.advance(now)
	for minute := range h.minutes {
		if minute < cut {
			delete(h.minutes, minute)
		}
	}
}

func (h *connectionHistory) between(from, to int64, now time.Time) []ConnectionMinute {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.advance(now)
	var out []ConnectionMinute
	for minute, c := range h.minutes {
		if minute < from || minute >= to {
			continue
		}
		m := ConnectionMinute{Time: time.Unix(minute*60, 0).UTC(), Most: c.most, Least: c.least, Opened: c.opened}
		if c.passed > 0 {
			m.Active = float64(c.open) / float64(c.passed)
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b ConnectionMinute) int { return a.Time.Compare(b.Time) })
	return out
}
