package computetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"portico/internal/compute"
	"portico/internal/online"
)

// patience is how long the suite waits for anything to come about. It is generous: machines are slow and noisy,
// and nothing here measures speed.
const patience = 90 * time.Second

// keptEvents bounds what a failure prints.
const keptEvents = 40

// observer folds a watch: the newest event of each set wins.
type observer struct {
	t    *testing.T
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	newest  map[string]compute.Event
	early   map[string]bool // sets seen before Synced
	synced  bool
	recent  []compute.Event
	changed chan struct{} // closed and replaced at each event
}

// observe watches until the test, or stop, ends it.
func observe(t *testing.T, b compute.Backend) *observer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	events, err := b.Watch(ctx)
	if err != nil {
		cancel()
		t.Fatalf("watch: %v", err)
	}
	o := &observer{
		t: t, stop: cancel, done: make(chan struct{}), newest: map[string]compute.Event{}, early: map[string]bool{},
		changed: make(chan struct{}),
	}
	go func() {
		defer close(o.done)
		for ev := range events {
			o.take(ev)
		}
	}()
	t.Cleanup(o.close)
	o.waitFor("the first list", func() bool { return o.synced })
	return o
}

// close ends the watch and waits until the engine has closed its stream.
func (o *observer) close() {
	o.stop()
	select {
	case <-o.done:
	case <-time.After(patience):
		o.t.Errorf("the stream was not closed within %s after its context ended", patience)
	}
}

func (o *observer) take(ev compute.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.recent = append(o.recent, ev); len(o.recent) > keptEvents {
		o.recent = o.recent[1:]
	}
	id := ev.Set.ID
	switch {
	case ev.Synced:
		o.synced = true
	case ev.Sequence > o.newest[id].Sequence:
		o.newest[id] = ev
		if !o.synced {
			o.early[id] = true
		}
	}
	close(o.changed)
	o.changed = make(chan struct{})
}

// await waits until the newest view of a set satisfies ok, and gives it.
func (o *observer) await(set, what string, ok func(compute.Set) bool) compute.Set {
	o.t.Helper()
	var found compute.Set
	o.waitFor(fmt.Sprintf("set %s: %s", set, what), func() bool {
		ev, known := o.newest[set]
		found = ev.Set
		return known && !ev.Gone && ok(ev.Set)
	})
	return found
}

// gone waits until the set no longer exists.
func (o *observer) gone(set string) {
	o.t.Helper()
	o.waitFor(fmt.Sprintf("set %s: gone", set), func() bool { return o.newest[set].Gone })
}

// ready waits until exactly n instances exist and all of them are ready.
func (o *observer) ready(set string, n int) compute.Set {
	o.t.Helper()
	return o.await(set, fmt.Sprintf("%d ready instances", n), func(s compute.Set) bool {
		return s.Count == n && len(s.Instances) == n && s.ReadyCount() == n
	})
}

// instance waits until the instance exists and satisfies ok.
func (o *observer) instance(set, id, what string, ok func(compute.Instance) bool) compute.Instance {
	o.t.Helper()
	s := o.await(set, "instance "+id+": "+what, func(s compute.Set) bool {
		i := find(s, id)
		return i != nil && ok(*i)
	})
	return *find(s, id)
}

// only waits until the one instance of a set satisfies ok.
func (o *observer) only(set, what string, ok func(compute.Instance) bool) compute.Instance {
	o.t.Helper()
	s := o.await(set, "its instance: "+what, func(s compute.Set) bool {
		return len(s.Instances) == 1 && ok(s.Instances[0])
	})
	return s.Instances[0]
}

// now is the newest view of a set.
func (o *observer) now(set string) compute.Set {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.newest[set].Set
}

// seenEarly says whether the set came before Synced.
func (o *observer) seenEarly(set string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.early[set]
}

func (o *observer) waitFor(what string, ok func() bool) {
	o.t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		o.mu.Lock()
		changed, met := o.changed, ok()
		o.mu.Unlock()
		if met {
			return
		}
		select {
		case <-changed:
		case <-o.done:
			o.t.Fatalf("the stream ended while waiting for %s\n%s", what, o.story())
		case <-limit.C:
			o.t.Fatalf("waited %s for %s\n%s", patience, what, o.story())
		}
	}
}

// story tells the last events, for a failure.
func (o *observer) story() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var b strings.Builder
	for _, ev := range o.recent {
		fmt.Fprintf(&b, "  %s\n", describe(ev))
	}
	return b.String()
}

func describe(ev compute.Event) string {
	if ev.Synced {
		return "synced"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s #%d count=%d", ev.Set.ID, ev.Sequence, ev.Set.Count)
	if ev.Gone {
		b.WriteString(" gone")
	}
	for _, i := range ev.Set.Instances {
		fmt.Fprintf(&b, " [%s %s restarts=%d", i.ID, i.State, i.Restarts)
		if i.Exit != nil {
			x := i.Exit
			fmt.Fprintf(&b, " exit=%d %q %q init=%v permanent=%v", x.Code, x.Signal, x.Reason, x.InInit, x.Permanent)
		}
		b.WriteString("]")
	}
	return b.String()
}

func find(s compute.Set, id string) *compute.Instance {
	for i := range s.Instances {
		if s.Instances[i].ID == id {
			return &s.Instances[i]
		}
	}
	return nil
}

func isReady(i compute.Instance) bool { return i.State == online.InstanceReady }
