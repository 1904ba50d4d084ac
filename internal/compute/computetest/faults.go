package computetest

import (
	"strings"
	"time"

	"portico/internal/compute"
	"portico/internal/online"
)

func killedComesBack(b *bench) {
	tmpl := b.world.template(scriptScore)
	s := b.up(tmpl, 2)
	marks := b.boots(s)
	victim, neighbour := s.Instances[0], s.Instances[1]
	b.lab.Kill(b.t, victim.ID)
	back := b.seen.instance(tmpl.Set, victim.ID, "ready after one restart", func(i compute.Instance) bool {
		return isReady(i) && i.Restarts == 1
	})
	x := back.Exit
	if x == nil || x.Code != -1 || x.Signal != "killed" || x.Reason == "" || x.InInit || x.Permanent || x.At.IsZero() {
		b.t.Errorf("exit of a killed process: %+v", x)
	}
	if back.Ready.Before(victim.Ready) {
		b.t.Errorf("ready at %s, before the restart at %s", back.Ready, victim.Ready)
	}
	after := b.boots(b.seen.ready(tmpl.Set, 2))
	if after[victim.ID] == marks[victim.ID] {
		b.t.Error("the killed process still answers")
	}
	wantSame(b.t, map[string]string{neighbour.ID: marks[neighbour.ID]}, after)
}

func exitIsTold(b *bench) {
	tmpl := b.world.template(scriptScore)
	i := b.up(tmpl, 1).Instances[0]
	if _, err := b.ask(i, order{Say: "these were my last words", Exit: 7}); err == nil {
		b.t.Error("a request whose process ended was answered")
	}
	back := b.seen.instance(tmpl.Set, i.ID, "ready after one restart", func(i compute.Instance) bool {
		return isReady(i) && i.Restarts == 1
	})
	if x := back.Exit; x == nil || x.Code != 7 || x.Signal != "" || x.Reason == "" || x.InInit || x.Permanent {
		b.t.Fatalf("exit of a process that ended with status 7: %+v", x)
	}
	if !strings.Contains(back.Exit.Tail, "these were my last words") {
		b.t.Errorf("the last lines are %q", back.Exit.Tail)
	}
}

func crashLoopBacksOff(b *bench) {
	tmpl := b.world.template(scriptInitExits)
	begin := time.Now()
	b.ensure(tmpl, 1)
	i := b.seen.only(tmpl.Set, "three restarts", func(i compute.Instance) bool { return i.Restarts >= 3 && i.Exit != nil })
	// The restarts wait 0, 0.5 and 1 s or longer.
	if took := time.Since(begin); took < 1500*time.Millisecond {
		b.t.Errorf("three restarts within %s: there is no back-off", took)
	}
	if x := i.Exit; x.Code != 5 || x.Signal != "" || !x.InInit || x.Permanent || !strings.Contains(x.Tail, "attempt") {
		b.t.Errorf("exit of a process that ended in init: %+v", x)
	}
	if isReady(i) || !i.Ready.IsZero() {
		b.t.Errorf("an instance whose init never returned was ready: %+v", i)
	}
	text := b.output(compute.LogQuery{UID: tmpl.UID})
	newest := b.seen.now(tmpl.Set).Instances[0]
	// One more may have begun than was told.
	if n := countLines(text, "attempt"); n > newest.Restarts+2 {
		b.t.Errorf("%d restarts were told, and %d starts happened", newest.Restarts, n)
	}
	b.delete(tmpl.Set)
	b.seen.gone(tmpl.Set)
}

