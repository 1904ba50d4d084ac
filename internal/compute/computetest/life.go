package computetest

import (
	"errors"
	"fmt"
	"strings"

	"portico/internal/compute"
	"portico/internal/online"
)

func logs(b *bench) {
	tmpl := b.world.template(scriptScore)
	s := b.up(tmpl, 2)
	one, two := s.Instances[0], s.Instances[1]
	const lines = 5
	const apart = 0.01 // seconds between two lines, whose times have milliseconds
	for n := range lines {
		b.mustAsk(one, order{Say: fmt.Sprintf("first %d", n), Sleep: apart})
		b.mustAsk(two, order{Say: fmt.Sprintf("second %d", n), Sleep: apart})
	}
	b.awaitOutput(compute.LogQuery{UID: tmpl.UID, Instance: one.ID}, "first 4")
	b.awaitOutput(compute.LogQuery{UID: tmpl.UID, Instance: two.ID}, "second 4")

	alone := b.output(compute.LogQuery{UID: tmpl.UID, Instance: one.ID})
	if strings.Contains(alone, "second ") || countLines(alone, "first ") != lines {
		b.t.Errorf("the output of one instance:\n%s", alone)
	}
	merged := b.output(compute.LogQuery{UID: tmpl.UID})
	at := 0
	for n := range lines {
		for _, who := range []string{"first", "second"} {
			text := fmt.Sprintf("%s %d", who, n)
			next := strings.Index(merged[at:], text)
			if next < 0 {
				b.t.Fatalf("%q is missing, or out of order:\n%s", text, merged)
			}
			at += next
		}
	}
	tail := b.output(compute.LogQuery{UID: tmpl.UID, Tail: 3})
	if n := strings.Count(tail, "\n"); n != 3 || !strings.HasSuffix(merged, tail) {
		b.t.Errorf("the last 3 of\n%s\nare\n%s", merged, tail)
	}
	if _, err := b.tryOutput(compute.LogQuery{UID: tmpl.UID, Instance: "nobody-" + newID()}); !errors.Is(err, compute.ErrNotFound) {
		b.t.Errorf("logs of an unknown instance: %v, want %v", err, compute.ErrNotFound)
	}
	if _, err := b.tryOutput(compute.LogQuery{UID: "uid-" + newID()}); !errors.Is(err, compute.ErrNotFound) {
		b.t.Errorf("logs of an unknown deployment: %v, want %v", err, compute.ErrNotFound)
	}
	if _, err := b.tryOutput(compute.LogQuery{UID: "uid-" + newID(), Instance: one.ID}); !errors.Is(err, compute.ErrNotFound) {
		b.t.Errorf("logs of another deployment's instance: %v, want %v", err, compute.ErrNotFound)
	}
}

func logsAfterTheEnd(b *bench) {
	failed := b.world.template(scriptInitRaises)
	b.ensure(failed, 1)
	i := b.seen.only(failed.Set, "an exit", func(i compute.Instance) bool { return i.Exit != nil })
	b.delete(failed.Set)
	b.seen.gone(failed.Set)
	for _, q := range []compute.LogQuery{{UID: failed.UID}, {UID: failed.UID, Instance: i.ID}} {
		if text := b.output(q); !strings.Contains(text, "about to look for the column") {
			b.t.Errorf("output of %+v after its set is gone:\n%s", q, text)
		}
	}
	b.shut()
	b.open()
	if text := b.output(compute.LogQuery{UID: failed.UID}); !strings.Contains(text, "no such column") {
		b.t.Errorf("output after the engine was opened anew:\n%s", text)
	}
}

func capacity(b *bench) {
	before, err := b.engine.Capacity(b.t.Context())
	if err != nil {
		b.t.Fatalf("capacity: %v", err)
	}
	if before.CPUs < 1 || before.MemoryMiB < 1 || before.UsedCPUs != 0 || before.UsedMemoryMiB != 0 || before.UsedGPUs != 0 {
		b.t.Errorf("capacity of an engine that runs nothing: %+v", before)
	}
	tmpl := b.world.template(scriptScore)
	tmpl.Type = online.InstanceType{Name: "Test_2", CPUs: 2, MemoryMiB: 700}
	b.up(tmpl, 2)
	during, err := b.engine.Capacity(b.t.Context())
	if err != nil || during.UsedCPUs != 4 || during.UsedMemoryMiB != 1400 || during.UsedGPUs != 0 {
		b.t.Errorf("two instances of 2 CPUs and 700 MiB: %+v, %v", during, err)
	}
	greedy := b.world.template(scriptScore)
	greedy.Type = online.InstanceType{Name: "Test_GPU", CPUs: 1, MemoryMiB: 700, GPUs: before.GPUs + 1, GPU: "T4"}
	if err := b.engine.Ensure(b.t.Context(), greedy, 1, nil); !errors.Is(err, compute.ErrCapacity) {
		b.t.Errorf("more GPUs than there are: %v, want %v", err, compute.ErrCapacity)
	}
	b.delete(tmpl.Set)
	b.seen.gone(tmpl.Set)
	if after, err := b.engine.Capacity(b.t.Context()); err != nil || after != before {
		b.t.Errorf("capacity after the end is %+v (%v), and was %+v", after, err, before)
	}
}

