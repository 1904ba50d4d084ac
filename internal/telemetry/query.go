package telemetry

import (
	"cmp"
	"slices"
	"time"
)

// Row sums up requests. Times are milliseconds.
type Row struct {
	Endpoint      string           `json:"endpoint"`
	Deployment    string           `json:"deployment"` // empty: of all deployments, or the requests that reached none
	Requests      uint64           `json:"requests"`
	Classes       map[string]int64 `json:"statusCodeClasses"` // requests by "2xx", "4xx", ...
	Statuses      []StatusRow      `json:"statusCodes"`
	SoftFailures  uint64           `json:"softFailures"`
	RequestBytes  uint64           `json:"requestBytes"`
	ResponseBytes uint64           `json:"responseBytes"`
	AverageQueue  float64          `json:"averageQueueMs"`
	Average       float64          `json:"averageMs"`
	P50           float64          `json:"p50Ms"`
	P90           float64          `json:"p90Ms"`
	P95           float64          `json:"p95Ms"`
	P99           float64          `json:"p99Ms"`
	Slowest       float64          `json:"slowestMs"`
}

// StatusRow counts the requests of one pair of statuses.
type StatusRow struct {
	Status      int    `json:"statusCode"`
	ModelStatus int    `json:"modelStatusCode,omitempty"`
	Requests    uint64 `json:"requests"`
}

// Summary answers a Query. Since and Until are the bounds of the whole minutes that it covers.
type Summary struct {
	Since       time.Time `json:"since"`
	Until       time.Time `json:"until"`
	Total       Row       `json:"total"`
	Deployments []Row     `json:"deployments"` // in order of name
	// Mirrors are the copies that shadow deployments were offered, in order of name; they are in no other row.
	Mirrors []Row `json:"mirrors,omitempty"`
}

// Query sums up the requests of an endpoint in every minute that overlaps [since, until). Times before the
// retention have nothing to give.
func (t *Telemetry) Query(endpoint string, since, until time.Time) Summary {
	from, to := minuteOf(since), minuteOf(until.Add(time.Minute-1))
	out := Summary{Since: time.Unix(from*60, 0).UTC(), Until: time.Unix(to*60, 0).UTC(), Deployments: []Row{}}
	var total cell
	for key, s := range *t.series.Load() {
		if key.endpoint != endpoint {
			continue
		}
		var c cell
		s.sum(&c, from, to)
		if len(c.statuses) == 0 {
			continue
		}
		if key.mirror {
			out.Mirrors = append(out.Mirrors, c.row(key))
			continue
		}
		total.merge(&c)
		out.Deployments = append(out.Deployments, c.row(key))
	}
	byName := func(a, b Row) int { return cmp.Compare(a.Deployment, b.Deployment) }
	slices.SortFunc(out.Deployments, byName)
	slices.SortFunc(out.Mirrors, byName)
	out.Total = total.row(seriesKey{endpoint: endpoint})
	return out
}

func (c *cell) row(key seriesKey) Row {
	r := Row{
		Endpoint: key.endpoint, Deployment: key.deployment, Requests: c.requests(), Classes: map[string]int64{},
		Statuses: []StatusRow{}, SoftFailures: c.soft, RequestBytes: c.requestBytes, ResponseBytes: c.responseBytes,
		P50: ms(c.percentile(0.50)), P90: ms(c.percentile(0.90)), P95: ms(c.percentile(0.95)), P99: ms(c.percentile(0.99)),
		Slowest: ms(c.slowest),
	}
	for _, s := range c.statuses {
		r.Classes[StatusClass(s.status)] += int64(s.n)
		r.Statuses = append(r.Statuses, StatusRow{s.status, s.model, s.n})
	}
	slices.SortFunc(r.Statuses, func(a, b StatusRow) int {
		return cmp.Or(cmp.Compare(a.Status, b.Status), cmp.Compare(a.ModelStatus, b.ModelStatus))
	})
	if r.Requests > 0 {
		r.Average = ms(c.latency / time.Duration(r.Requests))
		r.AverageQueue = ms(c.queue / time.Duration(r.Requests))
	}
	return r
}

// ms gives milliseconds to the microsecond.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