func initRaises(b *bench) {
	tmpl := b.world.template(scriptInitRaises)
	b.ensure(tmpl, 1)
	i := b.seen.only(tmpl.Set, "an exit", func(i compute.Instance) bool { return i.Exit != nil })
	x := i.Exit
	if !x.InInit || x.Permanent || !strings.Contains(x.Reason, "ValueError") || !strings.Contains(x.Reason, "no such column") {
		b.t.Errorf("exit of an init that raises: %+v", x)
	}
	if !strings.Contains(x.Tail, "no such column") {
		b.t.Errorf("the last lines do not show the traceback: %q", x.Tail)
	}
	if isReady(i) {
		b.t.Errorf("an instance whose init raised is ready: %+v", i)
	}
	b.delete(tmpl.Set)
	b.seen.gone(tmpl.Set)
}

func scriptAtFault(b *bench) {
	for script, word := range map[string]string{scriptNoRun: "run", scriptMissing: scriptMissing} {
		tmpl := b.world.template(script)
		b.ensure(tmpl, 1)
		i := b.seen.only(tmpl.Set, "a permanent exit", func(i compute.Instance) bool { return i.Exit != nil && i.Exit.Permanent })
		if x := i.Exit; !x.InInit || !strings.Contains(x.Reason, word) {
			b.t.Errorf("exit of %s: %+v", script, x)
		}
		if isReady(i) || i.Restarts != 0 {
			b.t.Errorf("starting %s again cannot help, and it was: %+v", script, i)
		}
		b.delete(tmpl.Set)
		b.seen.gone(tmpl.Set)
	}
}

// quickProbe counts one failure a second.
func quickProbe(failures int) online.Probe {
	return online.Probe{
		InitialDelay: time.Second, Period: time.Second, Timeout: time.Second, SuccessThreshold: 1, FailureThreshold: failures,
	}
}

func slowInit(b *bench) {
	tmpl := b.world.template(scriptScore, variables(map[string]online.Secret{"INIT_SECONDS": "4"}))
	// The probes alone would have failed long before init returns; the start-up probe gives it time.
	quick := quickProbe(1)
	tmpl.Liveness, tmpl.Readiness = quick, quick
	patient := quickProbe(120)
	tmpl.Startup = &patient
	b.ensure(tmpl, 1)
	b.seen.only(tmpl.Set, "starting", func(i compute.Instance) bool { return i.State == online.InstanceStarting })
	i := b.seen.ready(tmpl.Set, 1).Instances[0]
	if i.Restarts != 0 || i.Exit != nil {
		b.t.Errorf("a slow init was restarted: %+v", i)
	}
}

func initOutlivesProbes(b *bench) {
	tmpl := b.world.template(scriptScore, variables(map[string]online.Secret{"INIT_SECONDS": "600"}))
	strict := quickProbe(2)
	tmpl.Startup = &strict
	b.ensure(tmpl, 1)
	i := b.seen.only(tmpl.Set, "a restart", func(i compute.Instance) bool { return i.Exit != nil && i.Restarts >= 1 })
	if x := i.Exit; !x.InInit || x.Permanent || !strings.Contains(x.Reason, "init") || !strings.Contains(x.Reason, "probe") {
		b.t.Errorf("exit of an init that outlived its start-up probe: %+v", x)
	}
	b.delete(tmpl.Set)
	b.seen.gone(tmpl.Set)
}

func longRequestsAreAlive(b *bench) {
	tmpl := b.world.template(scriptScore, workers(3), timeout(60*time.Second))
	quick := quickProbe(1)
	tmpl.Liveness, tmpl.Readiness = quick, quick
	patient := quickProbe(120)
	tmpl.Startup = &patient
	i := b.up(tmpl, 1).Instances[0]
	var results []<-chan error
	for range tmpl.Workers {
		// Each is seen to execute before the next is sent, so all of them run at once.
		results = append(results, b.executing(tmpl.UID, i, 6))
	}
	for _, result := range results {
		if err := <-result; err != nil {
			b.t.Errorf("one of three long requests: %v", err)
		}
	}
	if now := b.seen.ready(tmpl.Set, 1).Instances[0]; now.Restarts != 0 || now.Exit != nil {
		b.t.Errorf("long requests within their deadline caused a restart: %+v", now)
	}
}
