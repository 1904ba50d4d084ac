package computetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"portico/internal/compute"
	"portico/internal/online"
)

func ensureBringsUp(b *bench) {
	tmpl := b.world.template(scriptScore)
	s := b.up(tmpl, 2)
	if s.Generation != tmpl.Generation || s.UID != tmpl.UID || s.Digest != tmpl.Digest || !s.Deployment.Same(tmpl.DeploymentID) {
		b.t.Errorf("the set does not say what it was made from: %+v", s)
	}
	marks := map[string]bool{}
	for _, i := range s.Instances {
		if i.Set != tmpl.Set || i.ID == "" || i.Restarts != 0 || i.Exit != nil || i.Started.IsZero() || i.Ready.IsZero() {
			b.t.Errorf("instance: %+v", i)
		}
		r := b.mustAsk(i, order{Echo: "hello " + i.ID})
		if r.Echo != "hello "+i.ID {
			b.t.Errorf("instance %s answered %q", i.ID, r.Echo)
		}
		marks[r.Boot] = true
	}
	if len(marks) != 2 {
		b.t.Errorf("two instances have %d processes", len(marks))
	}
	b.ensure(tmpl, 2)
	if again := b.seen.ready(tmpl.Set, 2); !slices.EqualFunc(s.Instances, again.Instances, sameID) {
		b.t.Errorf("a second Ensure changed the instances: %+v, then %+v", s.Instances, again.Instances)
	}
}

func sameID(a, b compute.Instance) bool { return a.ID == b.ID }

func environmentOfAWorker(b *bench) {
	tmpl := b.world.template(scriptScore, workers(2), variables(map[string]online.Secret{
		"THRESHOLD": "0.5", "OMP_NUM_THREADS": "7",
	}))
	i := b.up(tmpl, 1).Instances[0]
	names := []string{
		"THRESHOLD", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "WORKER_COUNT", "AZUREML_ENTRY_SCRIPT",
		"PYTHONUNBUFFERED", ownVariable, "PATH",
	}
	r := b.mustAsk(i, order{Env: names, Model: true, Write: "a note"})
	for name, want := range map[string]string{
		"THRESHOLD": "0.5", "OMP_NUM_THREADS": "7", "OPENBLAS_NUM_THREADS": "1", "WORKER_COUNT": "2",
		"AZUREML_ENTRY_SCRIPT": scriptScore, "PYTHONUNBUFFERED": "1",
	} {
		if got := r.Env[name]; got == nil || *got != want {
			b.t.Errorf("%s is %s, want %q", name, show(got), want)
		}
	}
	if got := r.Env[ownVariable]; got != nil {
		b.t.Errorf("a variable of the server's own reached the worker: %q", *got)
	}
	if got := r.Env["PATH"]; got == nil || *got == "" {
		b.t.Errorf("PATH is %s", show(got))
	}
	if !slices.Equal(r.Model, []string{"weights.txt"}) || !r.Script || !r.Home {
		b.t.Errorf("model %v, script there: %v, home writable: %v", r.Model, r.Script, r.Home)
	}
	bare := b.world.template(scriptScore)
	bare.ModelDir, bare.ModelDigest = "", ""
	if r := b.mustAsk(b.up(bare, 1).Instances[0], order{Model: true}); r.Model != nil {
		b.t.Errorf("a deployment without a model sees %v", r.Model)
	}
}

func show(s *string) string {
	if s == nil {
		return "not set"
	}
	return fmt.Sprintf("%q", *s)
}

func ensureConcurrently(b *bench) {
	const callers = 16
	tmpl := b.world.template(scriptScore)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			if err := b.engine.Ensure(ctx, tmpl, 2, nil); err != nil {
				b.t.Errorf("ensure: %v", err)
			}
		})
	}
	wg.Wait()
	s := b.seen.ready(tmpl.Set, 2)
	b.boots(s)
	text := b.output(compute.LogQuery{UID: tmpl.UID})
	if n := countLines(text, "boot "); n != 2 {
		b.t.Errorf("two instances were started %d times:\n%s", n, text)
	}
}

func templateIsImmutable(b *bench) {
	tmpl := b.world.template(scriptScore)
	before := b.boots(b.up(tmpl, 1))
	other := tmpl
	other.Digest += "-other"
	if err := b.engine.Ensure(b.t.Context(), other, 2, nil); !errors.Is(err, compute.ErrImmutable) {
		b.t.Errorf("another template under the same set: %v, want %v", err, compute.ErrImmutable)
	}
	b.ensure(tmpl, 1)
	wantSame(b.t, before, b.boots(b.seen.ready(tmpl.Set, 1)))
}

