package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"portico/internal/compute"
	"portico/internal/online"
)

// Limits of a deployment's start.
const (
	// StartAttempts is how often a new set's instance may die before the change is given up. A first failure
	// may be a passing one (a download in init); a script that can never work is given up at once.
	StartAttempts = 3
	// SurgePercent of the wanted instances come up beside the old generation at a time (Azure's update rule).
	SurgePercent = 20
	// exitTailBytes bounds the output that an error message quotes.
	exitTailBytes = 4096
)

// Input is everything that decides about one deployment.
type Input struct {
	Now        time.Time
	Generation int64
	UID        string
	Deleting   bool
	Spec       online.DeploymentSpec
	Status     online.DeploymentStatus
	Template   string // digest of Spec's template
	Prepared   Preparation
	Sets       []compute.Set // of this deployment, as the engine shows them
	// Refused holds what the engine answered when it would not make a set as large as it was asked to.
	Refused map[string]*online.Error
	// Waited is how long this generation's instances have been coming up, by a clock that nobody sets;
	// StartTimeout bounds it.
	Waited       time.Duration
	StartTimeout time.Duration
}

// Preparation is how far the target's environment, model and code are.
type Preparation struct {
	State PrepareState
	Stage string // the stage that runs or failed
	Err   *online.Error
	Since time.Time // when that stage began
	Ended time.Time
}

// PrepareState is the progress of a preparation.
type PrepareState int

// The states of a preparation.
const (
	PrepareNone PrepareState = iota
	PrepareRunning
	PrepareDone
	PrepareFailed
)

// Ensure asks the engine for count instances of a set.
type Ensure struct {
	Set     online.SetStatus
	Count   int
	Victims []string // who goes first when the set shrinks
}

// Output is what is to be done and what is to be told.
type Output struct {
	Status  online.DeploymentStatus
	Prepare *online.SetStatus // get environment, model and code of this set ready
	Ensure  []Ensure
	Delete  []string // sets
	Remove  bool     // nothing of it runs any more: the record may go
	Requeue time.Duration
}

// SetID names the set that is made for one generation of one deployment.
func SetID(uid string, generation int64) string { return fmt.Sprintf("%s-g%d", uid, generation) }

// Plan decides the next step of one deployment. It is idempotent: planning again on its own outcome, with the
// engine having done what was asked, asks for nothing more.
func Plan(in Input) Output {
	out := Output{Status: in.Status}
	st := &out.Status
	if in.Deleting {
		planDeletion(in, &out)
		return out
	}
	if st.ObservedGeneration < in.Generation {
		planChange(in, &out)
	}
	if st.ObservedGeneration >= in.Generation {
		planSteady(in, &out)
	}
	st.Instances = instances(in.Sets)
	return out
}

func planDeletion(in Input, out *Output) {
	for _, s := range in.Sets {
		out.Delete = append(out.Delete, s.ID)
	}
	out.Remove = len(in.Sets) == 0
	out.Status.Target = nil
	out.Status.Instances = instances(in.Sets)
}

// planChange works towards a spec that is not yet in force.
func planChange(in Input, out *Output) {
	st := &out.Status
	if st.Current != nil && st.Current.Template == in.Template {
		planScale(in, out)
		return
	}
	if st.Target == nil || st.Target.Template != in.Template {
		in.Prepared = Preparation{} // what was prepared belongs to the target that this one replaces
		st.Target = &online.SetStatus{ID: SetID(in.UID, in.Generation), Generation: in.Generation, Template: in.Template, Since: in.Now}
		st.Stages = []online.Stage{
			{Name: online.StageEnvironment, State: stageWaiting}, {Name: online.StageModel, State: stageWaiting},
			{Name: online.StageStart, State: stageWaiting}, {Name: online.StageTraffic, State: stageWaiting},
		}
	}
	for _, s := range in.Sets {
		if s.ID != st.Target.ID && (st.Current == nil || s.ID != st.Current.ID) {
			out.Delete = append(out.Delete, s.ID) // an earlier target that was superseded
		}
	}
	keepCurrent(in, out)
	switch in.Prepared.State {
	case PrepareNone:
		out.Prepare = clone(st.Target)
	case PrepareRunning:
		reached(st, in.Prepared.Stage, in.Prepared.Since)
	case PrepareFailed:
		failed(st, in.Prepared.Stage, in)
		fail(in, out, in.Prepared.Err)
	case PrepareDone:
		planRollover(in, out)
	}
}

