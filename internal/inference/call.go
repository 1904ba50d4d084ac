package inference

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"portico/internal/http1"
)

// Field is one header field. Names are compared without regard to case and sent as given.
type Field = http1.Field

// Call is one request on its way to an instance. Do keeps nothing of it after it returns.
type Call struct {
	ID       string // x-request-id, a UUID that the front door made
	ClientID string // x-ms-client-request-id, or empty
	Method   string
	Host     string  // that the caller named, for an instance that is called under it; empty: it is told none
	Path     string  // path at the instance, "/score"
	Query    string  // raw, without '?'
	Header   []Field // end to end; no credentials, no hop-by-hop fields
	Body     []byte
	Deadline time.Time

	joined string // the sizes of the calls in Body, when this one carries a batch
}

// Answer is what an instance said. Body must be closed; reading it to the end (or closing it) gives the slot
// back. Header holds end-to-end fields only.
type Answer struct {
	Status        int
	Header        []Field
	ContentLength int64 // -1: unknown, a stream
	Batch         int   // calls that one run answered, said with one of its answers; 0 with the others, and without batches
	Body          io.ReadCloser
}

// Get gives the first value of a header field, or "".
func (a *Answer) Get(name string) string {
	for _, f := range a.Header {
		if equalFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// Why an instance gave no answer.
var (
	// ErrDeadline: the deadline passed. The work was withdrawn or canceled; the slot stays busy until it stops.
	ErrDeadline = errors.New("deadline exceeded")
	// ErrClosed: the instance is draining or gone, and had not started the request. Safe to send elsewhere.
	ErrClosed = errors.New("instance is closed")
	// ErrBusy: the instance holds as many calls as it admits, and had not started this one. Safe to send elsewhere.
	ErrBusy = errors.New("instance admits no more requests")
)

// LostError says that the worker died, or broke the protocol, while it executed this request. Whether the work was done
// is unknown, so it must not be sent again unasked.
type LostError struct {
	Instance string
	Cause    string // for the caller: "the worker was killed (signal 9) while it executed this request"
}

// Error gives the cause.
func (e *LostError) Error() string { return fmt.Sprintf("instance %s: %s", e.Instance, e.Cause) }

// Upstream is an instance that can be called.
type Upstream interface {
	Do(ctx context.Context, call *Call) (*Answer, error)
}

type text interface{ ~string | ~[]byte }

// equalFold compares without regard to ASCII case.
func equalFold[A, B text](a A, b B) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if x|0x20 != y|0x20 || x != y && (x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}
