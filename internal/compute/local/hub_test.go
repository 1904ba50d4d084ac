package local

import (
	"context"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"portico/internal/compute"
)

// However slowly a watcher reads, it ends at the newest event of each set, and never goes backwards.
func TestHubTellsTheNewest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHub()
		defer h.close()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		events := h.watch(ctx, nil)
		newest := map[string]int{}
		gone := map[string]bool{}
		seen := map[string]compute.Event{}
		take := func(ev compute.Event) {
			if ev.Synced {
				return
			}
			if before := seen[ev.Set.ID]; ev.Sequence <= before.Sequence {
				t.Fatalf("%d after %d of %s", ev.Sequence, before.Sequence, ev.Set.ID)
			}
			seen[ev.Set.ID] = ev
		}
		for n := range rapid.IntRange(1, 60).Draw(t, "events") {
			id := fmt.Sprint("set-", rapid.IntRange(0, 3).Draw(t, "set"))
			if gone[id] {
				continue // the ids of sets are unique for ever
			}
			newest[id] = n + 1
			gone[id] = rapid.IntRange(0, 9).Draw(t, "gone") == 0
			h.publish(compute.Event{Set: compute.Set{ID: id, Count: n + 1}, Gone: gone[id]})
			if rapid.Bool().Draw(t, "read") {
				take(<-events)
			}
		}
		for done := false; !done; {
			done = true
			for id, count := range newest {
				done = done && seen[id].Set.Count == count
			}
			if !done {
				take(<-events)
			}
		}
		for id := range newest {
			if seen[id].Gone != gone[id] {
				t.Fatalf("%s: gone is %v, want %v", id, seen[id].Gone, gone[id])
			}
		}
	})
}

func TestHubCloseEndsUnreadStreams(t *testing.T) {
	h := newHub()
	events := h.watch(context.Background(), []compute.Set{{ID: "a"}})
	h.publish(compute.Event{Set: compute.Set{ID: "a"}})
	h.close()
	for range events {
		t.Log("an event that was on its way")
	}
}
