package gateway

import (
	"context"
	"errors"
	"io"
	rand2 "math/rand/v2"
	"strconv"
	"time"

	"portico/internal/inference"
	"portico/internal/telemetry"
)

// writeGrace is how long after a request's deadline its caller may still take the last bytes.
const writeGrace = 2 * time.Second

// slot is what a request holds of its deployment; free gives it back once.
type slot struct {
	of   *deployment
	on   *instance // nil while none was chosen
	size int64
}

func (s *slot) free() {
	if s.of == nil {
		return
	}
	s.leave()
	s.of.queue.Release(s.size)
	s.of = nil
}

func (s *slot) leave() {
	if s.on != nil {
		s.of.leave(s.on)
		s.on = nil
	}
}

// forward offers the request to instances until one takes it, and sends its answer back. Only an instance that
// says that it has not started the request is followed by another; what may have run is never run again.
func (g *Gateway) forward(ctx context.Context, x *Exchange) {
	pause := minRetryPause
	tried := x.tried[:0]
	late := refusalNotReady // what the caller is told when the deadline passes meanwhile
	for {
		set := x.slot.of.ready.Load()
		var i *instance
		if len(tried) < cap(tried) {
			i = set.enter(tried, rand2.Uint32())
		}
		if i == nil {
			if refused := waitForChange(ctx, set, pause, x.call.Deadline, late); refused != nil {
				x.refuse(refused)
				return
			}
			pause = min(2*pause, maxRetryPause)
			tried = tried[:0]
			continue
		}
		x.slot.on = i
		err := g.attempt(ctx, x, i)
		if err == nil {
			return
		}
		if late = refusalNotReady; errors.Is(err, inference.ErrBusy) {
			late = refusalTimeout
		}
		x.slot.leave()
		tried = append(tried, i)
	}
}

// waitForChange waits until other instances are ready, but not longer than the pause or the deadline.
func waitForChange(ctx context.Context, set *readySet, pause time.Duration, deadline time.Time, late *refusal) *refusal {
	left := time.Until(deadline)
	if left <= 0 {
		return late
	}
	timer := time.NewTimer(min(pause, left))
	defer timer.Stop()
	select {
	case <-set.changed:
	case <-timer.C:
	case <-ctx.Done():
		return refusalGone
	}
	return nil
}

// attempt sends the request to one instance and answers the caller. An error says that the instance did not start
// the request, and nothing has been answered.
func (g *Gateway) attempt(ctx context.Context, x *Exchange, i *instance) error {
	upstream, ok := g.upstreams.Lookup(i.id)
	if !ok {
		return inference.ErrClosed
	}
	start := time.Now()
	answer, err := upstream.Do(ctx, &x.call)
	if errors.Is(err, inference.ErrClosed) || errors.Is(err, inference.ErrBusy) {
		return err
	}
	r := &x.record
	r.Instance, r.Generation, r.ModelDigest = i.id, i.generation, i.digest
	r.Queue = start.Sub(x.Arrival) - r.Upload
	r.Service = time.Since(start)
	if err != nil {
		x.slot.free()
		x.refuse(g.failed(ctx, x, err))
		return nil
	}
	r.FirstByte = start.Add(r.Service).Sub(x.Arrival)
	g.respond(ctx, x, answer)
	return nil
}

// failed translates why an instance gave no (whole) answer.
func (g *Gateway) failed(ctx context.Context, x *Exchange, err error) *refusal {
	var lost *inference.LostError
	switch {
	case ctx.Err() != nil:
		return refusalGone
	case errors.Is(err, inference.ErrDeadline):
		return refusalTimeout
	case errors.As(err, &lost):
		return refusalLost(lost)
	}
	g.log.Error("instance cannot be called", "request_id", x.record.RequestID, "endpoint", x.record.Endpoint,
		"deployment", x.record.Deployment, "instance", x.record.Instance, "error", err)
	return refusalInternal
}

