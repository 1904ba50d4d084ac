package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"portico/internal/arm"
	"portico/internal/online"
	"portico/internal/store"
)

// Endpoint is an endpoint as people see it.
type Endpoint struct {
	Meta          arm.Meta
	Spec          online.EndpointSpec
	Identity      arm.Identity  // with its principals
	Fault         *online.Error // why the state is Failed
	LastOperation string        // id of the newest operation; empty when none is known
	ScoringPath   string        // the last part of its scoring URL
}

// PutEndpoint is the wish for a whole endpoint.
type PutEndpoint struct {
	Spec  online.EndpointSpec
	Keys  Keys // only when the endpoint is created; generated when empty
	Match Match
}

// PutEndpoint creates or replaces an endpoint. Traffic may name existing deployments only.
func (s *Service) PutEndpoint(ctx context.Context, c Caller, w online.WorkspaceID, name string,
	in PutEndpoint) (Accepted[Endpoint], error) {
	return s.changeEndpoint(ctx, c, w.Endpoint(name), endpointChange{keys: in.Keys, match: in.Match,
		edit: func(*online.EndpointSpec) online.EndpointSpec { return in.Spec }})
}

// endpointChange says how an endpoint's next spec is made of the one in force (nil: there is none).
type endpointChange struct {
	keys      Keys
	match     Match
	mustExist bool
	edit      func(before *online.EndpointSpec) online.EndpointSpec
}

// changeEndpoint checks and stores an endpoint's next spec.
func (s *Service) changeEndpoint(ctx context.Context, c Caller, id online.ID,
	ch endpointChange) (out Accepted[Endpoint], err error) {
	now := s.now()
	err = s.update(ctx, c, func(tx store.Tx) error {
		ws, rec, err := s.endpointForChange(tx, id, ch)
		if err != nil {
			return err
		}
		before, err := endpointSpec(rec)
		if err != nil {
			return err
		}
		spec := ch.edit(before)
		dropped, err := s.checkEndpoint(tx, id, ws, before, &spec)
		if err != nil {
			return err
		}
		doc, err := json.Marshal(spec)
		if err != nil {
			return fmt.Errorf("encode endpoint: %w", err)
		}
		if rec != nil && bytes.Equal(doc, rec.Spec) && settledEndpoint(rec) {
			out, err = s.sameEndpoint(tx, c, rec, now)
			out.Notes = notes(dropped)
			return err
		}
		if err := s.ensureUserIdentities(tx, c, &spec.Identity, now); err != nil {
			return err
		}
		why := "update"
		if rec == nil {
			why = "create"
		}
		stored, err := tx.PutSpec(store.Spec{ID: id, JSON: doc, By: c.Principal.Name, Why: why, At: now,
			Create: rec == nil})
		if err != nil {
			return fmt.Errorf("store endpoint: %w", err)
		}
		if rec == nil {
			if err := putKeys(tx, stored.UID, ch.keys); err != nil {
				return err
			}
		}
		out, err = s.acceptEndpoint(tx, c, stored, rec == nil, dropped, now)
		out.Notes = notes(dropped)
		return err
	})
	return out, err
}

// notes are what a caller is told beside the answer; nothing for an empty text.
func notes(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}

// endpointSpec decodes the spec of a record; nil of none.
func endpointSpec(rec *store.Record) (*online.EndpointSpec, error) {
	if rec == nil {
		return nil, nil
	}
	e, err := store.Decode[online.EndpointSpec, online.EndpointStatus](rec)
	if err != nil {
		return nil, err
	}
	return &e.Spec, nil
}

func settledEndpoint(rec *store.Record) bool {
	e, err := store.Decode[online.EndpointSpec, online.EndpointStatus](rec)
	return err == nil && e.Status.ObservedGeneration == e.Generation && e.Status.State == online.StateSucceeded
}

// sameEndpoint answers a PUT that repeats what is in force: nothing changes, nothing waits.
func (s *Service) sameEndpoint(tx store.Tx, c Caller, rec *store.Record, now time.Time) (Accepted[Endpoint], error) {
	op, err := s.finished(tx, c, rec, "write", now)
	if err != nil {
		return Accepted[Endpoint]{}, err
	}
	if err := s.note(tx, c, rec.ID, "write", succeeded, "unchanged", now); err != nil {
		return Accepted[Endpoint]{}, err
	}
	e, err := s.readEndpoint(tx, rec)
	return Accepted[Endpoint]{Resource: e, Operation: op}, err
}

