package arm

import (
	"maps"
	"slices"

	"portico/internal/online"
)

// DataCollector asks for data of requests to be kept. The Python SDK gives the sampling rate with each collection, the
// API's own documents beside them: the nearer one wins.
type DataCollector struct {
	Collections    map[string]Collection `json:"collections,omitempty"`
	RollingRate    string                `json:"rollingRate,omitempty"`
	SamplingRate   *float64              `json:"samplingRate,omitempty"`
	RequestLogging *RequestLogging       `json:"requestLogging,omitempty"`
}

// Collection is one stream that a data collector keeps.
type Collection struct {
	DataCollectionMode string   `json:"dataCollectionMode,omitempty"`
	ClientID           string   `json:"clientId,omitempty"`
	DataID             string   `json:"dataId,omitempty"`
	SamplingRate       *float64 `json:"samplingRate,omitempty"`
}

// RequestLogging names request headers to keep.
type RequestLogging struct {
	CaptureHeaders Refused `json:"captureHeaders,omitzero"`
}

// defaultRollingRate is what a collector without one has.
const defaultRollingRate = "Hour"

// domain gives the collector, and by collection the reference of the data asset that was named for it.
func (c *DataCollector) domain(faults []*online.Error) (*online.DataCollector, map[string]string, []*online.Error) {
	if c == nil {
		return nil, nil, faults
	}
	const target = "properties.dataCollector"
	out, data := &online.DataCollector{RollingRate: defaultRollingRate}, map[string]string{}
	if c.RollingRate != "" {
		out.RollingRate = word(c.RollingRate, online.RollingRates...)
	}
	rate := 1.0
	if c.SamplingRate != nil {
		if rate = *c.SamplingRate; rate < 0 || rate > 1 {
			faults = append(faults, online.Errorf(online.CodeBadArgument, target+".samplingRate",
				"sampling rate %g is not between 0 and 1", rate))
			rate = 1 // said once, and not for each collection
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Collections)) {
		w, at := c.Collections[name], target+".collections."+name
		one := online.Collection{Name: name, SamplingRate: rate}
		if w.SamplingRate != nil {
			one.SamplingRate = *w.SamplingRate
		}
		switch mode := word(w.DataCollectionMode, access...); mode {
		case "Enabled":
			one.Enabled = true
		case "Disabled", "":
		default:
			faults = append(faults, online.Errorf(online.CodeBadArgument, at+".dataCollectionMode",
				"dataCollectionMode %.40q is not one of Enabled, Disabled", mode))
		}
		faults = refuse(faults, refusal{Refused(w.ClientID != ""), at + ".clientId"})
		if w.DataID != "" {
			data[name] = w.DataID
		}
		out.Collections = append(out.Collections, one)
	}
	if c.RequestLogging != nil {
		faults = refuse(faults, refusal{c.RequestLogging.CaptureHeaders, target + ".requestLogging.captureHeaders"})
	}
	return out, data, faults
}

func newDataCollector(c *online.DataCollector) *DataCollector {
	if c == nil {
		return nil
	}
	out := &DataCollector{Collections: map[string]Collection{}, RollingRate: c.RollingRate}
	for i, one := range c.Collections {
		w := Collection{DataCollectionMode: "Disabled", SamplingRate: new(one.SamplingRate)}
		if one.Enabled {
			w.DataCollectionMode = "Enabled"
		}
		if one.Data != nil {
			w.DataID = FormatID(one.Data.ID())
		}
		out.Collections[one.Name] = w
		if i == 0 {
			out.SamplingRate = new(one.SamplingRate)
		} else if out.SamplingRate != nil && *out.SamplingRate != one.SamplingRate {
			out.SamplingRate = nil // there is no one rate
		}
	}
	return out
}
