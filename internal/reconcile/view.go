package reconcile

import (
	"slices"
	"strings"
	"sync"

	"portico/internal/compute"
)

// maxGone bounds the memory of sets that have ended. Forgetting one matters only if the engine then repeats an
// event from before its end.
const maxGone = 10_000

// view is what the engine has shown, the newest event of each set winning.
type view struct {
	mu   sync.Mutex
	sets map[string]compute.Set
	seen map[string]int64 // sequence of the newest event, also of sets that are gone
}

func newView() *view {
	return &view{sets: map[string]compute.Set{}, seen: map[string]int64{}}
}

// apply takes an event in and gives the set as it was before; ok is false when the event was old.
func (v *view) apply(ev compute.Event) (before compute.Set, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	id := ev.Set.ID
	if last, known := v.seen[id]; known && ev.Sequence <= last {
		return compute.Set{}, false
	}
	v.seen[id] = ev.Sequence
	before = v.sets[id]
	if ev.Gone {
		delete(v.sets, id)
		v.prune()
	} else {
		v.sets[id] = ev.Set
	}
	return before, true
}

func (v *view) prune() {
	if len(v.seen)-len(v.sets) <= maxGone {
		return
	}
	for id := range v.seen {
		if _, alive := v.sets[id]; !alive {
			delete(v.seen, id)
		}
	}
}

// of gives the sets of one deployment, oldest generation first.
func (v *view) of(uid string) []compute.Set {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []compute.Set
	for _, s := range v.sets {
		if s.UID == uid {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b compute.Set) int {
		if a.Generation != b.Generation {
			return int(a.Generation - b.Generation)
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// all gives every set by deployment.
func (v *view) all() map[string][]compute.Set {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := map[string][]compute.Set{}
	for _, s := range v.sets {
		out[s.UID] = append(out[s.UID], s)
	}
	return out
}
