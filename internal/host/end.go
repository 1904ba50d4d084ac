package host

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// Bounds of ending what a process started.
const (
	endTimeout     = 5 * time.Second // for the kernel to bury what was killed
	backoffFirst   = time.Millisecond
	backoffLongest = 50 * time.Millisecond
)

// markVariable is in the environment of every process and so of what it starts. Where cgroups are missing, the
// mark finds children that left their process group.
const markVariable = "PORTICO_PROCESS"

// backoff paces a wait for something that the kernel does not announce.
type backoff struct{ next time.Duration }

func newBackoff() *backoff { return &backoff{next: backoffFirst} }

func (b *backoff) pause(ctx context.Context) error {
	t := time.NewTimer(b.next)
	defer t.Stop()
	b.next = min(2*b.next, backoffLongest)
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// endMembers ends everything that belongs to r and waits until it is gone, or ctx ends.
func endMembers(ctx context.Context, r *record) error {
	for wait := newBackoff(); ; {
		pids, err := members(r)
		if err != nil || len(pids) == 0 {
			return err
		}
		if len(r.Cgroups) == 0 || !killCgroup(r.Cgroups) {
			for _, pid := range pids {
				killExactly(pid, func() bool { return belongs(r, pid) })
			}
		}
		if wait.pause(ctx) != nil {
			return fmt.Errorf("end what %s started: %d processes do not end", r.ID, len(pids))
		}
	}
}

// endRecorded ends a process of a supervisor that is gone: the leader with its group if pid, start time and boot
// are those of the record, then all that belongs to it.
func endRecorded(ctx context.Context, r *record, boot string) error {
	if r.Exit != nil || r.BootID != boot {
		return nil
	}
	if r.StartTime != 0 && startTime(r.PID) == r.StartTime {
		// The leader was made the head of a group of its own number, which lives as long as it does.
		if err := syscall.Kill(-r.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end %s: %w", r.ID, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	for wait := newBackoff(); r.StartTime != 0 && startTime(r.PID) == r.StartTime; {
		if wait.pause(ctx) != nil {
			return fmt.Errorf("end %s: process %d does not end", r.ID, r.PID)
		}
	}
	if err := endMembers(ctx, r); err != nil {
		return err
	}
	removeCgroups(ctx, r.Cgroups)
	return nil
}

// killJournal ends exactly the processes that a supervisor which is gone recorded as running, with everything that they started,
// and says how many there were. Their exits are recorded as lost, so that the next supervisor lists them. Only who holds the lock
// of the data directory may.
func killJournal(ctx context.Context, j *journal) (int, error) {
	boot, err := bootID()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, r := range j.oldestFirst() {
		if r.Exit != nil {
			continue
		}
		n++
		if err := endRecorded(ctx, r, boot); err != nil {
			return n, err
		}
		removeSocket(r.Socket)
		lost := Exit{Code: -1, Lost: true, At: time.Now().UTC()}
		if err := j.append(entry{Exit: &exitEntry{ID: r.ID, Exit: lost}}); err != nil {
			return n, err
		}
	}
	return n, nil
}
