package control

import (
	"math"
	"strconv"
	"time"

	"portico/internal/telemetry"
)

// The metrics of endpoints and deployments with the names, units and dimensions of Azure Monitor (supported-metrics,
// microsoft-machinelearningservices-workspaces-onlineendpoints and ...-deployments).
var (
	endpointMetrics = []Metric{
		{Name: "RequestLatency", Title: "Request Latency", Unit: unitMillis, Dimensions: byDeployment,
			Help:    "The time from a request's header to the last byte of its answer.",
			observe: latencies, combine: distribution},
		percentile("RequestLatency_P50", "Request Latency P50", 0.50, byDeployment),
		percentile("RequestLatency_P90", "Request Latency P90", 0.90, byDeployment),
		percentile("RequestLatency_P95", "Request Latency P95", 0.95, byDeployment),
		percentile("RequestLatency_P99", "Request Latency P99", 0.99, byDeployment),
		{Name: "RequestsPerMinute", Title: "Requests Per Minute", Unit: unitCount,
			Dimensions: []string{"deployment", "statusCode", "statusCodeClass", "modelStatusCode"},
			Help:       "The requests that ended in a minute.", observe: endpointRequests, combine: additive},
		{Name: "ConnectionsActive", Title: "Connections Active", Unit: unitCount,
			Help: "The open connections of the server's scoring listeners.", observe: connectionsActive, combine: spread},
		{Name: "NewConnectionsPerSecond", Title: "New Connections Per Second", Unit: "CountPerSecond",
			Help: "The connections that the server's scoring listeners accepted.", observe: connectionsOpened, combine: additive},
		{Name: "NetworkBytes", Title: "Network Bytes", Unit: "BytesPerSecond",
			Help: "The bytes of request and answer bodies.", observe: networkBytes, combine: additive},
		{Name: "DataCollectionEventsPerMinute", Title: "Data Collection Events Per Minute", Unit: unitCount,
			Dimensions: []string{"deployment", "type"}, Help: "The events that data collectors wrote; type is the collection.",
			observe: collectedEvents, combine: additive},
		{Name: "DataCollectionErrorsPerMinute", Title: "Data Collection Errors Per Minute", Unit: unitCount,
			Dimensions: []string{"deployment", "reason", "type"}, Help: "The events of data collectors that were lost or refused.",
			observe: collectedErrors, combine: additive},
	}
	deploymentMetrics = []Metric{
		percentile("RequestLatency_P50", "Request Latency P50", 0.50, nil),
		percentile("RequestLatency_P90", "Request Latency P90", 0.90, nil),
		percentile("RequestLatency_P95", "Request Latency P95", 0.95, nil),
		percentile("RequestLatency_P99", "Request Latency P99", 0.99, nil),
		{Name: "RequestsPerMinute", Title: "Requests Per Minute", Unit: unitCount, Dimensions: []string{"envoy_response_code"},
			Help:    "The requests that ended in a minute, copies that the deployment got as a shadow included.",
			observe: deploymentRequests, combine: additive},
		{Name: "DeploymentCapacity", Title: "Deployment Capacity", Unit: unitCount, Dimensions: []string{"instanceId", "State"},
			Help: "The instances that existed at the end of a minute.", observe: capacity, combine: additive},
		unmeasured("CpuUtilizationPercentage", "CPU Utilization Percentage", unitPercent, "instanceId"),
		unmeasured("CpuMemoryUtilizationPercentage", "CPU Memory Utilization Percentage", unitPercent, "instanceId"),
		unmeasured("DiskUtilization", "Disk Utilization", unitPercent, "instanceId", "disk"),
		unmeasured("GpuUtilizationPercentage", "GPU Utilization Percentage", unitPercent, "instanceId"),
		unmeasured("GpuMemoryUtilizationPercentage", "GPU Memory Utilization Percentage", unitPercent, "instanceId"),
		unmeasured("GpuEnergyJoules", "GPU Energy in Joules", unitCount, "instanceId"),
		{Name: "DataCollectionEventsPerMinute", Title: "Data Collection Events Per Minute", Unit: unitCount,
			Dimensions: []string{"instanceId", "type"}, Help: "The events that the data collector wrote; type is the collection.",
			observe: instanceEvents, combine: additive},
		{Name: "DataCollectionErrorsPerMinute", Title: "Data Collection Errors Per Minute", Unit: unitCount,
			Dimensions: []string{"instanceId", "reason", "type"}, Help: "The events of the data collector that were lost or refused.",
			observe: instanceErrors, combine: additive},
	}
)

// Units as Azure Monitor spells them.
const (
	unitCount   = "Count"
	unitMillis  = "MilliSeconds"
	unitPercent = "Percent"
)

var byDeployment = []string{"deployment"}

// stateRunning is the State of an instance in DeploymentCapacity: its interval is open from its start to its end.
const stateRunning = "Running"

func unmeasured(name, title, unit string, dimensions ...string) Metric {
	return Metric{Name: name, Title: title, Unit: unit, Dimensions: dimensions, Help: "Not measured yet."}
}

