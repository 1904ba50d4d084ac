package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"portico/internal/arm"
	"portico/internal/artifact"
	"portico/internal/cost"
	"portico/internal/online"
	"portico/internal/store"
	"portico/internal/telemetry"
)

// Config is what the commands work with. All fields are required unless they say otherwise.
type Config struct {
	Store     store.Store
	Artifacts *artifact.Store
	Uploads   *artifact.Uploads
	Catalogue online.Catalogue
	Logs      Logs
	Metrics   Metrics
	Caches    Caches
	// ONNXRuntime says why ONNX models cannot be served here. Nil: they can.
	ONNXRuntime func() error
	// Images says why OCI images cannot be run here. Nil: none can.
	Images func() error
	// Prices are what instances cost; the zero value prices everything at 0, and answers say so.
	Prices cost.Prices
	// Identities issues tokens and knows the principals.
	Identities *Identities
	// Default is the workspace that New makes when it does not exist; Location is what new workspaces get when
	// their PUT names none.
	Default  online.WorkspaceID
	Location string
	Now      func() time.Time
	Logger   *slog.Logger
}

// Logs reads what instances and environment builds printed.
type Logs interface {
	Logs(ctx context.Context, q LogQuery) (io.ReadCloser, error)
}

// Metrics answers what was measured of an endpoint's requests.
type Metrics interface {
	Query(endpoint string, since, until time.Time) telemetry.Summary
	// Minutes gives the requests of an endpoint, Connections the connections of all scoring listeners, in every
	// minute that overlaps [since, until).
	Minutes(endpoint string, since, until time.Time) []telemetry.Series
	Connections(since, until time.Time) []telemetry.ConnectionMinute
	// CollectedMinutes gives what was counted of the endpoint's data collectors.
	CollectedMinutes(endpoint string, since, until time.Time) []telemetry.CollectedMinute
}

// Caller is who gives a command, and from where.
type Caller struct {
	Principal online.Principal
	RequestID string
	ClientIP  string
}

// Service carries out commands. It is safe for concurrent use.
type Service struct {
	Config
	grants      grantKey
	accountKeys accountKeys
}

// New makes a Service. It creates the default workspace and the key of upload grants when they do not exist.
func New(ctx context.Context, cfg Config) (*Service, error) {
	s := &Service{Config: cfg}
	if err := s.prepare(ctx); err != nil {
		return nil, fmt.Errorf("prepare the management commands: %w", err)
	}
	return s, nil
}

// Accepted is the outcome of a change. Operation is nil where nothing waits.
type Accepted[T any] struct {
	Resource  T
	Operation *online.Operation
	Created   bool
	Notes     []string // what the caller should know although the change was accepted
}

// Match is a condition on the version that is in force: the ETag that the caller saw, or that nothing exists.
type Match struct {
	Revision int64 // If-Match; 0: any
	None     bool  // If-None-Match: *
	Exists   bool  // If-Match: *
}

// check compares the condition with what is stored; rec is nil when nothing is.
func (m Match) check(rec *store.Record) *online.Error {
	switch {
	case m.None && rec != nil:
		return online.Errorf(online.CodePrecondition, arm.FormatID(rec.ID),
			"it exists already, and If-None-Match: * asks that it does not")
	case (m.Exists || m.Revision != 0) && rec == nil:
		return online.Errorf(online.CodePrecondition, "", "it does not exist, and If-Match asks for a version of it")
	case m.Revision != 0 && m.Revision != rec.SpecRevision:
		return online.Errorf(online.CodePrecondition, arm.FormatID(rec.ID),
			"it was changed since you read it: If-Match names %s and %s is in force; read it again", etag(m.Revision), etag(rec.SpecRevision))
	}
	return nil
}

func etag(revision int64) string { return fmt.Sprintf("%q", fmt.Sprint(revision)) }

// update runs a command's transaction. Reconcile watches the store and sees the commit by itself. fn may run again after a conflict.
func (s *Service) update(ctx context.Context, c Caller, fn func(tx store.Tx) error) error {
	if c.Principal.ID == "" {
		return online.Errorf(online.CodeUnauthorized, "", "a command needs a principal")
	}
	return translate(s.Store.Update(ctx, fn))
}

func (s *Service) view(ctx context.Context, c Caller, fn func(r store.Reader) error) error {
	if c.Principal.ID == "" {
		return online.Errorf(online.CodeUnauthorized, "", "a command needs a principal")
	}
	return translate(s.Store.View(ctx, fn))
}

