package gateway

import (
	"bytes"
	"strings"

	"portico/internal/inference"
	"portico/internal/online"
	"portico/internal/route"
	"portico/internal/telemetry"
)

// Collector keeps bodies of requests and answers. Neither call may block.
type Collector interface {
	// Reserve asks for room for size bytes of a capture. When there is none, the loss has been counted.
	Reserve(c *telemetry.Capture, size int64) bool
	// Collect takes over a capture that room was reserved for, with all that it points to.
	Collect(c *telemetry.Capture)
}

// collects notes which bodies of a request are to be kept. Whether it is one of the sample is asked of its id alone, so
// that what the deployment's code collects of it is kept or dropped with them.
func (x *Exchange) collects(r *route.Deployment) {
	x.capture = nil
	if r.Collector == nil || x.path == route.PathSwagger {
		return
	}
	request, response := r.Collector.Find(online.CollectionRequest), r.Collector.Find(online.CollectionResponse)
	p := &telemetry.Capture{UID: r.UID}
	if request != nil && request.Samples(x.record.RequestID) {
		p.Request = &telemetry.Body{}
	}
	if response != nil && response.Samples(x.record.RequestID) {
		p.Response = &telemetry.Body{}
	}
	if p.Request != nil || p.Response != nil {
		x.capture = p
	}
}

// beginCapture asks for room once the answer's length is known, and takes up the request. Without room nothing is captured.
func (g *Gateway) beginCapture(x *Exchange, a *inference.Answer) {
	p := x.capture
	if p == nil || g.cfg.Collector == nil {
		x.capture = nil
		return
	}
	p.Instance = x.record.Instance
	size := int64(0)
	if p.Request != nil {
		size += min(int64(len(x.body)), telemetry.MaxCapturedBytes)
	}
	if p.Response != nil && a.ContentLength >= 0 {
		size += min(a.ContentLength, telemetry.MaxCapturedBytes)
	} else if p.Response != nil {
		size += telemetry.MaxCapturedBytes
	}
	if !g.cfg.Collector.Reserve(p, size) {
		x.capture = nil
		return
	}
	p.RequestID, p.Method, p.Arrival = x.record.RequestID, strings.Clone(x.Method), x.Arrival
	p.Path = strings.Clone(x.at)
	if x.Query != "" {
		p.Path += "?" + x.Query
	}
	if b := p.Request; b != nil {
		b.Data, b.Size, b.Type = bytes.Clone(x.body[:min(len(x.body), telemetry.MaxCapturedBytes)]), int64(len(x.body)), strings.Clone(fieldOf(x.Header, "Content-Type"))
	}
	if b := p.Response; b != nil {
		b.Type = strings.Clone(a.Get("Content-Type"))
	}
}

// endCapture hands over what was captured, whether the caller got all of the answer or not.
func (g *Gateway) endCapture(x *Exchange) {
	if x.capture != nil {
		g.cfg.Collector.Collect(x.capture)
		x.capture = nil
	}
}

// captured is where the parts of the answer go; nil: nowhere.
func (x *Exchange) captured() *telemetry.Body {
	if x.capture == nil {
		return nil
	}
	return x.capture.Response
}

func fieldOf(h []inference.Field, name string) string {
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}
