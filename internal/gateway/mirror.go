package gateway

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"portico/internal/inference"
	"portico/internal/route"
	"portico/internal/telemetry"
)

// mirrors are the copies of requests that are under way to shadow deployments. Nothing waits for them but the end of
// the server.
type mirrors struct {
	bytes  atomic.Int64
	copies atomic.Int64
	ending atomic.Bool
	idle   chan struct{} // told when the last copy ends after ending was set

	// A copy belongs to no caller: this ends all of them with the server.
	ctx  context.Context
	stop context.CancelFunc
}

func (m *mirrors) open() {
	m.idle = make(chan struct{}, 1)
	m.ctx, m.stop = context.WithCancel(context.Background())
}

// begin counts one more copy; false when the server is ending.
func (m *mirrors) begin() bool {
	m.copies.Add(1)
	if m.ending.Load() {
		m.end()
		return false
	}
	return true
}

func (m *mirrors) end() {
	if m.copies.Add(-1) == 0 && m.ending.Load() {
		select {
		case m.idle <- struct{}{}:
		default: // it is told already
		}
	}
}

// stopMirrors ends all copies and waits for them. Copies that come later are dropped.
func (g *Gateway) stopMirrors() {
	g.mirrors.ending.Store(true)
	g.mirrors.stop()
	for g.mirrors.copies.Load() > 0 {
		<-g.mirrors.idle
	}
}

// mirror offers a copy of a request whose body has been read to a shadow deployment. It never waits: when the shadow
// has no ready instance, holds as many copies as it may, or the memory for copies is used up, the copy is dropped
// and counted.
func (g *Gateway) mirror(x *Exchange, r *route.Deployment, d *deployment) {
	at, _, ok := r.Admit(x.Method, x.path)
	if !ok {
		g.dropMirror(x, r, telemetry.DropPath)
		return
	}
	if len(d.ready.Load().instances) == 0 {
		g.dropMirror(x, r, telemetry.DropNotReady)
		return
	}
	if d.copies.Add(1) > d.maxCopies.Load() {
		d.copies.Add(-1)
		g.dropMirror(x, r, telemetry.DropCopies)
		return
	}
	size := copySize(x)
	if g.mirrors.bytes.Add(size) > g.cfg.MirrorBytes {
		g.mirrors.bytes.Add(-size)
		d.copies.Add(-1)
		g.dropMirror(x, r, telemetry.DropBytes)
		return
	}
	if !g.mirrors.begin() {
		g.mirrors.bytes.Add(-size)
		d.copies.Add(-1)
		g.dropMirror(x, r, telemetry.DropStopping)
		return
	}
	c := copyOf(x, r.Name, at)
	c.collects(r)
	go func() {
		defer g.mirrors.end()
		defer g.mirrors.bytes.Add(-size)
		defer d.copies.Add(-1)
		g.serveCopy(c, d, r.Request.Timeout)
	}()
}

func (g *Gateway) dropMirror(x *Exchange, r *route.Deployment, reason string) {
	g.recorder.MirrorDropped(x.record.Endpoint, r.Name, reason)
}

// serveCopy takes a copy through the shadow's queue to one of its instances, under the shadow's own request timeout,
// and throws the answer away.
func (g *Gateway) serveCopy(x *Exchange, d *deployment, timeout time.Duration) {
	g.admit(g.mirrors.ctx, x, d, x.Arrival.Add(timeout))
	x.record.Total = time.Since(x.Arrival)
	g.recorder.Record(&x.record)
}

// copySize is the memory that a copy of the request holds.
func copySize(x *Exchange) int64 {
	n := cap(x.body) + len(x.Query) + len(x.Method) + len(x.Path)
	for _, f := range x.Header {
		n += len(f.Name) + len(f.Value)
	}
	return int64(n)
}

// copyOf makes an exchange that outlives the transport of x. The header has lost its credential already. A large
// body is shared instead of copied: x gives its memory up after the request, and until then both only read it.
// at is the path that the shadow is asked for.
func copyOf(x *Exchange, deployment, at string) *Exchange {
	body := x.body
	if cap(body) <= keptBody {
		body = bytes.Clone(body)
	}
	var text strings.Builder
	text.Grow(int(copySize(x)) - cap(x.body))
	keep := func(s string) string {
		from := text.Len()
		text.WriteString(s)
		return text.String()[from:]
	}
	c := &Exchange{Method: keep(x.Method), Query: keep(x.Query), at: keep(at), Arrival: time.Now(), Transport: nowhere{}, body: body,
		Header: make([]inference.Field, len(x.Header))}
	for i, f := range x.Header {
		c.Header[i] = inference.Field{Name: keep(f.Name), Value: keep(f.Value)}
	}
	r := &x.record
	c.record = telemetry.Record{Arrival: c.Arrival, RequestID: r.RequestID, ClientRequestID: strings.Clone(r.ClientRequestID),
		AuthMode: r.AuthMode, Caller: r.Caller, Endpoint: r.Endpoint, Deployment: deployment, Method: c.Method,
		Path: strings.Clone(r.Path), Protocol: strings.Clone(r.Protocol), UserAgent: strings.Clone(r.UserAgent),
		RequestBytes: r.RequestBytes, Mirror: true}
	return c
}

// nowhere is the transport of a copy: its answer has no reader.
type nowhere struct{}

func (nowhere) ReadBody([]byte) (int, error)              { return 0, io.EOF }
func (nowhere) SetReadDeadline(time.Time) error           { return nil }
func (nowhere) SetWriteDeadline(time.Time) error          { return nil }
func (nowhere) Begin(int, []inference.Field, int64, bool) {}
func (nowhere) Write(p []byte) (int, error)               { return len(p), nil }
func (nowhere) Flush() error                              { return nil }
func (nowhere) Abort()                                    {}
