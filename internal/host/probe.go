package host

import (
	"context"
	"time"
)

// probeSandbox builds the file system of a sandbox in a stage that then ends, and says why that does not work here.
func (s *supervisor) probeSandbox(ctx context.Context) error {
	lease, err := s.platform.users.take()
	if err != nil {
		return err
	}
	defer lease.release()
	p := &proc{rec: &record{Process: Process{ID: "sandbox-probe"}}}
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	files := &inherited{stage: ours}
	files.files[stageFD] = theirs
	defer files.close()
	plan := &stagePlan{UID: lease.uid, Sandbox: s.platform.sandboxDir, Probe: true}
	if err := s.fork(p, plan, files); err != nil {
		return err
	}
	err = s.converse(p, plan, files.stage)
	if err != nil {
		s.abandon(p)
		return err
	}
	select {
	case <-p.child.died:
	case <-time.After(stageTimeout):
		s.abandon(p)
	case <-ctx.Done():
		s.abandon(p)
	}
	return nil
}
