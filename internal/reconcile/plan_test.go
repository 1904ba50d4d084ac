package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"portico/internal/compute"
	"portico/internal/online"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// engine is a model of a backend: it does what it is asked, later. It is the other half of the simulation.
type engine struct {
	sets  map[string]*compute.Set
	next  int
	calls int
}

func (e *engine) ensure(en Ensure) {
	e.calls++
	s := e.sets[en.Set.ID]
	if s == nil {
		s = &compute.Set{ID: en.Set.ID, Generation: en.Set.Generation, UID: "u1"}
		e.sets[en.Set.ID] = s
	}
	s.Count = en.Count
	spare := len(s.Instances) - en.Count
	s.Instances = slices.DeleteFunc(s.Instances, func(i compute.Instance) bool {
		gone := spare > 0 && slices.Contains(en.Victims, i.ID)
		if gone {
			spare--
		}
		return gone
	})
	for len(s.Instances) < en.Count {
		e.next++
		s.Instances = append(s.Instances, compute.Instance{ID: fmt.Sprintf("i%d", e.next), Set: s.ID, State: online.InstanceStarting})
	}
	s.Instances = s.Instances[:en.Count]
}

func (e *engine) list() []compute.Set {
	var out []compute.Set
	for _, s := range e.sets {
		c := *s
		c.Instances = slices.Clone(s.Instances)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b compute.Set) int { return strings.Compare(a.ID, b.ID) })
	return out
}

func (e *engine) ready() int {
	n := 0
	for _, s := range e.sets {
		n += s.ReadyCount()
	}
	return n
}

// world is one deployment with its engine.
type world struct {
	in   Input
	eng  *engine
	prep map[string]Preparation
}

func newWorld(count int) *world {
	w := &world{eng: &engine{sets: map[string]*compute.Set{}}, prep: map[string]Preparation{}}
	w.in = Input{Now: start, UID: "u1", StartTimeout: time.Hour}
	w.put(count, "a")
	return w
}

func (w *world) put(count int, template string) {
	w.in.Generation++
	w.in.Spec.InstanceCount = count
	w.in.Template = template
}

// step plans once and applies the outcome.
func (w *world) step() Output {
	w.in.Now = w.in.Now.Add(time.Second)
	w.in.Sets = w.eng.list()
	w.in.Prepared = Preparation{}
	if t := w.in.Status.Target; t != nil {
		w.in.Prepared = w.prep[t.ID]
	}
	out := Plan(w.in)
	w.in.Status = out.Status
	if out.Prepare != nil {
		w.prep[out.Prepare.ID] = Preparation{State: PrepareDone, Since: w.in.Now, Ended: w.in.Now}
	}
	for _, e := range out.Ensure {
		w.eng.ensure(e)
	}
	for _, id := range out.Delete {
		delete(w.eng.sets, id)
	}
	return out
}

// settle steps, letting every instance become ready, until nothing more is asked for.
func (w *world) settle(t interface{ Fatalf(string, ...any) }) {
	for range 200 {
		out := w.step()
		moved := false
		for _, s := range w.eng.sets {
			for i := range s.Instances {
				if s.Instances[i].State == online.InstanceStarting {
					s.Instances[i].State = online.InstanceReady
					moved = true
				}
			}
		}
		if !moved && out.Prepare == nil && len(out.Ensure) == 0 && len(out.Delete) == 0 && w.in.Status.ObservedGeneration == w.in.Generation {
			return
		}
	}
	t.Fatalf("did not settle: %+v", w.in.Status)
}

func TestPlanCreate(t *testing.T) {
	w := newWorld(2)
	out := w.step()
	if out.Prepare == nil || out.Prepare.ID != "u1-g1" || len(out.Ensure) != 0 {
		t.Fatalf("first step must prepare only: %+v", out)
	}
	out = w.step()
	if len(out.Ensure) != 1 || out.Ensure[0].Count != 2 {
		t.Fatalf("second step must ask for both instances at once, nothing serves yet: %+v", out.Ensure)
	}
	w.settle(t)
	st := w.in.Status
	if st.State != online.StateSucceeded || st.Current == nil || st.Current.Count != 2 || st.Target != nil {
		t.Fatalf("status: %+v", st)
	}
	for _, s := range st.Stages {
		if s.State != stageDone || s.Start.IsZero() || s.End.IsZero() {
			t.Errorf("stage %+v is not done", s)
		}
	}
}