func wantSame(t *testing.T, before, after map[string]string) {
	t.Helper()
	for id, mark := range before {
		if after[id] != mark {
			t.Errorf("instance %s had process %s and has %q", id, mark, after[id])
		}
	}
}

func growAndShrink(b *bench) {
	tmpl := b.world.template(scriptScore)
	first := b.up(tmpl, 1).Instances[0].ID
	second := other(b.up(tmpl, 2), first)
	all := b.up(tmpl, 3)
	third := other(all, first, second)
	marks := b.boots(all)

	b.ensure(tmpl, 2, first)
	left := b.seen.ready(tmpl.Set, 2)
	if find(left, second) == nil || find(left, third) == nil {
		b.t.Fatalf("victim %s was named, and left are %+v", first, left.Instances)
	}
	b.ensure(tmpl, 1)
	left = b.seen.ready(tmpl.Set, 1)
	if find(left, second) == nil {
		b.t.Fatalf("the newest is %s, and left are %+v", third, left.Instances)
	}
	wantSame(b.t, map[string]string{second: marks[second]}, b.boots(left))

	b.ensure(tmpl, 0)
	b.seen.ready(tmpl.Set, 0)
	fourth := b.up(tmpl, 1).Instances[0].ID
	if slices.Contains([]string{first, second, third}, fourth) {
		b.t.Errorf("the id %s was used twice", fourth)
	}
}

// other is the instance that is none of these.
func other(s compute.Set, known ...string) string {
	for _, i := range s.Instances {
		if !slices.Contains(known, i.ID) {
			return i.ID
		}
	}
	return ""
}

// executing sends a request that takes a while and returns once the script runs it. The channel gives how it ended.
func (b *bench) executing(uid string, i compute.Instance, seconds float64) <-chan error {
	b.t.Helper()
	mark := "executing " + newID()
	result := make(chan error, 1)
	done := make(chan struct{})
	b.t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		_, err := b.ask(i, order{Say: mark, Sleep: seconds})
		result <- err
	}()
	b.awaitOutput(compute.LogQuery{UID: uid}, mark)
	return result
}

func shrinkDrains(b *bench) {
	tmpl := b.world.template(scriptScore)
	i := b.up(tmpl, 1).Instances[0]
	result := b.executing(tmpl.UID, i, 3)
	b.ensure(tmpl, 0)
	b.seen.instance(tmpl.Set, i.ID, "draining", func(i compute.Instance) bool { return i.State == online.InstanceDraining })
	if err := <-result; err != nil {
		b.t.Errorf("a request that was executing when its instance began to drain: %v", err)
	}
	b.seen.ready(tmpl.Set, 0)
	if _, err := b.ask(i, order{}); err == nil {
		b.t.Error("an instance that is gone answered")
	}
}

func deleteDrains(b *bench) {
	tmpl := b.world.template(scriptScore)
	s := b.up(tmpl, 2)
	var results []<-chan error
	for _, i := range s.Instances {
		results = append(results, b.executing(tmpl.UID, i, 2))
	}
	b.delete(tmpl.Set)
	for _, result := range results {
		if err := <-result; err != nil {
			b.t.Errorf("a request that was executing when its set was deleted: %v", err)
		}
	}
	b.seen.gone(tmpl.Set)
}

func deleteIsIdempotent(b *bench) {
	tmpl := b.world.template(scriptScore)
	b.delete(tmpl.Set)
	b.up(tmpl, 1)
	b.delete(tmpl.Set)
	b.delete(tmpl.Set)
	b.seen.gone(tmpl.Set)
	b.delete(tmpl.Set)
}

func watchBegins(b *bench) {
	one, two := b.world.template(scriptScore), b.world.template(scriptScore)
	b.up(one, 1)
	b.ensure(two, 0)
	b.seen.ready(two.Set, 0)
	late := observe(b.t, b.engine)
	if !late.seenEarly(one.Set) || !late.seenEarly(two.Set) {
		b.t.Errorf("the stream was synced before it told of all sets:\n%s", late.story())
	}
	late.ready(one.Set, 1)
	b.ensure(two, 1)
	late.ready(two.Set, 1)
	b.delete(one.Set)
	late.gone(one.Set)
	b.seen.gone(one.Set)
}
