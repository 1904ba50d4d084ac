package store

import (
	"context"
	"errors"
	"time"

	"portico/internal/online"
)

// What a Store answers besides plain failures. Wrapped errors keep these for errors.Is.
var (
	ErrNotFound = errors.New("not found")
	ErrStale    = errors.New("version does not match") // an If-Match that names another spec revision
	ErrFull     = errors.New("no space to store")      // disk full or quota: nothing of the transaction was kept
	ErrClosed   = errors.New("store is closed")
)

// Store is a durable, transactional keeper with one ordered history.
//
// Every committed Update that changed something gets the next revision; one that changed nothing leaves no
// trace. Watch shows what happened to records and secrets in commit order, nothing left out; a revision that
// touched neither (an operation, an activity) has no Change. An Update is on disk when it returns nil. A Store
// is safe for concurrent use. View and Update must not be called from inside fn: that could wait for itself.
type Store interface {
	// View runs fn on a consistent snapshot.
	View(ctx context.Context, fn func(Reader) error) error
	// Update runs fn in a serialised transaction; if fn, any write of it or the commit fails, nothing is kept.
	// fn may be run again after a conflict and must have no effects outside tx. When ctx ends before the commit
	// begins nothing is kept; the commit itself is not interrupted, so its outcome is always told.
	Update(ctx context.Context, fn func(Tx) error) error
	// Watch sends every change after revision since, oldest first, until ctx ends; then the channel closes. A
	// reader that falls behind further than the history reaches, or whose since is not of this history, gets one
	// Change with Lost set and must list anew; the stream goes on after that Change's Revision. The changes of
	// one transaction follow each other with the same Revision.
	Watch(ctx context.Context, since int64) (<-chan Change, error)
	// Backup writes a consistent copy of the whole store to a new file while the store is in use.
	Backup(ctx context.Context, path string) error
	Close() error
}

// Record is a resource as stored. Spec and Status are JSON.
type Record struct {
	ID             online.ID
	UID            string // given at creation; another one if the same name is created again
	Generation     int64  // 1 for the first accepted spec, +1 with each
	SpecRevision   int64  // store revision of the newest spec; the ETag
	StatusRevision int64
	Spec           []byte
	Status         []byte // nil until reconcile wrote one
	// Secrets of the spec (environment variables); sealed on disk, versioned with the spec.
	Secrets   map[string]online.Secret
	CreatedAt time.Time
	CreatedBy string
	UpdatedAt time.Time // of the spec
	UpdatedBy string
	Deleting  time.Time // set while the resource is being deleted
}

// Revision is an accepted spec. Revisions are never changed, and outlive their resource.
type Revision struct {
	ID         online.ID
	UID        string
	Generation int64
	Revision   int64
	Spec       []byte
	Secrets    map[string]online.Secret
	At         time.Time
	By         string
	// Why is "create", "update", "rollback to 3" ... A deletion leaves a revision with WhyDelete that repeats the
	// generation, spec and secrets that were in force, so that what was deleted can be brought back.
	Why string
}

// WhyDelete marks the revision that Remove leaves behind.
const WhyDelete = "delete"

// Page bounds a listing. Limit 0 means no bound; After is the Key of the last record already seen.
type Page struct {
	After string
	Limit int
}

// Reader reads one snapshot. Methods that name one thing answer ErrNotFound when it is not there.
type Reader interface {
	Revision() int64 // of the snapshot
	Get(id online.ID) (*Record, error)
	// List gives the records whose Key begins with prefix, in order of Key.
	List(prefix string, page Page) ([]*Record, error)
	// Revisions gives every accepted spec of a name, newest first, earlier incarnations included.
	Revisions(id online.ID) ([]Revision, error)
	Operation(id string) (*online.Operation, error)
	// Operations gives a target's operations, newest first; with running, only those not ended. An empty uid
	// means every target.
	Operations(uid string, running bool) ([]*online.Operation, error)
	// Activities gives the entries with since <= Time < until whose target's Key begins with prefix, newest
	// first. A zero time is no bound, limit 0 neither.
	Activities(prefix string, since, until time.Time, limit int) ([]online.Activity, error)
	// Intervals gives the intervals that overlap [since, until), in order of Start; one without End goes on.
	Intervals(prefix string, since, until time.Time) ([]online.Interval, error)
	// Secrets gives the secrets kept under an owner (a resource UID, or a name such as "server"); none is no error.
	Secrets(owner string) (map[string]online.Secret, error)
}

// Spec is what PutSpec writes.
type Spec struct {
	ID      online.ID
	JSON    []byte
	Secrets map[string]online.Secret
	By      string
	Why     string
	At      time.Time
	// IfMatch is the SpecRevision that the caller saw: ErrStale when another, or none, is in force. 0: whatever
	// is there. Create refuses (ErrStale) when the resource exists.
	IfMatch int64
	Create  bool
}

// Tx is a Reader that sees its own writes, and writes.
type Tx interface {
	Reader
	// PutSpec creates or replaces a spec and appends its revision. Status, the case in which the name was first
	// given and a deletion mark are kept. A name that was removed starts anew: another UID, Generation 1.
	PutSpec(Spec) (*Record, error)
	// PutStatus replaces the status of the incarnation uid; ErrNotFound when it is gone. An equal status
	// changes nothing, not even the revision.
	PutStatus(id online.ID, uid string, status []byte) error
	// MarkDeleting sets Record.Deleting once (a ChangeSpec, though SpecRevision stays); Remove takes the record
	// and its owned secrets away and leaves a revision with WhyDelete behind. Remove with an empty by names who
	// marked it. Both answer ErrNotFound when there is no such record.
	MarkDeleting(id online.ID, by string, at time.Time) error
	Remove(id online.ID, by string, at time.Time) error

	PutOperation(*online.Operation) error // creates or replaces; an equal one changes nothing
	AddActivity(online.Activity) error    // Revision is filled in
	// OpenInterval begins an instance's interval, CloseInterval ends it (ErrNotFound when it was never opened).
	// Instance ids are unique for ever, so either one repeated changes nothing.
	OpenInterval(online.Interval) error
	CloseInterval(instance string, end time.Time, reason string) error
	PutSecret(owner, name string, value online.Secret) error
	DeleteSecrets(owner string) error
}

// What of a record changed.
const (
	ChangeSpec    = "spec"
	ChangeStatus  = "status"
	ChangeRemoved = "removed"
	ChangeSecret  = "secret" // of the owner UID; ID is empty
)

// Change tells that something was committed. It says what to read again, not what it holds.
type Change struct {
	Revision int64
	Type     string
	ID       online.ID
	UID      string
	Lost     bool
}

// Sealer encrypts what lies on disk. purpose is bound to the text: opening under another purpose fails.
type Sealer interface {
	Seal(purpose string, clear []byte) ([]byte, error)
	Open(purpose string, sealed []byte) ([]byte, error)
}
