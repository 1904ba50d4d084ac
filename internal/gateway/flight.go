package gateway

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"portico/internal/http1"
	"portico/internal/inference"
	"portico/internal/route"
	"portico/internal/telemetry"
)

// maxFollowers bounds the requests that wait for one leader; further ones go to an instance of their own.
const maxFollowers = 1024

// flight is the work on one request that others with the same key wait for. Its leader is the request that is at an instance,
// or on its way there; followers wait. A leader whose caller hangs up goes on while anybody waits; one whose deadline
// passes hands over to a follower.
type flight struct {
	key    cacheKey
	ctx    context.Context // of the work; ends when nobody wants it any more
	cancel context.CancelFunc
	turn   chan struct{} // holds one token while a follower must take over
	done   chan struct{} // closed when the outcome is known
	answer *entry        // after done: what followers get; nil: each asks an instance itself

	// Guarded by the cache's lock.
	followers int
	led       bool // by a leader whose caller waits
	term      int  // leaders before the one that leads
	over      bool // nobody joins any more
}

// mayCache says whether a request asks for a score, as opposed to a description of the script, or to the health or a change
// of a server of another kind.
func mayCache(x *Exchange, r *route.Deployment) bool {
	switch x.Method {
	case http.MethodPost:
		return x.path != route.PathSwagger
	case http.MethodGet:
		return x.path == route.PathScore || x.path == r.ScoringPath
	}
	return false
}

// throughCache answers a request from the cache, with the answer to an equal one that is under way, or by an instance.
func (g *Gateway) throughCache(ctx context.Context, x *Exchange, d *deployment, c *cache, deadline time.Time) {
	if passesCache(x.Header) {
		x.record.Cache = telemetry.CacheBypass
		g.admit(ctx, x, d, deadline)
		return
	}
	x.record.Cache = telemetry.CacheMiss
	kept, f, leads := c.join(c.key(x))
	switch {
	case kept != nil:
		g.give(x, kept, telemetry.CacheHit)
	case f == nil:
		g.admit(ctx, x, d, deadline)
	case leads:
		g.lead(ctx, x, d, c, f, deadline)
	default:
		g.follow(ctx, x, d, c, f, deadline)
	}
}

// join finds an answer, or the flight that will bring one: a new one, which the caller leads, when there is none. Neither
// means that the request must go its own way.
func (c *cache) join(k cacheKey) (kept *entry, f *flight, leads bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, false
	}
	if kept = c.lookup(k, time.Now()); kept != nil {
		return kept, nil, false
	}
	if f = c.flights[k]; f != nil {
		if f.followers >= maxFollowers {
			return nil, nil, false
		}
		f.followers++
		return nil, f, false
	}
	f = &flight{key: k, turn: make(chan struct{}, 1), done: make(chan struct{}), led: true}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	c.flights[k] = f
	return nil, f, true
}

// lead takes the request to an instance as usual, but for whoever waits too.
func (g *Gateway) lead(ctx context.Context, x *Exchange, d *deployment, c *cache, f *flight, deadline time.Time) {
	term := f.term // nobody changes it before this leader lands
	stop := context.AfterFunc(ctx, func() { c.abandon(f, term) })
	own := x.Transport
	x.Transport = &witness{Transport: own, x: x, cache: c, flight: f}
	defer func() { // also when the transport panics: nobody must wait for a flight that has crashed
		x.Transport = own
		stop()
		c.land(f, x.record.Reason)
	}()
	g.admit(f.ctx, x, d, deadline)
}

// follow waits for the outcome, for the turn to lead, or for the end of its own patience.
func (g *Gateway) follow(ctx context.Context, x *Exchange, d *deployment, c *cache, f *flight, deadline time.Time) {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-f.done:
		if f.answer != nil {
			g.give(x, f.answer, telemetry.CacheShared)
			return
		}
		g.admit(ctx, x, d, deadline)
	case <-f.turn:
		c.takeOver(f)
		g.lead(ctx, x, d, c, f, deadline)
	case <-ctx.Done():
		c.leave(f)
		x.refuse(refusalGone)
	case <-timer.C:
		c.leave(f)
		if len(d.ready.Load().instances) == 0 {
			x.refuse(refusalNotReady)
			return
		}
		x.refuse(refusalTimeout)
	}
}

// takeOver makes a follower the leader.
func (c *cache) takeOver(f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.followers--
	f.led = true
}

// abandon notes that the caller of the leader of a term hung up. It may come after that leader has landed.
func (c *cache) abandon(f *flight, term int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if term != f.term {
		return
	}
	f.led = false
	c.endUnwanted(f)
}

// leave notes that a follower does not wait any more.
func (c *cache) leave(f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.followers--
	c.endUnwanted(f)
}

func (c *cache) endUnwanted(f *flight) {
	if f.followers == 0 && !f.led {
		c.remove(f)
		f.cancel()
	}
}

