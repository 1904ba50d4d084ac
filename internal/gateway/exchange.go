package gateway

import (
	"time"

	"portico/internal/inference"
	"portico/internal/route"
	"portico/internal/telemetry"
)

// Transport carries one exchange. The core calls it from one goroutine, and never after Serve has returned.
type Transport interface {
	// ReadBody reads the next bytes of the request's body; io.EOF after the last.
	ReadBody(p []byte) (int, error)
	// SetReadDeadline bounds ReadBody, SetWriteDeadline bounds Begin, Write and Flush. The zero time means none.
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	// Begin sends the status and header; length -1 announces a stream. hangUp closes the connection afterwards.
	Begin(status int, header []inference.Field, length int64, hangUp bool)
	// Write sends bytes of the body; Flush makes what was written leave at once.
	Write(p []byte) (int, error)
	Flush() error
	// Abort breaks the connection off, so that the caller sees that the answer is not whole.
	Abort()
}

// Exchange is one request and its answer. The transport fills in the exported fields; their memory is its own and
// is not used after Serve. An Exchange may be used again for the next request.
type Exchange struct {
	Method   string
	Host     string
	Path     string // escaped as it was received
	Query    string // raw, without '?'
	Protocol string
	Header   []inference.Field // as received; the core changes the slice
	Length   int64             // of the body; -1 unknown, a stream
	Arrival  time.Time
	Transport

	record telemetry.Record
	call   inference.Call
	answer []inference.Field // header of the answer
	body   []byte            // of the request; its capacity is counted in Gateway.buffered beyond keptBody
	chunk  []byte            // of the answer
	held   int64             // bytes counted in Gateway.buffered
	begun  bool              // the answer's header has been sent
	slot   slot
	tried  [maxTried]*instance

	authorization string
	authorized    int // number of Authorization fields
	pinned        string
	websocket     bool               // asks to speak that protocol
	path          string             // below the endpoint's URL, as the caller named it
	at            string             // what is asked of the instance
	allow         []string           // methods that the path may be asked for with, when another one was used
	shadow        *route.Deployment  // gets a copy; nil: nobody
	capture       *telemetry.Capture // bodies that are to be kept; nil: none
}

const (
	// keptBody is the request buffer that an Exchange keeps for the next request; it is not counted as buffered.
	keptBody = 64 << 10
	// chunkBytes is the unit in which answers are copied.
	chunkBytes = 32 << 10
	// wholeBytes is the largest answer that is read whole before its status is sent, as far as memory allows: an
	// instance that dies half-way then gives an error and not a broken answer, and a slow caller holds no slot.
	wholeBytes = 1 << 20
	// maxTried bounds the instances that a request is offered to in one round.
	maxTried = 8
)

// Reset forgets the previous request but keeps the buffers. A transport that uses an Exchange again calls it first.
func (x *Exchange) Reset() {
	body, chunk := x.body, x.chunk
	if cap(body) > keptBody {
		body = nil
	}
	clear(x.answer)
	clear(x.Header)
	*x = Exchange{Header: x.Header[:0], answer: x.answer[:0], body: body[:0], chunk: chunk}
}
