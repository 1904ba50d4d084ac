package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"portico/internal/online"
	"portico/internal/store"
)

// Bounds of a reading of the activity log.
const (
	MaxEventScan = 50_000              // entries of one kind of resource
	MaxEventSpan = 90 * 24 * time.Hour // how far back Azure keeps the log, and a query without a beginning looks
)

// logged are the kinds of resources that commands are recorded for.
var logged = []online.Kind{online.KindWorkspace, online.KindEndpoint, online.KindDeployment, online.KindModel,
	online.KindCode, online.KindEnvironment, online.KindData, online.KindDatastore, online.KindUserIdentity}

// Events reads what was done in a subscription with since <= Time < until, newest first.
func (s *Service) Events(ctx context.Context, c Caller, subscription string, since,
	until time.Time) (out []online.Activity, err error) {
	err = s.view(ctx, c, func(r store.Reader) error {
		out = nil
		for _, kind := range logged {
			some, err := r.Activities(kindPrefix(kind)+strings.ToLower(subscription)+"/", since, until, MaxEventScan+1)
			if err != nil {
				return fmt.Errorf("read activities: %w", err)
			}
			if len(some) > MaxEventScan {
				return online.Errorf(online.CodeBadArgument, "$filter",
					"there are more than %d events in this span; ask for a shorter one with eventTimestamp", MaxEventScan)
			}
			out = append(out, some...)
		}
		// By commit, whatever the clock did.
		slices.SortStableFunc(out, func(a, b online.Activity) int { return cmp.Compare(b.Revision, a.Revision) })
		return nil
	})
	return out, err
}
