package reconcile

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"portico/internal/compute"
	"portico/internal/online"
	"portico/internal/route"
	"portico/internal/store"
)

// routePause gathers the changes of a burst into one table. A change that comes alone waits for nothing.
const routePause = 5 * time.Millisecond

func (l *Loop) dirtyRoutes() {
	select {
	case l.routes <- struct{}{}:
	default:
	}
}

// publish builds the next table whenever something that it shows has changed.
func (l *Loop) publish(ctx context.Context) {
	known := map[string]generation{} // by set
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.routes:
		}
		if table, err := l.table(ctx, known); err == nil {
			l.Tables.SetTable(table)
		} else if ctx.Err() == nil {
			l.Logger.Error("cannot build the routing table, the old one stays in force", "error", err)
			time.AfterFunc(retryAfter, l.dirtyRoutes)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(routePause):
		}
	}
}

// generation is what the table says of the instances that run one generation of a deployment.
type generation struct {
	modelDigest string
	paths       []route.Path
	scoring     string // route.Deployment.ScoringPath
}

// table reads everything that the gateway must know. known remembers, across calls, what never changes.
func (l *Loop) table(ctx context.Context, known map[string]generation) (*route.Table, error) {
	var out []route.Endpoint
	var revision int64
	sets := l.view.all()
	seen := map[string]bool{}
	err := l.Store.View(ctx, func(r store.Reader) error {
		out, revision = nil, r.Revision()
		endpoints, err := store.List[online.EndpointSpec, online.EndpointStatus](r, kindPrefix(online.KindEndpoint), store.Page{})
		if err != nil {
			return fmt.Errorf("list endpoints: %w", err)
		}
		callers, err := callers(r)
		if err != nil {
			return err
		}
		for _, e := range endpoints {
			if !e.Deleting.IsZero() {
				continue
			}
			re := route.Endpoint{Name: e.ID.Name, UID: e.UID, AuthMode: e.Spec.AuthMode, Traffic: e.Spec.Traffic,
				Mirror: e.Spec.MirrorTraffic}
			// What another mode would let in is not in the table at all.
			switch e.Spec.AuthMode {
			case online.AuthKey:
				if re.Keys, err = keys(r, e.UID); err != nil {
					return err
				}
			case online.AuthAADToken:
				re.Callers = callers
			case online.AuthAMLToken:
			}
			deployments, err := store.List[online.DeploymentSpec, online.DeploymentStatus](r, e.ID.Workspace.Deployment(e.ID.Name, "").Prefix(), store.Page{})
			if err != nil {
				return fmt.Errorf("list deployments of %s: %w", e.ID.Name, err)
			}
			for _, d := range deployments {
				if !d.Deleting.IsZero() {
					continue
				}
				rd := route.Deployment{
					Name: d.ID.Name, UID: d.UID, Request: d.Spec.Request, MaxInstances: d.Spec.InstanceCount,
					Generation: d.Generation, Cache: d.Spec.Cache,
					Instances: l.ready(r, d, sets[d.UID], known, seen),
					ID:        d.ID, Collector: d.Spec.DataCollector,
				}
				rd.Paths, rd.ScoringPath = paths(&d.Spec)
				// What serves decides what may be asked for: until an update has come to its end that is the set before it.
				if c := d.Status.Current; c != nil && seen[c.ID] {
					rd.Paths, rd.ScoringPath = known[c.ID].paths, known[c.ID].scoring
				}
				re.Deployments = append(re.Deployments, rd)
			}
			out = append(out, re)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for id := range known {
		if !seen[id] {
			delete(known, id)
		}
	}
	return route.Build(revision, out), nil
}

// callers are the principals that may call every endpoint with authMode AADToken: those that are administrators.
// Managed identities have no rights until somebody can give them some.
func callers(r store.Reader) ([]string, error) {
	all, err := store.List[online.PrincipalSpec, struct{}](r, kindPrefix(online.KindPrincipal), store.Page{})
	if err != nil {
		return nil, fmt.Errorf("list principals: %w", err)
	}
	out := []string{online.Administrator.ID}
	for _, p := range all {
		out = append(out, p.Spec.ObjectID)
	}
	return out, nil
}

func keys(r store.Reader, uid string) ([][32]byte, error) {
	secrets, err := r.Secrets(uid)
	if err != nil {
		return nil, fmt.Errorf("read the keys of an endpoint: %w", err)
	}
	var out [][32]byte
	for _, name := range []string{online.SecretPrimaryKey, online.SecretSecondaryKey} {
		if key := secrets[name].Reveal(); key != "" {
			out = append(out, sha256.Sum256([]byte(key)))
		}
	}
	return out, nil
}

// paths are those below the endpoint's URL that a deployment answers, and what /score stands for where it is none of
// them.
func paths(spec *online.DeploymentSpec) (admitted []route.Path, scoring string) {
	switch spec.Runtime {
	case online.RuntimeMLflow:
		return mlflowPaths, ""
	case online.RuntimeONNX:
		return onnxPaths, ""
	case online.RuntimeServer:
		// Control let only paths in that have a clean form.
		scoring, _ = route.Clean(spec.Inference.Scoring.Path)
		return []route.Path{{Path: scoring}}, scoring
	}
	return route.ScriptPaths, ""
}

// onnxPaths adds the Open Inference Protocol.
var onnxPaths = append([]route.Path{
	{Path: "/v2", Methods: route.Read}, {Path: "/v2/", Methods: route.ReadOrWrite},
}, route.ScriptPaths...)

// mlflowPaths adds what MLflow's own server answers.
var mlflowPaths = append([]route.Path{
	{Path: "/invocations", Methods: route.Write}, {Path: "/ping", Methods: route.Read},
	{Path: "/health", Methods: route.Read}, {Path: "/version", Methods: route.Read},
}, route.ScriptPaths...)

func (l *Loop) ready(r store.Reader, d *store.Deployment, sets []compute.Set, known map[string]generation, seen map[string]bool) []route.Instance {
	var out []route.Instance
	for _, s := range sets {
		seen[s.ID] = true
		g, ok := known[s.ID]
		if !ok {
			g = describe(r, d, s.Generation)
			known[s.ID] = g
		}
		for _, i := range s.Instances {
			if i.State == online.InstanceReady {
				out = append(out, route.Instance{ID: i.ID, Address: i.Address, Generation: s.Generation, ModelDigest: g.modelDigest})
			}
		}
	}
	return out
}

// describe finds which bytes a generation serves, for the records of its requests, and what it answers. When that cannot
// be read the records lack the digest and the newest spec stands in; that must not stop routing.
func describe(r store.Reader, d *store.Deployment, number int64) generation {
	made := *d
	if number != d.Generation && readRevision(r, &made, number) != nil {
		made.Spec = d.Spec
	}
	var out generation
	out.paths, out.scoring = paths(&made.Spec)
	if made.Spec.Model == nil {
		return out
	}
	if a, err := store.Get[online.AssetSpec, struct{}](r, made.Spec.Model.ID()); err == nil {
		out.modelDigest = a.Spec.Digest
	}
	return out
}
