package inference

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// errAgain: this worker did not start the request and never will; another may.
var errAgain = errors.New("not started")

// lane is one connection to a worker process with at most one request on it. Whoever has a lane (an exchange, then
// the reader of its answer, or what follows a canceled request) is its only user.
type lane struct {
	inc        *incarnation
	link       *link // nil until it is first used, and after it broke
	used       bool  // guarded by the pool's mu
	prefetched bool
	number     uint64
	joined     int                          // calls that the request carries
	method     string                       // of the request
	live       atomic.Pointer[net.UnixConn] // link's connection, for sever
}

// exchange sends the call and reads its answer. errAgain: it was not started, the lane is released. Any other
// error ends the call, the lane is released or taken care of. On success the lane is released when the answer has been
// read: at once, unless the answer is a long stream.
func (ln *lane) exchange(ctx context.Context, call *Call) (*Answer, error) {
	p := ln.inc.worker.pool
	now := time.Now()
	left, ok := timeLeft(call, now)
	if !ok {
		p.release(ln)
		return nil, ErrDeadline
	}
	if err := ln.connect(ctx); err != nil {
		if ctx.Err() == nil {
			ln.inc.doubt()
			err = errAgain
		} else {
			err = ctxError(ctx)
		}
		p.release(ln)
		return nil, err
	}
	if err := ln.link.begin(call, "", ln.number, left); err != nil {
		p.release(ln)
		return nil, err
	}
	ln.method = call.Method
	if err := ln.link.send(ctx, call); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, ln.giveUp(ctx, true)
	} // other errors: the worker may have answered before it hung up, so read
	return ln.await(ctx, call, now)
}

// await reads the answer's head and what follows it.
func (ln *lane) await(ctx context.Context, call *Call, now time.Time) (*Answer, error) {
	err := ln.link.expect(ctx, call, now)
	for {
		var h head
		if err == nil {
			h, err = ln.link.readHead(call.Method)
		}
		switch {
		case err == nil:
			return ln.receive(ctx, call, h)
		case ctx.Err() != nil || !time.Now().Before(call.Deadline):
			return nil, ln.giveUp(ctx, false)
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, ln.broken(ctx, err, false)
		}
		// The answer is late, but not too late.
		if ln.behind() && ln.inc.page.withdraw(ln.number) && !ln.link.readable() {
			ln.drop()
			ln.inc.worker.pool.release(ln)
			return nil, errAgain
		}
		err = ln.link.limit(ctx, call)
	}
}

// behind says whether the request waits for another on the same worker while there is another worker to go to: it was sent
// ahead of its turn, or one that was sent ahead has overtaken it on its way there.
func (ln *lane) behind() bool {
	if len(ln.inc.worker.pool.workers) == 1 {
		return false // it may as well wait where it is
	}
	running := ln.inc.page.running()
	return ln.prefetched || running != 0 && running != ln.number
}

// receive turns the head and what follows it into an Answer.
func (ln *lane) receive(ctx context.Context, call *Call, h head) (*Answer, error) {
	p := ln.inc.worker.pool
	l := ln.link
	if h.refused != nil {
		late := string(h.refused) == "deadline"
		ln.keep(h.length == 0 && !h.close)
		p.release(ln)
		if late {
			return nil, ErrDeadline
		}
		return nil, errAgain
	}
	if h.streams() {
		if err := l.limit(ctx, call); err != nil {
			return nil, ln.giveUp(ctx, true)
		}
		return l.stream(h, &reader{ln, ctx}), nil
	}
	answer, err := l.readAnswer(ctx, call, h)
	switch {
	case err == nil:
		ln.keep(!h.close && l.r == l.w)
		p.finish(ln)
		return answer, nil
	case ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
		return nil, ln.giveUp(ctx, true)
	}
	return nil, ln.broken(ctx, err, true)
}

