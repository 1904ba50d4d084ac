package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"portico/internal/compute"
	"portico/internal/online"
	"portico/internal/store"
)

func lower[S ~string](s S) string { return strings.ToLower(string(s)) }

// deployment takes one step for one deployment.
func (l *Loop) deployment(ctx context.Context, id online.ID) error {
	d, err := l.readDeployment(ctx, id)
	if isGone(err) {
		return l.orphans(ctx, id)
	}
	if err != nil {
		return err
	}
	in := l.input(d)
	out := Plan(in)
	if out.Remove {
		return l.remove(ctx, d)
	}
	if err := l.writeStatus(ctx, d, &out.Status); err != nil {
		return err
	}
	if out.Requeue > 0 {
		l.queue.after(id.Key(), out.Requeue)
	}
	return l.act(ctx, d, in, out)
}

func (l *Loop) readDeployment(ctx context.Context, id online.ID) (d *store.Deployment, err error) {
	err = l.Store.View(ctx, func(r store.Reader) error {
		d, err = store.Get[online.DeploymentSpec, online.DeploymentStatus](r, id)
		return err
	})
	return d, err
}

func (l *Loop) input(d *store.Deployment) Input {
	in := Input{
		Now: l.Now(), Generation: d.Generation, UID: d.UID, Deleting: !d.Deleting.IsZero(), Spec: d.Spec, Status: d.Status,
		Template: Digest(&d.Spec), Sets: l.view.of(d.UID), Refused: map[string]*online.Error{}, StartTimeout: l.StartTimeout,
	}
	if t := d.Status.Target; t != nil {
		in.Prepared, _ = l.preps.state(t.ID)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	in.Waited = l.waited(d, in.Prepared)
	for _, s := range []*online.SetStatus{d.Status.Current, d.Status.Target} {
		if s != nil && l.refused[s.ID] != nil {
			in.Refused[s.ID] = l.refused[s.ID]
		}
	}
	return in
}

// waited is how long the newest generation's instances have been coming up. Preparing is not part of it: builds have
// a bound of their own. The caller holds mu.
func (l *Loop) waited(d *store.Deployment, p Preparation) time.Duration {
	key := d.ID.Key()
	if d.Status.ObservedGeneration >= d.Generation || d.Status.Target != nil && p.State != PrepareDone {
		delete(l.starting, key)
		return 0
	}
	if l.starting[key].generation != d.Generation {
		l.starting[key] = starting{generation: d.Generation, since: time.Now()}
	}
	return time.Since(l.starting[key].since)
}

// writeStatus stores the new status and ends the operations that it answers, in one transaction.
func (l *Loop) writeStatus(ctx context.Context, d *store.Deployment, st *online.DeploymentStatus) error {
	doc, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	if bytes.Equal(doc, d.Record.Status) {
		return nil
	}
	err = l.Store.Update(ctx, func(tx store.Tx) error {
		if err := tx.PutStatus(d.ID, d.UID, doc); err != nil {
			return err
		}
		if st.ObservedGeneration > d.Status.ObservedGeneration {
			return l.endOperations(tx, d.UID, st.ObservedGeneration, st.State, st.Error)
		}
		return nil
	})
	if isGone(err) {
		return nil
	}
	if err == nil && st.ObservedGeneration > d.Status.ObservedGeneration {
		l.logOutcome(d, st)
	}
	return err
}

func (l *Loop) logOutcome(d *store.Deployment, st *online.DeploymentStatus) {
	log := l.Logger.With("endpoint", d.ID.Parent, "deployment", d.ID.Name, "generation", st.ObservedGeneration)
	if st.Error != nil {
		log.Warn("deployment failed", "code", string(st.Error.Code), "error", st.Error.Message)
		return
	}
	log.Info("deployment succeeded", "instances", d.Spec.InstanceCount)
}

func (l *Loop) endOperations(tx store.Tx, uid string, generation int64, state online.ProvisioningState, fault *online.Error) error {
	ops, err := tx.Operations(uid, true)
	if err != nil {
		return fmt.Errorf("list running operations: %w", err)
	}
	for _, op := range ops {
		if op.Action == "delete" || op.Generation > generation {
			continue
		}
		op.State, op.End = online.OperationSucceeded, l.Now()
		if state == online.StateFailed {
			op.State, op.Error = online.OperationFailed, fault
		}
		if err := l.finishOperation(tx, op); err != nil {
			return err
		}
	}
	return nil
}

// finishOperation stores an operation's end, with an entry in the activity log.
func (l *Loop) finishOperation(tx store.Tx, op *online.Operation) error {
	if err := tx.PutOperation(op); err != nil {
		return fmt.Errorf("end operation: %w", err)
	}
	a := online.Activity{Time: op.End, Principal: op.Principal, Action: op.Action, Target: op.Target, Outcome: string(op.State)}
	if op.Error != nil {
		a.Detail = string(op.Error.Code)
	}
	return tx.AddActivity(a)
}

func (l *Loop) act(ctx context.Context, d *store.Deployment, in Input, out Output) error {
	var keep []string
	for _, s := range []*online.SetStatus{out.Status.Current, out.Status.Target} {
		if s != nil {
			keep = append(keep, s.ID)
		}
	}
	l.preps.keep(d.UID, keep...)
	if out.Status.ObservedGeneration >= d.Generation {
		l.forgetRefusals(in)
	}
	var errs []error
	if out.Prepare != nil {
		errs = append(errs, l.prepare(ctx, d, out.Prepare))
	}
	for _, e := range out.Ensure {
		errs = append(errs, l.ensure(ctx, d, e))
	}
	for _, set := range out.Delete {
		errs = append(errs, l.deleteSet(ctx, set))
	}
	return errors.Join(errs...)
}

func (l *Loop) forgetRefusals(in Input) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for set := range in.Refused {
		delete(l.refused, set)
	}
}

