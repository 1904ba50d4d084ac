package telemetry

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// promMetrics holds the registered families of the catalogue.
type promMetrics struct {
	registry          *prometheus.Registry
	requests          *prometheus.CounterVec
	latency           *prometheus.HistogramVec
	queue             *prometheus.CounterVec
	soft              *prometheus.CounterVec
	batch             *prometheus.HistogramVec
	cache             *prometheus.CounterVec
	requestBytes      *prometheus.CounterVec
	responseBytes     *prometheus.CounterVec
	mirrorRequests    *prometheus.CounterVec
	mirrorLatency     *prometheus.HistogramVec
	mirrorDropped     *prometheus.CounterVec
	collected         *prometheus.CounterVec
	uncollected       *prometheus.CounterVec
	connections       prometheus.Gauge
	connectionsOpened prometheus.Counter
	logDropped        prometheus.Counter
	historyBytes      prometheus.Gauge
	cacheBytes        prometheus.Gauge
}

func newPromMetrics() *promMetrics {
	counters := func(m Metric) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: m.Name, Help: m.Help}, m.Dimensions)
	}
	latencies := func(m Metric) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: m.Name, Help: m.Help, Buckets: latencyBounds},
			m.Dimensions)
	}
	p := &promMetrics{
		registry: prometheus.NewRegistry(),
		requests: counters(MetricRequests), latency: latencies(MetricLatency),
		mirrorRequests: counters(MetricMirrorRequests), mirrorLatency: latencies(MetricMirrorLatency),
		mirrorDropped: counters(MetricMirrorDropped),
		collected:     counters(MetricCollected),
		uncollected:   counters(MetricUncollected),
		queue:         counters(MetricQueue),
		soft:          counters(MetricSoftFailures),
		batch: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: MetricBatchSize.Name, Help: MetricBatchSize.Help, Buckets: batchBounds}, MetricBatchSize.Dimensions),
		cache:         counters(MetricCache),
		requestBytes:  counters(MetricRequestBytes),
		responseBytes: counters(MetricResponseBytes),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: MetricConnections.Name, Help: MetricConnections.Help}),
		connectionsOpened: prometheus.NewCounter(prometheus.CounterOpts{
			Name: MetricConnectionsOpened.Name, Help: MetricConnectionsOpened.Help}),
		logDropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: MetricLogDropped.Name, Help: MetricLogDropped.Help}),
		historyBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: MetricHistoryBytes.Name, Help: MetricHistoryBytes.Help}),
		cacheBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: MetricCacheBytes.Name, Help: MetricCacheBytes.Help}),
	}
	p.registry.MustRegister(p.requests, p.latency, p.queue, p.soft, p.batch, p.cache, p.requestBytes, p.responseBytes,
		p.mirrorRequests, p.mirrorLatency, p.mirrorDropped, p.collected, p.uncollected, p.connections, p.connectionsOpened, p.logDropped, p.historyBytes, p.cacheBytes,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return p
}

// promSeries are the handles of one deployment, resolved once: looking labels up costs three times an increment.
type promSeries struct {
	key      seriesKey
	requests *prometheus.CounterVec
	latency  prometheus.Observer
	// Of live requests only.
	queue         prometheus.Counter
	soft          prometheus.Counter
	cache         *prometheus.CounterVec
	requestBytes  prometheus.Counter
	responseBytes prometheus.Counter
	batches       *prometheus.HistogramVec
	batch         prometheus.Observer // nil until there was one: few deployments have batches
}

func (p *promMetrics) resolve(key seriesKey) *promSeries {
	l := []string{key.endpoint, key.deployment}
	if key.mirror {
		return &promSeries{key: key, requests: p.mirrorRequests, latency: p.mirrorLatency.WithLabelValues(l...)}
	}
	return &promSeries{
		key: key, requests: p.requests,
		latency:       p.latency.WithLabelValues(l...),
		queue:         p.queue.WithLabelValues(l...),
		soft:          p.soft.WithLabelValues(l...),
		cache:         p.cache,
		requestBytes:  p.requestBytes.WithLabelValues(l...),
		responseBytes: p.responseBytes.WithLabelValues(l...),
		batches:       p.batch,
	}
}

func (s *promSeries) status(status, model int) prometheus.Counter {
	answered := ""
	if model != 0 {
		answered = strconv.Itoa(model)
	}
	return s.requests.WithLabelValues(s.key.endpoint, s.key.deployment, strconv.Itoa(status), StatusClass(status), answered)
}

func (s *promSeries) add(r *Record) {
	s.latency.Observe(r.Total.Seconds())
	if s.key.mirror {
		return
	}
	s.queue.Add(max(r.Queue, 0).Seconds())
	s.requestBytes.Add(float64(max(r.RequestBytes, 0)))
	s.responseBytes.Add(float64(max(r.ResponseBytes, 0)))
	if r.SoftFailure {
		s.soft.Inc()
	}
	if r.Batch > 0 {
		if s.batch == nil {
			s.batch = s.batches.WithLabelValues(s.key.endpoint, s.key.deployment)
		}
		s.batch.Observe(float64(r.Batch))
	}
	if r.Cache != "" {
		s.cache.WithLabelValues(s.key.endpoint, s.key.deployment, r.Cache).Inc()
	}
}

// forget takes a deployment that has not been called for the retention off the page.
func (p *promMetrics) forget(key seriesKey) {
	l := prometheus.Labels{"endpoint": key.endpoint, "deployment": key.deployment}
	if key.mirror {
		p.mirrorRequests.DeletePartialMatch(l)
		p.mirrorLatency.DeletePartialMatch(l)
		p.mirrorDropped.DeletePartialMatch(l)
		return
	}
	p.requests.DeletePartialMatch(l)
	p.latency.DeletePartialMatch(l)
	p.queue.DeletePartialMatch(l)
	p.soft.DeletePartialMatch(l)
	p.batch.DeletePartialMatch(l)
	p.cache.DeletePartialMatch(l)
	p.requestBytes.DeletePartialMatch(l)
	p.responseBytes.DeletePartialMatch(l)
	p.collected.DeletePartialMatch(l)
	p.uncollected.DeletePartialMatch(l)
}

// StatusClass is "2xx" for 200 to 299, and so on.
func StatusClass(status int) string {
	if status < 100 || status > 999 {
		return "other"
	}
	return string(rune('0'+status/100)) + "xx"
}