// planScale handles a spec whose template already serves: only the count, or nothing that runs, has changed.
func planScale(in Input, out *Output) {
	st := &out.Status
	if st.Target != nil {
		out.Delete = append(out.Delete, st.Target.ID)
		st.Target = nil
	}
	want := in.Spec.InstanceCount
	set := find(in.Sets, st.Current.ID)
	if err := in.Refused[st.Current.ID]; err != nil {
		st.Current = clone(st.Current)
		st.Current.Count = 0
		if set != nil {
			st.Current.Count = set.Count
		}
		failed(st, online.StageStart, in)
		fail(in, out, err)
		return
	}
	if st.Current.Count != want || set == nil || set.Count != want {
		if st.Current.Count != want {
			st.Stages = []online.Stage{{Name: online.StageStart, State: stageRunning, Start: in.Now}}
		}
		st.Current = clone(st.Current)
		st.Current.Count = want
		out.Ensure = append(out.Ensure, ask(in, st.Current))
		return
	}
	if set.ReadyCount() >= want {
		finish(st, online.StageStart, in.Now)
		succeed(in, out)
		return
	}
	if err := startFailure(in, set); err != nil {
		failed(st, online.StageStart, in)
		fail(in, out, err)
		return
	}
	out.Requeue = max(0, in.StartTimeout-in.Waited)
}

// planRollover brings the target up beside the current set, and lets the current one drain as it succeeds.
func planRollover(in Input, out *Output) {
	st := &out.Status
	finish(st, online.StageEnvironment, in.Prepared.Ended)
	finish(st, online.StageModel, in.Prepared.Ended)
	reached(st, online.StageStart, in.Prepared.Ended)
	want, ready := in.Spec.InstanceCount, 0
	set := find(in.Sets, st.Target.ID)
	if set != nil {
		ready = set.ReadyCount()
	}
	if set != nil && ready >= want {
		finish(st, online.StageStart, in.Now)
		finish(st, online.StageTraffic, in.Now)
		st.Current = clone(st.Target)
		st.Current.Count = want
		st.Target = nil
		succeed(in, out)
		return
	}
	if set != nil {
		if err := startFailure(in, set); err != nil {
			failed(st, online.StageStart, in)
			fail(in, out, err)
			return
		}
	}
	if err := in.Refused[st.Target.ID]; err != nil {
		failed(st, online.StageStart, in)
		fail(in, out, err)
		return
	}
	count := want
	if st.Current != nil && st.Current.Count > 0 {
		reached(st, online.StageTraffic, in.Now)
		surge := max(1, (want*SurgePercent+99)/100)
		// Never fewer than was asked already: a ready instance that falls back must not shrink the set.
		count = min(want, max(ready+surge, st.Target.Count))
	}
	if set == nil || set.Count != count || st.Target.Count != count {
		st.Target = clone(st.Target)
		st.Target.Count = count
		out.Ensure = append(out.Ensure, ask(in, st.Target))
	}
	if st.Current != nil {
		if old := min(st.Current.Count, max(0, want-ready)); old < st.Current.Count {
			st.Current = clone(st.Current)
			st.Current.Count = old
			out.Ensure = append(out.Ensure, ask(in, st.Current))
		}
	}
	out.Requeue = max(0, in.StartTimeout-in.Waited)
}

// planSteady keeps what is in force as it is: the current set at its count, and nothing else.
func planSteady(in Input, out *Output) {
	st := &out.Status
	for _, s := range in.Sets {
		if st.Current == nil || s.ID != st.Current.ID {
			if !slices.Contains(out.Delete, s.ID) {
				out.Delete = append(out.Delete, s.ID)
			}
		}
	}
	keepCurrent(in, out)
}

