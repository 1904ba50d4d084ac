package http1

import (
	"context"
	"sync"
	"time"
)

// watch is the context of a request. It ends when the caller hangs up. Most requests are answered before anybody asks for
// that: only who waits on Done makes it look, by a read in the background that takes what the caller sends ahead of its
// time for the next request.
type watch struct {
	conn *conn

	mu     sync.Mutex
	inner  context.Context //nolint:containedctx // made when somebody waits for it
	cancel context.CancelFunc
	ready  bool          // the body has been read: what comes now is no part of it
	over   bool          // the request has ended
	gone   bool          // the caller hung up
	read   chan struct{} // closed when the background read has ended; nil: there is none
}

// Deadline implements context.Context: there is none.
func (w *watch) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context.
func (w *watch) Done() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.look()
	return w.inner.Done()
}

// Err implements context.Context.
func (w *watch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return context.Canceled
	}
	return nil
}

// Value implements context.Context. It lets contexts made of this one find the inner one, which spares a goroutine for each.
func (w *watch) Value(key any) any {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inner == nil {
		return nil
	}
	return w.inner.Value(key)
}

// look makes the context and begins the background read as soon as the body is over. The caller holds mu.
func (w *watch) look() {
	if w.inner == nil {
		w.inner, w.cancel = context.WithCancel(context.Background())
		if w.gone || w.over {
			w.cancel()
		}
	}
	c := w.conn
	if !w.ready || w.over || w.gone || w.read != nil || c.w > c.r {
		return // who has sent the next request already is there
	}
	w.read = make(chan struct{})
	into, done := c.ahead(), w.read
	_ = c.net.SetReadDeadline(time.Time{}) // fails only on a connection that has ended, which the read tells
	go func() {
		defer close(done)
		n, err := c.net.Read(into)
		w.mu.Lock()
		defer w.mu.Unlock()
		c.w += n
		if n == 0 && !isTimeout(err) { // whose deadline is that of close
			w.hungUp()
		}
	}()
}

// hungUp ends the context. The caller holds mu.
func (w *watch) hungUp() {
	w.gone = true
	if w.cancel != nil {
		w.cancel()
	}
}

// end is called when reading or writing showed that the caller is gone.
func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hungUp()
}

// bodyEnded lets the background read begin, if somebody waits for it.
func (w *watch) bodyEnded() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ready = true
	if w.inner != nil {
		w.look()
	}
}

// close ends the watch with the request; after it nobody but the connection's own goroutine reads. False: the caller hung
// up.
func (w *watch) close() bool {
	w.mu.Lock()
	w.over = true
	read := w.read
	if read != nil {
		_ = w.conn.net.SetReadDeadline(longAgo) // fails only on a connection that has ended, which ends the read too
		w.conn.readBy = longAgo
	}
	w.mu.Unlock()
	if read != nil {
		<-read
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancel != nil {
		w.cancel()
	}
	return !w.gone
}

var longAgo = time.Unix(1, 0)
