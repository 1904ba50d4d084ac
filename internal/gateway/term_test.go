package gateway

import (
	"context"
	"testing"

	"portico/internal/telemetry"
)

// TestLateHangUpIsOfItsLeader: that the caller of an earlier leader hangs up does not end the work of the next one.
func TestLateHangUpIsOfItsLeader(t *testing.T) {
	c := &cache{entries: map[cacheKey]*entry{}, flights: map[cacheKey]*flight{}}
	_, f, leads := c.join(cacheKey{})
	if _, same, again := c.join(cacheKey{}); !leads || again || same != f {
		t.Fatal("the second request does not follow the first")
	}
	first := f.term
	c.land(f, telemetry.ReasonTimeout)
	<-f.turn
	c.takeOver(f)
	c.abandon(f, first)
	if f.ctx.Err() != nil || !f.led || c.flights[f.key] != f {
		t.Error("the work of the second leader was ended")
	}
	c.abandon(f, f.term)
	if f.ctx.Err() != context.Canceled || len(c.flights) != 0 {
		t.Error("nobody waits, but the work goes on")
	}
}
