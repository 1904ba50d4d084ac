package reconcile

import (
	"context"
	"encoding/json"
	"fmt"

	"portico/internal/online"
	"portico/internal/store"
)

// PlanEndpoint decides the next step of one endpoint: a spec is in force as soon as it is stored, since traffic
// and keys are read from it; a deleted endpoint goes when its last deployment has gone.
func PlanEndpoint(generation int64, deleting bool, status online.EndpointStatus, deployments int) (next online.EndpointStatus, remove bool) {
	if deleting {
		return status, deployments == 0
	}
	status.ObservedGeneration, status.State, status.Error = generation, online.StateSucceeded, nil
	return status, false
}

func (l *Loop) endpoint(ctx context.Context, id online.ID) error {
	err := l.Store.Update(ctx, func(tx store.Tx) error {
		e, err := store.Get[online.EndpointSpec, online.EndpointStatus](tx, id)
		if err != nil {
			return err
		}
		deployments, err := tx.List(id.Workspace.Deployment(id.Name, "").Prefix(), store.Page{})
		if err != nil {
			return fmt.Errorf("list deployments of %s: %w", id.Name, err)
		}
		deleting := !e.Deleting.IsZero()
		next, remove := PlanEndpoint(e.Generation, deleting, e.Status, len(deployments))
		if remove {
			return l.removeRecord(tx, e.Record)
		}
		if deleting {
			return l.deleteDeployments(tx, e, deployments)
		}
		if next == e.Status {
			return nil
		}
		doc, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("encode status: %w", err)
		}
		if err := tx.PutStatus(id, e.UID, doc); err != nil {
			return err
		}
		return l.endOperations(tx, e.UID, next.ObservedGeneration, next.State, next.Error)
	})
	if isGone(err) {
		l.queue.forget(id.Key())
		return nil
	}
	if err != nil {
		return fmt.Errorf("reconcile endpoint %s: %w", id.Name, err)
	}
	return nil
}

// deleteDeployments carries an endpoint's deletion on to its deployments.
func (l *Loop) deleteDeployments(tx store.Tx, e *store.Endpoint, deployments []*store.Record) error {
	for _, d := range deployments {
		if !d.Deleting.IsZero() {
			continue
		}
		if err := tx.MarkDeleting(d.ID, e.UpdatedBy, l.Now()); err != nil {
			return fmt.Errorf("delete %s: %w", d.ID.Key(), err)
		}
	}
	return nil
}
