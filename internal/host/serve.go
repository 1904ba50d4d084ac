package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// accept serves connections until the listener is closed, and waits for those that it began.
func (s *supervisor) accept(ctx context.Context, l *net.UnixListener) {
	var serving sync.WaitGroup
	defer serving.Wait()
	slots := make(chan struct{}, maxConnections)
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Error("accept failed", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
				return
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			busy := toWireError(fmt.Errorf("%w: %d connections are open", ErrLimit, maxConnections))
			_ = writeMessage(conn, answer{Error: busy}, nil)
			_ = conn.Close()
			continue
		}
		serving.Go(func() {
			defer func() { <-slots }()
			defer func() { _ = conn.Close() }()
			s.serve(ctx, conn)
		})
	}
}

// serve answers the one request of a connection.
func (s *supervisor) serve(ctx context.Context, conn *net.UnixConn) {
	uid, err := peerUID(conn)
	if err != nil {
		s.log.Error("peer not known", "error", err)
		return
	}
	if uid != 0 && uid != os.Geteuid() {
		s.log.Warn("peer refused", "uid", uid)
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if conn.SetReadDeadline(time.Now().Add(messageTimeout)) != nil {
		return
	}
	var req request
	if err := readMessage(bufio.NewReader(conn), &req); err != nil {
		if errors.Is(err, ErrBadRequest) {
			_ = writeMessage(conn, answer{Error: toWireError(err)}, nil)
		}
		return
	}
	if err := s.dispatch(ctx, conn, &req); err != nil {
		if e := writeMessage(conn, answer{Error: toWireError(err)}, nil); e != nil {
			s.log.Warn("answer not sent", "verb", string(req.Verb), "error", e)
		}
	}
}

// dispatch does what a request asks and answers it; an error is answered by the caller.
func (s *supervisor) dispatch(ctx context.Context, conn *net.UnixConn, req *request) error {
	var a answer
	switch req.Verb {
	case verbAttach:
		s.attach(ctx, conn)
		return nil
	case verbList:
		return s.list(conn)
	case verbWatch:
		return s.watch(ctx, conn)
	case verbListen:
		return s.listen(ctx, conn, req)
	case verbSocket:
		return s.socket(conn, req)
	case verbStart:
		if req.Spec == nil {
			return fmt.Errorf("%w: no spec", ErrBadRequest)
		}
		p, err := s.start(ctx, req.Spec.spec())
		if err != nil {
			return err
		}
		a.Process = &p
	case verbSignal:
		if err := s.signal(req.ID, req.Signal, req.Group); err != nil {
			return err
		}
	case verbForget:
		if err := s.forget(req.ID); err != nil {
			return err
		}
	case verbUnlisten:
		s.listeners.close(req.Name)
	case verbShutdown:
		if req.Grace < 0 {
			return fmt.Errorf("%w: the grace is negative", ErrBadRequest)
		}
		select {
		case s.shutdown <- req.Grace:
		default: // one is asked for already
		}
	default:
		return fmt.Errorf("%w: verb %.40q", ErrBadRequest, req.Verb)
	}
	return ignoreHangUp(writeMessage(conn, a, nil))
}

// ignoreHangUp drops the error of an answer that nobody waits for any more: there is no one to tell.
func ignoreHangUp(err error) error {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// attach holds the connection of a client for as long as both live.
func (s *supervisor) attach(ctx context.Context, conn *net.UnixConn) {
	s.presence.add(1)
	defer s.presence.add(-1)
	info := Info{PID: os.Getpid(), Protocol: protocolVersion, Capabilities: s.capable}
	if writeMessage(conn, answer{Info: &info}, nil) != nil {
		return
	}
	waitForHangUp(ctx, conn)
}

// waitForHangUp returns when the client closes the connection, or ctx ends.
func waitForHangUp(ctx context.Context, conn *net.UnixConn) {
	_ = conn.SetReadDeadline(time.Time{})
	if ctx.Err() != nil { // its AfterFunc may have run before the line above
		return
	}
	var b [1]byte
	_, _ = conn.Read(b[:]) // a client sends nothing more: whatever happens is the end
}

// signal is the verb.
func (s *supervisor) signal(id string, sig syscall.Signal, group bool) error {
	if sig < 1 || sig > maxSignal {
		return fmt.Errorf("%w: signal %d", ErrBadRequest, sig)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.procs[id]
	if p == nil || !p.running {
		return fmt.Errorf("%w: no process %s runs", ErrNotFound, id)
	}
	if sig == syscall.SIGKILL {
		p.killed = true
	}
	if err := s.children.signal(p.child, sig, group); err != nil {
		return fmt.Errorf("%w: %w", ErrInternal, err)
	}
	return nil
}

// forget is the verb.
func (s *supervisor) forget(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.procs[id] != nil {
		return fmt.Errorf("%w: %s runs", ErrBadRequest, id)
	}
	if s.journal.records[id] == nil {
		return nil
	}
	if err := s.journal.append(entry{Forget: id}); err != nil {
		return fmt.Errorf("%w: %w", ErrInternal, err)
	}
	return nil
}
