package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"portico/internal/store"
)

const (
	watchBatch = 256             // changes that are read at once
	watchRetry = 1 * time.Second // between two attempts to read the changes after a failure
)

// position is where a watcher stands: everything up to and including (revision, n) was sent.
type position struct {
	revision int64
	n        int64 // endOfRevision: all of it
}

const endOfRevision = math.MaxInt64

const changesQuery = "SELECT revision, n, type, id, uid FROM changes " +
	"WHERE (revision, n) > (?, ?) ORDER BY revision, n LIMIT ?"

// Watch sends the changes after since; see store.Store.
func (s *Store) Watch(ctx context.Context, since int64) (<-chan store.Change, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("watch: %w", store.ErrClosed)
	}
	out := make(chan store.Change)
	s.watchers.Go(func() {
		defer close(out)
		s.watch(ctx, position{revision: since, n: endOfRevision}, out)
	})
	return out, nil
}

func (s *Store) watch(ctx context.Context, at position, out chan<- store.Change) {
	for {
		next := s.committed.next() // before reading, so that no commit falls between
		changes, now, err := s.changesAfter(ctx, at)
		switch {
		case errors.Is(err, store.ErrClosed) || ctx.Err() != nil:
			return
		case err != nil:
			s.log.Error("reading the changes of the store failed", "error", err)
			if !s.pause(ctx, watchRetry) {
				return
			}
			continue
		}
		for _, c := range changes {
			select {
			case out <- c:
			case <-ctx.Done():
				return
			case <-s.done:
				return
			}
		}
		at = now
		if len(changes) > 0 {
			continue
		}
		select {
		case <-next:
		case <-ctx.Done():
			return
		case <-s.done:
			return
		}
	}
}

func (s *Store) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-s.done:
	}
	return false
}

// changesAfter reads the next batch and says where it ends. A position that the history no longer (or not yet:
// another history, put in place by a restore) reaches gives one change with Lost.
func (s *Store) changesAfter(ctx context.Context, at position) (changes []store.Change, now position, err error) {
	err = s.View(ctx, func(v store.Reader) error {
		r := v.(*reader) // View makes nothing else
		var trimmed int64
		if err := r.one("SELECT trimmed FROM counter", nil, &trimmed); err != nil {
			return err
		}
		gone := at.revision < trimmed || at.revision == trimmed && at.n != endOfRevision
		if gone || at.revision > r.revision {
			now = position{revision: r.revision, n: endOfRevision}
			changes = []store.Change{{Revision: r.revision, Lost: true}}
			return nil
		}
		changes, now, err = r.changes(at)
		return err
	})
	return changes, now, err
}

func (r *reader) changes(at position) ([]store.Change, position, error) {
	var out []store.Change
	now := position{revision: r.revision, n: endOfRevision}
	var last position
	err := r.each(changesQuery,
		[]any{at.revision, at.n, watchBatch},
		func(scan func(...any) error) error {
			var c store.Change
			var id string
			if err := scan(&c.Revision, &last.n, &c.Type, &id, &c.UID); err != nil {
				return err
			}
			if c.Type != store.ChangeSecret {
				if err := json.Unmarshal([]byte(id), &c.ID); err != nil {
					return fmt.Errorf("decode id: %w", err)
				}
			}
			last.revision = c.Revision
			out = append(out, c)
			return nil
		})
	if len(out) == watchBatch {
		now = last
	}
	return out, now, err
}
