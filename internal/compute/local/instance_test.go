package local

import (
	"testing"
	"time"

	"portico/internal/compute"
	"portico/internal/inference"
	"portico/internal/online"
)

func TestStartBudget(t *testing.T) {
	startup := online.Probe{InitialDelay: 5 * time.Second, Period: 20 * time.Second, FailureThreshold: 60}
	for _, c := range []struct {
		name string
		tmpl compute.Template
		want time.Duration
	}{
		{"the reference's default", compute.Template{Liveness: online.DefaultProbe()}, 310 * time.Second},
		{"no probe given", compute.Template{}, 310 * time.Second},
		{"a startup probe decides", compute.Template{Liveness: online.DefaultProbe(), Startup: &startup}, 1205 * time.Second},
	} {
		w := newStartWatch(&c.tmpl, func(int) *process { return nil })
		w.stop()
		if w.budget != c.want {
			t.Errorf("%s: %s, want %s", c.name, w.budget, c.want)
		}
	}
}

// A timer is set for the process that has the least time left, and for none once all of them are ready.
func TestStartWatchWaitsForTheFirst(t *testing.T) {
	probe := online.Probe{InitialDelay: time.Hour, Period: time.Hour, FailureThreshold: 1}
	now := time.Now()
	old := &process{since: now.Add(-90 * time.Minute), done: make(chan struct{})}
	young := &process{since: now, done: make(chan struct{})}
	ended := &process{since: now.Add(-24 * time.Hour), done: make(chan struct{})}
	close(ended.done)
	all := []*process{young, old, ended}
	w := newStartWatch(&compute.Template{Liveness: probe}, func(n int) *process { return all[n] })
	defer w.stop()
	for n, want := range []time.Duration{2 * time.Hour, 30 * time.Minute, 2 * time.Hour} {
		if left, _ := w.left(n); left > want || left < want-time.Minute {
			t.Errorf("process %d has %s left, want about %s", n, left, want)
		}
	}
	workers := []inference.WorkerStatus{{State: inference.StateReady}, {State: inference.StateReady}, {State: inference.StateReady}}
	w.observe(inference.Event{Status: inference.Status{Workers: workers}})
	if w.timer.Stop() {
		t.Error("a timer runs although every worker is ready")
	}
	workers[1].State = inference.StateInitRunning
	w.observe(inference.Event{Status: inference.Status{Workers: workers}})
	if !w.timer.Stop() {
		t.Error("no timer runs although a worker is in init")
	}
}

func TestShownStates(t *testing.T) {
	for s, want := range map[inference.State]online.InstanceState{
		inference.StateStarting: online.InstanceStarting, inference.StateInitRunning: online.InstanceStarting,
		inference.StateReady: online.InstanceReady, inference.StateUnready: online.InstanceUnready,
		inference.StateBackOff: online.InstancePending, inference.StateFailed: online.InstanceStopped,
		inference.StateDraining: online.InstanceDraining, inference.StateClosed: online.InstanceStopped,
	} {
		if got := shown(s); got != want {
			t.Errorf("%s is shown as %s, want %s", s, got, want)
		}
	}
}
