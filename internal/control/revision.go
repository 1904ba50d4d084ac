package control

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"portico/internal/arm"
	"portico/internal/online"
	"portico/internal/store"
)

// Revision is one accepted spec of a deployment.
type Revision struct {
	Number     int64 // unique in the server, and what the ETag showed then
	UID        string
	Generation int64
	At         time.Time
	By         string
	Why        string
	Spec       online.DeploymentSpec
	InForce    bool // it is the newest spec of the deployment that exists
}

// ListRevisions lists every accepted spec of a deployment's name, newest first, also of deployments of that name
// that were deleted.
func (s *Service) ListRevisions(ctx context.Context, c Caller, w online.WorkspaceID,
	endpoint, name string) (out []Revision, err error) {
	id := deploymentID(w, endpoint, name)
	err = s.view(ctx, c, func(r store.Reader) error {
		out, err = revisions(r, id)
		return err
	})
	return out, err
}

func revisions(r store.Reader, id online.ID) ([]Revision, error) {
	rec, err := find(r, id)
	if err != nil {
		return nil, err
	}
	all, err := r.Revisions(id)
	if err != nil {
		return nil, fmt.Errorf("read revisions of %s: %w", id.Key(), err)
	}
	if len(all) == 0 {
		return nil, notFound(id)
	}
	out := make([]Revision, 0, len(all))
	for _, rev := range all {
		v := Revision{Number: rev.Revision, UID: rev.UID, Generation: rev.Generation, At: rev.At, By: rev.By,
			Why:     rev.Why,
			InForce: rec != nil && rec.SpecRevision == rev.Revision}
		if err := json.Unmarshal(rev.Spec, &v.Spec); err != nil {
			return nil, fmt.Errorf("decode revision %d of %s: %w", rev.Revision, id.Key(), err)
		}
		v.Spec.EnvironmentVariables = rev.Secrets
		out = append(out, v)
	}
	return out, nil
}

// Rollback makes the spec of an earlier revision the newest one. number 0 means the revision before the one in
// force, or, for a deployment that was deleted, what it was at the end. A deleted deployment is created again; it
// gets no traffic by that.
func (s *Service) Rollback(ctx context.Context, c Caller, w online.WorkspaceID, endpoint, name string, number int64,
	m Match) (Accepted[Deployment], error) {
	id := deploymentID(w, endpoint, name)
	chosen, err := s.chooseRevision(ctx, c, id, number)
	if err != nil {
		return Accepted[Deployment]{}, err
	}
	why := fmt.Sprintf("rollback to %d", chosen.Number)
	return s.changeDeployment(ctx, c, id, change{match: m, why: why, action: "rollback/action",
		edit: func(tx store.Tx, _ *store.Deployment) (online.DeploymentSpec, []*online.Error, error) {
			return chosen.Spec, s.stillThere(tx, &chosen.Spec), nil
		}})
}

// chooseRevision finds the revision to go back to. Revisions never change, so it may be read before the change.
func (s *Service) chooseRevision(ctx context.Context, c Caller, id online.ID, number int64) (Revision, error) {
	all, err := s.ListRevisions(ctx, c, id.Workspace, id.Parent, id.Name)
	if err != nil {
		return Revision{}, err
	}
	inForce := -1
	for i, rev := range all {
		if rev.InForce {
			inForce = i
		}
	}
	for i, rev := range all {
		switch {
		case number != 0 && rev.Number == number:
			return rev, nil
		case number == 0 && inForce < 0:
			return rev, nil // the tombstone repeats what was deleted
		case number == 0 && i > inForce && rev.Why != store.WhyDelete:
			return rev, nil
		}
	}
	if number == 0 {
		return Revision{}, online.Errorf(online.CodeConflict, arm.FormatID(id), "deployment %q has no earlier revision",
			id.Name)
	}
	return Revision{}, online.Errorf(online.CodeBadArgument, "revision",
		"deployment %q has no revision %d; list its revisions", id.Name, number)
}

// stillThere checks that what an old spec names still exists.
func (s *Service) stillThere(r store.Reader, spec *online.DeploymentSpec) []*online.Error {
	var faults []*online.Error
	for _, p := range []struct {
		ref    *online.AssetRef
		target string
	}{{spec.Model, "properties.model"}, {spec.Code, "properties.codeConfiguration.codeId"}, {spec.Environment,
		"properties.environmentId"}} {
		if p.ref == nil {
			continue
		}
		if rec, err := find(r, p.ref.ID()); err != nil || rec == nil {
			faults = append(faults, online.Errorf(online.CodeConflict, p.target,
				"%s %s:%s, which this revision used, was deleted", p.ref.Kind, p.ref.Name, p.ref.Version))
		}
	}
	return faults
}
