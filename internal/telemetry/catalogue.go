package telemetry

// Metric is one row of the catalogue. A metric that is not here does not exist.
type Metric struct {
	Name       string // Prometheus name
	Kind       string // counter | gauge | histogram
	Unit       string
	Dimensions []string
	Azure      string // name in Azure Monitor, when it has one
	Help       string
}

// The metrics.
var (
	MetricRequests = Metric{
		Name: "portico_endpoint_requests_total", Kind: "counter", Unit: "requests", Azure: "RequestsPerMinute",
		Dimensions: []string{"endpoint", "deployment", "status_code", "status_code_class", "model_status_code"},
		Help:       "Scoring requests by what the caller was told and what the model answered.",
	}
	MetricLatency = Metric{
		Name: "portico_endpoint_request_latency_seconds", Kind: "histogram", Unit: "seconds", Azure: "RequestLatency",
		Dimensions: []string{"endpoint", "deployment"},
		Help:       "Time from a request's header to the last byte of its answer.",
	}
	MetricQueue = Metric{
		Name: "portico_endpoint_queue_seconds_total", Kind: "counter", Unit: "seconds",
		Dimensions: []string{"endpoint", "deployment"},
		Help:       "Time that requests waited for an instance.",
	}
	MetricSoftFailures = Metric{
		Name: "portico_endpoint_soft_failures_total", Kind: "counter", Unit: "requests",
		Dimensions: []string{"endpoint", "deployment"},
		Help:       "Answers with status 200 whose scoring script reported a failure.",
	}
	MetricBatchSize = Metric{
		Name: "portico_endpoint_batch_size", Kind: "histogram", Unit: "requests",
		Dimensions: []string{"endpoint", "deployment"},
		Help:       "Requests that one run of a deployment with batching answered.",
	}
	MetricCache = Metric{
		Name: "portico_endpoint_cache_total", Kind: "counter", Unit: "requests",
		Dimensions: []string{"endpoint", "deployment", "result"},
		Help:       "Requests of deployments with a response cache: hit, miss, shared or bypass.",
	}
	MetricCacheBytes = Metric{
		Name: "portico_cache_bytes", Kind: "gauge", Unit: "bytes",
		Help: "Memory held by the answers in response caches.",
	}
	MetricRequestBytes = Metric{
		Name: "portico_endpoint_request_bytes_total", Kind: "counter", Unit: "bytes", Azure: "NetworkBytes",
		Dimensions: []string{"endpoint", "deployment"},
		Help:       "Bytes of request bodies.",
	}
	MetricResponseBytes = Metric{
		Name: "portico_endpoint_response_bytes_total", Kind: "counter", Unit: "bytes", Azure: "NetworkBytes",
		Dimensions: []string{"endpoint", "deployment"},
		Help:       "Bytes of response bodies.",
	}
	MetricMirrorRequests = Metric{
		Name: "portico_mirror_requests_total", Kind: "counter", Unit: "requests",
		Dimensions: []string{"endpoint", "deployment", "status_code", "status_code_class", "model_status_code"},
		Help:       "Copies of requests that a shadow deployment was offered, by what a caller would have been told.",
	}
	MetricMirrorLatency = Metric{
		Name: "portico_mirror_request_latency_seconds", Kind: "histogram", Unit: "seconds",
		Dimensions: []string{"endpoint", "deployment"},
		Help:       "Time from a copy's beginning to the end of its answer, which is thrown away.",
	}
	MetricMirrorDropped = Metric{
		Name: "portico_mirror_dropped_total", Kind: "counter", Unit: "requests",
		Dimensions: []string{"endpoint", "deployment", "reason"},
		Help:       "Copies that were not offered to the shadow deployment.",
	}
	MetricCollected = Metric{
		Name: "portico_collected_events_total", Kind: "counter", Unit: "events", Azure: "DataCollectionEventsPerMinute",
		Dimensions: []string{"endpoint", "deployment", "collection"},
		Help:       "Events of data collectors that were written.",
	}
	MetricUncollected = Metric{
		Name: "portico_collected_errors_total", Kind: "counter", Unit: "events", Azure: "DataCollectionErrorsPerMinute",
		Dimensions: []string{"endpoint", "deployment", "collection", "reason"},
		Help:       "Events of data collectors that were lost or refused.",
	}
	MetricConnections = Metric{
		Name: "portico_connections_active", Kind: "gauge", Unit: "connections", Azure: "ConnectionsActive",
		Help: "Open connections of the scoring listeners.",
	}
	MetricConnectionsOpened = Metric{
		Name: "portico_connections_opened_total", Kind: "counter", Unit: "connections", Azure: "NewConnectionsPerSecond",
		Help: "Connections that the scoring listeners accepted.",
	}
	MetricLogDropped = Metric{
		Name: "portico_access_log_dropped_total", Kind: "counter", Unit: "lines",
		Help: "Lines of the access log that were lost because its buffer was full or it could not be written.",
	}
	MetricHistoryBytes = Metric{
		Name: "portico_telemetry_history_bytes", Kind: "gauge", Unit: "bytes",
		Help: "Memory held by the per-minute history.",
	}
)

// Catalogue lists every metric in the order in which it is documented.
var Catalogue = []Metric{
	MetricRequests, MetricLatency, MetricQueue, MetricSoftFailures, MetricBatchSize, MetricCache, MetricRequestBytes, MetricResponseBytes,
	MetricMirrorRequests, MetricMirrorLatency, MetricMirrorDropped,
	MetricCollected, MetricUncollected,
	MetricConnections, MetricConnectionsOpened, MetricLogDropped, MetricHistoryBytes, MetricCacheBytes,
}

// batchBounds are the upper bounds of MetricBatchSize's buckets, up to the largest batch.
var batchBounds = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256}

// latencyBounds are the upper bounds of MetricLatency's buckets in seconds, up to the longest request timeout.
var latencyBounds = []float64{
	0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 180,
}
