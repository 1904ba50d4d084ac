package reconcile

import (
	"slices"
	"time"

	"portico/internal/online"
)

const (
	stageWaiting = "Waiting"
	stageRunning = "InProgress"
	stageDone    = "Succeeded"
	stageFailed  = "Failed"
)

// change edits one stage on a fresh copy, since the old slice belongs to the status that was read.
func change(st *online.DeploymentStatus, name string, edit func(*online.Stage)) {
	i := slices.IndexFunc(st.Stages, func(s online.Stage) bool { return s.Name == name })
	if i < 0 {
		return
	}
	st.Stages = slices.Clone(st.Stages)
	edit(&st.Stages[i])
}

// reached marks a waiting stage as running, and those before it as done.
func reached(st *online.DeploymentStatus, name string, at time.Time) {
	for _, s := range st.Stages {
		if s.Name == name {
			break
		}
		if s.State == stageRunning && name != online.StageTraffic {
			finish(st, s.Name, at)
		}
	}
	change(st, name, func(s *online.Stage) {
		if s.State == stageWaiting {
			s.State, s.Start = stageRunning, at
		}
	})
}

// finish marks a stage as done.
func finish(st *online.DeploymentStatus, name string, at time.Time) {
	change(st, name, func(s *online.Stage) {
		if s.State == stageDone {
			return
		}
		if s.Start.IsZero() {
			s.Start = at
		}
		s.State, s.End = stageDone, at
	})
}

// failed marks a stage as failed.
func failed(st *online.DeploymentStatus, name string, in Input) {
	change(st, name, func(s *online.Stage) {
		if s.Start.IsZero() {
			s.Start = in.Now
		}
		s.State, s.End = stageFailed, in.Now
	})
}
