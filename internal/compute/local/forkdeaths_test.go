package local

import (
	"log/slog"
	"testing"

	"portico/internal/host"
)

// The exit of a fork server counts once, and not against the one that took its place.
func TestDeathsOfForkServersAreCountedOnce(t *testing.T) {
	f := newForkServers(&Backend{log: slog.New(slog.DiscardHandler)})
	try := func(pid int) *forkTry {
		out := &forkTry{done: make(chan struct{}), pid: pid, start: uint64(pid)}
		close(out.done)
		return out
	}
	exit := func(pid int) { f.observe(host.Process{ID: "f", PID: pid, StartTime: uint64(pid), Exit: &host.Exit{}}) }
	s := &forkServer{try: try(1)}
	f.servers["f"] = s
	f.refused("f")
	if s.try != nil || len(s.deaths) != 1 {
		t.Fatalf("after a refusal: %+v", s)
	}
	exit(1) // before there is another
	s.try = try(2)
	exit(1)
	if s.try == nil || len(s.deaths) != 1 {
		t.Fatalf("after the exit of an earlier one: %+v", s)
	}
	exit(2)
	exit(2)
	if s.try != nil || len(s.deaths) != 2 {
		t.Errorf("after its own exit: %+v", s)
	}
}