// percentile is a metric whose minutes are percentiles of the latency of all their requests.
func percentile(name, title string, share float64, dimensions []string) Metric {
	return Metric{Name: name, Title: title, Unit: unitMillis, Dimensions: dimensions,
		Help: "The latency below which a share of the minute's requests stayed.", observe: latencies,
		combine: func(obs []observation) (sample, bool) {
			minutes := make([]telemetry.Minute, 0, len(obs))
			for _, o := range obs {
				minutes = append(minutes, *o.minute)
			}
			return one(telemetry.Percentile(share, minutes...))
		}}
}

// observation is one thing that was seen in one minute. Which of its values matters is the metric's own.
type observation struct {
	at         time.Time // beginning of the minute
	dimensions []string  // values of all dimensions of the metric
	value      float64
	minute     *telemetry.Minute
	spread     sample
}

// additive metrics of one minute add up to one value.
func additive(obs []observation) (sample, bool) {
	sum := 0.0
	for _, o := range obs {
		sum += o.value
	}
	return one(sum)
}

// distribution metrics keep every request as a value of its own.
func distribution(obs []observation) (sample, bool) {
	out := sample{min: math.Inf(1)}
	for _, o := range obs {
		out.sum += o.minute.Latency
		out.count += float64(o.minute.Requests())
		out.min, out.max = min(out.min, o.minute.Fastest), max(out.max, o.minute.Slowest)
	}
	return out, out.count > 0
}

// spread metrics have one observation a minute that knows its own range.
func spread(obs []observation) (sample, bool) { return obs[0].spread, true }

func latencies(o *observed) []observation {
	var out []observation
	for i := range o.series {
		s := &o.series[i]
		for j := range s.Minutes {
			out = append(out, observation{at: s.Minutes[j].Time, dimensions: []string{s.Deployment}, minute: &s.Minutes[j]})
		}
	}
	return out
}

// statuses gives the requests by minute and pair of statuses.
func statuses(o *observed, dimensions func(s *telemetry.Series, row telemetry.StatusRow) []string) []observation {
	var out []observation
	for i := range o.series {
		s := &o.series[i]
		for _, m := range s.Minutes {
			for _, row := range m.Statuses {
				out = append(out, observation{at: m.Time, dimensions: dimensions(s, row), value: float64(row.Requests)})
			}
		}
	}
	return out
}

func endpointRequests(o *observed) []observation {
	return statuses(o, func(s *telemetry.Series, row telemetry.StatusRow) []string {
		model := "" // the request reached no instance
		if row.ModelStatus != 0 {
			model = strconv.Itoa(row.ModelStatus)
		}
		return []string{s.Deployment, strconv.Itoa(row.Status), telemetry.StatusClass(row.Status), model}
	})
}

func deploymentRequests(o *observed) []observation {
	return statuses(o, func(_ *telemetry.Series, row telemetry.StatusRow) []string {
		return []string{strconv.Itoa(row.Status)}
	})
}

func networkBytes(o *observed) []observation {
	var out []observation
	for _, s := range o.series {
		for _, m := range s.Minutes {
			out = append(out, observation{at: m.Time, value: float64(m.RequestBytes+m.ResponseBytes) / MetricGrain.Seconds()})
		}
	}
	return out
}

// collected gives the events of data collectors, those that were written or those that were not.
func collected(o *observed, failed bool, dimensions func(c *telemetry.CollectedMinute) []string) []observation {
	var out []observation
	for i := range o.collected {
		if c := &o.collected[i]; failed == (c.Reason != "") {
			out = append(out, observation{at: c.Time, dimensions: dimensions(c), value: float64(c.Events)})
		}
	}
	return out
}

func collectedEvents(o *observed) []observation {
	return collected(o, false, func(c *telemetry.CollectedMinute) []string { return []string{c.Deployment, c.Collection} })
}

func collectedErrors(o *observed) []observation {
	return collected(o, true, func(c *telemetry.CollectedMinute) []string { return []string{c.Deployment, c.Reason, c.Collection} })
}

func instanceEvents(o *observed) []observation {
	return collected(o, false, func(c *telemetry.CollectedMinute) []string { return []string{c.Instance, c.Collection} })
}

func instanceErrors(o *observed) []observation {
	return collected(o, true, func(c *telemetry.CollectedMinute) []string { return []string{c.Instance, c.Reason, c.Collection} })
}

func connectionsActive(o *observed) []observation {
	var out []observation
	for _, m := range o.connections {
		out = append(out, observation{at: m.Time, spread: sample{m.Active, 1, float64(m.Least), float64(m.Most)}})
	}
	return out
}

func connectionsOpened(o *observed) []observation {
	var out []observation
	for _, m := range o.connections {
		out = append(out, observation{at: m.Time, value: float64(m.Opened) / MetricGrain.Seconds()})
	}
	return out
}

// capacity counts the instances that existed at the end of each minute, or now in the minute that is not over.
func capacity(o *observed) []observation {
	var out []observation
	for _, iv := range o.intervals {
		first := iv.Start.UTC().Truncate(MetricGrain)
		if first.Before(o.from) {
			first = o.from
		}
		for at := first; at.Before(o.to) && !at.After(o.now); at = at.Add(MetricGrain) {
			seen := at.Add(MetricGrain)
			if o.now.Before(seen) {
				seen = o.now
			}
			if !iv.End.IsZero() && !iv.End.After(seen) {
				break
			}
			out = append(out, observation{at: at, dimensions: []string{iv.Instance, stateRunning}, value: 1})
		}
	}
	return out
}
