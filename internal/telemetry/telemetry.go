package telemetry

import (
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Bounds of what is kept, where Config leaves them at zero.
const (
	DefaultRetention        = 24 * time.Hour
	DefaultHistoryBytes     = 64 << 20
	DefaultAccessLogBytes   = 64 << 20
	DefaultAccessLogFiles   = 5
	DefaultAccessLogBacklog = 4 << 20
)

// MaxSeries bounds the pairs of endpoint and deployment that are told apart at one time. Requests of further pairs
// are counted under the endpoint "(other)".
const MaxSeries = 4096

// sweepPeriod is how often finished minutes are packed and old ones are forgotten.
const sweepPeriod = 15 * time.Second

// Config says how much is kept.
type Config struct {
	Retention    time.Duration // how long minutes are kept
	HistoryBytes int64         // memory for finished minutes; when it is reached the oldest minutes go first

	AccessLog        string // path of the access log; empty: none is written
	AccessLogBytes   int64  // size at which the file is rotated
	AccessLogFiles   int    // files kept, the current one included
	AccessLogBacklog int64  // bytes that may wait to be written; lines beyond it are dropped and counted
}

func (c *Config) fill() {
	if c.Retention <= 0 {
		c.Retention = DefaultRetention
	}
	if c.HistoryBytes <= 0 {
		c.HistoryBytes = DefaultHistoryBytes
	}
	if c.AccessLogBytes <= 0 {
		c.AccessLogBytes = DefaultAccessLogBytes
	}
	if c.AccessLogFiles <= 0 {
		c.AccessLogFiles = DefaultAccessLogFiles
	}
	if c.AccessLogBacklog <= 0 {
		c.AccessLogBacklog = DefaultAccessLogBacklog
	}
}

// Telemetry is the Recorder of a server. It is safe for concurrent use; Close ends it.
type Telemetry struct {
	cfg    Config
	prom   *promMetrics
	access *accessLog // nil: none

	// series is replaced, never changed: a record finds its series without a lock.
	series  atomic.Pointer[map[seriesKey]*series]
	growing sync.Mutex

	connections connectionHistory
	collected   collectedHistory

	stop chan struct{}
	done sync.WaitGroup
}

// New starts keeping records. It fails when the access log cannot be opened.
func New(cfg Config, log *slog.Logger) (*Telemetry, error) {
	cfg.fill()
	t := &Telemetry{cfg: cfg, prom: newPromMetrics(), stop: make(chan struct{})}
	t.series.Store(&map[seriesKey]*series{})
	if cfg.AccessLog != "" {
		a, err := openAccessLog(cfg, t.prom.logDropped, log)
		if err != nil {
			return nil, err
		}
		t.access = a
	}
	t.done.Go(t.sweepLoop)
	return t, nil
}

// Record counts a request and writes its line to the access log.
func (t *Telemetry) Record(r *Record) {
	s := t.find(seriesKey{r.Endpoint, r.Deployment, r.Mirror})
	s.record(r)
	if t.access != nil {
		t.access.record(r)
	}
}

// MirrorDropped counts a copy that was not offered to a shadow deployment. It has a series, so that its counter goes
// with the deployment's others.
func (t *Telemetry) MirrorDropped(endpoint, deployment, reason string) {
	s := t.find(seriesKey{endpoint, deployment, true})
	t.prom.mirrorDropped.WithLabelValues(s.prom.key.endpoint, s.prom.key.deployment, reason).Inc()
	s.dropped(minuteOf(time.Now()))
}

// CacheBytes counts the memory for kept answers.
func (t *Telemetry) CacheBytes(delta int64) { t.prom.cacheBytes.Add(float64(delta)) }

// Connection counts connections of the scoring listeners.
func (t *Telemetry) Connection(delta int) {
	t.connections.count(delta, time.Now())
	t.prom.connections.Add(float64(delta))
	if delta > 0 {
		t.prom.connectionsOpened.Add(float64(delta))
	}
}

// Handler serves the metrics in Prometheus' text form.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.prom.registry, promhttp.HandlerOpts{})
}

// Close writes what waits for the access log and ends. Record must not be called any more.
func (t *Telemetry) Close() error {
	close(t.stop)
	t.done.Wait()
	if t.access != nil {
		return t.access.close()
	}
	return nil
}

func (t *Telemetry) sweepLoop() {
	tick := time.NewTicker(sweepPeriod)
	defer tick.Stop()
	for {
		select {
		case <-t.stop:
			return
		case now := <-tick.C:
			t.sweep(now)
		}
	}
}

// sweep packs the minutes that are over, forgets the oldest, and drops series that have nothing left.
func (t *Telemetry) sweep(now time.Time) {
	current := *t.series.Load()
	cut := minuteOf(now.Add(-t.cfg.Retention))
	t.connections.forget(cut, now)
	t.collected.forget(cut)
	held := make(map[int64]int64) // bytes by minute
	total := int64(0)
	for _, s := range current {
		s.finish(minuteOf(now))
		s.forget(cut)
		for _, p := range s.past() {
			held[p.minute] += p.size()
			total += p.size()
		}
	}
	if total > t.cfg.HistoryBytes {
		for oldest := cut; total > t.cfg.HistoryBytes && oldest <= minuteOf(now); oldest++ {
			total -= held[oldest]
			cut = oldest + 1
		}
		for _, s := range current {
			s.forget(cut)
		}
	}
	t.prom.historyBytes.Set(float64(total))
	t.dropIdle(now)
}

func (t *Telemetry) dropIdle(now time.Time) {
	t.growing.Lock()
	defer t.growing.Unlock()
	kept := make(map[seriesKey]*series)
	current := *t.series.Load()
	for key, s := range current {
		if s.idleSince(minuteOf(now.Add(-t.cfg.Retention))) {
			t.prom.forget(key)
			continue
		}
		kept[key] = s
	}
	if len(kept) != len(current) {
		t.series.Store(&kept)
	}
}

func (t *Telemetry) find(key seriesKey) *series {
	if s, ok := (*t.series.Load())[key]; ok {
		return s
	}
	t.growing.Lock()
	defer t.growing.Unlock()
	current := *t.series.Load()
	if s, ok := current[key]; ok {
		return s
	}
	if len(current) >= MaxSeries {
		key = seriesKey{endpoint: "(other)", mirror: key.mirror}
		if s, ok := current[key]; ok {
			return s
		}
	}
	grown := make(map[seriesKey]*series, len(current)+1)
	for k, s := range current {
		grown[k] = s
	}
	key = key.clone()
	s := newSeries(t.prom.resolve(key), time.Now())
	grown[key] = s
	t.series.Store(&grown)
	return s
}