// keepCurrent asks for the current set again when the engine does not show it as it was asked for.
func keepCurrent(in Input, out *Output) {
	cur := out.Status.Current
	if cur == nil {
		return
	}
	for _, e := range out.Ensure {
		if e.Set.ID == cur.ID {
			return
		}
	}
	if set := find(in.Sets, cur.ID); set == nil || set.Count != cur.Count {
		out.Ensure = append(out.Ensure, ask(in, cur))
	}
}

// ask is the request for a set as its status has it. A set that shrinks loses the instances that do not serve
// before those that do.
func ask(in Input, set *online.SetStatus) Ensure {
	e := Ensure{Set: *set, Count: set.Count}
	if shown := find(in.Sets, set.ID); shown != nil {
		spare := len(shown.Instances) - set.Count
		for i := len(shown.Instances) - 1; i >= 0 && len(e.Victims) < spare; i-- {
			if shown.Instances[i].State != online.InstanceReady {
				e.Victims = append(e.Victims, shown.Instances[i].ID)
			}
		}
	}
	return e
}

// startFailure says why a set that is coming up must be given up, or nil.
func startFailure(in Input, set *compute.Set) *online.Error {
	for i := range set.Instances {
		inst := &set.Instances[i]
		if inst.State == online.InstanceReady || inst.Exit == nil {
			continue
		}
		if inst.Exit.Permanent || inst.Exit.InInit && inst.Restarts >= StartAttempts-1 {
			return exitError(inst)
		}
	}
	if in.Waited >= in.StartTimeout {
		return online.Errorf(online.CodeResourceNotReady, "properties.provisioningState",
			"%d of %d instances became ready within %s; look at the output with get-logs, or raise start_timeout",
			set.ReadyCount(), in.Spec.InstanceCount, in.StartTimeout)
	}
	return nil
}

// exitError tells how an instance died: cause, exit code and last lines, so that nobody has to look for a log.
func exitError(inst *compute.Instance) *online.Error {
	x := inst.Exit
	how := fmt.Sprintf("exit code %d", x.Code)
	if x.Signal != "" {
		how = "signal: " + x.Signal
	}
	tail := strings.TrimRight(x.Tail, "\n")
	if len(tail) > exitTailBytes {
		tail = "..." + strings.ToValidUTF8(tail[len(tail)-exitTailBytes:], "")
	}
	reason := x.Reason
	if reason == "" {
		reason = "the process ended"
	}
	msg := fmt.Sprintf("instance %s did not become ready: %s (%s)", inst.ID, reason, how)
	if inst.Restarts > 0 {
		msg += fmt.Sprintf(", %d starts", inst.Restarts+1)
	}
	if tail != "" {
		msg += ". Its last lines:\n" + tail
	}
	return online.Errorf(online.CodeResourceNotReady, "properties.provisioningState", "%s", msg)
}

func succeed(in Input, out *Output) {
	st := &out.Status
	st.ObservedGeneration, st.State, st.Error = in.Generation, online.StateSucceeded, nil
}

// fail gives the change up: the target goes, what served before keeps serving.
func fail(in Input, out *Output, err *online.Error) {
	st := &out.Status
	st.ObservedGeneration, st.State, st.Error = in.Generation, online.StateFailed, err
	st.Target = nil
}

func instances(sets []compute.Set) []online.InstanceStatus {
	var out []online.InstanceStatus
	for _, s := range sets {
		for _, i := range s.Instances {
			is := online.InstanceStatus{ID: i.ID, Generation: s.Generation, State: i.State, Restarts: i.Restarts}
			if i.Exit != nil && i.State != online.InstanceReady {
				is.Reason = i.Exit.Reason
			}
			out = append(out, is)
		}
	}
	slices.SortFunc(out, func(a, b online.InstanceStatus) int { return strings.Compare(a.ID, b.ID) })
	return out
}

func find(sets []compute.Set, id string) *compute.Set {
	i := slices.IndexFunc(sets, func(s compute.Set) bool { return s.ID == id })
	if i < 0 {
		return nil
	}
	return &sets[i]
}

func clone[T any](v *T) *T { c := *v; return &c }
