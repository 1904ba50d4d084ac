package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"portico/internal/arm"
	"portico/internal/online"
	"portico/internal/store"
)

// Deployment is a deployment as people see it.
type Deployment struct {
	Meta          arm.Meta
	Generation    int64
	Spec          online.DeploymentSpec
	Status        online.DeploymentStatus
	LastOperation string // id of the newest operation; empty when none is known
}

// PutDeployment is the wish for a whole deployment.
type PutDeployment struct {
	Request arm.DeploymentRequest
	Match   Match
}

// PutDeployment creates or replaces a deployment. It always gives an operation: the Python SDK cannot read a
// deployment PUT that is answered without one.
func (s *Service) PutDeployment(ctx context.Context, c Caller, w online.WorkspaceID, endpoint, name string,
	in PutDeployment) (Accepted[Deployment], error) {
	id := deploymentID(w, endpoint, name)
	return s.changeDeployment(ctx, c, id, change{match: in.Match, why: "update", action: "write",
		edit: func(tx store.Tx, _ *store.Deployment) (online.DeploymentSpec, []*online.Error, error) {
			spec := in.Request.Spec
			faults, err := s.resolve(tx, c, w, &spec, in.Request)
			if err != nil {
				return spec, nil, err
			}
			more, err := s.resolveCollections(tx, c, id, &spec, in.Request.Data)
			return spec, append(faults, more...), err
		}})
}

// deploymentID is the id under which a deployment is kept: its name in lower case.
func deploymentID(w online.WorkspaceID, endpoint, name string) online.ID {
	return w.Deployment(endpoint, strings.ToLower(name))
}

// change says how a deployment's next spec is made of the one in force (nil: there is none).
type change struct {
	match     Match
	mustExist bool
	why       string
	action    string // for the activity log
	edit      func(tx store.Tx, before *store.Deployment) (online.DeploymentSpec, []*online.Error, error)
}

func (s *Service) changeDeployment(ctx context.Context, c Caller, id online.ID,
	ch change) (out Accepted[Deployment], err error) {
	now := s.now()
	err = s.update(ctx, c, func(tx store.Tx) error {
		parent, before, err := s.deploymentForChange(tx, id, ch)
		if err != nil {
			return err
		}
		spec, faults, err := ch.edit(tx, before)
		if err != nil {
			return err
		}
		if err := s.checkDeployment(parent, &spec, faults); err != nil {
			return err
		}
		doc, err := json.Marshal(spec)
		if err != nil {
			return fmt.Errorf("encode deployment: %w", err)
		}
		same := before != nil && bytes.Equal(doc, before.Record.Spec) && maps.Equal(spec.EnvironmentVariables, before.Secrets)
		if same && settled(before) {
			out, err = s.sameDeployment(tx, c, &before.Record, ch.action, now)
			return err
		}
		why := ch.why
		if before == nil && why == "update" {
			why = "create"
		}
		rec, err := tx.PutSpec(store.Spec{ID: id, JSON: doc, Secrets: spec.EnvironmentVariables, By: c.Principal.Name,
			Why: why, At: now, Create: before == nil})
		if err != nil {
			return fmt.Errorf("store deployment: %w", err)
		}
		op, err := s.began(tx, c, rec, "write", now)
		if err != nil {
			return err
		}
		if err := s.note(tx, c, rec.ID, ch.action, accepted, why, now); err != nil {
			return err
		}
		d, err := readDeployment(tx, rec)
		out = Accepted[Deployment]{Resource: d, Operation: op, Created: before == nil}
		return err
	})
	return out, err
}

// settled says that the newest spec is in force: repeating it changes nothing. A failed one may be tried again.
func settled(d *store.Deployment) bool {
	return d.Status.ObservedGeneration == d.Generation && d.Status.State == online.StateSucceeded
}

func (s *Service) sameDeployment(tx store.Tx, c Caller, rec *store.Record, action string,
	now time.Time) (Accepted[Deployment], error) {
	op, err := s.finished(tx, c, rec, "write", now)
	if err != nil {
		return Accepted[Deployment]{}, err
	}
	if err := s.note(tx, c, rec.ID, action, succeeded, "unchanged", now); err != nil {
		return Accepted[Deployment]{}, err
	}
	d, err := readDeployment(tx, rec)
	return Accepted[Deployment]{Resource: d, Operation: op}, err
}

