package sqlite

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"portico/internal/online"
	"portico/internal/store"
)

// tx is the one transaction that writes.
type tx struct {
	reader
	limits  limits
	changed bool
	changes []store.Change
}

// write runs a statement that changes something; the first one takes the next revision.
func (t *tx) write(query string, args ...any) error {
	if err := t.advance(); err != nil {
		return err
	}
	err := t.sess.exec(query, args...)
	return t.fail(err)
}

func (t *tx) advance() error {
	if err := t.usable(); err != nil {
		return err
	}
	if t.changed {
		return nil
	}
	err := t.one("UPDATE counter SET revision = revision + 1 WHERE one = 1 RETURNING revision", nil, &t.revision)
	if err != nil {
		return err
	}
	t.changed = true
	return nil
}

// note remembers a change for the watchers, once.
func (t *tx) note(kind string, id online.ID, uid string) {
	for _, c := range t.changes {
		if c.Type == kind && c.UID == uid && c.ID == id {
			return
		}
	}
	t.changes = append(t.changes, store.Change{Type: kind, ID: id, UID: uid})
}

// finish writes the changes and now and then trims what is kept.
func (t *tx) finish() error {
	for n, c := range t.changes {
		id, err := json.Marshal(c.ID)
		if err != nil {
			return fmt.Errorf("encode id: %w", err)
		}
		err = t.write("INSERT INTO changes (revision, n, type, id, uid) VALUES (?, ?, ?, ?, ?)",
			t.revision, n, c.Type, string(id), c.UID)
		if err != nil {
			return err
		}
	}
	if t.revision%t.limits.trimEvery != 0 {
		return nil
	}
	return t.trim()
}

func (t *tx) trim() error {
	if horizon := t.revision - t.limits.history; horizon > 0 {
		if err := t.write("DELETE FROM changes WHERE revision <= ?", horizon); err != nil {
			return err
		}
		if err := t.write("UPDATE counter SET trimmed = ? WHERE one = 1", horizon); err != nil {
			return err
		}
	}
	err := t.write("DELETE FROM operations WHERE ended = 1 AND seq <= (SELECT max(seq) FROM operations) - ?",
		t.limits.operations)
	if err != nil {
		return err
	}
	return t.write("DELETE FROM activities WHERE seq <= (SELECT max(seq) FROM activities) - ?", t.limits.activities)
}

// PutSpec accepts a spec.
func (t *tx) PutSpec(p store.Spec) (*store.Record, error) {
	key := p.ID.Key()
	if !json.Valid(p.JSON) {
		return nil, fmt.Errorf("put %s: the spec is not JSON", key)
	}
	old, err := t.resource(p.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("put spec: %w", err)
	}
	switch {
	case p.Create && old != nil:
		return nil, fmt.Errorf("create %s: it exists: %w", key, store.ErrStale)
	case p.IfMatch != 0 && old == nil:
		return nil, fmt.Errorf("put %s: it does not exist: %w", key, store.ErrStale)
	case p.IfMatch != 0 && old.SpecRevision != p.IfMatch:
		return nil, fmt.Errorf("put %s: it is at %d: %w", key, old.SpecRevision, store.ErrStale)
	}
	if err := t.advance(); err != nil {
		return nil, fmt.Errorf("put %s: %w", key, err)
	}
	next := &resource{key: key}
	if old != nil {
		next = old
	} else {
		next.ID, next.UID = p.ID, uuid.NewString()
		next.CreatedAt, next.CreatedBy = fromNanos(toNanos(p.At)), p.By
	}
	next.Generation++
	next.SpecRevision = t.revision
	next.Spec = append([]byte(nil), p.JSON...)
	next.UpdatedAt, next.UpdatedBy = fromNanos(toNanos(p.At)), p.By
	if next.sealed, err = sealSecrets(t.sealer, next.UID, next.Generation, p.Secrets); err != nil {
		return nil, fmt.Errorf("seal secrets of %s: %w", key, err)
	}
	if next.Secrets, err = openSecrets(t.sealer, next.UID, next.Generation, next.sealed); err != nil {
		return nil, fmt.Errorf("open secrets of %s: %w", key, err)
	}
	if err := t.saveSpec(next, p.Why); err != nil {
		return nil, fmt.Errorf("put %s: %w", key, err)
	}
	return &next.Record, nil
}

