package host

import (
	"context"
	"time"
)

// probeSandbox builds the file system of a sandbox in a stage that then ends, and says why that does not work here.
// With forks it asks for the namespaces of a fork too.
func (s *supervisor) probeSandbox(ctx context.Context, forks bool) error {
	lease, err := s.platform.users.take()
	if err != nil {
		return err
	}
	defer lease.release()
	p := &proc{rec: &record{Process: Process{ID: "sandbox-probe"}}}
	files := &inherited{}
	if err := files.addStage(); err != nil {
		return err
	}
	defer files.close()
	plan := &stagePlan{UID: lease.uid, Sandbox: s.platform.sandboxDir, Probe: true, Forks: forks}
	if err := s.fork(p, stageAttr(true), files, nil); err != nil {
		return err
	}
	return s.endProbe(ctx, p, plan, files)
}

// endProbe lets a stage that is a probe build what its plan says, and waits for its end.
func (s *supervisor) endProbe(ctx context.Context, p *proc, plan *stagePlan, files *inherited) error {
	if err := s.converse(p, plan, files.stage); err != nil {
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
