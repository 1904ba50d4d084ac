package inference

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errAgain: this worker did not start the request and never will; another may.
var errAgain = errors.New("not started")

var longAgo = time.Unix(1, 0)

// lane is one connection to a worker process with at most one request on it. Whoever has a lane (an exchange, then
// the reader of its answer, or what follows a canceled request) is its only user.
type lane struct {
	inc        *incarnation
	link       *link // nil until it is first used, and after it broke
	used       bool  // guarded by the pool's mu
	prefetched bool
	number     uint64
	method     string // of the request
	watch      *hangup
}

// hangup interrupts reads and writes on a connection when a caller goes away.
type hangup struct {
	stop  func() bool
	fired chan struct{}
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
	if err := ln.connect(); err != nil {
		ln.inc.doubt()
		p.release(ln)
		return nil, errAgain
	}
	if err := ln.link.begin(call, "", ln.number, left); err != nil {
		p.release(ln)
		return nil, err
	}
	ln.method = call.Method
	big := len(ln.link.out)+len(call.Body) > boundedWrite
	if big {
		_ = ln.link.conn.SetWriteDeadline(call.Deadline) // fails only on a closed connection, which the write tells
		ln.watchCaller(ctx)
	}
	if err := ln.link.send(call.Body); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, ln.giveUp(ctx, true)
	} // other errors: the worker may have answered before it hung up, so read
	if big {
		_ = ln.link.conn.SetWriteDeadline(time.Time{})
	}
	return ln.await(ctx, call, now)
}

// await reads the answer.
func (ln *lane) await(ctx context.Context, call *Call, now time.Time) (*Answer, error) {
	slow := ln.watch != nil
	if soon := now.Add(patience); !slow && soon.Before(call.Deadline) {
		_ = ln.link.conn.SetReadDeadline(soon) // fails only on a closed connection, which the read tells
	} else if err := ln.limit(ctx, call); err != nil {
		return nil, ln.giveUp(ctx, false)
	}
	for {
		h, err := ln.link.readHead(call.Method)
		switch {
		case err == nil:
			return ln.receive(ctx, call, h)
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, ln.broken(ctx, err, false)
		case ctx.Err() != nil || !time.Now().Before(call.Deadline):
			return nil, ln.giveUp(ctx, false)
		case slow:
			continue // the deadline is a moment away
		}
		slow = true
		if ln.prefetched && ln.inc.page.withdraw(ln.number) && !ln.answered() {
			ln.drop()
			ln.inc.worker.pool.release(ln)
			return nil, errAgain
		}
		if err := ln.limit(ctx, call); err != nil {
			return nil, ln.giveUp(ctx, false)
		}
	}
}

// limit bounds reads by the call's deadline and its caller's patience. An error: the caller is gone already.
func (ln *lane) limit(ctx context.Context, call *Call) error {
	_ = ln.link.conn.SetReadDeadline(call.Deadline) // fails only on a closed connection, which the read tells
	ln.watchCaller(ctx)
	return ctx.Err() // looked at last: from here on the watch interrupts
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
	if h.length < 0 || h.length > eagerBody {
		answer, _ := newAnswer(h, nil)
		if err := ln.limit(ctx, call); err != nil {
			return nil, ln.giveUp(ctx, true)
		}
		answer.Body = &stream{link: l, carrier: &reader{ln, ctx}, left: max(0, h.length), chunked: h.length < 0, reuse: !h.close}
		return &answer.Answer, nil
	}
	body := l.in[l.r:l.w]
	if int64(len(body)) > h.length {
		body = body[:h.length]
	}
	here := int64(len(body))
	answer, rest := newAnswer(h, body)
	if here < h.length { // the rest, into memory of its own
		long := make([]byte, h.length)
		copy(long, body)
		l.r = l.w
		if err := ln.readFull(ctx, call, long[here:]); err != nil {
			return nil, err
		}
		rest = asString(long)
	} else {
		l.r += int(here)
	}
	answer.text.Reset(rest)
	answer.Body = answer
	ln.keep(!h.close && l.r == l.w)
	p.finish(ln)
	return &answer.Answer, nil
}