// acceptEndpoint answers a change; detail is what its activity says beside.
func (s *Service) acceptEndpoint(tx store.Tx, c Caller, rec *store.Record, created bool, detail string,
	now time.Time) (Accepted[Endpoint], error) {
	op, err := s.began(tx, c, rec, "write", now)
	if err != nil {
		return Accepted[Endpoint]{}, err
	}
	if err := s.note(tx, c, rec.ID, "write", accepted, detail, now); err != nil {
		return Accepted[Endpoint]{}, err
	}
	e, err := s.readEndpoint(tx, rec)
	return Accepted[Endpoint]{Resource: e, Operation: op, Created: created}, err
}

// endpointForChange checks everything that does not depend on the spec. The record is nil when there is none yet.
func (s *Service) endpointForChange(tx store.Tx, id online.ID,
	ch endpointChange) (*store.Workspace, *store.Record, error) {
	ws, err := workspace(tx, id.Workspace)
	if err != nil {
		return nil, nil, err
	}
	if fault := online.CheckName("endpoint", id.Name, "name"); fault != nil {
		return nil, nil, fault
	}
	rec, err := findForChange(tx, id, ch.match, ch.mustExist)
	if err != nil {
		return nil, nil, err
	}
	if rec == nil {
		if err := checkNewEndpoint(tx, id); err != nil {
			return nil, nil, err
		}
		return ws, nil, ch.keys.check()
	}
	if err := notDeleting(rec); err != nil {
		return nil, nil, err
	}
	return ws, rec, ch.keys.same(tx, rec.UID)
}

// checkNewEndpoint enforces that names are unique in the server, and the quota of the subscription.
func checkNewEndpoint(tx store.Tx, id online.ID) error {
	all, err := tx.List(kindPrefix(online.KindEndpoint), store.Page{})
	if err != nil {
		return fmt.Errorf("list endpoints: %w", err)
	}
	inSubscription := 0
	for _, other := range all {
		if strings.EqualFold(other.ID.Name, id.Name) {
			return online.Errorf(online.CodeConflict, "name",
				"the endpoint name %q is taken in another workspace of this server; endpoint names are unique per server, choose another", id.Name)
		}
		if other.Deleting.IsZero() && strings.EqualFold(other.ID.Workspace.Subscription, id.Workspace.Subscription) {
			inSubscription++
		}
	}
	if inSubscription >= online.MaxEndpoints {
		return online.Errorf(online.CodeOutOfQuota, "name",
			"the subscription has %d endpoints, the most that are allowed; delete one first", inSubscription)
	}
	return nil
}

// checkEndpoint fills in defaults and validates the spec against what exists. dropped says, for the caller and the
// activity log, that a mirror ended because its deployment becomes live.
func (s *Service) checkEndpoint(tx store.Tx, id online.ID, ws *store.Workspace, before,
	spec *online.EndpointSpec) (dropped string, err error) {
	var faults []*online.Error
	faults = append(faults, fixLocation(&spec.Location, ws, before)...)
	if before != nil && spec.Identity.Type == "" {
		spec.Identity = before.Identity
	}
	traffic, bad := lowerKeys(spec.Traffic, "properties.traffic")
	mirror, worse := lowerKeys(spec.MirrorTraffic, "properties.mirrorTraffic")
	spec.Traffic, spec.MirrorTraffic = traffic, mirror
	faults = append(append(faults, bad...), worse...)
	spec.Default()
	if name, share := spec.DropMirror(before); name != "" {
		dropped = fmt.Sprintf("the mirror of %d %% to deployment %s was dropped: it receives live traffic", share, name)
	}
	faults = append(faults, checkUserIdentities(&spec.Identity)...)
	if before != nil && !sameIdentity(&before.Identity, &spec.Identity) {
		faults = append(faults, online.Errorf(online.CodeBadArgument, "identity",
			"the identity of an endpoint cannot change after creation (it is %s)", describeIdentity(&before.Identity)))
	}
	deployments, err := liveDeployments(tx, id)
	if err != nil {
		return "", err
	}
	faults = append(faults, checkWords(spec.Description, spec.Tags, spec.Properties, "tags")...)
	return dropped, failIf(append(faults, spec.Validate(deployments)...))
}

