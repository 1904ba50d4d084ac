package control

import (
	"context"
	"errors"
	"fmt"

	"portico/internal/online"
	"portico/internal/store"
)

// Operation is a long-running operation with the progress of its target.
type Operation struct {
	online.Operation
	Stages []online.Stage
}

// GetOperation reads an operation. Stages are those of the change that it waits for.
func (s *Service) GetOperation(ctx context.Context, c Caller, id string) (out Operation, err error) {
	err = s.view(ctx, c, func(r store.Reader) error {
		op, err := r.Operation(id)
		if errors.Is(err, store.ErrNotFound) {
			return online.Errorf(online.CodeNotFound, id, "the operation %.60q is not known", id)
		}
		if err != nil {
			return fmt.Errorf("read operation: %w", err)
		}
		out = Operation{Operation: *op}
		if op.Target.Kind != online.KindDeployment || op.Action == "delete" {
			return nil
		}
		rec, err := find(r, op.Target)
		if err != nil || rec == nil || rec.UID != op.TargetUID {
			return err
		}
		d, err := store.Decode[online.DeploymentSpec, online.DeploymentStatus](rec)
		if err != nil {
			return err
		}
		if op.Generation == d.Generation {
			out.Stages = d.Status.Stages
		}
		return nil
	})
	return out, err
}
