package local

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"

	"portico/internal/compute"
	"portico/internal/inference"
	"portico/internal/online"
)

// set is one immutable generation of a deployment. Its fields are guarded by Backend.mu; the template never
// changes and may be read without it.
type set struct {
	record    setRecord
	instances []*instance // oldest first
	numbers   int64       // the newest instance's Number
	turn      chan struct{}
}

func newSet(r setRecord) *set { return &set{record: r, turn: make(chan struct{}, 1)} }

// killTurn waits until no other worker of the set is being replaced after it hung.
func (s *set) killTurn(ctx context.Context) (func(), error) {
	select {
	case s.turn <- struct{}{}:
		return func() { <-s.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *set) show() compute.Set {
	t := &s.record.Template
	out := compute.Set{
		ID: t.Set, Generation: t.Generation, UID: t.UID, Deployment: t.DeploymentID, Digest: t.Digest, Count: s.record.Count,
	}
	for _, i := range s.instances {
		out.Instances = append(out.Instances, i.show())
	}
	return out
}

func (s *set) drop(gone *instance) {
	s.instances = slices.DeleteFunc(s.instances, func(i *instance) bool { return i == gone })
}

// staying are the instances that do not drain.
func (s *set) staying() []*instance {
	var out []*instance
	for _, i := range s.instances {
		if !i.record.Draining {
			out = append(out, i)
		}
	}
	return out
}

// choose picks which n of the staying instances (oldest first) end: the victims, then the newest.
func choose(staying []string, victims []string, n int) []string {
	var out []string
	for _, id := range staying {
		if len(out) < n && slices.Contains(victims, id) {
			out = append(out, id)
		}
	}
	for _, id := range slices.Backward(staying) {
		if len(out) >= n {
			break
		}
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// setRule leaves room for the suffix of an instance's id and of a worker's in a process id of the host.
var setRule = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func checkTemplate(t *compute.Template, count int) error {
	switch {
	case !setRule.MatchString(t.Set):
		return fmt.Errorf("set id %.80q: use up to 63 of a-z, 0-9 and '-', not beginning with '-'", t.Set)
	case t.Digest == "" || t.UID == "":
		return fmt.Errorf("set %s has no digest or no deployment", t.Set)
	case t.Server != nil && len(t.Server.Command) == 0 && (t.Server.Image == nil || len(t.Server.Image.Command) == 0):
		return fmt.Errorf("set %s lacks a command", t.Set)
	case t.Server != nil && t.Server.Image != nil && t.Type.GPUs > 0:
		return fmt.Errorf("set %s: images do not run on GPUs", t.Set)
	case t.ONNX != nil && t.Type.GPUs > 0:
		return fmt.Errorf("set %s: ONNX models do not run on GPUs", t.Set)
	case t.Server == nil && t.ONNX == nil && (t.Python == "" || t.MLflowModel == "" && (t.CodeDir == "" || t.ScoringScript == "")):
		return fmt.Errorf("set %s lacks an interpreter, or code with a scoring script", t.Set)
	case t.Workers < 1 || t.MaxConcurrent < 1 || t.RequestTimeout <= 0:
		return fmt.Errorf("set %s: workers, concurrent requests and request timeout must be positive", t.Set)
	case count < 0:
		return fmt.Errorf("set %s: %d instances", t.Set, count)
	}
	return nil
}

// Ensure implements compute.Backend.
func (b *Backend) Ensure(_ context.Context, t compute.Template, count int, victims []string) error {
	if err := checkTemplate(&t, count); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errClosed
	}
	s, known := b.sets[t.Set]
	switch {
	case !known:
		s = newSet(setRecord{Template: t})
	case s.record.Template.Digest != t.Digest:
		return fmt.Errorf("set %s: %w", t.Set, compute.ErrImmutable)
	case s.record.Deleting:
		return fmt.Errorf("set %s is being deleted: %w", t.Set, compute.ErrNotFound)
	}
	staying := s.staying()
	if grow := count - len(staying); grow > 0 {
		if err := admit(b.cfg.Machine, b.cfg.Overcommit, b.cfg.MaxInstances, b.demand(), t.Type, grow); err != nil {
			return err
		}
	}
	if !known || s.record.Count != count {
		before := s.record.Count
		s.record.Count = count
		if err := b.files.putSet(&s.record); err != nil {
			s.record.Count = before
			return err
		}
	}
	b.sets[t.Set] = s
	err := b.scale(s, staying, victims)
	b.publish(s)
	return err
}

// scale starts or drains instances until as many stay as the set counts. The caller holds mu.
func (b *Backend) scale(s *set, staying []*instance, victims []string) error {
	for range s.record.Count - len(staying) {
		if err := b.create(s); err != nil {
			return err
		}
	}
	if surplus := len(staying) - s.record.Count; surplus > 0 {
		var ids []string
		for _, i := range staying {
			ids = append(ids, i.record.ID)
		}
		for _, id := range choose(ids, victims, surplus) {
			b.drain(b.instances[id])
		}
	}
	return nil
}

// create adds an instance to a set and starts it. The caller holds mu.
func (b *Backend) create(s *set) error {
	t := &s.record.Template
	r := instanceRecord{
		ID: newInstanceID(t.Set), Set: t.Set, UID: t.UID, Type: t.Type, Number: s.numbers + 1, Created: time.Now(),
		GPUs: freeGPUs(b.cfg.Machine.GPUs, t.Type.GPUs, b.takenGPUs()), Workers: make([]workerRecord, t.Workers),
	}
	if err := b.files.putInstance(&r); err != nil {
		return err
	}
	return b.run(s, r)
}

// run begins to look after an instance, new or found. The caller holds mu.
func (b *Backend) run(s *set, r instanceRecord) error {
	i := &instance{set: s, record: r, state: online.InstancePending, leave: make(chan struct{})}
	i.launcher = &launcher{b: b, template: &s.record.Template, instance: r.ID, gpus: r.GPUs}
	i.launcher.describe = i.launcher.processSpec
	if s.record.Template.Server != nil {
		i.launcher.describe = i.launcher.serverSpec
		if s.record.Template.Server.Image != nil {
			i.launcher.describe = i.launcher.imageSpec
		}
	}
	// Known before its body is made: that begins at once to start workers, and asks for what is known of them.
	b.instances[r.ID] = i
	made, err := b.makeBody(i)
	if err != nil {
		delete(b.instances, r.ID)
		return fmt.Errorf("make instance %s: %w", r.ID, err)
	}
	i.body = made
	s.instances = append(s.instances, i)
	s.numbers = max(s.numbers, r.Number)
	b.upstreams.Store(r.ID, inference.Upstream(made))
	if r.Draining {
		i.state = online.InstanceDraining
		close(i.leave)
	}
	b.keepers.Go(func() { b.keep(b.halting, i) })
	return nil
}

// drain begins the end of an instance. The state is told before anything is stopped. The caller holds mu.
func (b *Backend) drain(i *instance) {
	if i.record.Draining {
		return
	}
	i.record.Draining, i.state = true, online.InstanceDraining
	b.save(i)
	b.publish(i.set)
	close(i.leave)
}

// Delete implements compute.Backend. It returns once every instance has been told to drain; the set's end is
// seen through Watch. Deleting a set that does not exist succeeds.
func (b *Backend) Delete(_ context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errClosed
	}
	s := b.sets[id]
	if s == nil || s.record.Deleting {
		return nil
	}
	s.record.Deleting, s.record.Count = true, 0
	if err := b.files.putSet(&s.record); err != nil {
		s.record.Deleting = false
		return err
	}
	for _, i := range s.staying() {
		b.drain(i)
	}
	if !b.finishSet(s) {
		b.publish(s)
	}
	return nil
}

// finishSet forgets a set that is being deleted and has no instance left. The caller holds mu.
func (b *Backend) finishSet(s *set) bool {
	if !s.record.Deleting || len(s.instances) > 0 {
		return false
	}
	id := s.record.Template.Set
	if err := b.files.removeSet(id); err != nil {
		b.log.Error("a set's record was not removed", "set", id, "error", err)
	}
	delete(b.sets, id)
	b.hub.publish(compute.Event{Set: s.show(), Gone: true})
	return true
}

func (b *Backend) publish(s *set) { b.hub.publish(compute.Event{Set: s.show()}) }