func TestPlanFailures(t *testing.T) {
	boom := &compute.Exit{Code: 3, Reason: "init raised ValueError: no such column", Tail: "Traceback\nValueError", InInit: true, At: start.Add(time.Minute)}
	permanent := *boom
	permanent.Permanent = true
	oom := &compute.Exit{Code: -1, Signal: "killed", Reason: "killed by the system: out of memory", At: start.Add(time.Minute), InInit: true}
	cases := []struct {
		name     string
		exit     *compute.Exit
		restarts int
		fails    bool
		says     []string
	}{
		{"first failure of init may pass", boom, 1, false, nil},
		{"third start", boom, 2, true, []string{"init raised ValueError", "exit code 3", "Traceback", "3 starts"}},
		{"script can never work", &permanent, 0, true, []string{"ValueError", "exit code 3"}},
		{"killed by the system", oom, 5, true, []string{"out of memory", "signal: killed"}},
		{"died after init: the engine restarts it", &compute.Exit{Code: 1, At: start.Add(time.Minute)}, 9, false, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(1)
			w.step()
			w.step()
			inst := &w.eng.sets["u1-g1"].Instances[0]
			inst.Exit, inst.Restarts, inst.State = c.exit, c.restarts, online.InstancePending
			w.step()
			st := w.in.Status
			if (st.State == online.StateFailed) != c.fails {
				t.Fatalf("state %q, error %v", st.State, st.Error)
			}
			if !c.fails {
				return
			}
			for _, text := range c.says {
				if !strings.Contains(st.Error.Message, text) {
					t.Errorf("error does not say %q: %s", text, st.Error.Message)
				}
			}
			if len(w.eng.sets) != 0 {
				t.Errorf("the failed set is kept: %+v", w.eng.sets)
			}
			w.put(1, "b")
			w.settle(t)
			if w.in.Status.State != online.StateSucceeded {
				t.Errorf("another PUT does not mend it: %+v", w.in.Status)
			}
		})
	}
}

func TestPlanFailedUpdateKeepsServing(t *testing.T) {
	w := newWorld(3)
	w.settle(t)
	w.put(3, "b")
	w.step()
	w.step()
	for i := range w.eng.sets["u1-g2"].Instances {
		w.eng.sets["u1-g2"].Instances[i].Exit = &compute.Exit{Code: 3, Permanent: true, InInit: true, At: w.in.Now.Add(time.Second)}
	}
	w.step()
	w.step()
	st := w.in.Status
	if st.State != online.StateFailed || st.Current == nil || st.Current.ID != "u1-g1" || w.eng.ready() != 3 {
		t.Fatalf("the old generation must keep serving: %+v, ready %d", st, w.eng.ready())
	}
	if w.eng.sets["u1-g2"] != nil {
		t.Error("the failed set is kept")
	}
}

func TestPlanSameTemplateAfterFailureTriesAgain(t *testing.T) {
	w := newWorld(1)
	w.step()
	w.prep["u1-g1"] = Preparation{State: PrepareFailed, Stage: online.StageEnvironment, Err: online.Errorf(online.CodeImageBuildFailure, "", "no such package")}
	w.step()
	if w.in.Status.State != online.StateFailed || w.in.Status.Error.Code != online.CodeImageBuildFailure || w.in.Status.Stages[0].State != stageFailed {
		t.Fatalf("status: %+v", w.in.Status)
	}
	w.put(1, "a")
	w.settle(t)
	if w.in.Status.State != online.StateSucceeded {
		t.Fatalf("status: %+v", w.in.Status)
	}
}

func TestPlanScaleKeepsTheSet(t *testing.T) {
	w := newWorld(1)
	w.settle(t)
	w.put(4, "a")
	w.settle(t)
	st := w.in.Status
	if st.Current.ID != "u1-g1" || st.Current.Count != 4 || w.eng.ready() != 4 || len(w.eng.sets) != 1 {
		t.Fatalf("scaling made another set: %+v", st)
	}
	w.put(5, "a")
	w.in.Refused = map[string]*online.Error{}
	w.step()
	w.eng.sets["u1-g1"].Count = 4 // the engine did not follow
	w.eng.sets["u1-g1"].Instances = w.eng.sets["u1-g1"].Instances[:4]
	w.in.Refused["u1-g1"] = online.Errorf(online.CodeOutOfQuota, "", "no room")
	w.step()
	if w.in.Status.State != online.StateFailed || w.in.Status.Current.Count != 4 {
		t.Fatalf("a refused scale-out must fail and keep what runs: %+v", w.in.Status)
	}
}

