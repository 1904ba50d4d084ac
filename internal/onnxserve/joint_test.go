package onnxserve_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"portico/internal/onnxserve"
)

// asked is what one request of several came to.
type asked struct {
	status int
	body   string
	ran    time.Duration
	length int // of the JSON, where something follows it
	kind   string
}

// together answers requests to /score as one.
func together(t *testing.T, e *onnxserve.Executor, bodies ...string) []asked {
	t.Helper()
	requests := make([]onnxserve.Request, len(bodies))
	for i, body := range bodies {
		requests[i] = onnxserve.Request{Method: []byte("POST"), Path: []byte("/score"), Body: []byte(body)}
	}
	return joint(t, e, requests)
}

// joint answers requests as one, each once.
func joint(t *testing.T, e *onnxserve.Executor, requests []onnxserve.Request) []asked {
	t.Helper()
	got := make([]asked, len(requests))
	times := make([]int, len(requests))
	e.Joint(requests, func(i int, a onnxserve.Answer) {
		got[i] = asked{a.Status, string(a.Body), a.Ran, a.JSONLength, a.Kind}
		times[i]++
	})
	for i, n := range times {
		if n != 1 {
			t.Errorf("request %d was answered %d times", i, n)
		}
	}
	return got
}

// TestJointRowsMeetAndPart: every request of several gets what it gets alone, from one run for all of them.
func TestJointRowsMeetAndPart(t *testing.T) {
	iris := []string{
		`{"input_data": [[5.1, 3.5, 1.4, 0.2]]}`, `{"input_data": [[6.2, 2.9, 4.3, 1.3], [7.7, 3.0, 6.1, 2.3]]}`,
		`{"input_data": {"columns": ["a", "b", "c", "d"], "data": [[5.1, 3.5, 1.4, 0.2]]}}`,
	}
	for name, bodies := range map[string][]string{
		"iris": iris, "iris-maps": iris, "iris-texts": iris,
		"columns": {
			`{"input_data": [{"size": 1.5, "color": "blue"}]}`,
			`{"input_data": {"size": [[3.5], [1.5]], "color": [["red"], ["blue"]]}}`,
			`{"input_data": {"columns": ["color", "size"], "data": [["green", 2]]}}`,
		},
		"add":      {`{"input_data": {"a": [[1, 2]], "b": [[3, 4]]}}`, `{"input_data": {"a": [[1, 2], [5, 6]], "b": [[1, 1], [1, 1]]}}`},
		"sequence": {`{"input_data": [[1, 2]]}`, `{"input_data": [[3, 4], [5, 6]]}`},
	} {
		t.Run(name, func(t *testing.T) {
			e := executor(t, name)
			var want []string
			for _, body := range bodies {
				status, answer := post(e, "/score", body)
				if status != 200 {
					t.Fatalf("%s: %d %s", body, status, answer)
				}
				want = append(want, answer)
			}
			together(t, e, bodies...) // that it answers row by row is known after this
			got := together(t, e, bodies...)
			for i := range bodies {
				if got[i].status != 200 || !near(decode(t, got[i].body), decode(t, want[i])) {
					t.Errorf("%s: %d %s, alone %s", bodies[i], got[i].status, got[i].body, want[i])
				}
				if got[i].ran != got[0].ran || got[i].ran == 0 {
					t.Errorf("%s had a run of its own", bodies[i])
				}
			}
		})
	}
}

// TestJointFaultsAreOfOne: what cannot be joined is answered by itself, as it would be alone.
func TestJointFaultsAreOfOne(t *testing.T) {
	e := executor(t, "add")
	good := func(n int) string { return fmt.Sprintf(`{"input_data": {"a": [[%d, 1]], "b": [[1, 1]]}}`, n) }
	bodies := []string{
		good(1), `{"input_data": {"a": [[1, "x"]], "b": [[1, 1]]}}`, good(2), `{`,
		`{"input_data": {"a": [[1, 2, 3]], "b": [[1, 1, 1]]}}`,   // another width
		`{"input_data": {"a": [[1, 2]], "b": [[1, 1], [1, 1]]}}`, // broadcast: no common number of rows
		`{"input_data": {"a": [[1, 2]]}}`, good(3),
	}
	var want []asked
	for _, body := range bodies {
		status, answer := post(e, "/score", body)
		want = append(want, asked{status: status, body: answer})
	}
	for range 2 {
		for i, got := range together(t, e, bodies...) {
			if got.status != want[i].status || got.body != want[i].body {
				t.Errorf("%s: %d %s, alone %d %s", bodies[i], got.status, got.body, want[i].status, want[i].body)
			}
		}
	}
	got := together(t, e, bodies...)
	if got[0].ran != got[2].ran || got[0].ran != got[7].ran {
		t.Error("the good ones were not joined")
	}
}