// translate makes of the store's errors what a user sees. What is not known stays as it is: an internal error.
func translate(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := online.AsError(err); ok {
		return err
	}
	switch {
	case errors.Is(err, store.ErrFull), errors.Is(err, artifact.ErrFull):
		return online.Errorf(online.CodeServiceUnavailable, "",
			"the change cannot be stored: %w; free space on the server's disk and try again", err)
	case errors.Is(err, store.ErrClosed):
		return online.Errorf(online.CodeServiceUnavailable, "", "the server is shutting down: %w", err)
	case errors.Is(err, store.ErrStale):
		return online.Errorf(online.CodePrecondition, "", "it was changed since you read it: %w; read it again", err)
	}
	return err
}

// find reads a record; nil when there is none.
func find(r store.Reader, id online.ID) (*store.Record, error) {
	rec, err := r.Get(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", id.Key(), err)
	}
	return rec, nil
}

// findForChange reads the record that a command changes, nil when there is none, and says why the command may not: nothing is
// there and must be, or what is there is not what the caller saw.
func findForChange(r store.Reader, id online.ID, m Match, mustExist bool) (*store.Record, error) {
	rec, err := find(r, id)
	if err != nil {
		return nil, err
	}
	if rec == nil && mustExist {
		return nil, notFound(id)
	}
	if fault := m.check(rec); fault != nil {
		return nil, fault
	}
	return rec, nil
}

// must reads a record that the command needs.
func must(r store.Reader, id online.ID) (*store.Record, error) {
	rec, err := find(r, id)
	if err == nil && rec == nil {
		err = notFound(id)
	}
	return rec, err
}

func notFound(id online.ID) *online.Error {
	what := map[online.Kind]string{
		online.KindEndpoint: "online endpoint",
		online.KindModel:    "model", online.KindCode: "code", online.KindEnvironment: "environment",
		online.KindData: "data asset", online.KindDatastore: "datastore",
	}[id.Kind]
	name := id.Name
	switch {
	case id.Kind == online.KindWorkspace:
		return online.Errorf(online.CodeNotFound, arm.FormatID(id), "workspace %q does not exist in resource group %q",
			id.Workspace.Name, id.Workspace.ResourceGroup)
	case id.Kind == online.KindDeployment:
		return online.Errorf(online.CodeNotFound, arm.FormatID(id), "deployment %q does not exist behind endpoint %q",
			id.Name, id.Parent)
	case id.Parent != "":
		name = id.Parent + ":" + id.Name
	}
	return online.Errorf(online.CodeNotFound, arm.FormatID(id), "%s %q does not exist in workspace %q", what, name,
		id.Workspace.Name)
}

// workspace reads the workspace that a command works in.
func workspace(r store.Reader, w online.WorkspaceID) (*store.Workspace, error) {
	rec, err := must(r, w.ID())
	if err != nil {
		return nil, err
	}
	return store.Decode[online.WorkspaceSpec, struct{}](rec)
}

// began makes a running operation for a record's newest spec.
func (s *Service) began(tx store.Tx, c Caller, rec *store.Record, action string,
	now time.Time) (*online.Operation, error) {
	op := &online.Operation{ID: uuid.NewString(), Target: rec.ID, TargetUID: rec.UID, Action: action,
		Generation: rec.Generation, State: online.OperationRunning, Principal: c.Principal.Name, Start: now}
	if err := tx.PutOperation(op); err != nil {
		return nil, fmt.Errorf("record operation: %w", err)
	}
	return op, nil
}

// finished makes an operation that has nothing to wait for.
func (s *Service) finished(tx store.Tx, c Caller, rec *store.Record, action string,
	now time.Time) (*online.Operation, error) {
	op := &online.Operation{ID: uuid.NewString(), Target: rec.ID, TargetUID: rec.UID, Action: action,
		Generation: rec.Generation, State: online.OperationSucceeded, Principal: c.Principal.Name, Start: now, End: now}
	if err := tx.PutOperation(op); err != nil {
		return nil, fmt.Errorf("record operation: %w", err)
	}
	return op, nil
}

// note adds an entry to the activity log. action is the last part of its name: write, delete, listKeys/action.
func (s *Service) note(tx store.Tx, c Caller, id online.ID, action, outcome, detail string, now time.Time) error {
	err := tx.AddActivity(online.Activity{Time: now, Principal: c.Principal.Name, Action: arm.TypeOf(id) + "/" + action,
		Target: id, RequestID: c.RequestID, ClientIP: c.ClientIP, Outcome: outcome, Detail: detail})
	if err != nil {
		return fmt.Errorf("record activity: %w", err)
	}
	return nil
}

// Outcomes of an activity.
const (
	accepted  = "Accepted"
	succeeded = "Succeeded"
)

// now is the wall clock in the precision that the store keeps.
func (s *Service) now() time.Time { return s.Now().UTC().Truncate(time.Millisecond) }

// failIf makes one error of many faults; nil of none.
func failIf(faults []*online.Error) error {
	if e := online.Join(faults); e != nil {
		return e
	}
	return nil
}