func reopenAttaches(b *bench) {
	tmpl := b.world.template(scriptScore)
	two := b.world.template(scriptScore, workers(2))
	marks := b.boots(b.up(tmpl, 2))
	pair := b.up(two, 1)
	b.shut()
	b.open()
	if !b.seen.seenEarly(tmpl.Set) || !b.seen.seenEarly(two.Set) {
		b.t.Errorf("the first list does not show what runs:\n%s", b.seen.story())
	}
	s := b.seen.ready(tmpl.Set, 2)
	for _, i := range s.Instances {
		if i.Restarts != 0 || i.Exit != nil || i.Started.IsZero() {
			b.t.Errorf("after the engine was opened again: %+v", i)
		}
	}
	wantSame(b.t, marks, b.boots(s))
	b.ensure(tmpl, 2)
	b.ensure(two, 1)
	wantSame(b.t, marks, b.boots(b.seen.ready(tmpl.Set, 2)))
	if again := b.seen.ready(two.Set, 1); again.Instances[0].ID != pair.Instances[0].ID || again.Instances[0].Restarts != 0 {
		b.t.Errorf("an instance of two processes: %+v, then %+v", pair.Instances[0], again.Instances[0])
	}
	if n := countLines(b.output(compute.LogQuery{UID: two.UID}), "boot "); n != 2 {
		b.t.Errorf("two processes were started %d times", n)
	}
	other := tmpl
	other.Digest += "-other"
	if err := b.engine.Ensure(b.t.Context(), other, 2, nil); !errors.Is(err, compute.ErrImmutable) {
		b.t.Errorf("another template under a set from before: %v, want %v", err, compute.ErrImmutable)
	}
	b.delete(tmpl.Set)
	b.seen.gone(tmpl.Set)
}

func reopenTellsExits(b *bench) {
	tmpl := b.world.template(scriptScore)
	s := b.up(tmpl, 2)
	marks := b.boots(s)
	victim, neighbour := s.Instances[0], s.Instances[1]
	b.shut()
	b.lab.Kill(b.t, victim.ID)
	b.open()
	back := b.seen.instance(tmpl.Set, victim.ID, "ready after a restart", func(i compute.Instance) bool {
		return isReady(i) && i.Restarts == 1
	})
	if x := back.Exit; x == nil || x.Code != -1 || x.Signal != "killed" {
		b.t.Errorf("exit of a process that died while the engine was closed: %+v", x)
	}
	after := b.boots(b.seen.ready(tmpl.Set, 2))
	wantSame(b.t, map[string]string{neighbour.ID: marks[neighbour.ID]}, after)
	if after[victim.ID] == marks[victim.ID] {
		b.t.Error("the killed process still answers")
	}
	b.shut()
	b.open()
	if again := b.seen.ready(tmpl.Set, 2); find(again, victim.ID).Restarts != 1 || find(again, victim.ID).Exit == nil {
		b.t.Errorf("what was told once is forgotten: %+v", find(again, victim.ID))
	}
}

func reopenCanRestart(b *bench) {
	tmpl := b.world.template(scriptScore, variables(map[string]online.Secret{"THRESHOLD": "0.25"}))
	i := b.up(tmpl, 1).Instances[0]
	b.shut()
	b.open()
	b.seen.ready(tmpl.Set, 1)
	// Nobody calls Ensure: the engine itself must know what to start.
	b.lab.Kill(b.t, i.ID)
	back := b.seen.instance(tmpl.Set, i.ID, "ready after a restart", func(i compute.Instance) bool {
		return isReady(i) && i.Restarts == 1
	})
	if got := b.mustAsk(back, order{Env: []string{"THRESHOLD"}}).Env["THRESHOLD"]; got == nil || *got != "0.25" {
		b.t.Errorf("the variable is %s after a restart, want 0.25", show(got))
	}
}
