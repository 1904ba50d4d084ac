package gateway

import (
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"portico/internal/access"
	"portico/internal/inference"
	"portico/internal/route"
	"portico/internal/telemetry"
)

// Bounds of what requests may hold, where Config leaves them at zero.
const (
	// DefaultMaxRequestBytes is what the reverse proxy in Azure's own serving images lets through.
	DefaultMaxRequestBytes = 100 << 20
	DefaultDeploymentBytes = 256 << 20
	DefaultBufferBytes     = 512 << 20
	DefaultMirrorBytes     = 64 << 20
	DefaultCacheBytes      = 128 << 20
)

// Config of a Gateway.
type Config struct {
	// Domain makes https://NAME.DOMAIN/score a scoring URL beside .../endpoints/NAME/score; empty: only the latter.
	Domain string
	// InterceptDomain does the same for requests that come by Azure's own names; empty: none do.
	InterceptDomain string
	// MaxRequestBytes is the largest request body; a larger one is answered 413.
	MaxRequestBytes int64
	// DeploymentBytes bounds the bodies pending on one deployment, BufferBytes those of the whole server. Beyond
	// them requests are answered 429.
	DeploymentBytes int64
	BufferBytes     int64
	// Tokens verifies tokens; nil: endpoints with another authMode than Key let nobody in.
	Tokens Tokens
	// MirrorBytes bounds the copies of requests for shadow deployments in the whole server, header and body. Copies
	// beyond it are dropped and counted.
	MirrorBytes int64
	// Collector keeps bodies of requests and answers for deployments that collect them; nil: none do.
	Collector Collector
	// CacheBytes bounds the answers kept in the whole server.
	CacheBytes int64
}

func (c *Config) fill() {
	c.Domain = strings.ToLower(strings.Trim(c.Domain, "."))
	c.InterceptDomain = strings.ToLower(strings.Trim(c.InterceptDomain, "."))
	if c.MaxRequestBytes <= 0 {
		c.MaxRequestBytes = DefaultMaxRequestBytes
	}
	if c.DeploymentBytes <= 0 {
		c.DeploymentBytes = DefaultDeploymentBytes
	}
	if c.BufferBytes <= 0 {
		c.BufferBytes = DefaultBufferBytes
	}
	if c.MirrorBytes <= 0 {
		c.MirrorBytes = DefaultMirrorBytes
	}
	if c.CacheBytes <= 0 {
		c.CacheBytes = DefaultCacheBytes
	}
}

// Tokens verifies the tokens of endpoints that do not identify their callers by key. It is called for each such request
// and must answer from memory what it has verified before.
type Tokens interface {
	Verify(token string) (*access.Claims, error)
}

// Upstreams finds the connection to an instance. It is called for each request and must not block.
type Upstreams interface {
	Lookup(instanceID string) (inference.Upstream, bool)
}

// Gateway is the transport-neutral core. It is safe for concurrent use.
type Gateway struct {
	cfg       Config
	upstreams Upstreams
	recorder  telemetry.Recorder
	log       *slog.Logger

	view     atomic.Pointer[view]
	swapping sync.Mutex
	draining atomic.Bool
	buffered atomic.Int64 // bytes of request bodies in memory
	mirrors  mirrors
	caches   cacheBudget
}

// view is a routing table with the state that belongs to each of its deployments.
type view struct {
	table  *route.Table
	states map[*route.Deployment]*deployment
	byUID  map[string]*deployment
}

// New makes a gateway that answers 503 until its first table.
func New(cfg Config, upstreams Upstreams, recorder telemetry.Recorder, log *slog.Logger) *Gateway {
	cfg.fill()
	g := &Gateway{cfg: cfg, upstreams: upstreams, recorder: recorder, log: log}
	g.mirrors.open()
	g.caches = cacheBudget{limit: cfg.CacheBytes, largest: g.largestCache, record: recorder.CacheBytes}
	return g
}

// SetTable puts a table in force at once. Requests that are under way finish under the one they began with;
// queues and counts of deployments that stay (by UID) are kept, those of deployments that are gone are closed.
func (g *Gateway) SetTable(t *route.Table) {
	g.swapping.Lock()
	defer g.swapping.Unlock()
	next := &view{table: t, states: map[*route.Deployment]*deployment{}, byUID: map[string]*deployment{}}
	old := g.view.Load()
	endpoints := t.Endpoints()
	for i := range endpoints {
		for j := range endpoints[i].Deployments {
			r := &endpoints[i].Deployments[j]
			var d *deployment
			if old != nil {
				d = old.byUID[r.UID]
			}
			if d == nil {
				d = newDeployment()
			}
			d.update(r, g.cfg.DeploymentBytes)
			d.renewCache(r.Cache, r.Generation, &g.caches)
			next.states[r], next.byUID[r.UID] = d, d
		}
	}
	g.view.Store(next)
	if old == nil {
		return
	}
	for uid, d := range old.byUID {
		if next.byUID[uid] == nil {
			d.queue.Close()
			d.renewCache(nil, 0, &g.caches)
		}
	}
}

// Load is what is pending on one deployment.
type Load struct {
	Executing, Waiting int
	Bytes              int64
}

// Load tells what is pending on the deployment with this UID; false when the table in force does not have it.
func (g *Gateway) Load(uid string) (Load, bool) {
	v := g.view.Load()
	if v == nil || v.byUID[uid] == nil {
		return Load{}, false
	}
	return Load(v.byUID[uid].queue.Load()), true
}

// Drain makes the health page say that the server is going away. Requests are still served.
func (g *Gateway) Drain() { g.draining.Store(true) }

// retryPause bounds: how long a request that found no instance waits before it looks again, unless a new table
// comes first.
const (
	minRetryPause = 5 * time.Millisecond
	maxRetryPause = 100 * time.Millisecond
)