func (l *Loop) deleteSet(ctx context.Context, set string) error {
	if err := l.Backend.Delete(ctx, set); err != nil && !errors.Is(err, compute.ErrNotFound) {
		return fmt.Errorf("delete set %s: %w", set, err)
	}
	return nil
}

// prepare reads the assets of the generation that a set was made from and begins to get them ready.
func (l *Loop) prepare(ctx context.Context, d *store.Deployment, set *online.SetStatus) error {
	made, assets, err := l.generation(ctx, d, set)
	if err != nil {
		return err
	}
	l.preps.start(ctx, set.ID, made, assets)
	return nil
}

// ensure asks the engine for a set. One that is not prepared in this process (after a restart) is prepared
// first; its end brings the deployment back here.
func (l *Loop) ensure(ctx context.Context, d *store.Deployment, e Ensure) error {
	state, result := l.preps.state(e.Set.ID)
	switch state.State {
	case PrepareNone:
		return l.prepare(ctx, d, &e.Set)
	case PrepareRunning:
		return nil
	case PrepareFailed:
		l.preps.keep(d.UID) // try anew
		return fmt.Errorf("prepare set %s: %w", e.Set.ID, state.Err)
	}
	made, _, err := l.generation(ctx, d, &e.Set)
	if err != nil {
		return err
	}
	t, err := template(made, &e.Set, result, l.Catalogue)
	if err == nil {
		err = l.Backend.Ensure(ctx, t, e.Count, e.Victims)
	}
	fault, known := online.AsError(err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, compute.ErrCapacity):
		fault = online.Errorf(online.CodeOutOfQuota, "properties.instanceType", "%v", err)
	case !known:
		return fmt.Errorf("ensure set %s: %w", e.Set.ID, err)
	}
	l.mu.Lock()
	l.refused[e.Set.ID] = fault
	l.mu.Unlock()
	if d.Status.ObservedGeneration < d.Generation {
		l.enqueue(d.ID)
		return nil
	}
	return fmt.Errorf("ensure set %s: %w", e.Set.ID, fault)
}

