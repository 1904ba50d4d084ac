package sqlite

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"portico/internal/online"
	"portico/internal/store"
)

// reader reads one transaction's view of the store.
type reader struct {
	sess     *session
	sealer   store.Sealer
	revision int64
	ended    bool
	broken   error // the first failure of a statement; the transaction may be gone with it
}

var errEnded = errors.New("transaction has ended")

// end makes a reader that escaped from its fn useless instead of harmful.
func (r *reader) end() { r.ended = true }

func (r *reader) usable() error {
	if r.ended {
		return errEnded
	}
	return r.broken
}

// fail notes a failure of a statement. SQLite may have ended the transaction, and what came after would be
// committed by itself: nothing may come after.
func (r *reader) fail(err error) error {
	if err != nil && r.broken == nil {
		r.broken = err
	}
	return err
}

// one reads one row: store.ErrNotFound when there is none.
func (r *reader) one(query string, args []any, dest ...any) error {
	if err := r.usable(); err != nil {
		return err
	}
	err := r.sess.row(query, args, dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return store.ErrNotFound
	}
	return r.fail(err)
}

func (r *reader) each(query string, args []any, take func(scan func(...any) error) error) error {
	if err := r.usable(); err != nil {
		return err
	}
	return r.fail(r.sess.each(query, args, take))
}

func (r *reader) readRevision() error {
	return r.one("SELECT revision FROM counter", nil, &r.revision)
}

// Revision is that of the snapshot.
func (r *reader) Revision() int64 { return r.revision }

const resourceColumns = "rkey, id, uid, generation, spec_revision, status_revision, spec, status, secrets, " +
	"created_at, created_by, updated_at, updated_by, deleting_at, deleting_by"

const (
	listQuery = "SELECT " + resourceColumns + " FROM resources " +
		"WHERE rkey >= ? AND rkey < ? AND rkey > ? ORDER BY rkey LIMIT ?"
	revisionsQuery = "SELECT id, uid, generation, revision, spec, secrets, at, by_whom, why FROM revisions " +
		"WHERE rkey = ? ORDER BY seq DESC"
)

// resource is a row of resources.
type resource struct {
	store.Record
	key        string
	sealed     []byte // the secrets as stored
	deletingBy string
}

func (r *reader) scanResource(scan func(...any) error) (*resource, error) {
	var res resource
	var id, spec string
	var status sql.NullString
	var created, updated, deleting int64
	err := scan(&res.key, &id, &res.UID, &res.Generation, &res.SpecRevision, &res.StatusRevision,
		&spec, &status, &res.sealed,
		&created, &res.CreatedBy, &updated, &res.UpdatedBy, &deleting, &res.deletingBy)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(id), &res.ID); err != nil {
		return nil, fmt.Errorf("decode id of %s: %w", res.key, err)
	}
	res.Spec = []byte(spec)
	if status.Valid {
		res.Status = []byte(status.String)
	}
	res.CreatedAt, res.UpdatedAt, res.Deleting = fromNanos(created), fromNanos(updated), fromNanos(deleting)
	res.Secrets, err = openSecrets(r.sealer, res.UID, res.Generation, res.sealed)
	if err != nil {
		return nil, fmt.Errorf("open secrets of %s: %w", res.key, err)
	}
	return &res, nil
}

func (r *reader) resource(id online.ID) (*resource, error) {
	var res *resource
	err := r.each("SELECT "+resourceColumns+" FROM resources WHERE rkey = ?", []any{id.Key()},
		func(scan func(...any) error) (err error) {
			res, err = r.scanResource(scan)
			return err
		})
	if err == nil && res == nil {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", id.Key(), err)
	}
	return res, nil
}

// Get reads one record.
func (r *reader) Get(id online.ID) (*store.Record, error) {
	res, err := r.resource(id)
	if err != nil {
		return nil, err
	}
	return &res.Record, nil
}