// fixLocation takes the workspace's location, or the one that the endpoint already has, when none is given.
func fixLocation(location *string, ws *store.Workspace, before *online.EndpointSpec) []*online.Error {
	inForce := ws.Spec.Location
	if before != nil {
		inForce = before.Location
	}
	if *location == "" {
		*location = inForce
	}
	if before != nil && !sameLocation(*location, inForce) {
		return []*online.Error{online.Errorf(online.CodeBadArgument, "location",
			"the location of an endpoint cannot change after creation (it is %q)", inForce)}
	}
	return nil
}

// sameLocation compares "East US" and "eastus" as equal, as Azure Resource Manager does.
func sameLocation(a, b string) bool {
	return strings.EqualFold(strings.ReplaceAll(a, " ", ""), strings.ReplaceAll(b, " ", ""))
}

// lowerKeys brings the deployment names of a traffic split to the case in which they are kept.
func lowerKeys(t online.Traffic, path string) (online.Traffic, []*online.Error) {
	if t == nil {
		return nil, nil
	}
	out := make(online.Traffic, len(t))
	for _, name := range t.Names() {
		key := strings.ToLower(name)
		if _, twice := out[key]; twice {
			return t, []*online.Error{online.Errorf(online.CodeBadArgument, path+"."+name,
				"deployment %q is named twice", key)}
		}
		out[key] = t[name]
	}
	return out, nil
}

// liveDeployments gives the names of the deployments that traffic may go to.
func liveDeployments(r store.Reader, endpoint online.ID) (map[string]bool, error) {
	recs, err := r.List(endpoint.Workspace.Deployment(endpoint.Name, "").Prefix(), store.Page{})
	if err != nil {
		return nil, fmt.Errorf("list deployments of %s: %w", endpoint.Name, err)
	}
	names := map[string]bool{}
	for _, rec := range recs {
		if rec.Deleting.IsZero() {
			names[strings.ToLower(rec.ID.Name)] = true
		}
	}
	return names, nil
}

func notDeleting(rec *store.Record) error {
	if rec.Deleting.IsZero() {
		return nil
	}
	return online.Errorf(online.CodeConflict, arm.FormatID(rec.ID),
		"it is being deleted; wait until the deletion has ended, then try again")
}

// PatchEndpoint changes tags and identity; nil stays as it is.
type PatchEndpoint struct {
	Tags     *map[string]string
	Identity *online.Identity
	Match    Match
}

// PatchEndpoint changes parts of an endpoint that exists. Tags replace the tags that it has.
func (s *Service) PatchEndpoint(ctx context.Context, c Caller, w online.WorkspaceID, name string,
	in PatchEndpoint) (Accepted[Endpoint], error) {
	return s.changeEndpoint(ctx, c, w.Endpoint(name), endpointChange{match: in.Match, mustExist: true,
		edit: func(before *online.EndpointSpec) online.EndpointSpec {
			spec := *before
			if in.Tags != nil {
				spec.Tags = *in.Tags
			}
			if in.Identity != nil {
				spec.Identity = *in.Identity
			}
			return spec
		}})
}

// GetEndpoint reads an endpoint.
func (s *Service) GetEndpoint(ctx context.Context, c Caller, w online.WorkspaceID,
	name string) (out Endpoint, err error) {
	err = s.view(ctx, c, func(r store.Reader) error {
		rec, err := must(r, w.Endpoint(name))
		if err != nil {
			return err
		}
		out, err = s.readEndpoint(r, rec)
		return err
	})
	return out, err
}

// scoringPath is the path on which the deployments with live traffic agree (all of them while none has any). Every
// deployment answers the default one, so that is it when they differ.
func scoringPath(r store.Reader, e *store.Endpoint) (string, error) {
	all, err := store.List[online.DeploymentSpec, online.DeploymentStatus](r, e.ID.Workspace.Deployment(e.ID.Name, "").Prefix(), store.Page{})
	if err != nil {
		return "", fmt.Errorf("list deployments of %s: %w", e.ID.Name, err)
	}
	live := 0
	for _, share := range e.Spec.Traffic {
		live += share
	}
	path := ""
	for _, d := range all {
		if !d.Deleting.IsZero() || live > 0 && e.Spec.Traffic[d.ID.Name] == 0 {
			continue
		}
		if at := d.Spec.ScoringPath(); path == "" || path == at {
			path = at
		} else {
			return online.DefaultScoringPath, nil
		}
	}
	if path == "" {
		path = online.DefaultScoringPath
	}
	return path, nil
}

