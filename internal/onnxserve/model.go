package onnxserve

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"portico/internal/onnxrt"
)

// Model is a loaded model with its name. It is safe for concurrent use.
type Model struct {
	Name, Version string
	// RunLimit is how long one run may take; 0: for ever. It is set before there are executors.
	RunLimit time.Duration
	// Notice is told once why requests are not joined, when that is found out. It is set before there are executors; nil: nobody is.
	Notice func(text string)

	session     *onnxrt.Session
	inputs      []onnxrt.Info // as the configuration narrows them
	outputs     []onnxrt.Info // that callers see
	chosen      []int         // their numbers in the session
	inputForms  []*form       // of the inputs whose shape is another in the model; nil: none
	outputForms []*form
	maxBatch    int64            // rows of one run; 0: any
	documents   [3]func() []byte // of swagger 2, 3 and 3.1
	metadata    func() []byte
	rows        byRow
	unjoinable  string // why its rows are never joined; empty: they may be
}

func (m *Model) tell(text string) {
	if m.Notice != nil {
		m.Notice(text)
	}
}

// NewModel names a session and sees that every input can be given, and that the model is what its configuration declares.
func NewModel(name, version string, session *onnxrt.Session, declared Declared) (*Model, error) {
	for i := range session.Inputs {
		if info := &session.Inputs[i]; info.Kind != onnxrt.Tensor {
			return nil, fmt.Errorf("the input %q is no tensor; only tensors can be given", info.Name)
		}
	}
	m := &Model{Name: name, Version: version, session: session}
	if err := m.narrow(declared); err != nil {
		return nil, err
	}
	m.rows.outputs = make([]rowOutput, len(m.outputs))
	m.unjoinable = m.closed()
	for i := range m.documents {
		m.documents[i] = sync.OnceValue(func() []byte { return m.describe(i) })
	}
	m.metadata = sync.OnceValue(m.describeProtocol)
	return m, nil
}

// Inputs and Outputs describe what the model takes and gives.
func (m *Model) Inputs() []onnxrt.Info { return m.inputs }

// Outputs describes what the model gives.
func (m *Model) Outputs() []onnxrt.Info { return m.outputs }

// Request is what is asked.
type Request struct {
	Method, Path, Query []byte
	// JSONLength is the value of Inference-Header-Content-Length; nil without that field.
	JSONLength []byte
	Encoding   []byte // the value of Content-Encoding; nil without that field
	Body       []byte
}

// Answer is what is answered. Its bytes are valid until the executor's next request.
type Answer struct {
	Status int
	Kind   string // content type
	Body   []byte
	// JSONLength is for the field Inference-Header-Content-Length; 0: none.
	JSONLength int
	// Ran is how long the model ran; Failed says that it failed, which is not the caller's fault.
	Ran    time.Duration
	Failed bool
	// Terminated says that Terminate ended the run.
	Terminated bool
}

// Executor answers requests, one at a time. Only Terminate may be called by another goroutine.
type Executor struct {
	model  *Model
	runner *onnxrt.Runner
	inputs []*tensor
	all    []int // every output of the model's
	some   []int // the outputs of a run
	at     []int // of each output its place among those of the newest run
	chosen []int // their numbers in the session
	wanted []wanted
	name   [64]byte // scratch of member names
	spans  []span
	out    []byte
	head   int // bytes of out that are left free before the body
	ran    time.Duration
	shapes [][]int64 // of the inputs of the first request that others are joined with
}

// span is where a value of the body lies.
type span struct {
	name string
	at   int
}

// keptAnswer is how much memory of an answer is kept for the next request.
const keptAnswer = 1 << 20

// NewExecutor makes an executor. Before the body of an answer it leaves head bytes free in the same memory.
func (m *Model) NewExecutor(head int) (*Executor, error) {
	runner, err := m.session.NewRunner()
	if err != nil {
		return nil, fmt.Errorf("prepare a run: %w", err)
	}
	e := &Executor{model: m, runner: runner, head: head}
	for i := range m.inputs {
		e.inputs = append(e.inputs, newTensor(&m.inputs[i], m.inputForms[i], m.maxBatch))
	}
	for i := range m.outputs {
		e.all = append(e.all, i)
	}
	e.at = make([]int, len(e.all))
	return e, nil
}

// Close releases the executor.
func (e *Executor) Close() { e.runner.Close() }

// Terminate ends the run that is under way, if there is one.
func (e *Executor) Terminate() error { return e.runner.Terminate() }

// Whole is the memory of the newest answer, from the bytes that were left free on.
func (e *Executor) Whole() []byte { return e.out }

// Shrink lets go of the memory of large requests and answers. It is called when the newest answer is not needed any more.
func (e *Executor) Shrink() {
	for i, t := range e.inputs {
		if t.shrink() {
			e.runner.Forget(i)
		}
	}
	if cap(e.out) > keptAnswer {
		e.out = nil
	}
}

// Messages of the reference inference server.
const (
	notFound   = "The requested URL was not found on the server. If you entered the URL manually please check your spelling and try again."
	notAllowed = "The method is not allowed for the requested URL."
	encoded    = "The content-encoding %.40q of the body is not supported; send it as it is."
	tooLong    = "Scoring timeout after %d ms"
)