// TestJointNeverTakesOtherResultsApart: a model whose two results are not one for each of two rows is called for each
// request. shape.onnx has one node, Shape, from x (float32, ["n", 2]) to y (int64, [2]).
func TestJointNeverTakesOtherResultsApart(t *testing.T) {
	e := executor(t, "shape")
	one, three := `{"input_data": [[1, 2]]}`, `{"input_data": [[1, 2], [3, 4], [5, 6]]}`
	for range 3 {
		for i, got := range together(t, e, one, one, three) {
			if want := []string{"[1, 2]", "[1, 2]", "[3, 2]"}[i]; got.status != 200 || got.body != want {
				t.Errorf("request %d: %d %s, want %s", i, got.status, got.body, want)
			}
		}
		for i, got := range together(t, e, one, one) {
			if got.body != "[1, 2]" {
				t.Errorf("request %d of two: %s", i, got.body)
			}
		}
	}
	if got := together(t, executor(t, "scalar"), `{"input_data": 1}`, `{"input_data": 2}`); got[0].body != "-1.0" || got[1].body != "-2.0" {
		t.Errorf("of a model without rows: %+v", got)
	}
}

// TestRaggedListsAreRefused: an empty list in the place of an element is none, alone and among others, whose rows stay theirs.
func TestRaggedListsAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ good, ragged []string }{
		"columns": {
			good: []string{`{"size": [[1]], "color": [["red"]]}`, `{"size": [[2], [3]], "color": [["blue"], ["green"]]}`},
			ragged: []string{
				`{"size": [[1], [2]], "color": [["red"], [[]]]}`, `{"size": [[1], [2]], "color": [[[]], ["red"]]}`,
				`{"size": [[1], [[]]], "color": [["red"], ["red"]]}`, `{"size": [1, []], "color": ["red", "red"]}`,
				`{"columns": ["size", "color"], "data": [[1, "red"], [2, []]]}`, `[{"size": 1, "color": "red"}, {"size": [], "color": "red"}]`,
				`{"columns": ["size", "color"], "data": [[1, ["red"]], [2, [[]]]]}`,
			},
		},
		"add": {
			good: []string{`{"a": [[1, 2]], "b": [[3, 4]]}`, `{"a": [[1, 2], [5, 6]], "b": [[1, 1], [1, 1]]}`},
			ragged: []string{
				`{"a": [[1, 2], [3, []]], "b": [[1, 1], [1, 1]]}`, `{"a": [[1, 2], [[], []]], "b": [[1, 1], [1, 1]]}`,
				`{"a": [[[], []], [1, 2]], "b": [[1, 1], [1, 1]]}`, `{"a": [[], [[]]], "b": [[], []]}`,
			},
		},
	} {
		e := executor(t, name)
		var bodies, want []string
		for i, ragged := range c.ragged {
			bodies = append(bodies, `{"input_data": `+ragged+`}`, `{"input_data": `+c.good[i%2]+`}`)
		}
		for i, body := range bodies {
			status, answer := post(e, "/score", body)
			if refused := i%2 == 0; refused != (status == 400) || refused != strings.Contains(answer, "not a regular list") {
				t.Errorf("%s: %d %s", body, status, answer)
			}
			want = append(want, answer)
		}
		for range 3 {
			for i, got := range together(t, e, bodies...) {
				if !near(decode(t, got.body), decode(t, want[i])) {
					t.Errorf("%s: %d %s, alone %s", bodies[i], got.status, got.body, want[i])
				}
			}
		}
	}
}

// TestJointLearnsNothingFromBroadcasts: a request whose inputs have no common number of rows does not keep others apart.
func TestJointLearnsNothingFromBroadcasts(t *testing.T) {
	e := executor(t, "add")
	broadcast, one := `{"input_data": {"a": [[1, 2]], "b": [[1, 1], [1, 1]]}}`, `{"input_data": {"a": [[1, 2]], "b": [[3, 4]]}}`
	for range 3 {
		got := together(t, e, broadcast, one, one)
		if got[0].body != "[[2.0, 3.0], [2.0, 3.0]]" || got[1].body != "[[4.0, 6.0]]" || got[2].body != got[1].body {
			t.Errorf("%+v", got)
		}
	}
	if got := together(t, e, one, broadcast, one); got[0].ran != got[2].ran || got[0].ran == 0 {
		t.Error("the others were not joined")
	}
}

// TestJointWithoutInputs: a model that takes nothing is asked for each request. constant.onnx has one node, Constant, to
// y (float32, [2]).
func TestJointWithoutInputs(t *testing.T) {
	e := executor(t, "constant")
	for range 2 {
		for i, got := range together(t, e, `{"input_data": {}}`, `{"input_data": {}}`) {
			if got.status != 200 || got.body != "[1.5, 2.5]" {
				t.Errorf("request %d: %d %s", i, got.status, got.body)
			}
		}
	}
}