func (s *Service) readEndpoint(r store.Reader, rec *store.Record) (Endpoint, error) {
	e, err := store.Decode[online.EndpointSpec, online.EndpointStatus](rec)
	if err != nil {
		return Endpoint{}, err
	}
	state := shownState(e.Generation, e.Status.ObservedGeneration, e.Status.State, never)
	out := Endpoint{Meta: meta(rec, state), Spec: e.Spec}
	if out.Meta.State == online.StateFailed {
		out.Fault = e.Status.Error
	}
	if out.Identity, err = s.endpointIdentity(r, rec, &e.Spec.Identity); err != nil {
		return Endpoint{}, err
	}
	if out.ScoringPath, err = scoringPath(r, e); err != nil {
		return Endpoint{}, err
	}
	ops, err := r.Operations(rec.UID, false)
	if err != nil {
		return Endpoint{}, fmt.Errorf("list operations of %s: %w", rec.ID.Key(), err)
	}
	if len(ops) > 0 {
		out.LastOperation = ops[0].ID
	}
	return out, nil
}

// ListEndpoints lists the endpoints of a workspace.
func (s *Service) ListEndpoints(ctx context.Context, c Caller, w online.WorkspaceID,
	q ListQuery) (out Listing[Endpoint], err error) {
	err = s.view(ctx, c, func(r store.Reader) error {
		if _, err := workspace(r, w); err != nil {
			return err
		}
		recs, err := r.List(w.Endpoint("").Prefix(), store.Page{})
		if err != nil {
			return fmt.Errorf("list endpoints: %w", err)
		}
		out, err = listing(recs, q, func(rec *store.Record) (Endpoint, error) { return s.readEndpoint(r, rec) },
			func(e *Endpoint) described {
				return described{meta: e.Meta, tags: e.Spec.Tags, properties: e.Spec.Properties, compute: "Managed"}
			})
		return err
	})
	return out, err
}

// DeleteEndpoint begins the deletion of an endpoint with all its deployments, live traffic or not. The operation
// is nil when there is nothing to delete. Asking again while it is being deleted gives the same operation.
func (s *Service) DeleteEndpoint(ctx context.Context, c Caller, w online.WorkspaceID, name string,
	m Match) (op *online.Operation, err error) {
	now := s.now()
	err = s.update(ctx, c, func(tx store.Tx) error {
		op = nil
		if _, err := workspace(tx, w); err != nil {
			return err
		}
		rec, err := findForChange(tx, w.Endpoint(name), m, false)
		if err != nil {
			return err
		}
		if rec == nil {
			return nil
		}
		if op, err = s.markDeleting(tx, c, rec, now); err != nil {
			return err
		}
		behind, err := tx.List(w.Deployment(rec.ID.Name, "").Prefix(), store.Page{})
		if err != nil {
			return fmt.Errorf("list deployments of %s: %w", name, err)
		}
		for _, d := range behind {
			if _, err := s.markDeleting(tx, c, d, now); err != nil {
				return err
			}
		}
		return nil
	})
	return op, err
}

// markDeleting begins a deletion, or finds the operation of the one that runs.
func (s *Service) markDeleting(tx store.Tx, c Caller, rec *store.Record, now time.Time) (*online.Operation, error) {
	if !rec.Deleting.IsZero() {
		running, err := tx.Operations(rec.UID, true)
		if err != nil {
			return nil, fmt.Errorf("list operations of %s: %w", rec.ID.Key(), err)
		}
		for _, op := range running {
			if op.Action == "delete" {
				return op, nil
			}
		}
	}
	if err := tx.MarkDeleting(rec.ID, c.Principal.Name, now); err != nil {
		return nil, fmt.Errorf("mark %s: %w", rec.ID.Key(), err)
	}
	if err := s.note(tx, c, rec.ID, "delete", accepted, "", now); err != nil {
		return nil, err
	}
	return s.began(tx, c, rec, "delete", now)
}

// kindPrefix is the beginning of every key of a kind, in all workspaces.
func kindPrefix(k online.Kind) string { return strings.ToLower(string(k)) + "/" }
