package host

import (
	"context"
	"fmt"
	"net"
)

// Bounds of watching.
const (
	maxWatchers     = 64
	maxWatchBacklog = 4096 // events that a watcher may be behind; beyond it is dropped
)

// watcher is one connection that is told what happens. The channel is closed when it is dropped.
type watcher struct{ events chan Event }

// snapshot lists every process that runs, or that ended and was not forgotten. The lock is held.
func (s *supervisor) snapshot() []Process {
	var all []Process
	for _, r := range s.journal.oldestFirst() {
		p := s.procs[r.ID]
		if r.Exit != nil && p == nil || p != nil && p.running {
			all = append(all, r.Process)
		}
	}
	return all
}

// publish tells every watcher. The lock is held, so that all see one order.
func (s *supervisor) publish(p Process) {
	for w := range s.watchers {
		select {
		case w.events <- Event{Process: p}:
		default: // it does not read: nobody waits for it
			delete(s.watchers, w)
			close(w.events)
		}
	}
}

// list is the verb.
func (s *supervisor) list(conn *net.UnixConn) error {
	s.mu.Lock()
	all := s.snapshot()
	s.mu.Unlock()
	return ignoreHangUp(sendList(conn, all))
}

func sendList(conn *net.UnixConn, all []Process) error {
	for i := range all {
		if err := writeMessage(conn, answer{Event: &Event{Process: all[i]}}, nil); err != nil {
			return err
		}
	}
	return writeMessage(conn, answer{Event: &Event{Synced: true}}, nil)
}

// watch is the verb: it holds the connection until the client leaves.
func (s *supervisor) watch(ctx context.Context, conn *net.UnixConn) error {
	w := &watcher{events: make(chan Event, maxWatchBacklog)}
	s.mu.Lock()
	if len(s.watchers) >= maxWatchers {
		s.mu.Unlock()
		return fmt.Errorf("%w: %d clients watch", ErrLimit, maxWatchers)
	}
	s.watchers[w] = struct{}{}
	all := s.snapshot()
	s.mu.Unlock()
	defer s.unwatch(w)
	left := make(chan struct{})
	go func() {
		defer close(left)
		waitForHangUp(ctx, conn)
	}()
	defer func() {
		_ = conn.Close()
		<-left
	}()
	if sendList(conn, all) != nil {
		return nil // it left
	}
	for {
		select {
		case ev, ok := <-w.events:
			if !ok || writeMessage(conn, answer{Event: &ev}, nil) != nil {
				return nil
			}
		case <-left:
			s.flush(conn, w)
			return nil
		}
	}
}

// flush sends what is left when the supervisor ends: the exits of a drain are told before the connection closes.
func (s *supervisor) flush(conn *net.UnixConn, w *watcher) {
	for {
		select {
		case ev, ok := <-w.events:
			if !ok || writeMessage(conn, answer{Event: &ev}, nil) != nil {
				return
			}
		default:
			return
		}
	}
}

func (s *supervisor) unwatch(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, w)
}