// readFull reads the rest of a body of known size within the call's deadline.
func (ln *lane) readFull(ctx context.Context, call *Call, p []byte) error {
	if err := ln.limit(ctx, call); err != nil {
		return ln.giveUp(ctx, true)
	}
	for len(p) > 0 {
		n, err := ln.link.conn.Read(p)
		p = p[n:]
		if n > 0 || err == nil {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return ln.giveUp(ctx, true)
		}
		return ln.broken(ctx, err, true)
	}
	return nil
}

// giveUp ends the call because its deadline passed or its caller went away. A request that was not started is
// withdrawn; one that runs is canceled and followed until it stops, with the lane taken as long. torn says that
// the connection is in the middle of something and cannot be used again.
func (ln *lane) giveUp(ctx context.Context, torn bool) error {
	p := ln.inc.worker.pool
	ln.unwatch()
	err := ctxError(ctx)
	if err == nil {
		err = ErrDeadline
	}
	idle := ln.inc.page.withdraw(ln.number)
	if torn {
		ln.drop()
	} else if idle && ln.answered() {
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
	started := errors.As(err, &protocol) || answering || ln.link.r != ln.link.w || ln.inc.page.running() == ln.number
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
	if ln.inc.page.running() == ln.number && !ln.inc.dead() {
		p.wg.Go(ln.follow) // it still executes the request, only its connection is gone
	} else {
		p.release(ln)
	}
	return &LostError{Instance: p.cfg.Instance, Cause: cause}
}

// answered says whether bytes of an answer are here, without waiting.
func (ln *lane) answered() bool {
	l := ln.link
	if l.w > l.r {
		return true
	}
	sys, ok := l.conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return false
	}
	_ = l.conn.SetReadDeadline(time.Time{}) // a passed deadline would forbid the look
	n := 0
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		n, _, err = unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return true
	})
	return err == nil && n > 0
}

func (ln *lane) connect() error {
	if ln.link != nil {
		return nil
	}
	conn, err := net.DialTimeout("unix", ln.inc.worker.spec.Socket, connectTimeout)
	if err != nil {
		return err
	}
	ln.link = newLink(conn)
	return nil
}

// keep ends the use of the connection for this request; without reuse it is closed.
func (ln *lane) keep(reuse bool) {
	ln.unwatch()
	if !reuse {
		ln.drop()
		return
	}
	l := ln.link
	l.r, l.w = 0, 0
	if len(l.in) > keptBuffer {
		l.in = make([]byte, firstBuffer)
	}
	if cap(l.out) > keptBuffer {
		l.out = nil
	}
}

// drop closes the connection.
func (ln *lane) drop() {
	ln.unwatch()
	if ln.link != nil {
		_ = ln.link.conn.Close() // nothing that was written is waited for
		ln.link = nil
	}
}

// watchCaller interrupts the connection when ctx ends.
func (ln *lane) watchCaller(ctx context.Context) {
	if ln.watch != nil || ctx.Done() == nil {
		return
	}
	conn, fired := ln.link.conn, make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(longAgo) // fails only on a closed connection
		close(fired)
	})
	ln.watch = &hangup{stop, fired}
}

// unwatch ends the watch; after it nothing touches the connection's deadlines but its user.
func (ln *lane) unwatch() {
	if ln.watch == nil {
		return
	}
	if !ln.watch.stop() {
		<-ln.watch.fired
		if ln.link != nil {
			_ = ln.link.conn.SetDeadline(time.Time{})
		}
	}
	ln.watch = nil
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
	err = r.ln.broken(r.ctx, err, true)
	r.ln.inc.worker.pool.leave()
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
