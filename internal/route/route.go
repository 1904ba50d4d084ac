package route

import (
	"slices"
	"strings"

	"portico/internal/online"
)

// Endpoint is what the gateway must know of one endpoint. Build copies it; what Match gives back must only be read.
type Endpoint struct {
	Name        string
	UID         string
	AuthMode    online.AuthMode
	Keys        [][32]byte     // authMode Key: SHA-256 of the primary key, then of the secondary key
	Callers     []string       // authMode AADToken: object ids of the principals that may call
	Traffic     online.Traffic // share by deployment name; names that Deployments lacks have no effect
	Mirror      online.Traffic // percent of the live requests that a deployment gets a copy of; at most one has effect
	Deployments []Deployment

	callers map[string]bool
	shares  []share // of the deployments with a positive share, in order of name
	total   uint64
	shadow  *Deployment // gets copies; never one with a share
	copies  uint64      // values of uint32 that Shadow copies at
}

type share struct {
	upTo       uint64 // sum of the shares so far
	deployment *Deployment
}

// Deployment is what the gateway must know of one deployment.
type Deployment struct {
	Name    string
	UID     string
	Request online.RequestSettings
	// MaxInstances sizes the bound on pending requests: the count that was asked for, or the upper bound of
	// automatic scaling.
	MaxInstances int
	Generation   int64                 // of the deployment's spec in force
	Cache        *online.ResponseCache // nil: answers are not kept
	Instances    []Instance            // ready ones only
	// Paths are what callers may ask for; nil: ScriptPaths. ScoringPath, when set, is what PathScore stands for where
	// Paths does not admit PathScore itself.
	Paths       []Path
	ScoringPath string
	// ID and Collector say of which deployment, and which, data of requests is kept; nil: none.
	ID        online.ID
	Collector *online.DataCollector
}

// Instance is one instance that may be called. During an update a deployment has instances of two generations.
type Instance struct {
	ID          string // unique for ever
	Address     string // host:port; empty when it is reached through the server's own pool
	Generation  int64  // of the deployment's spec that it runs
	ModelDigest string
}

// Table answers Match. It never changes.
type Table struct {
	revision  int64
	endpoints []Endpoint
	byName    map[string]*Endpoint
}

// Build makes a table. Names of endpoints are unique without regard to case (of equal names the first is kept),
// and so are the deployments of an endpoint. The same input in any order gives an equal table.
func Build(revision int64, endpoints []Endpoint) *Table {
	t := &Table{revision: revision, endpoints: slices.Clone(endpoints), byName: make(map[string]*Endpoint, len(endpoints))}
	slices.SortStableFunc(t.endpoints, func(a, b Endpoint) int { return compareFold(a.Name, b.Name) })
	t.endpoints = slices.CompactFunc(t.endpoints, func(a, b Endpoint) bool { return compareFold(a.Name, b.Name) == 0 })
	for i := range t.endpoints {
		e := &t.endpoints[i]
		e.build()
		t.byName[strings.ToLower(e.Name)] = e
	}
	return t
}

func (e *Endpoint) build() {
	e.Keys = slices.Clone(e.Keys)
	e.Callers = slices.Sorted(slices.Values(e.Callers))
	e.callers = make(map[string]bool, len(e.Callers))
	for _, id := range e.Callers {
		e.callers[id] = true
	}
	e.Deployments = slices.Clone(e.Deployments)
	slices.SortStableFunc(e.Deployments, func(a, b Deployment) int { return compareFold(a.Name, b.Name) })
	e.Deployments = slices.CompactFunc(e.Deployments, func(a, b Deployment) bool { return compareFold(a.Name, b.Name) == 0 })
	traffic := make(online.Traffic, len(e.Traffic))
	for name, percent := range e.Traffic {
		traffic[name] = percent
	}
	e.Traffic, e.shares, e.total = traffic, nil, 0
	for i := range e.Deployments {
		d := &e.Deployments[i]
		d.Instances = slices.Clone(d.Instances)
		slices.SortFunc(d.Instances, func(a, b Instance) int { return strings.Compare(a.ID, b.ID) })
		if percent := shareOf(traffic, d.Name); percent > 0 {
			e.total += uint64(percent)
			e.shares = append(e.shares, share{upTo: e.total, deployment: d})
		}
	}
	e.buildMirror(traffic)
}

// buildMirror finds the deployment that gets copies: the first by name that has no live traffic.
func (e *Endpoint) buildMirror(traffic online.Traffic) {
	mirror := make(online.Traffic, len(e.Mirror))
	for name, percent := range e.Mirror {
		mirror[name] = percent
	}
	e.Mirror, e.shadow, e.copies = mirror, nil, 0
	for i := range e.Deployments {
		d := &e.Deployments[i]
		if percent := shareOf(mirror, d.Name); percent > 0 && shareOf(traffic, d.Name) == 0 {
			e.shadow = d
			e.copies = uint64(min(percent, online.MaxMirrorPercent)) << 32 / 100
			return
		}
	}
}

// shareOf is the share of a deployment, its name without regard to case; 0 when it is not positive.
func shareOf(t online.Traffic, name string) int {
	percent := 0
	for n, p := range t {
		if strings.EqualFold(n, name) {
			percent = max(percent, p)
		}
	}
	return percent
}

// Revision is the one that Build was given.
func (t *Table) Revision() int64 { return t.revision }

// Endpoints lists all endpoints in order of name. The result must only be read.
func (t *Table) Endpoints() []Endpoint { return t.endpoints }

// Match finds an endpoint by name without regard to case, or nil. It does not allocate.
func (t *Table) Match(name string) *Endpoint {
	var lower [online.NameMaxLength]byte
	if len(name) > len(lower) {
		return nil
	}
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		lower[i] = c
	}
	return t.byName[string(lower[:len(name)])]
}

// Admits says whether a principal may call an endpoint with authMode AADToken.
func (e *Endpoint) Admits(objectID string) bool {
	return e.AuthMode == online.AuthAADToken && e.callers[objectID]
}

// Miss says why Pick found no deployment.
type Miss uint8

// The outcomes of Pick.
const (
	Hit               Miss = iota
	NoTraffic              // no deployment has a positive share
	UnknownDeployment      // the pinned name is none of the endpoint's deployments
)

// String is for logs and test failures.
func (m Miss) String() string {
	return [...]string{"hit", "no traffic", "unknown deployment"}[m]
}

// Pick chooses a deployment: the pinned one when a name is given (whatever its share, also zero), else one by
// the shares. random must be uniform over all values of uint32; a share of p percent gets p percent of these
// values, to within one value.
func (e *Endpoint) Pick(pinned string, random uint32) (*Deployment, Miss) {
	if pinned != "" {
		for i := range e.Deployments {
			if strings.EqualFold(e.Deployments[i].Name, pinned) {
				return &e.Deployments[i], Hit
			}
		}
		return nil, UnknownDeployment
	}
	if e.total == 0 {
		return nil, NoTraffic
	}
	// Scaling by multiplication has no bias beyond rounding, unlike the remainder of a division.
	at := uint64(random) * e.total >> 32
	for i := range e.shares {
		if at < e.shares[i].upTo {
			return e.shares[i].deployment, Hit
		}
	}
	return nil, NoTraffic
}

// Shadow chooses whether a request that Pick sent by the shares is also copied, and to which deployment; nil when it
// is not. random must be uniform over all values of uint32 and independent of Pick's.
func (e *Endpoint) Shadow(random uint32) *Deployment {
	if uint64(random) < e.copies {
		return e.shadow
	}
	return nil
}

func compareFold(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) }
