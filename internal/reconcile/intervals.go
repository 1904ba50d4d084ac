package reconcile

import (
	"context"
	"fmt"
	"time"

	"portico/internal/compute"
	"portico/internal/online"
	"portico/internal/store"
)

const farFutureYears = 100

// resumeIntervals compares the intervals that are open in the store with what the engine runs: what is new is
// opened, what ended while the server was away is closed now, the earliest moment at which that is known.
func (l *Loop) resumeIntervals(ctx context.Context) error {
	running := map[string]bool{}
	sets := l.view.all()
	for _, of := range sets {
		for _, s := range of {
			for _, i := range s.Instances {
				running[i.ID] = true
			}
		}
	}
	err := l.Store.Update(ctx, func(tx store.Tx) error {
		// Up to the far future: a clock that was set back must not hide an open interval.
		open, err := tx.Intervals(kindPrefix(online.KindDeployment), l.Now(), l.Now().AddDate(farFutureYears, 0, 0))
		if err != nil {
			return fmt.Errorf("list open intervals: %w", err)
		}
		for _, i := range open {
			switch {
			case !i.End.IsZero():
			case running[i.Instance]:
				l.intervals[i.Instance] = true
			default:
				if err := tx.CloseInterval(i.Instance, l.Now(), "ended while the server was away"); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("resume instance intervals: %w", err)
	}
	for _, of := range sets {
		for _, s := range of {
			l.recordIntervals(ctx, compute.Set{}, compute.Event{Set: s})
		}
	}
	return nil
}

// recordIntervals opens and closes intervals for the instances that an event brought or took.
func (l *Loop) recordIntervals(ctx context.Context, before compute.Set, ev compute.Event) {
	var opened []online.Interval
	var closed []string
	now := map[string]bool{}
	if !ev.Gone {
		for _, i := range ev.Set.Instances {
			now[i.ID] = true
			if !l.intervals[i.ID] && !i.Started.IsZero() {
				opened = append(opened, l.interval(ctx, ev.Set, i))
			}
		}
	}
	for _, i := range before.Instances {
		if !now[i.ID] && l.intervals[i.ID] {
			closed = append(closed, i.ID)
		}
	}
	if len(opened)+len(closed) == 0 {
		return
	}
	end := l.Now()
	err := l.Store.Update(ctx, func(tx store.Tx) error {
		for _, i := range opened {
			if err := tx.OpenInterval(i); err != nil {
				return err
			}
		}
		for _, id := range closed {
			if err := tx.CloseInterval(id, end, "stopped"); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		// The next event of the set, or the next start of the server, tries again.
		if ctx.Err() == nil {
			l.Logger.Error("cannot record instance intervals", "set", ev.Set.ID, "error", err)
		}
		return
	}
	for _, i := range opened {
		l.intervals[i.Instance] = true
	}
	for _, id := range closed {
		delete(l.intervals, id)
	}
}

func (l *Loop) interval(ctx context.Context, s compute.Set, i compute.Instance) online.Interval {
	iv := online.Interval{
		Instance: i.ID, Deployment: s.Deployment, UID: s.UID, Generation: s.Generation, Start: i.Started.UTC().Truncate(time.Millisecond),
	}
	if d, err := l.readDeployment(ctx, s.Deployment); err == nil {
		iv.InstanceType = d.Spec.InstanceType
	}
	return iv
}
