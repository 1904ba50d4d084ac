// Package telemetry keeps what is observed of scoring requests.
//
// It owns the record of one request, the catalogue of metrics, the per-minute counters and histograms of the last
// hours (bounded in bytes), their Prometheus form, and the access log. It decides nothing, knows no endpoint but
// by name, stores nothing across a restart except the access log, and never holds a key, a query string or a
// body.
package telemetry