// deploymentForChange checks everything that does not depend on the spec. The deployment is nil when there is none.
func (s *Service) deploymentForChange(tx store.Tx, id online.ID, ch change) (*store.Endpoint, *store.Deployment, error) {
	parent, err := s.parent(tx, id)
	if err != nil {
		return nil, nil, err
	}
	if fault := online.CheckName("deployment", id.Name, "name"); fault != nil {
		return nil, nil, fault
	}
	rec, err := findForChange(tx, id, ch.match, ch.mustExist)
	if err != nil {
		return nil, nil, err
	}
	if rec == nil {
		return parent, nil, checkNewDeployment(tx, id)
	}
	if err := notDeleting(rec); err != nil {
		return nil, nil, err
	}
	d, err := store.Decode[online.DeploymentSpec, online.DeploymentStatus](rec)
	return parent, d, err
}

// parent reads the endpoint that a deployment stands behind; it must not be going away.
func (s *Service) parent(tx store.Tx, id online.ID) (*store.Endpoint, error) {
	if _, err := workspace(tx, id.Workspace); err != nil {
		return nil, err
	}
	rec, err := must(tx, id.Workspace.Endpoint(id.Parent))
	if err != nil {
		return nil, err
	}
	if err := notDeleting(rec); err != nil {
		return nil, err
	}
	return store.Decode[online.EndpointSpec, online.EndpointStatus](rec)
}

func checkNewDeployment(tx store.Tx, id online.ID) error {
	siblings, err := tx.List(id.Prefix(), store.Page{})
	if err != nil {
		return fmt.Errorf("list deployments of %s: %w", id.Parent, err)
	}
	n := 0
	for _, rec := range siblings {
		if rec.Deleting.IsZero() {
			n++
		}
	}
	if n >= online.MaxDeployments {
		return online.Errorf(online.CodeOutOfQuota, "name",
			"the endpoint has %d deployments, the most that are allowed; delete one first", n)
	}
	return nil
}

// checkDeployment fills in defaults and validates the spec. faults were found while it was put together.
func (s *Service) checkDeployment(parent *store.Endpoint, spec *online.DeploymentSpec, faults []*online.Error) error {
	if spec.Location == "" {
		spec.Location = parent.Spec.Location
	}
	if !sameLocation(spec.Location, parent.Spec.Location) {
		faults = append(faults, online.Errorf(online.CodeBadArgument, "location",
			"the location must be that of the endpoint, %q", parent.Spec.Location))
	}
	spec.Default()
	if t, ok := s.Catalogue.Find(spec.InstanceType); ok {
		spec.InstanceType = t.Name // in the catalogue's case
	}
	faults = append(faults, checkWords(spec.Description, spec.Tags, spec.Properties, "tags")...)
	faults = append(faults, spec.Validate(s.Catalogue)...)
	return failIf(once(faults))
}

// once drops faults about a field that has one already: a reference that cannot be resolved is not also missing.
func once(faults []*online.Error) []*online.Error {
	var out []*online.Error
	seen := map[string]bool{}
	for _, f := range faults {
		if f.Target == "" || !seen[f.Target] {
			out = append(out, f)
		}
		seen[f.Target] = true
	}
	return out
}

// PatchDeployment changes the instance count and tags; nil stays as it is.
type PatchDeployment struct {
	Tags     *map[string]string
	Capacity *int
	Match    Match
}

// PatchDeployment changes parts of a deployment that exists. Tags replace the tags that it has.
func (s *Service) PatchDeployment(ctx context.Context, c Caller, w online.WorkspaceID, endpoint, name string,
	in PatchDeployment) (Accepted[Deployment], error) {
	return s.changeDeployment(ctx, c, deploymentID(w, endpoint, name),
		change{match: in.Match, mustExist: true, why: "update", action: "write",
			edit: func(_ store.Tx, before *store.Deployment) (online.DeploymentSpec, []*online.Error, error) {
				spec := before.Spec
				if in.Tags != nil {
					spec.Tags = *in.Tags
				}
				if in.Capacity != nil {
					if *in.Capacity < 1 { // Default would take 0 for absent
						return spec, nil, online.Errorf(online.CodeBadArgument, "sku.capacity",
							"instance count %d is not between 1 and %d", *in.Capacity, online.MaxInstances)
					}
					spec.InstanceCount = *in.Capacity
				}
				return spec, nil, nil
			}})
}

