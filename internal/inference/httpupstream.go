package inference

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// idleMax is how long a connection to an instance is kept without use. It is well below what a server keeps, so that
// the two ends do not meet in the moment of closing.
const idleMax = 30 * time.Second

// HTTPUpstream is an instance that listens on TCP: `portico infer` somewhere else. Its connections carry the deadline
// of each call, and closing one cancels the call on the other side.
type HTTPUpstream struct {
	instance, address string
	maxIdle           int
	idleMax           time.Duration
	foreign           bool
	dial              func(ctx context.Context) (net.Conn, error)

	mu     sync.Mutex
	idle   []idleLink // newest last
	closed bool
}

type idleLink struct {
	link  *link
	since time.Time
}

// NewHTTPUpstream makes an upstream for the instance at address (host:port). maxIdle bounds the connections that are
// kept open between calls.
func NewHTTPUpstream(instance, address string, maxIdle int) *HTTPUpstream {
	return newUpstream(instance, address, maxIdle, idleMax, false)
}

// foreignIdleMax is idleMax for servers of other people, some of which close connections after 2 seconds without use. A
// request that meets the closing may have been read, so it would be lost.
const foreignIdleMax = time.Second

// NewForeignUpstream makes an upstream for a server that somebody else wrote. It gets nothing but HTTP/1.1, no field of
// ours is believed, and only a connection that was refused counts as a request that was not started. At its deadline a
// call's connection is closed.
func NewForeignUpstream(instance, address string, maxIdle int) *HTTPUpstream {
	return newUpstream(instance, address, maxIdle, foreignIdleMax, true)
}

func newUpstream(instance, address string, maxIdle int, idleMax time.Duration, foreign bool) *HTTPUpstream {
	return &HTTPUpstream{
		instance: instance, address: address, maxIdle: maxIdle, idleMax: idleMax, foreign: foreign,
		dial: func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", address) },
	}
}

// Do sends the call over a kept connection or a new one. Its errors are those of Pool.Do: the instance says when it did
// not start a request, and a connection that breaks after the request was sent is a *LostError.
func (u *HTTPUpstream) Do(ctx context.Context, call *Call) (*Answer, error) {
	now := time.Now()
	left, ok := timeLeft(call, now)
	if !ok {
		return nil, ErrDeadline
	}
	l, err := u.take(ctx, call, now)
	if err != nil {
		return nil, err
	}
	if err := l.begin(call, u.address, 0, left); err != nil {
		u.give(l)
		return nil, err
	}
	sent := l.send(ctx, call)
	if errors.Is(sent, os.ErrDeadlineExceeded) {
		return nil, u.fail(ctx, l, sent)
	} // other errors: the instance may have answered before it hung up, so read
	err = l.expect(ctx, call, now)
	for {
		var h head
		if err == nil {
			h, err = l.readHead(call.Method)
		}
		switch {
		case err == nil:
			return u.receive(ctx, call, l, h)
		case ctx.Err() != nil, !errors.Is(err, os.ErrDeadlineExceeded), !time.Now().Before(call.Deadline):
			return nil, u.fail(ctx, l, err)
		}
		err = l.limit(ctx, call) // late, but not too late
	}
}

// Close closes the idle connections; calls that run end on their own.
func (u *HTTPUpstream) Close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for _, idle := range u.idle {
		idle.link.close()
	}
	u.idle = nil
}

// take gives a connection that is open as far as one can see. An error means that nothing was sent.
func (u *HTTPUpstream) take(ctx context.Context, call *Call, now time.Time) (*link, error) {
	for {
		u.mu.Lock()
		if u.closed {
			u.mu.Unlock()
			return nil, ErrClosed
		}
		n := len(u.idle)
		if n == 0 {
			u.mu.Unlock()
			break
		}
		idle := u.idle[n-1]
		u.idle = u.idle[:n-1]
		u.mu.Unlock()
		if now.Sub(idle.since) < u.idleMax && !idle.link.stale() {
			return idle.link, nil
		}
		idle.link.close()
	}
	limited, cancel := context.WithDeadline(ctx, earlier(call.Deadline, now.Add(connectTimeout)))
	defer cancel()
	conn, err := u.dial(limited)
	switch {
	case err == nil:
		l := newLink(conn)
		l.foreign = u.foreign
		return l, nil
	case ctx.Err() != nil:
		return nil, ctxError(ctx)
	case !time.Now().Before(call.Deadline):
		return nil, ErrDeadline
	}
	return nil, ErrClosed
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// give keeps the connection for another call.
func (u *HTTPUpstream) give(l *link) {
	l.reset()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || len(u.idle) >= u.maxIdle {
		l.close()
		return
	}
	u.idle = append(u.idle, idleLink{l, time.Now()})
}

func (u *HTTPUpstream) receive(ctx context.Context, call *Call, l *link, h head) (*Answer, error) {
	if h.streams() {
		if err := l.limit(ctx, call); err != nil {
			return nil, u.fail(ctx, l, err)
		}
		return l.stream(h, &remoteReader{u, l, ctx}), nil
	}
	why := string(h.refused)
	answer, err := l.readAnswer(ctx, call, h)
	if err != nil {
		return nil, u.fail(ctx, l, err)
	}
	if h.close || l.r != l.w {
		l.close()
	} else {
		u.give(l)
	}
	switch {
	case u.foreign:
		return answer, nil
	case h.lost != "":
		return nil, &LostError{Instance: u.instance, Cause: h.lost}
	case h.refused == nil:
		return answer, nil
	case why == "deadline":
		return nil, ErrDeadline
	case why == "busy":
		return nil, ErrBusy
	}
	return nil, ErrClosed
}

// fail gives up the connection, by which the instance learns that nobody waits, and says why.
func (u *HTTPUpstream) fail(ctx context.Context, l *link, err error) error {
	l.close()
	if gone := ctxError(ctx); gone != nil {
		return gone
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrDeadline
	}
	var protocol *protocolError
	if errors.As(err, &protocol) {
		return lost(u.instance, "the instance broke the %s", protocol.Error())
	}
	return lost(u.instance, "the connection to the instance broke while it executed this request")
}

// remoteReader is the carrier of an answer that is streamed.
type remoteReader struct {
	u   *HTTPUpstream
	l   *link
	ctx context.Context //nolint:containedctx // of the call whose answer this is; needed to tell why a read failed
}

func (r *remoteReader) ended(reuse bool) {
	if reuse {
		r.u.give(r.l)
		return
	}
	r.l.close()
}

func (r *remoteReader) dropped() { r.l.close() }

func (r *remoteReader) failed(err error) error { return r.u.fail(r.ctx, r.l, err) }
