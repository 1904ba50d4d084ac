package gateway

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"portico/internal/http1"
	"portico/internal/inference"
	"portico/internal/online"
	"portico/internal/telemetry"
)

// Bounds of the response cache.
const (
	// maxEntryBytes is the largest answer that is kept or shared: what an instance answers beyond it is not read whole.
	maxEntryBytes = wholeBytes
	// entryOverhead is counted for each entry besides its text: the entry, its place in the table, rounding of sizes.
	entryOverhead = 320
	// fieldOverhead is counted for each header field besides its text.
	fieldOverhead = 32
)

// alwaysKeyed are the fields of a request by which the runtimes themselves read input, or make the header of an answer.
var alwaysKeyed = []string{"accept", "content-encoding", "content-type", "inference-header-content-length", "origin"}

// cacheKey is the digest of everything in a request that its answer may depend on.
type cacheKey [sha256.Size]byte

// origin says what made an answer.
type origin struct {
	generation int64
	digest     string // of the model
}

// cache keeps answers of one deployment as one generation of instances makes them. It is replaced, and so emptied, whenever
// the deployment's spec, the cache's settings or the generation that serves changes, and by a purge.
type cache struct {
	settings *online.ResponseCache
	spec     int64 // generation of the deployment's spec
	origin   origin
	names    []string // of the fields in the key
	budget   *cacheBudget
	bytes    atomic.Int64 // written under mu

	mu      sync.Mutex // held for look-ups only, never while anything waits
	closed  bool
	entries map[cacheKey]*entry
	flights map[cacheKey]*flight
	recent  list // used last in front
	aged    list // kept last in front
	expiry  *time.Timer
}

// entry is an answer. Its links belong to the cache; the rest never changes, and may be read after the entry has been dropped.
type entry struct {
	key    cacheKey
	origin origin
	header []inference.Field // of the instance
	body   []byte
	size   int64
	made   time.Time
	fresh  time.Duration // how long it may be given again, at most the cache's TTL
	links  [2]struct{ before, after *entry }
}

func newCache(settings *online.ResponseCache, spec int64, from origin, budget *cacheBudget) *cache {
	c := &cache{settings: settings, spec: spec, origin: from, budget: budget, entries: map[cacheKey]*entry{},
		flights: map[cacheKey]*flight{}, recent: newList(0), aged: newList(1)}
	c.names = append(append(c.names, alwaysKeyed...), settings.Vary...)
	return c
}

// serves says whether the cache is still the one for a deployment in this state. nil serves one without a cache.
func (c *cache) serves(settings *online.ResponseCache, spec int64, from origin) bool {
	if c == nil || settings == nil {
		return c == nil && settings == nil
	}
	return c.settings.Same(settings) && c.spec == spec && c.origin == from
}

// key digests a request. Each part stands behind its length, so that no two requests have the same text.
func (c *cache) key(x *Exchange) cacheKey {
	h := sha256.New()
	var room [8]byte
	number := func(n int) {
		binary.LittleEndian.PutUint64(room[:], uint64(n))
		h.Write(room[:])
	}
	for _, part := range [...]string{x.Method, x.at, x.Query} {
		number(len(part))
		writeString(h, part)
	}
	for _, name := range c.names {
		n := 0
		for i := range x.Header {
			if http1.EqualFold(x.Header[i].Name, name) {
				n++
			}
		}
		number(n)
		for i := range x.Header {
			if http1.EqualFold(x.Header[i].Name, name) {
				number(len(x.Header[i].Value))
				writeString(h, x.Header[i].Value)
			}
		}
	}
	number(len(x.body))
	h.Write(x.body)
	var k cacheKey
	h.Sum(k[:0])
	return k
}

// writeString hashes text without a copy of all of it.
func writeString(h hash.Hash, s string) {
	var room [256]byte
	for len(s) > 0 {
		n := copy(room[:], s)
		h.Write(room[:n])
		s = s[n:]
	}
}

// lookup finds an answer that is young enough.
func (c *cache) lookup(k cacheKey, now time.Time) *entry {
	e := c.entries[k]
	if e == nil || now.Sub(e.made) >= e.fresh {
		return nil
	}
	c.recent.remove(e)
	c.recent.push(e)
	return e
}