// GetDeployment reads a deployment.
func (s *Service) GetDeployment(ctx context.Context, c Caller, w online.WorkspaceID,
	endpoint, name string) (out Deployment, err error) {
	err = s.view(ctx, c, func(r store.Reader) error {
		rec, err := mustDeployment(r, w, endpoint, name)
		if err != nil {
			return err
		}
		out, err = readDeployment(r, rec)
		return err
	})
	return out, err
}

// mustDeployment tells a missing endpoint from a missing deployment.
func mustDeployment(r store.Reader, w online.WorkspaceID, endpoint, name string) (*store.Record, error) {
	rec, err := find(r, deploymentID(w, endpoint, name))
	if err != nil || rec != nil {
		return rec, err
	}
	if _, err := must(r, w.Endpoint(endpoint)); err != nil {
		return nil, err
	}
	return nil, notFound(deploymentID(w, endpoint, name))
}

func readDeployment(r store.Reader, rec *store.Record) (Deployment, error) {
	d, err := store.Decode[online.DeploymentSpec, online.DeploymentStatus](rec)
	if err != nil {
		return Deployment{}, err
	}
	var scalingErr error
	state := shownState(d.Generation, d.Status.ObservedGeneration, d.Status.State, func() bool {
		var scaling bool
		scaling, scalingErr = onlyCountDiffers(r, d)
		return scaling
	})
	if scalingErr != nil {
		return Deployment{}, scalingErr
	}
	out := Deployment{Meta: meta(rec, state), Generation: d.Generation, Spec: d.Spec, Status: d.Status}
	ops, err := r.Operations(rec.UID, false)
	if err != nil {
		return Deployment{}, fmt.Errorf("list operations of %s: %w", rec.ID.Key(), err)
	}
	if len(ops) > 0 {
		out.LastOperation = ops[0].ID
	}
	return out, nil
}

// ListDeployments lists the deployments behind an endpoint.
func (s *Service) ListDeployments(ctx context.Context, c Caller, w online.WorkspaceID, endpoint string,
	q ListQuery) (out Listing[Deployment], err error) {
	err = s.view(ctx, c, func(r store.Reader) error {
		if _, err := must(r, w.Endpoint(endpoint)); err != nil {
			return err
		}
		recs, err := r.List(w.Deployment(endpoint, "").Prefix(), store.Page{})
		if err != nil {
			return fmt.Errorf("list deployments of %s: %w", endpoint, err)
		}
		out, err = listing(recs, q, func(rec *store.Record) (Deployment, error) { return readDeployment(r, rec) },
			func(d *Deployment) described {
				return described{meta: d.Meta, tags: d.Spec.Tags, properties: d.Spec.Properties,
					compute: d.Spec.EndpointComputeType}
			})
		return err
	})
	return out, err
}

// DeleteDeployment begins the deletion of a deployment. It is refused while the deployment has live or mirrored
// traffic. The operation is nil when there is nothing to delete.
func (s *Service) DeleteDeployment(ctx context.Context, c Caller, w online.WorkspaceID, endpoint, name string,
	m Match) (op *online.Operation, err error) {
	id := deploymentID(w, endpoint, name)
	now := s.now()
	err = s.update(ctx, c, func(tx store.Tx) error {
		op = nil
		if _, err := workspace(tx, w); err != nil {
			return err
		}
		rec, err := findForChange(tx, id, m, false)
		if err != nil {
			return err
		}
		if rec == nil {
			return nil
		}
		if rec.Deleting.IsZero() {
			if err := withoutTraffic(tx, id); err != nil {
				return err
			}
		}
		op, err = s.markDeleting(tx, c, rec, now)
		return err
	})
	return op, err
}

func withoutTraffic(r store.Reader, id online.ID) error {
	e, err := store.Get[online.EndpointSpec, online.EndpointStatus](r, id.Workspace.Endpoint(id.Parent))
	if err != nil {
		return fmt.Errorf("read the endpoint of %s: %w", id.Key(), err)
	}
	for _, t := range []struct {
		split online.Traffic
		what  string
	}{{e.Spec.Traffic, "live"}, {e.Spec.MirrorTraffic, "mirrored"}} {
		if share := t.split[id.Name]; share > 0 {
			return online.Errorf(online.CodeConflict, arm.FormatID(id),
				"deployment %q receives %d %% of the %s traffic of endpoint %q; move the traffic away first", id.Name, share, t.what, id.Parent)
		}
	}
	return nil
}
