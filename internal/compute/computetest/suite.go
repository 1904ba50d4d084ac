package computetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"portico/internal/compute"
)

// Engine is an engine that runs. Close detaches from the instances: they go on without it.
type Engine interface {
	compute.Backend
	// Call sends one scoring request to an instance and gives the status and the body of its answer. An error
	// means that there was no answer.
	Call(ctx context.Context, instance compute.Instance, body []byte) (status int, answer []byte, err error)
	Close() error
}

// Lab is a place of its own for one engine. Its maker must end everything that is left when the test ends.
type Lab interface {
	// Open starts the engine over what earlier engines of this lab left behind.
	Open(t *testing.T) Engine
	// Python is the interpreter that templates name.
	Python() string
	// Kill ends one process of an instance with SIGKILL, from outside the engine.
	Kill(t *testing.T, instance string)
}

// Run proves an engine. newLab is called once per case, and the cases run beside each other: they mostly wait.
func Run(t *testing.T, newLab func(t *testing.T) Lab) {
	t.Setenv(ownVariable, "the server's own")
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab := newLab(t)
			b := &bench{t: t, lab: lab, world: newWorld(t, lab.Python())}
			b.open()
			c.run(b)
		})
	}
}

// ownVariable is one of the server's own environment, which must not reach a worker.
const ownVariable = "PORTICO_COMPUTETEST_OWN"

var cases = []struct {
	name string
	run  func(*bench)
}{
	{"EnsureBringsInstancesUp", ensureBringsUp},
	{"EnvironmentOfAWorker", environmentOfAWorker},
	{"ConcurrentEnsureStartsNothingTwice", ensureConcurrently},
	{"TemplateIsImmutable", templateIsImmutable},
	{"GrowAndShrink", growAndShrink},
	{"ShrinkDrains", shrinkDrains},
	{"DeleteDrains", deleteDrains},
	{"DeleteIsIdempotent", deleteIsIdempotent},
	{"WatchBeginsWithWhatExists", watchBegins},
	{"KilledInstanceComesBack", killedComesBack},
	{"ExitIsTold", exitIsTold},
	{"CrashLoopBacksOff", crashLoopBacksOff},
	{"InitThatRaises", initRaises},
	{"ScriptAtFault", scriptAtFault},
	{"SlowInit", slowInit},
	{"InitOutlivesItsProbes", initOutlivesProbes},
	{"LongRequestsAreAlive", longRequestsAreAlive},
	{"Logs", logs},
	{"LogsAfterTheEnd", logsAfterTheEnd},
	{"Capacity", capacity},
	{"ReopenAttaches", reopenAttaches},
	{"ReopenTellsExits", reopenTellsExits},
	{"ReopenCanRestart", reopenCanRestart},
}

// bench is what a case works with.
type bench struct {
	t      *testing.T
	lab    Lab
	world  *world
	engine Engine
	seen   *observer
}

// open starts the engine and watches it.
func (b *bench) open() {
	b.t.Helper()
	engine := b.lab.Open(b.t)
	closed := false
	b.engine = engine
	b.t.Cleanup(func() {
		if b.engine == engine && !closed {
			closed = true
			if err := engine.Close(); err != nil {
				b.t.Errorf("close the engine: %v", err)
			}
		}
	})
	b.seen = observe(b.t, engine)
}

// shut closes the engine; its instances go on.
func (b *bench) shut() {
	b.t.Helper()
	b.seen.close()
	engine := b.engine
	b.engine, b.seen = nil, nil
	if err := engine.Close(); err != nil {
		b.t.Fatalf("close the engine: %v", err)
	}
}

func (b *bench) ensure(t compute.Template, count int, victims ...string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := b.engine.Ensure(ctx, t, count, victims); err != nil {
		b.t.Fatalf("ensure %d of %s: %v", count, t.Set, err)
	}
}

func (b *bench) delete(set string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := b.engine.Delete(ctx, set); err != nil {
		b.t.Fatalf("delete %s: %v", set, err)
	}
}

// up makes a set and waits until it is ready.
func (b *bench) up(t compute.Template, count int) compute.Set {
	b.t.Helper()
	b.ensure(t, count)
	return b.seen.ready(t.Set, count)
}

// order is what a request asks of score.py.
type order struct {
	Say   string   `json:"say,omitempty"`
	Sleep float64  `json:"sleep,omitempty"` // seconds
	Exit  int      `json:"exit,omitempty"`
	Echo  string   `json:"echo,omitempty"`
	Env   []string `json:"env,omitempty"`
	Write string   `json:"write,omitempty"`
	Model bool     `json:"model,omitempty"`
}

// reply is what score.py answers.
type reply struct {
	Boot   string             `json:"boot"`
	Echo   string             `json:"echo"`
	Env    map[string]*string `json:"env"`
	Home   bool               `json:"home"`
	Model  []string           `json:"model"`
	Script bool               `json:"script"`
}

// ask sends an order to an instance.
func (b *bench) ask(i compute.Instance, o order) (reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	body, err := json.Marshal(o)
	if err != nil {
		return reply{}, fmt.Errorf("encode the order: %w", err)
	}
	status, answer, err := b.engine.Call(ctx, i, body)
	if err != nil {
		return reply{}, fmt.Errorf("call instance %s: %w", i.ID, err)
	}
	var r reply
	if status != 200 {
		return r, fmt.Errorf("instance %s answered %d: %s", i.ID, status, answer)
	}
	if err := json.Unmarshal(answer, &r); err != nil {
		return r, fmt.Errorf("instance %s answered %q: %w", i.ID, answer, err)
	}
	return r, nil
}

func (b *bench) mustAsk(i compute.Instance, o order) reply {
	b.t.Helper()
	r, err := b.ask(i, o)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// boots gives the mark of the process behind each instance.
func (b *bench) boots(s compute.Set) map[string]string {
	b.t.Helper()
	marks := map[string]string{}
	for _, i := range s.Instances {
		marks[i.ID] = b.mustAsk(i, order{}).Boot
	}
	return marks
}

// output reads all that a query gives.
func (b *bench) output(q compute.LogQuery) string {
	b.t.Helper()
	text, err := b.tryOutput(q)
	if err != nil {
		b.t.Fatalf("logs of %+v: %v", q, err)
	}
	return text
}

func (b *bench) tryOutput(q compute.LogQuery) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := b.engine.Logs(ctx, q)
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	_, err = io.Copy(&text, r)
	return text.String(), errors.Join(err, r.Close())
}

// awaitOutput waits until the output holds a text. Output has no event to wait for, so it is looked at again.
func (b *bench) awaitOutput(q compute.LogQuery, what string) string {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		text, err := b.tryOutput(q)
		if err == nil && bytes.Contains([]byte(text), []byte(what)) {
			return text
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("waited %s for %q in the output of %+v (error: %v):\n%s", patience, what, q, err, text)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