func (c *cache) remove(f *flight) {
	f.over = true
	if c.flights[f.key] == f {
		delete(c.flights, f.key)
	}
}

// settle makes the outcome known; nil is one that nobody else may have. What comes later has no effect.
func (c *cache) settle(f *flight, e *entry) {
	if e != nil {
		c.keep(e) // before the flight ends, so that no equal request finds neither
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-f.done:
		return
	default:
	}
	c.remove(f)
	f.answer = e
	close(f.done)
}

// land ends the leader's part. When no outcome is known because its own time was up, or its caller went away, somebody who waits
// takes over.
func (c *cache) land(f *flight, reason string) {
	if !ofLeaderAlone(reason) {
		c.settle(f, nil)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f.led = false
	f.term++
	select {
	case <-f.done:
	default:
		if f.followers > 0 {
			f.turn <- struct{}{}
			return
		}
		c.remove(f)
	}
	f.cancel()
}

// ofLeaderAlone says whether a request failed for a reason that need not be true for an equal one that came later.
func ofLeaderAlone(reason string) bool {
	switch reason {
	case telemetry.ReasonTimeout, telemetry.ReasonModelNotReady, telemetry.ReasonClientClosed, telemetry.ReasonResponseTimeout:
		return true
	}
	return false
}

// witness is the transport of a leader: it passes everything on, and makes the outcome known as early as it can be, so that no
// follower waits for the leader's connection.
type witness struct {
	Transport
	x      *Exchange
	cache  *cache
	flight *flight
	entry  *entry // being collected
	left   int64  // bytes of its body that have not come
}

// Begin sees what the leader's caller is told.
func (w *witness) Begin(status int, header []inference.Field, length int64, hangUp bool) {
	r := &w.x.record
	switch {
	case r.Reason != "" && ofLeaderAlone(r.Reason):
	case status != 200 || r.SoftFailure || length < 0 || length > maxEntryBytes || !w.cache.mayShare(header) ||
		w.cache.origin != (origin{r.Generation, r.ModelDigest}):
		w.cache.settle(w.flight, nil)
	default:
		w.entry = newEntry(w.flight.key, w.cache.origin, header, length)
		w.left = length
		w.collected()
	}
	w.Transport.Begin(status, header, length, hangUp)
}

// Write sees the body.
func (w *witness) Write(p []byte) (int, error) {
	if w.entry != nil && int64(len(p)) <= w.left {
		w.entry.body = append(w.entry.body, p...)
		w.left -= int64(len(p))
		w.collected()
	}
	return w.Transport.Write(p)
}

func (w *witness) collected() {
	if w.left == 0 {
		e := w.entry
		w.entry = nil
		e.made, e.fresh = time.Now(), w.cache.freshness(e.header)
		w.cache.settle(w.flight, e)
	}
}

// newEntry copies what others get of an answer's header into memory of its own.
func newEntry(k cacheKey, from origin, header []inference.Field, length int64) *entry {
	text, n := 0, 0
	for _, f := range header {
		if !ofOneRequest(f.Name) {
			text += len(f.Name) + len(f.Value)
			n++
		}
	}
	var b strings.Builder
	b.Grow(text)
	own := func(s string) string {
		from := b.Len()
		b.WriteString(s)
		return b.String()[from:]
	}
	e := &entry{key: k, origin: from, header: make([]inference.Field, 0, n), body: make([]byte, 0, length),
		size: int64(text+n*fieldOverhead) + length + entryOverhead}
	for _, f := range header {
		if !ofOneRequest(f.Name) {
			e.header = append(e.header, inference.Field{Name: own(f.Name), Value: own(f.Value)})
		}
	}
	return e
}

// ofOneRequest names the fields that the gateway writes for each request, and those by which a worker tells of one run.
func ofOneRequest(name string) bool {
	return http1.EqualFold(name, "server") || http1.EqualFold(name, fieldClientID) || http1.EqualFold(name, fieldDeployment) || http1.EqualFold(name, fieldSession) ||
		hasPrefixFold(name, fieldPlatform) || dropped(name) || http1.EqualFold(name, fieldLegacyID) || http1.EqualFold(name, fieldTrace) ||
		http1.EqualFold(name, fieldRunTime)
}

// mayShare says whether an answer's header lets others have it.
func (c *cache) mayShare(header []inference.Field) bool {
	for _, f := range header {
		switch {
		case http1.EqualFold(f.Name, "set-cookie"):
			return false
		case http1.EqualFold(f.Name, "cache-control"):
			if hasDirective(f.Value, "no-store", "no-cache", "private", "max-age=0") {
				return false
			}
		case http1.EqualFold(f.Name, "vary"):
			for name := range strings.SplitSeq(f.Value, ",") {
				if !c.keyed(strings.TrimSpace(name)) {
					return false
				}
			}
		}
	}
	return true
}

func (c *cache) keyed(name string) bool {
	for _, n := range c.names {
		if http1.EqualFold(name, n) {
			return true
		}
	}
	return name == ""
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }
