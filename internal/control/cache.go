package control

import (
	"context"

	"portico/internal/arm"
	"portico/internal/online"
	"portico/internal/store"
)

// Caches holds the answers that deployments with a response cache gave.
type Caches interface {
	// PurgeCache forgets those of one deployment; false when nothing serves it yet.
	PurgeCache(uid string) (entries int, bytes int64, ok bool)
}

// Purged is what a purge forgot.
type Purged struct {
	Entries int
	Bytes   int64
}

// PurgeCache forgets the kept answers of a deployment. Requests that come after it are answered by an instance.
func (s *Service) PurgeCache(ctx context.Context, c Caller, w online.WorkspaceID, endpoint, name string) (Purged, error) {
	var uid string
	err := s.update(ctx, c, func(tx store.Tx) error {
		rec, err := mustDeployment(tx, w, endpoint, name)
		if err != nil {
			return err
		}
		d, err := store.Decode[online.DeploymentSpec, online.DeploymentStatus](rec)
		if err != nil {
			return err
		}
		if d.Spec.Cache == nil {
			return online.Errorf(online.CodeBadArgument, arm.FormatID(rec.ID),
				"deployment %q has no response cache; set %s to give it one", name, online.PropertyCacheTTL)
		}
		uid = rec.UID
		return s.note(tx, c, rec.ID, "purgeCache/action", succeeded, "", s.now())
	})
	if err != nil {
		return Purged{}, err
	}
	entries, bytes, _ := s.Caches.PurgeCache(uid)
	return Purged{entries, bytes}, nil
}