// keep stores an answer, if it fits. Others that were used longest ago make room for it.
func (c *cache) keep(e *entry) {
	if e.size > c.settings.MaxBytes {
		return
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.fit(e)
	c.mu.Unlock()
	if !c.budget.reserve(e.size) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		c.budget.release(e.size)
		return
	}
	c.fit(e) // what came in between
	c.entries[e.key] = e
	c.recent.push(e)
	c.aged.push(e)
	c.bytes.Add(e.size)
	if c.expiry == nil {
		c.expiry = time.AfterFunc(c.settings.TTL, c.expire)
	}
}

// fit drops what is too old, what e replaces, and what must go for e to fit.
func (c *cache) fit(e *entry) {
	c.dropExpired(time.Now())
	if old := c.entries[e.key]; old != nil {
		c.drop(old)
	}
	for c.bytes.Load()+e.size > c.settings.MaxBytes {
		c.drop(c.recent.last())
	}
}

func (c *cache) drop(e *entry) {
	delete(c.entries, e.key)
	c.recent.remove(e)
	c.aged.remove(e)
	c.bytes.Add(-e.size)
	c.budget.release(e.size)
}

func (c *cache) dropExpired(now time.Time) {
	for e := c.aged.last(); e != nil && now.Sub(e.made) >= c.settings.TTL; e = c.aged.last() {
		c.drop(e)
	}
}

// expire runs when the oldest answer is too old, so that nothing is held for longer although nobody asks.
func (c *cache) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expiry = nil
	now := time.Now()
	c.dropExpired(now)
	if e := c.aged.last(); e != nil {
		c.expiry = time.AfterFunc(e.made.Add(c.settings.TTL).Sub(now), c.expire)
	}
}

// dropLeastRecent makes room for another deployment.
func (c *cache) dropLeastRecent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.recent.last(); e != nil {
		c.drop(e)
	}
}

// close drops everything for good and tells how much that was. Requests that wait for an answer still get it.
func (c *cache) close() (entries int, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	entries, bytes = len(c.entries), c.bytes.Load()
	for e := c.aged.last(); e != nil; e = c.aged.last() {
		c.drop(e)
	}
	if c.expiry != nil {
		c.expiry.Stop()
		c.expiry = nil
	}
	return entries, bytes
}

// list is a ring of entries through one of their pairs of links.
type list struct {
	root  *entry
	which int
}

func newList(which int) list {
	l := list{root: &entry{}, which: which}
	l.root.links[which].before, l.root.links[which].after = l.root, l.root
	return l
}

func (l *list) push(e *entry) {
	next := l.root.links[l.which].after
	e.links[l.which].before, e.links[l.which].after = l.root, next
	l.root.links[l.which].after, next.links[l.which].before = e, e
}

func (l *list) remove(e *entry) {
	own := &e.links[l.which]
	own.before.links[l.which].after, own.after.links[l.which].before = own.after, own.before
	own.before, own.after = nil, nil
}

// last is the entry that was pushed first; nil when there is none.
func (l *list) last() *entry {
	if e := l.root.links[l.which].before; e != l.root {
		return e
	}
	return nil
}

// cacheBudget is the memory for answers in the whole server.
type cacheBudget struct {
	limit   int64
	held    atomic.Int64 // never above limit
	largest func() *cache
	record  func(delta int64)
}

// reserve takes n bytes. The deployment that holds the most gives up what it used longest ago; false when that cannot help.
func (b *cacheBudget) reserve(n int64) bool {
	for n <= b.limit {
		held := b.held.Load()
		if held+n > b.limit {
			victim := b.largest()
			if victim == nil {
				return false
			}
			victim.dropLeastRecent()
			continue
		}
		if b.held.CompareAndSwap(held, held+n) {
			b.record(n)
			return true
		}
	}
	return false
}

func (b *cacheBudget) release(n int64) {
	b.record(-n) // what is recorded is never more than what is held
	b.held.Add(-n)
}

// largestCache is the cache that holds most; nil when none holds anything.
func (g *Gateway) largestCache() *cache {
	var largest *cache
	most := int64(0)
	if v := g.view.Load(); v != nil {
		for _, d := range v.byUID {
			if c := d.cache.Load(); c != nil && c.bytes.Load() > most {
				largest, most = c, c.bytes.Load()
			}
		}
	}
	return largest
}