func TestPlanDeletion(t *testing.T) {
	w := newWorld(2)
	w.settle(t)
	w.in.Deleting = true
	if out := w.step(); out.Remove || len(out.Delete) != 1 {
		t.Fatalf("the set must go first: %+v", out)
	}
	if out := w.step(); !out.Remove {
		t.Fatalf("nothing runs, so the record may go: %+v", out)
	}
}

func TestPlanStartTimeout(t *testing.T) {
	w := newWorld(1)
	w.step()
	if out := w.step(); out.Requeue != 0 && out.Requeue > time.Hour {
		t.Fatalf("requeue %s", out.Requeue)
	}
	w.in.Waited = 2 * time.Hour
	w.step()
	if st := w.in.Status; st.State != online.StateFailed || !strings.Contains(st.Error.Message, "0 of 1 instances") {
		t.Fatalf("status: %+v", st)
	}
}

// TestPlanProperties drives random histories of specs, deaths, engine losses and restarts, and checks what
// must hold at every step and at the end.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(rapid.IntRange(1, 12).Draw(t, "count"))
		if rapid.Bool().Draw(t, "settled") {
			w.settle(t)
		}
		served := w.in.Status.Current != nil
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			target := w.in.Status.Target
			wanted := w.in.Spec.InstanceCount
			switch rapid.IntRange(0, 5).Draw(t, "event") {
			case 0:
				w.put(rapid.IntRange(1, 12).Draw(t, "count"), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "template"))
			case 1, 2:
				becomeReady(t, w)
			case 3:
				die(t, w)
			}
			before := w.eng.ready()
			if target != nil && w.in.Template != target.Template && w.eng.sets[target.ID] != nil {
				before -= w.eng.sets[target.ID].ReadyCount() // superseded: it may go at once
			}
			out := w.step()
			check(t, w, out)
			// What serves is never taken away by the plan before its replacement is ready.
			floor := min(before, wanted, w.in.Spec.InstanceCount)
			if served && w.eng.ready() < floor && w.in.Status.State != online.StateFailed {
				t.Fatalf("ready fell from %d to %d while %d are wanted", before, w.eng.ready(), w.in.Spec.InstanceCount)
			}
		}
		w.settle(t)
		again := w.step()
		if again.Prepare != nil || len(again.Ensure)+len(again.Delete) != 0 {
			t.Fatalf("not idempotent: %+v", again)
		}
		if len(w.eng.sets) > 1 {
			t.Fatalf("%d sets are left", len(w.eng.sets))
		}
	})
}

func check(t *rapid.T, w *world, out Output) {
	st := w.in.Status
	if st.Current != nil && st.Target != nil && st.Current.ID == st.Target.ID {
		t.Fatalf("current is its own target")
	}
	for _, id := range out.Delete {
		if st.Current != nil && id == st.Current.ID {
			t.Fatalf("the serving set is deleted")
		}
	}
	want := w.in.Spec.InstanceCount
	for _, e := range out.Ensure {
		if e.Count < 0 || e.Count > online.MaxInstances {
			t.Fatalf("count %d", e.Count)
		}
	}
	if st.Target != nil && st.Current != nil {
		total := st.Target.Count + st.Current.Count
		if surge := max(1, (want*SurgePercent+99)/100); st.Target.Count > want || total > max(want, st.Current.Count)+want+surge {
			t.Fatalf("rollover asks for %d+%d of %d", st.Current.Count, st.Target.Count, want)
		}
	}
}

func becomeReady(t *rapid.T, w *world) {
	for _, s := range w.eng.list() {
		for i := range s.Instances {
			if s.Instances[i].State == online.InstanceStarting && rapid.Bool().Draw(t, "ready") {
				w.eng.sets[s.ID].Instances[i].State = online.InstanceReady
				w.eng.sets[s.ID].Instances[i].Exit = nil
			}
		}
	}
}

func die(t *rapid.T, w *world) {
	for _, s := range w.eng.list() {
		for i := range s.Instances {
			if rapid.IntRange(0, 4).Draw(t, "dies") == 0 {
				inst := &w.eng.sets[s.ID].Instances[i]
				inst.Exit = &compute.Exit{Code: 1, Reason: "died", At: w.in.Now, InInit: inst.State == online.InstanceStarting}
				inst.State = online.InstanceStarting
				inst.Restarts++
			}
		}
	}
}
