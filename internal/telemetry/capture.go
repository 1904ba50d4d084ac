package telemetry

import "time"

// MaxCapturedBytes of a body are captured; the rest is cut off (Azure's default).
const MaxCapturedBytes = 1 << 20

// Capture is what is kept of one request for a data collector. No header of it is: they hold credentials.
type Capture struct {
	UID, Instance string // of the deployment and the instance that answered
	RequestID     string
	Method, Path  string // Path with the query
	Arrival       time.Time
	Request       *Body // nil: not collected
	Response      *Body

	Room any // what the collector reserved; its own
}

// Body is the beginning of a body.
type Body struct {
	Data []byte
	Size int64  // of the whole body
	Type string // its content type
}

// Add takes up the next part of a body. It may be called on nil.
func (b *Body) Add(part []byte) {
	if b == nil {
		return
	}
	b.Size += int64(len(part))
	if room := MaxCapturedBytes - len(b.Data); room > 0 {
		b.Data = append(b.Data, part[:min(len(part), room)]...)
	}
}