// giveUp ends the call because its deadline passed or its caller went away. A request that was not started is
// withdrawn; one that runs is canceled and followed until it stops, with the lane taken as long. torn says that
// the connection is in the middle of something and cannot be used again.
func (ln *lane) giveUp(ctx context.Context, torn bool) error {
	p := ln.inc.worker.pool
	ln.link.unwatch()
	err := ctxError(ctx)
	if err == nil {
		err = ErrDeadline
	}
	idle := ln.inc.page.withdraw(ln.number)
	if torn {
		ln.drop()
	} else if idle && ln.link.readable() {
		idle = false // finished just now: its answer is to be read
	}
	if idle {
		ln.drop()
		p.release(ln)
		return err
	}
	p.wg.Go(ln.follow)
	return err
}

// broken ends the exchange because the connection did. If the worker was executing the request, the cause is
// waited for. answering says that a part of the answer was read, so the request had been started.
func (ln *lane) broken(ctx context.Context, err error, answering bool) error {
	p := ln.inc.worker.pool
	var protocol *protocolError
	// A request that is not running any more may have been executed all the same.
	started := errors.As(err, &protocol) || answering || ln.link.r != ln.link.w ||
		ln.inc.page.started(ln.number)
	ln.drop()
	ln.inc.doubt()
	if !started {
		p.release(ln)
		return errAgain
	}
	cause := ln.inc.deathCause(ctx)
	if protocol != nil {
		cause = "the worker broke the " + protocol.Error()
	}
	if ln.runs() {
		p.wg.Go(ln.follow) // it still executes the request, only its connection is gone
	} else {
		p.release(ln)
	}
	return &LostError{Instance: p.cfg.Instance, Cause: cause}
}

func (ln *lane) connect(ctx context.Context) error {
	if ln.link != nil {
		return nil
	}
	conn, err := (&net.Dialer{Timeout: connectTimeout}).DialContext(ctx, "unix", ln.inc.worker.spec.Socket)
	if err != nil {
		return err
	}
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.Join(errors.New("not a Unix connection"), conn.Close())
	}
	ln.link = newLink(conn)
	ln.live.Store(unix)
	if ln.inc.gone.Load() { // looked at last: from here on sever ends the connection
		ln.drop()
		return errAgain
	}
	return nil
}

// sever lets reads on a connection to a dead process end, whoever may still hold the other side open: a child of
// user code, or whoever made the listener. What the process had answered can still be read.
func (ln *lane) sever() {
	if conn := ln.live.Load(); conn != nil {
		_ = conn.CloseRead() // fails only on a connection that has ended
	}
}

// keep ends the use of the connection for this request; without reuse it is closed.
func (ln *lane) keep(reuse bool) {
	if !reuse {
		ln.drop()
		return
	}
	ln.link.reset()
}

// drop closes the connection.
func (ln *lane) drop() {
	if ln.link != nil {
		ln.live.Store(nil)
		ln.link.close()
		ln.link = nil
	}
}

// reader is the carrier of an answer that is streamed.
type reader struct {
	ln  *lane
	ctx context.Context //nolint:containedctx // of the call whose answer this is; needed to tell why a read failed
}

func (r *reader) ended(reuse bool) {
	r.ln.keep(reuse)
	r.ln.inc.worker.pool.finish(r.ln)
}

func (r *reader) dropped() { _ = r.abandon(true) }

func (r *reader) failed(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return r.abandon(false)
	}
	p := r.ln.inc.worker.pool
	var protocol *protocolError
	if !errors.As(err, &protocol) && !r.ln.inc.page.runs(r.ln.number) { // it is not that the process ends: it goes on
		r.ln.keep(false)
		p.finish(r.ln)
		return &LostError{Instance: p.cfg.Instance, Cause: "the scoring script broke its stream off"}
	}
	err = r.ln.broken(r.ctx, err, true)
	p.leave()
	return err
}

func (r *reader) abandon(byReader bool) error {
	p := r.ln.inc.worker.pool
	err := r.ln.giveUp(r.ctx, true)
	p.leave()
	if byReader {
		return errBodyClosed
	}
	return err
}