func (t *tx) saveSpec(res *resource, why string) error {
	id, err := json.Marshal(res.ID)
	if err != nil {
		return fmt.Errorf("encode id: %w", err)
	}
	err = t.write("INSERT INTO resources (rkey, id, uid, generation, spec_revision, status_revision, spec, secrets, "+
		"created_at, created_by, updated_at, updated_by, deleting_at, deleting_by) "+
		"VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, 0, '') "+
		"ON CONFLICT (rkey) DO UPDATE SET "+
		"generation = excluded.generation, spec_revision = excluded.spec_revision, "+
		"spec = excluded.spec, secrets = excluded.secrets, updated_at = excluded.updated_at, updated_by = excluded.updated_by",
		res.key, string(id), res.UID, res.Generation, res.SpecRevision, string(res.Spec), res.sealed,
		toNanos(res.CreatedAt), res.CreatedBy, toNanos(res.UpdatedAt), res.UpdatedBy)
	if err != nil {
		return err
	}
	t.note(store.ChangeSpec, res.ID, res.UID)
	return t.addRevision(res, res.UpdatedAt, res.UpdatedBy, why)
}

func (t *tx) addRevision(res *resource, at time.Time, by, why string) error {
	id, err := json.Marshal(res.ID)
	if err != nil {
		return fmt.Errorf("encode id: %w", err)
	}
	return t.write("INSERT INTO revisions (rkey, id, uid, generation, revision, spec, secrets, at, by_whom, why) "+
		"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		res.key, string(id), res.UID, res.Generation, t.revision, string(res.Spec), res.sealed, toNanos(at), by, why)
}

// PutStatus replaces the status of an incarnation.
func (t *tx) PutStatus(id online.ID, uid string, status []byte) error {
	key := id.Key()
	if !json.Valid(status) {
		return fmt.Errorf("put status of %s: it is not JSON", key)
	}
	res, err := t.resource(id)
	if err != nil {
		return fmt.Errorf("put status: %w", err)
	}
	if res.UID != uid {
		return fmt.Errorf("put status of %s: incarnation %s: %w", key, uid, store.ErrNotFound)
	}
	if res.Status != nil && string(res.Status) == string(status) {
		return nil
	}
	if err := t.advance(); err != nil {
		return fmt.Errorf("put status of %s: %w", key, err)
	}
	err = t.write("UPDATE resources SET status = ?, status_revision = ? WHERE rkey = ?", string(status), t.revision, key)
	if err != nil {
		return fmt.Errorf("put status of %s: %w", key, err)
	}
	t.note(store.ChangeStatus, res.ID, uid)
	return nil
}

// MarkDeleting sets Record.Deleting once.
func (t *tx) MarkDeleting(id online.ID, by string, at time.Time) error {
	res, err := t.resource(id)
	if err != nil {
		return fmt.Errorf("mark deleting: %w", err)
	}
	if !res.Deleting.IsZero() {
		return nil
	}
	err = t.write("UPDATE resources SET deleting_at = ?, deleting_by = ? WHERE rkey = ?", toNanos(at), by, res.key)
	if err != nil {
		return fmt.Errorf("mark deleting %s: %w", res.key, err)
	}
	t.note(store.ChangeSpec, res.ID, res.UID)
	return nil
}

// Remove takes a record away.
func (t *tx) Remove(id online.ID, by string, at time.Time) error {
	res, err := t.resource(id)
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	if err := t.write("DELETE FROM resources WHERE rkey = ?", res.key); err != nil {
		return fmt.Errorf("remove %s: %w", res.key, err)
	}
	if err := t.write("DELETE FROM secrets WHERE owner = ?", res.UID); err != nil {
		return fmt.Errorf("remove secrets of %s: %w", res.key, err)
	}
	if by == "" {
		by = res.deletingBy
	}
	if err := t.addRevision(res, at, by, store.WhyDelete); err != nil {
		return fmt.Errorf("remove %s: %w", res.key, err)
	}
	t.note(store.ChangeRemoved, res.ID, res.UID)
	return nil
}

// PutSecret seals and keeps a secret.
func (t *tx) PutSecret(owner, name string, value online.Secret) error {
	sealed, err := t.sealer.Seal(secretPurpose(owner, name), []byte(value.Reveal()))
	if err != nil {
		return fmt.Errorf("seal secret %s of %s: %w", name, owner, err)
	}
	err = t.write("INSERT INTO secrets (owner, name, sealed) VALUES (?, ?, ?) "+
		"ON CONFLICT (owner, name) DO UPDATE SET sealed = excluded.sealed",
		owner, name, sealed)
	if err != nil {
		return fmt.Errorf("put secret %s of %s: %w", name, owner, err)
	}
	t.note(store.ChangeSecret, online.ID{}, owner)
	return nil
}

// DeleteSecrets forgets what is kept under an owner.
func (t *tx) DeleteSecrets(owner string) error {
	var n int64
	if err := t.one("SELECT count(*) FROM secrets WHERE owner = ?", []any{owner}, &n); err != nil {
		return fmt.Errorf("delete secrets of %s: %w", owner, err)
	}
	if n == 0 {
		return nil
	}
	if err := t.write("DELETE FROM secrets WHERE owner = ?", owner); err != nil {
		return fmt.Errorf("delete secrets of %s: %w", owner, err)
	}
	t.note(store.ChangeSecret, online.ID{}, owner)
	return nil
}