// PurgeCache forgets every answer kept for a deployment, and those under way are not kept. Not ok when the table in force does
// not have the deployment, or it has no response cache.
func (g *Gateway) PurgeCache(uid string) (entries int, bytes int64, ok bool) {
	g.swapping.Lock()
	defer g.swapping.Unlock()
	v := g.view.Load()
	if v == nil || v.byUID[uid] == nil {
		return 0, 0, false
	}
	d := v.byUID[uid]
	c := d.cache.Load()
	if c == nil {
		return 0, 0, false
	}
	d.cache.Store(newCache(c.settings, c.spec, c.origin, c.budget))
	entries, bytes = c.close()
	return entries, bytes, true
}

// renewCache gives a deployment the cache that its newest state asks for.
func (d *deployment) renewCache(settings *online.ResponseCache, spec int64, budget *cacheBudget) {
	old := d.cache.Load()
	from := d.ready.Load().origin
	if old.serves(settings, spec, from) {
		return
	}
	var next *cache
	if settings != nil {
		next = newCache(settings, spec, from, budget)
	}
	d.cache.Store(next)
	if old != nil {
		old.close()
	}
}

// passesCache says whether a request asks for an answer of its own (RFC 9111, section 5.2.1).
func passesCache(header []inference.Field) bool {
	for _, f := range header {
		switch {
		case http1.EqualFold(f.Name, "cache-control"):
			if hasDirective(f.Value, "no-cache", "no-store", "max-age=0") {
				return true
			}
		case http1.EqualFold(f.Name, fieldLegacyID):
			if len(f.Value) > legacyIDMaxLength {
				return true // which the worker refuses
			}
		}
	}
	return false
}

// hasDirective looks for words in a list with commas between them. A directive with a value counts by its name too.
func hasDirective(list string, words ...string) bool {
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		name, _, _ := strings.Cut(item, "=")
		for _, w := range words {
			if http1.EqualFold(item, w) || http1.EqualFold(strings.TrimSpace(name), w) {
				return true
			}
		}
	}
	return false
}

// freshness is how long an answer may be given again: for the TTL, or as its own header says where that is shorter.
func (c *cache) freshness(header []inference.Field) time.Duration {
	out := c.settings.TTL
	for _, f := range header {
		if !http1.EqualFold(f.Name, "cache-control") {
			continue
		}
		for item := range strings.SplitSeq(f.Value, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(item), "=")
			if !http1.EqualFold(name, "max-age") && !http1.EqualFold(name, "s-maxage") {
				continue
			}
			if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
				out = min(out, time.Duration(n)*time.Second)
			}
		}
	}
	return out
}

// give answers with an entry: as the instance did, but with this request's own ids.
func (g *Gateway) give(x *Exchange, e *entry, how string) {
	r := &x.record
	r.Cache, r.Status, r.Generation, r.ModelDigest = how, 200, e.origin.generation, e.origin.digest
	now := time.Now()
	r.FirstByte = now.Sub(x.Arrival)
	h := append(x.answer[:0], inference.Field{Name: "Server", Value: serverName})
	h = x.appendIdentity(h)
	h = append(h, inference.Field{Name: fieldModelTime, Value: "0"})
	if how == telemetry.CacheHit {
		h = append(h, inference.Field{Name: "Age", Value: seconds(now.Sub(e.made))})
	}
	h = append(h, e.header...)
	legacy := r.RequestID
	if r.ClientRequestID != "" {
		legacy = r.ClientRequestID
	}
	for _, f := range x.Header {
		switch {
		case http1.EqualFold(f.Name, fieldLegacyID) && f.Value != "":
			legacy = f.Value
		case http1.EqualFold(f.Name, fieldTrace) && f.Value != "":
			h = append(h, inference.Field{Name: "TraceId", Value: f.Value})
		}
	}
	x.answer = append(h, inference.Field{Name: fieldLegacyID, Value: legacy})
	if x.capture != nil {
		g.beginCapture(x, &inference.Answer{Header: e.header, ContentLength: int64(len(e.body))})
		x.captured().Add(e.body)
		defer g.endCapture(x)
	}
	x.begin(r.Status, int64(len(e.body)), false)
	written, err := x.Write(e.body)
	r.ResponseBytes = int64(written)
	if err != nil {
		x.hungUp()
	}
}
