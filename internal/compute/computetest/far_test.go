package computetest

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"portico/internal/compute"
)

// script is an engine of which only Watch works: it tells what it was given, and nothing more until ctx ends.
type script struct {
	Engine
	events []compute.Event
}

func (s script) Watch(ctx context.Context) (<-chan compute.Event, error) {
	out := make(chan compute.Event, len(s.events))
	for _, ev := range s.events {
		out <- ev
	}
	context.AfterFunc(ctx, func() { close(out) })
	return out, nil
}

// What is far is late, repeated and out of order, and still tells everything, and the sets that exist first.
func TestFarKeepsTheContract(t *testing.T) {
	const sets, events = 4, 50
	var told []compute.Event
	for n := range sets {
		told = append(told, compute.Event{Sequence: 1, Set: compute.Set{ID: fmt.Sprint(n)}})
	}
	told = append(told, compute.Event{Synced: true})
	for n := range events {
		told = append(told, compute.Event{Sequence: int64(2 + n), Set: compute.Set{ID: fmt.Sprint(n % sets)}})
	}
	repeated, reordered := 0, 0
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			source := script{events: told}
			stream, err := Far(t, source, seed).Watch(ctx)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]int{}
			early := map[string]bool{}
			synced := false
			last := int64(0)
			for len(seen) < sets+events {
				ev := <-stream
				switch {
				case ev.Synced:
					synced = true
					continue
				case !synced:
					early[ev.Set.ID] = true
				case ev.Sequence < last:
					reordered++
				}
				last = ev.Sequence
				key := fmt.Sprint(ev.Set.ID, "#", ev.Sequence)
				if seen[key]++; seen[key] == 2 {
					repeated++
				}
			}
			if len(early) != sets {
				t.Errorf("seed %d: %d of %d sets came before Synced", seed, len(early), sets)
			}
			cancel()
			for range stream {
				continue
			}
		})
	}
	if repeated == 0 || reordered == 0 {
		t.Errorf("%d events were repeated and %d came out of order", repeated, reordered)
	}
}
