package inference

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"portico/internal/online"
)

// Between looks at a server that is not ready yet. They make a fast start possible whatever the probe's period: a success
// counts at once, a failure only on the probe's own schedule.
const (
	eagerFirst = 20 * time.Millisecond
	eagerMax   = time.Second
)

// maxCheckBody bounds what is read of the answer to a check, so that its connection ends in order.
const maxCheckBody = 64 << 10

// gauge counts the outcomes of one check.
type gauge struct {
	check     Check
	good, bad int // in a row
	due       time.Time
	last      error // of the newest counted failure
}

func newGauge(c Check, began time.Time) *gauge {
	return &gauge{check: c, due: began.Add(c.Probe.InitialDelay)}
}

// count takes in an outcome. counted: it came on schedule.
func (g *gauge) count(err error, counted bool, now time.Time) {
	if err == nil {
		g.good, g.bad = g.good+1, 0
	} else {
		g.good = 0
		if counted {
			g.bad, g.last = g.bad+1, err
		}
	}
	if counted {
		g.due = now.Add(g.check.Probe.Period)
	}
}

func (g *gauge) passes() bool { return g.good >= max(g.check.Probe.SuccessThreshold, 1) }
func (g *gauge) fails() bool  { return g.bad >= max(g.check.Probe.FailureThreshold, 1) }

// look follows a process until it ends (why is empty), ctx ends, or its liveness check fails for good (why says how).
func (s *Server) look(ctx context.Context, proc Process, up *HTTPUpstream) (why string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-proc.Done():
			cancel() // whatever is being asked has no answer
		case <-ctx.Done():
		}
	}()
	began := time.Now()
	live, name := newGauge(s.cfg.Liveness, began), "liveness"
	if s.cfg.Startup != nil {
		name = "startup"
		live = newGauge(Check{Path: s.cfg.Liveness.Path, Port: s.cfg.Liveness.Port, Probe: *s.cfg.Startup}, began)
	}
	ready := newGauge(s.cfg.Readiness, began)
	alive, eager := false, eagerFirst
	for {
		now := time.Now()
		if due := !now.Before(live.due); due || !alive {
			live.count(s.ask(ctx, live.check), due, now)
			if live.fails() && ctx.Err() == nil {
				return fmt.Sprintf("the %s probe GET %s failed %d times in a row, the last time: %v", name, live.check.Path,
					live.bad, live.last)
			}
			if alive = alive || live.passes(); alive && name == "startup" {
				live, name = newGauge(s.cfg.Liveness, began), "liveness"
			}
		}
		if due := !now.Before(ready.due); alive && (due || !s.callable()) {
			ready.count(s.ask(ctx, ready.check), due, now)
			switch {
			case ctx.Err() != nil:
			case ready.passes():
				s.open(ctx, up)
			case ready.fails():
				s.shut(ctx)
			}
		}
		wait := time.Until(live.due)
		if alive {
			wait = min(wait, time.Until(ready.due))
		}
		if !s.callable() {
			wait, eager = min(wait, eager), min(2*eager, eagerMax)
		} else {
			eager = eagerFirst
		}
		if !sleep(ctx, max(wait, eagerFirst)) {
			return ""
		}
	}
}

func (s *Server) callable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.up != nil
}

// open lets calls in.
func (s *Server) open(ctx context.Context, up *HTTPUpstream) {
	s.mu.Lock()
	s.up = up
	s.mu.Unlock()
	s.set(ctx, StateReady, nil)
}

// shut lets no more calls in; those that execute go on.
func (s *Server) shut(ctx context.Context) {
	s.mu.Lock()
	s.up = nil
	was := s.everReady
	s.mu.Unlock()
	if was {
		s.set(ctx, StateUnready, nil)
	}
}

// ask makes one check. A server that answers nothing in time while it executes a request may be one that does one thing
// at a time: as long as its requests get their answers that is no failure.
func (s *Server) ask(ctx context.Context, c Check) error {
	answered := s.answered.Load()
	up := s.upstream(c.Port, 0)
	defer up.Close()
	timeout := c.Probe.Timeout
	if timeout <= 0 {
		timeout = online.DefaultProbe().Timeout
	}
	answer, err := up.Do(ctx, &Call{Method: "GET", Path: c.Path, Deadline: time.Now().Add(timeout),
		Header: []Field{{Name: "user-agent", Value: "portico-probe"}}})
	switch {
	case errors.Is(err, ErrDeadline):
		s.mu.Lock()
		busy := s.executing > 0
		s.mu.Unlock()
		if s.answered.Load() > answered || busy && !s.silent.Load() {
			return nil
		}
		return fmt.Errorf("no answer within %s", timeout)
	case errors.Is(err, ErrClosed) && s.cfg.Dial != nil:
		return fmt.Errorf("nothing listens on port %d, neither on 127.0.0.1 nor on all addresses", c.Port)
	case errors.Is(err, ErrClosed):
		return fmt.Errorf("nothing listens at %s, which stands in for port %d", s.cfg.Address(c.Port), c.Port)
	case err != nil:
		return err
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, maxCheckBody) // what it says does not matter, only that it said 200
	if answer.Status != 200 {
		return fmt.Errorf("it answered with status %d", answer.Status)
	}
	return nil
}
