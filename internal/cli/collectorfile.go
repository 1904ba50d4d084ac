package cli

import (
	"context"
	"fmt"
	"strings"

	"portico/internal/arm"
	"portico/internal/online"
)

// dataCollectorFile is `data_collector:` of a deployment.
type dataCollectorFile struct {
	Collections    map[string]collectionFile `json:"collections,omitempty"`
	SamplingRate   *float64                  `json:"sampling_rate,omitempty"`
	RollingRate    string                    `json:"rolling_rate,omitempty" one:"minute|hour|day|month|year"`
	RequestLogging *requestLoggingFile       `json:"request_logging,omitempty"`
}

type collectionFile struct {
	Enabled      *bool          `json:"enabled,omitempty"`
	Data         *collectionRef `json:"data,omitempty"`
	ClientID     string         `json:"client_id,omitempty"`
	SamplingRate *float64       `json:"sampling_rate,omitempty"` // of this one, where it is not the others'
}

// collectionRef is `data:` of a collection: a reference to a data asset, or one written in place.
type collectionRef = assetRef[collectedToFile]

type collectedToFile struct {
	Name    string `json:"name,omitempty"`
	Path    string `json:"path,omitempty"`
	Version string `json:"version,omitempty"`
}

func (collectedToFile) inPlace() string { return "data: {path: %s}" }

type requestLoggingFile struct {
	CaptureHeaders []string `json:"capture_headers,omitempty"`
}

var rollWords = words{{"minute", "Minute"}, {"hour", "Hour"}, {"day", "Day"}, {"month", "Month"}, {"year", "Year"}}

// wire gives the collector; data are the data assets of its collections.
func (f *dataCollectorFile) wire(data map[string]string) *arm.DataCollector {
	if f == nil {
		return nil
	}
	out := &arm.DataCollector{
		Collections: map[string]arm.Collection{}, RollingRate: rollWords.wire(f.RollingRate), SamplingRate: f.SamplingRate,
	}
	for name, c := range f.Collections {
		w := arm.Collection{DataCollectionMode: "Disabled", ClientID: c.ClientID, SamplingRate: c.SamplingRate, DataID: data[name]}
		if isTrue(c.Enabled) {
			w.DataCollectionMode = "Enabled"
		}
		out.Collections[name] = w
	}
	if f.RequestLogging != nil {
		out.RequestLogging = &arm.RequestLogging{CaptureHeaders: len(f.RequestLogging.CaptureHeaders) > 0}
	}
	return out
}

func collectorFromWire(w *arm.DataCollector) *dataCollectorFile {
	if w == nil {
		return nil
	}
	f := &dataCollectorFile{
		Collections: map[string]collectionFile{}, RollingRate: rollWords.file(w.RollingRate), SamplingRate: w.SamplingRate,
	}
	for name, c := range w.Collections {
		on := accessWords.file(c.DataCollectionMode) == "enabled"
		out := collectionFile{Enabled: &on, ClientID: c.ClientID}
		if w.SamplingRate == nil {
			out.SamplingRate = c.SamplingRate
		}
		if c.DataID != "" {
			out.Data = &collectionRef{Reference: shownReference(c.DataID)}
		}
		f.Collections[name] = out
	}
	return f
}

// prepareCollections registers the data assets that a data collector writes in place, as Azure's own client does, and
// gives the ids of all that it names. A collection without one gets its default from the server.
func (s *session) prepareCollections(ctx context.Context, f *dataCollectorFile, d deploymentName) (map[string]string, error) {
	ids := map[string]string{}
	if f == nil {
		return ids, nil
	}
	for name, c := range f.Collections {
		if c.Data == nil {
			continue
		}
		var err error
		if ids[name] = c.Data.Reference; c.Data.Inline != nil {
			if ids[name], err = s.registerCollection(ctx, c.Data.Inline, d, name); err != nil {
				return nil, fmt.Errorf("data_collector.collections.%s.data: %w", name, err)
			}
		}
	}
	return ids, nil
}

func (s *session) registerCollection(ctx context.Context, c *collectedToFile, d deploymentName, collection string) (string, error) {
	deployment := strings.ToLower(d.name)
	name := orDefault(c.Name, d.endpoint+"-"+deployment+"-"+collection)
	id := arm.FormatID(s.scope.Asset(online.KindData, name, orDefault(c.Version, "1")))
	if c.Path == "" {
		if _, err := s.client.get(ctx, id, nil, &arm.Asset{}); !notFound(err) {
			return id, err
		}
	}
	uri := orDefault(c.Path, "azureml://datastores/workspaceblobstore/paths/modelDataCollector/"+d.endpoint+"/"+deployment+"/"+collection)
	_, err := s.client.put(ctx, id, &arm.Asset{Properties: arm.AssetProperties{
		DataURI: uri, DataType: "uri_folder", Tags: map[string]string{}, Properties: map[string]string{},
	}}, "")
	return id, err
}
