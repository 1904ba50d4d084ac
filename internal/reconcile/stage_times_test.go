package reconcile

import (
	"testing"
	"time"

	"portico/internal/online"
)

// A long build is the time of its own stage, not of the one after it, also when both were seen running.
func TestStageTimesOfPreparation(t *testing.T) {
	begin := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	built := begin.Add(20 * time.Second)
	in := Input{UID: "u1", Generation: 1, Template: "t1", Now: begin, Spec: online.DeploymentSpec{InstanceCount: 1}}
	in.Status = Plan(in).Status
	for _, seen := range []Preparation{
		{State: PrepareRunning, Stage: online.StageEnvironment, Since: begin},
		{State: PrepareRunning, Stage: online.StageModel, Since: built},
		{State: PrepareDone, Stage: online.StageModel, Since: built, Ended: built.Add(time.Second)},
	} {
		in.Prepared, in.Now = seen, in.Now.Add(30*time.Second)
		in.Status = Plan(in).Status
	}
	want := map[string]time.Duration{online.StageEnvironment: 20 * time.Second, online.StageModel: time.Second}
	for _, s := range in.Status.Stages {
		if d, ok := want[s.Name]; ok && s.End.Sub(s.Start) != d {
			t.Errorf("%s took %v, not %v", s.Name, s.End.Sub(s.Start), d)
		}
	}
}