// begin prepares for an answer.
func (e *Executor) begin() {
	if cap(e.out) < e.head {
		e.out = make([]byte, e.head, e.head+1024)
	}
	e.out, e.ran = e.out[:e.head], 0
}

// Handle answers a request.
func (e *Executor) Handle(r *Request) Answer {
	e.begin()
	switch path := string(r.Path); {
	case path == "/score":
		return e.score(r)
	case path == "/":
		return e.health(r)
	case path == "/swagger.json":
		return e.swagger(r)
	case isProtocol(path):
		return e.protocol(r, path[len(protocolPrefix):])
	}
	return e.message(404, notFound)
}

func (e *Executor) health(r *Request) Answer {
	if !reads(r) {
		return e.message(405, notAllowed)
	}
	e.out = append(e.out, "Healthy"...)
	return e.answer(200, "text/html; charset=utf-8")
}

// reads says whether a request only asks for something.
func reads(r *Request) bool { return string(r.Method) == "GET" || string(r.Method) == "HEAD" }

// options answers a browser that asks for a page whether it may call; who serves the answer says so in its header.
func (e *Executor) options() Answer { return e.answer(200, "text/html; charset=utf-8") }

func (e *Executor) answer(status int, kind string) Answer {
	return Answer{Status: status, Kind: kind, Body: e.out[e.head:], Ran: e.ran}
}

const jsonKind = "application/json"

// message is an error in the form of the reference inference server.
func (e *Executor) message(status int, text string) Answer { return e.failure("message", status, text) }

func (e *Executor) failure(member string, status int, text string) Answer {
	e.out = append(e.out[:e.head], `{"`...)
	e.out = append(e.out, member...)
	e.out = append(e.out, `": `...)
	e.out = append(appendText(e.out, []byte(text)), '}')
	return e.answer(status, jsonKind)
}

// failed answers for an error, in the form whose member is given.
func (e *Executor) failed(member string, err error) Answer {
	var f *fault
	var ort *onnxrt.Error
	switch {
	case errors.As(err, &f):
		return e.failure(member, f.status, f.message)
	case errors.Is(err, onnxrt.ErrTerminated):
		a := e.failure(member, 503, "canceled")
		a.Failed, a.Terminated = true, true
		return a
	case errors.Is(err, errLimit):
		a := e.failure(member, 500, fmt.Sprintf(tooLong, e.model.RunLimit.Milliseconds()))
		a.Failed = true
		return a
	case errors.As(err, &ort) && ort.Input:
		return e.failure(member, 400, "The model refuses this input: "+ort.Message)
	}
	a := e.failure(member, 500, "The model failed on this input: "+err.Error())
	a.Failed = true
	return a
}

// plain sees that the body is not compressed.
func plain(r *Request) error {
	if len(r.Encoding) == 0 || strings.EqualFold(string(r.Encoding), "identity") {
		return nil
	}
	return &fault{415, fmt.Sprintf(encoded, r.Encoding)}
}

// run gives the runner its inputs and runs the model.
func (e *Executor) run(outputs []int) error {
	for i, t := range e.inputs {
		if err := t.give(e.runner, i); err != nil {
			return err
		}
	}
	e.chosen = e.chosen[:0]
	for n, o := range outputs {
		e.chosen = append(e.chosen, e.model.chosen[o])
		e.at[o] = n
	}
	e.runner.Choose(e.chosen)
	began := time.Now()
	err := e.within(e.model.RunLimit)
	e.ran = time.Since(began)
	return err
}

// errLimit says that the run was ended because it took longer than RunLimit.
var errLimit = errors.New("the run took too long")

// again is how long after a run should have ended it is told so again: the first time it may not have begun.
const again = 10 * time.Millisecond

// within runs the model for as long as it may.
func (e *Executor) within(limit time.Duration) error {
	if limit == 0 {
		return e.runner.Run()
	}
	ended, watched := make(chan struct{}), make(chan bool, 1)
	go func() {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		for late := false; ; late = true {
			select {
			case <-ended:
				watched <- late
				return
			case <-timer.C:
				_ = e.runner.Terminate() // without a way to end it the run goes on, until the deadline of its request
				timer.Reset(again)
			}
		}
	}()
	err := e.runner.Run()
	close(ended)
	if late := <-watched; late && errors.Is(err, onnxrt.ErrTerminated) {
		return errLimit
	}
	return err
}

// reset prepares the inputs for a request.
func (e *Executor) reset() {
	for _, t := range e.inputs {
		t.reset()
	}
}

// input finds an input by its name.
func (e *Executor) input(name []byte) *tensor {
	for _, t := range e.inputs {
		if t.info.Name == string(name) {
			return t
		}
	}
	return nil
}

// inputNames lists the inputs for an error.
func (e *Executor) inputNames() string { return names(e.model.inputs) }

func names(infos []onnxrt.Info) string {
	text := ""
	for i := range infos {
		if i > 0 {
			text += ", "
		}
		text += infos[i].Name
	}
	return text
}
