package gateway

import (
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// trustedLength is the largest announced body that memory is set aside for at once. For a larger one memory grows
// with what has arrived: announcing is free, sending is not.
const trustedLength = 1 << 20

// readBody reads the whole body into memory: an instance is never held by a slow caller, and a request that no
// instance has started can be offered to the next.
func (g *Gateway) readBody(ctx context.Context, x *Exchange, deadline time.Time) *refusal {
	x.body = x.body[:0]
	if x.Length == 0 {
		return nil
	}
	if x.Length > g.cfg.MaxRequestBytes {
		return refusalTooLarge(g.cfg.MaxRequestBytes)
	}
	if err := x.SetReadDeadline(deadline); err != nil {
		return refusalGone
	}
	if refused := g.fillBody(ctx, x); refused != nil {
		return refused
	}
	if err := x.SetReadDeadline(time.Time{}); err != nil {
		return refusalGone
	}
	return nil
}

func (g *Gateway) fillBody(ctx context.Context, x *Exchange) *refusal {
	if !g.grow(x, max(min(x.Length, trustedLength), keptBody)) {
		return refusalBusy
	}
	for {
		if len(x.body) == cap(x.body) {
			if int64(len(x.body)) == x.Length {
				return nil
			}
			room := min(2*int64(cap(x.body)), g.cfg.MaxRequestBytes+1)
			if x.Length > 0 {
				room = min(room, x.Length)
			}
			if !g.grow(x, room) {
				return refusalBusy
			}
		}
		n, err := x.ReadBody(x.body[len(x.body):cap(x.body)])
		x.body = x.body[:len(x.body)+n]
		if int64(len(x.body)) > g.cfg.MaxRequestBytes {
			return refusalTooLarge(g.cfg.MaxRequestBytes)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return refusalUpload
		case ctx.Err() != nil, errors.Is(err, io.ErrUnexpectedEOF):
			return refusalGone
		default:
			return refusalBadBody
		}
	}
}

// grow makes room for size bytes in all, within the server's bound on buffered bytes.
func (g *Gateway) grow(x *Exchange, size int64) bool {
	if size <= int64(cap(x.body)) {
		return true
	}
	if size > keptBody && !g.hold(x, size-x.held) {
		return false
	}
	body := make([]byte, len(x.body), size)
	copy(body, x.body)
	x.body = body
	return true
}

// hold counts n more bytes as buffered until the request ends; false, and nothing counted, when that is too much.
func (g *Gateway) hold(x *Exchange, n int64) bool {
	if g.buffered.Add(n) > g.cfg.BufferBytes {
		g.buffered.Add(-n)
		return false
	}
	x.held += n
	return true
}
