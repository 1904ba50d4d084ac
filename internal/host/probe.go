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
