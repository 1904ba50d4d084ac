package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"portico/internal/artifact"
	"portico/internal/online"
	"portico/internal/store"
)

// KeepUnused is how long an upload that nobody registered and content that no version names are kept: longer than a
// grant is good, so that nobody's work is taken away under his hands.
const KeepUnused = 24 * time.Hour

// Collected says what CollectGarbage removed.
type Collected struct {
	Uploads int // containers
	Trees   int
}

// CollectGarbage removes uploads that were opened for a version and never registered, and content that no version
// names any more. It may run beside every other command.
func (s *Service) CollectGarbage(ctx context.Context) (Collected, error) {
	var out Collected
	before := s.now().Add(-KeepUnused)
	for _, container := range s.abandoned(before) {
		if s.discard(ctx, place{container: container}); ctx.Err() != nil {
			return out, ctx.Err()
		}
		out.Uploads++
	}
	held, err := s.Artifacts.List() // before the records: what is registered meanwhile was used just now
	if err != nil {
		return out, fmt.Errorf("list content: %w", err)
	}
	named, err := s.namedContent(ctx)
	if err != nil {
		return out, err
	}
	for _, tree := range held {
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		if named[tree.Digest] || !tree.Used.Before(before) {
			continue
		}
		if err := s.Artifacts.Remove(tree.Digest); err != nil && !errors.Is(err, artifact.ErrNotFound) {
			return out, fmt.Errorf("remove content: %w", err)
		}
		out.Trees++
	}
	return out, nil
}

// abandoned lists the containers of pending uploads to which nothing was written since a time.
func (s *Service) abandoned(since time.Time) []string {
	newest := map[string]time.Time{}
	var order []string
	after := ""
	for {
		blobs := s.Uploads.List(pendingPrefix, after, discardBatch)
		if len(blobs) == 0 {
			break
		}
		for _, b := range blobs {
			container, _, _ := strings.Cut(b.Name, "/")
			if _, known := newest[container]; !known {
				order = append(order, container)
			}
			if b.Modified.After(newest[container]) {
				newest[container] = b.Modified
			}
			after = b.Name
		}
	}
	var out []string
	for _, container := range order {
		if newest[container].Before(since) {
			out = append(out, container)
		}
	}
	return out
}

// namedContent is the set of digests that versions name.
func (s *Service) namedContent(ctx context.Context) (map[string]bool, error) {
	named := map[string]bool{}
	err := s.Store.View(ctx, func(r store.Reader) error {
		for _, kind := range []online.Kind{online.KindModel, online.KindCode} {
			all, err := store.List[online.AssetSpec, struct{}](r, kindPrefix(kind), store.Page{})
			if err != nil {
				return fmt.Errorf("list %s: %w", kind, err)
			}
			for _, a := range all {
				named[a.Spec.Digest] = true
			}
		}
		return nil
	})
	return named, err
}