// respond sends an instance's answer: 200 as it is, anything else as 424 with the instance's own header and body.
func (g *Gateway) respond(ctx context.Context, x *Exchange, a *inference.Answer) {
	x.record.ModelStatus, x.record.Batch = a.Status, a.Batch
	g.beginCapture(x, a)
	defer g.endCapture(x)
	n := a.ContentLength
	if x.chunk == nil {
		x.chunk = make([]byte, chunkBytes)
	}
	// The answer to a copy takes no memory that answers to callers could need.
	if n < 0 || n > wholeBytes || n > chunkBytes && (x.record.Mirror || !g.hold(x, n)) {
		defer a.Body.Close() // it was read to its end, or is given up: nothing more to learn
		x.answerHeader(a)
		g.stream(ctx, x, a)
		return
	}
	whole := x.chunk
	if n > chunkBytes {
		whole = make([]byte, n)
	}
	_, err := io.ReadFull(a.Body, whole[:n])
	a.Body.Close()
	x.slot.free()
	if err != nil {
		x.refuse(g.failed(ctx, x, broken(err)))
		return
	}
	x.captured().Add(whole[:n])
	x.answerHeader(a)
	x.begin(x.record.Status, n, false)
	written, err := x.Write(whole[:n])
	x.record.ResponseBytes = int64(written)
	if err != nil {
		x.hungUp()
	}
}

// broken makes an answer that ended too early a lost one.
func broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &inference.LostError{Cause: "the instance broke off its answer"}
	}
	return err
}

func (x *Exchange) answerHeader(a *inference.Answer) {
	h := append(x.answer[:0], inference.Field{Name: "Server", Value: serverName})
	h = x.appendIdentity(h)
	h = append(h, inference.Field{Name: fieldModelTime, Value: strconv.FormatInt(x.record.Service.Milliseconds(), 10)})
	x.record.Status = 200
	if a.Status != 200 {
		x.record.Status, x.record.Reason = 424, telemetry.ReasonModelError
		h = append(h, inference.Field{Name: fieldModelStatus, Value: strconv.Itoa(a.Status)},
			inference.Field{Name: fieldModelReason, Value: telemetry.ReasonModelError},
			inference.Field{Name: "Link", Value: help})
	} else {
		x.record.SoftFailure = softFailure(a)
	}
	x.answer = appendAnswer(h, a.Header)
}

// stream copies an answer of unknown or large size. One of unknown size is a stream whose parts must not wait.
// The caller reads at the instance's expense, so the deadline binds him too.
func (g *Gateway) stream(ctx context.Context, x *Exchange, a *inference.Answer) {
	if err := x.SetWriteDeadline(x.call.Deadline.Add(writeGrace)); err != nil {
		x.hungUp()
		return
	}
	x.begin(x.record.Status, a.ContentLength, false)
	for {
		n, err := a.Body.Read(x.chunk)
		if n > 0 {
			x.captured().Add(x.chunk[:n])
			w, werr := x.Write(x.chunk[:n])
			x.record.ResponseBytes += int64(w)
			if werr == nil && a.ContentLength < 0 {
				werr = x.Flush()
			}
			if werr != nil {
				x.hungUp()
				return
			}
		}
		if err == nil {
			continue
		}
		if err == io.EOF && (a.ContentLength < 0 || x.record.ResponseBytes == a.ContentLength) {
			return
		}
		switch {
		case ctx.Err() != nil:
			x.hungUp()
			return
		case errors.Is(err, inference.ErrDeadline):
			x.record.Reason = telemetry.ReasonResponseTimeout
		default:
			x.record.Reason = telemetry.ReasonResponseBroken
		}
		x.Abort()
		return
	}
}

// hungUp records that the caller did not wait for the whole answer.
func (x *Exchange) hungUp() {
	x.record.Status, x.record.Reason = telemetry.StatusClientClosed, telemetry.ReasonClientClosed
	x.Abort()
}
