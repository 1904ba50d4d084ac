package gateway

import (
	"sync"
	"sync/atomic"

	"portico/internal/admission"
	"portico/internal/route"
)

// deployment is what lives longer than a routing table: the queue and the counts of one deployment.
type deployment struct {
	queue *admission.Queue
	ready atomic.Pointer[readySet]
	cache atomic.Pointer[cache] // nil: answers are not kept

	copies    atomic.Int64 // copies of requests under way, while this is a shadow
	maxCopies atomic.Int64

	mu      sync.Mutex // of what follows; never taken by a request on a ready instance
	limits  admission.Limits
	perInst int
	retired []*instance // no longer ready, but with requests in flight
}

// readySet is immutable. changed is closed when another one takes its place.
type readySet struct {
	instances []*instance
	origin    origin // the newest of them; without any, the one before
	changed   chan struct{}
}

type instance struct {
	id         string
	generation int64
	digest     string
	inflight   atomic.Int64
	retired    atomic.Bool
}

func newDeployment() *deployment {
	d := &deployment{queue: admission.New(admission.Limits{})}
	d.ready.Store(&readySet{changed: make(chan struct{})})
	return d
}

// update follows the table.
func (d *deployment) update(r *route.Deployment, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.ready.Load()
	known := make(map[string]*instance, len(old.instances)+len(d.retired))
	for _, i := range append(old.instances[:len(old.instances):len(old.instances)], d.retired...) {
		known[i.id] = i
	}
	next := &readySet{changed: make(chan struct{})}
	if len(r.Instances) == 0 {
		next.origin = old.origin
	}
	for _, ri := range r.Instances {
		if ri.Generation >= next.origin.generation {
			next.origin = origin{ri.Generation, ri.ModelDigest}
		}
		i := known[ri.ID]
		if i == nil || i.generation != ri.Generation || i.digest != ri.ModelDigest {
			i = &instance{id: ri.ID, generation: ri.Generation, digest: ri.ModelDigest}
		} else {
			delete(known, ri.ID)
		}
		i.retired.Store(false)
		next.instances = append(next.instances, i)
	}
	d.retired = nil
	for _, i := range known {
		i.retired.Store(true)
		d.retired = append(d.retired, i)
	}
	d.perInst = max(r.Request.MaxConcurrent, 1)
	d.limits = admission.Limits{Pending: r.Request.PendingLimit(r.MaxInstances), Bytes: bytes}
	// Half of what may be pending: a caller who names the shadow in the header always finds the other half free.
	d.maxCopies.Store(int64(max(d.limits.Pending/2, 1)))
	d.ready.Store(next)
	close(old.changed)
	d.applyLocked()
}

// applyLocked gives the queue as many slots as the ready instances have. Requests still running on retired
// instances hold slots too; these are added, or a replaced instance would keep its successor idle and callers out.
func (d *deployment) applyLocked() {
	limits := d.limits
	limits.Executing = d.perInst * len(d.ready.Load().instances)
	kept := d.retired[:0]
	for _, i := range d.retired {
		if n := i.inflight.Load(); n > 0 {
			limits.Executing += int(n)
			limits.Pending += int(n)
			kept = append(kept, i)
		}
	}
	clear(d.retired[len(kept):])
	d.retired = kept
	d.queue.SetLimits(limits)
}

// leave ends a request on an instance.
func (d *deployment) leave(i *instance) {
	i.inflight.Add(-1)
	if i.retired.Load() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.applyLocked()
	}
}

// enter takes the instance with the fewest requests, except those tried, and counts one more on it; nil when
// there is none. start spreads equals.
func (s *readySet) enter(tried []*instance, start uint32) *instance {
	n := len(s.instances)
	if n == 0 {
		return nil
	}
	for {
		var best *instance
		var least int64
		at := int(start % uint32(n))
		for range n {
			i := s.instances[at]
			if at++; at == n {
				at = 0
			}
			if load := i.inflight.Load(); (best == nil || load < least) && !contains(tried, i) {
				best, least = i, load
			}
		}
		if best == nil || best.inflight.CompareAndSwap(least, least+1) {
			return best
		}
	}
}

func contains(set []*instance, i *instance) bool {
	for _, t := range set {
		if t == i {
			return true
		}
	}
	return false
}
