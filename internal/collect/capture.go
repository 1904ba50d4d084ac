package collect

import (
	"github.com/google/uuid"

	"portico/internal/online"
	"portico/internal/telemetry"
)

// room is what Reserve notes in a capture.
type room struct {
	target *target
	size   int64
}

// each calls fn for the bodies that the capture has.
func each(p *telemetry.Capture, fn func(collection string, b *telemetry.Body)) {
	if p.Request != nil {
		fn(online.CollectionRequest, p.Request)
	}
	if p.Response != nil {
		fn(online.CollectionResponse, p.Response)
	}
}

// Reserve says whether there is room for size bytes of a capture. If there is, Collect must follow; if not, the loss has
// been counted. Neither waits.
func (c *Collector) Reserve(p *telemetry.Capture, size int64) bool {
	t := c.find(p.UID)
	if t == nil {
		return false // it has stopped collecting since the request came
	}
	if len(c.queue) < maxQueued && c.take(t, size) {
		p.Room = room{t, size}
		return true
	}
	each(p, func(collection string, _ *telemetry.Body) {
		c.count(t, p.Instance, collection, telemetry.UncollectedQueue)
	})
	return false
}

// Collect takes over a capture that room was reserved for.
func (c *Collector) Collect(p *telemetry.Capture) {
	select {
	case c.queue <- p:
		return
	default: // others were quicker
	}
	r, _ := p.Room.(room)
	c.give(r.target, r.size)
	each(p, func(collection string, _ *telemetry.Body) {
		c.count(r.target, p.Instance, collection, telemetry.UncollectedQueue)
	})
}

// write writes captures in the order in which they came, until the end and what waits then.
func (c *Collector) write() {
	for {
		select {
		case p := <-c.queue:
			c.store(p)
			continue
		default:
		}
		select {
		case p := <-c.queue:
			c.store(p)
		case <-c.end:
			for len(c.queue) > 0 {
				c.store(<-c.queue)
			}
			return
		}
	}
}

func (c *Collector) store(p *telemetry.Capture) {
	r, _ := p.Room.(room)
	t := r.target
	defer c.give(t, r.size)
	each(p, func(collection string, b *telemetry.Body) {
		one := t.collector.Find(collection)
		if one == nil {
			return
		}
		e := &event{ID: uuid.NewString(), DataContentType: b.Type, Time: stamp(p.Arrival), CorrelationID: p.RequestID,
			XRequestID: p.RequestID, Agent: agent, content: b.Data, size: b.Size}
		if collection == online.CollectionRequest {
			e.Path, e.Method = p.Path, p.Method
		}
		_ = c.keep(t, one, p.Instance, e) // counted and logged there; nobody waits for it
	})
}

const agent = "portico"