// List reads a page of records in order of Key.
func (r *reader) List(prefix string, page store.Page) ([]*store.Record, error) {
	var out []*store.Record
	from, to := span(prefix)
	err := r.each(listQuery,
		[]any{from, to, page.After, bound(page.Limit)},
		func(scan func(...any) error) error {
			res, err := r.scanResource(scan)
			if err != nil {
				return err
			}
			out = append(out, &res.Record)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	return out, nil
}

// Revisions lists every accepted spec of a name, newest first.
func (r *reader) Revisions(id online.ID) ([]store.Revision, error) {
	var out []store.Revision
	err := r.each(revisionsQuery,
		[]any{id.Key()},
		func(scan func(...any) error) error {
			var rev store.Revision
			var rid, spec string
			var sealed []byte
			var at int64
			if err := scan(&rid, &rev.UID, &rev.Generation, &rev.Revision, &spec, &sealed, &at, &rev.By, &rev.Why); err != nil {
				return err
			}
			if err := json.Unmarshal([]byte(rid), &rev.ID); err != nil {
				return fmt.Errorf("decode id: %w", err)
			}
			rev.Spec, rev.At = []byte(spec), fromNanos(at)
			var err error
			if rev.Secrets, err = openSecrets(r.sealer, rev.UID, rev.Generation, sealed); err != nil {
				return fmt.Errorf("open secrets of generation %d: %w", rev.Generation, err)
			}
			out = append(out, rev)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("revisions of %s: %w", id.Key(), err)
	}
	return out, nil
}

// Secrets opens what is kept under an owner.
func (r *reader) Secrets(owner string) (map[string]online.Secret, error) {
	out := map[string]online.Secret{}
	err := r.each("SELECT name, sealed FROM secrets WHERE owner = ?", []any{owner},
		func(scan func(...any) error) error {
			var name string
			var sealed []byte
			if err := scan(&name, &sealed); err != nil {
				return err
			}
			clear, err := r.sealer.Open(secretPurpose(owner, name), sealed)
			if err != nil {
				return fmt.Errorf("open %s: %w", name, err)
			}
			out[name] = online.Secret(clear)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("secrets of %s: %w", owner, err)
	}
	return out, nil
}

// span gives the half-open range of the keys that begin with prefix. Keys never hold the last code point.
func span(prefix string) (from, to string) { return prefix, prefix + "\U0010FFFF" }

// bound is a LIMIT; no limit is the largest one, which every SQL database understands.
func bound(limit int) int64 {
	if limit <= 0 {
		return math.MaxInt64
	}
	return int64(limit)
}

// toNanos and fromNanos keep times as nanoseconds since 1970, the zero time as 0.
func toNanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// The purposes that secrets are sealed for. They bind a text to its place: a row copied over another one does
// not open there.
func specPurpose(uid string, generation int64) string {
	return "store/spec/" + uid + "/" + strconv.FormatInt(generation, 10)
}

func secretPurpose(owner, name string) string { return "store/secret/" + owner + "/" + name }

// sealSecrets seals the secrets of a spec as one text; none are nil.
func sealSecrets(sealer store.Sealer, uid string, generation int64, secrets map[string]online.Secret) ([]byte, error) {
	if len(secrets) == 0 {
		return nil, nil
	}
	clear := make(map[string]string, len(secrets)) // a Secret marshals as [redacted]
	for name, value := range secrets {
		clear[name] = value.Reveal()
	}
	text, err := json.Marshal(clear)
	if err != nil {
		return nil, err
	}
	return sealer.Seal(specPurpose(uid, generation), text)
}

func openSecrets(sealer store.Sealer, uid string, generation int64, sealed []byte) (map[string]online.Secret, error) {
	if len(sealed) == 0 {
		return nil, nil
	}
	text, err := sealer.Open(specPurpose(uid, generation), sealed)
	if err != nil {
		return nil, err
	}
	var secrets map[string]online.Secret // a Secret unmarshals as the string it is
	if err := json.Unmarshal(text, &secrets); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return secrets, nil
}