// generation gives the deployment with the spec that a set was made from, and that spec's assets.
func (l *Loop) generation(ctx context.Context, d *store.Deployment, set *online.SetStatus) (*store.Deployment, map[online.Kind]*online.AssetSpec, error) {
	made := *d
	assets := map[online.Kind]*online.AssetSpec{}
	err := l.Store.View(ctx, func(r store.Reader) error {
		if set.Generation != d.Generation {
			if err := readRevision(r, &made, set.Generation); err != nil {
				return err
			}
		}
		for _, ref := range []*online.AssetRef{made.Spec.Model, made.Spec.Code, made.Spec.Environment} {
			if ref == nil {
				continue
			}
			a, err := store.Get[online.AssetSpec, struct{}](r, ref.ID())
			if err != nil {
				return fmt.Errorf("read %s %s:%s: %w", ref.Kind, ref.Name, ref.Version, err)
			}
			assets[ref.Kind] = &a.Spec
		}
		return nil
	})
	return &made, assets, err
}

func readRevision(r store.Reader, d *store.Deployment, generation int64) error {
	revs, err := r.Revisions(d.ID)
	if err != nil {
		return fmt.Errorf("read revisions of %s: %w", d.ID.Key(), err)
	}
	for _, rev := range revs {
		if rev.UID != d.UID || rev.Generation != generation {
			continue
		}
		var spec online.DeploymentSpec
		if err := json.Unmarshal(rev.Spec, &spec); err != nil {
			return fmt.Errorf("decode generation %d of %s: %w", generation, d.ID.Key(), err)
		}
		spec.EnvironmentVariables = rev.Secrets
		d.Spec = spec
		return nil
	}
	return fmt.Errorf("generation %d of %s: %w", generation, d.ID.Key(), store.ErrNotFound)
}

// remove takes away the record of a deployment of which nothing runs any more.
func (l *Loop) remove(ctx context.Context, d *store.Deployment) error {
	l.preps.keep(d.UID)
	err := l.Store.Update(ctx, func(tx store.Tx) error { return l.removeRecord(tx, d.Record) })
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove %s: %w", d.ID.Key(), err)
	}
	l.queue.forget(d.ID.Key())
	l.mu.Lock()
	delete(l.byUID, d.UID)
	delete(l.starting, d.ID.Key())
	l.mu.Unlock()
	l.Logger.Info("deployment deleted", "endpoint", d.ID.Parent, "deployment", d.ID.Name)
	return nil
}

// removeRecord removes a record, ends its deletion and cancels what else was under way.
func (l *Loop) removeRecord(tx store.Tx, rec store.Record) error {
	if err := tx.Remove(rec.ID, rec.UpdatedBy, l.Now()); err != nil {
		return err
	}
	ops, err := tx.Operations(rec.UID, true)
	if err != nil {
		return fmt.Errorf("list running operations: %w", err)
	}
	for _, op := range ops {
		op.State, op.End = online.OperationSucceeded, l.Now()
		if op.Action != "delete" {
			op.State = online.OperationCanceled
			op.Error = online.Errorf(online.CodeOperationCanceled, rec.ID.Name, "the resource was deleted while this operation ran")
		}
		if err := l.finishOperation(tx, op); err != nil {
			return err
		}
	}
	return nil
}

// orphans ends what the engine runs for a deployment that no longer exists.
func (l *Loop) orphans(ctx context.Context, id online.ID) error {
	l.queue.forget(id.Key())
	live := map[string]bool{}
	err := l.Store.View(ctx, func(r store.Reader) error {
		recs, err := r.List(kindPrefix(online.KindDeployment), store.Page{})
		for _, rec := range recs {
			live[rec.UID] = true
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list deployments: %w", err)
	}
	var errs []error
	for uid, sets := range l.view.all() {
		for _, s := range sets {
			if !live[uid] && s.Deployment.Same(id) {
				errs = append(errs, l.deleteSet(ctx, s.ID))
			}
		}
	}
	return errors.Join(errs...)
}
