package onnxserve_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"portico/internal/onnxserve"
)

// TestRunLimit: a run that takes too long is ended, whichever way it was asked for, and the next one is not.
func TestRunLimit(t *testing.T) {
	m := open(t, "slow")
	m.RunLimit = 50 * time.Millisecond
	e, err := m.NewExecutor(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	const forever = `{"input_data": [1000000000000]}`
	for _, c := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/score", `{"input_data": [10]}`, 200, "[1.0]"},
		{"/score", forever, 500, `{"message": "Scoring timeout after 50 ms"}`},
		{"/score", `{"input_data": [10]}`, 200, "[1.0]"},
		{"/v2/models/slow/infer", `{"inputs": [{"name": "` + m.Inputs()[0].Name + `", "shape": [1], "datatype": "INT64", "data": [1000000000000]}]}`,
			500, `{"error": "Scoring timeout after 50 ms"}`},
		{"/score", `{"input_data": [10]}`, 200, "[1.0]"},
	} {
		if status, body := post(e, c.path, c.body); status != c.status || body != c.want {
			t.Errorf("%s: %d %s, want %s", c.body, status, body, c.want)
		}
	}
}

// TestRunLimitOfABatch: the requests of a batch that takes too long have their answer, and are not run again.
func TestRunLimitOfABatch(t *testing.T) {
	m := open(t, "slow-rows")
	m.RunLimit = 50 * time.Millisecond
	e, err := m.NewExecutor(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	times := func(n int) string {
		return fmt.Sprintf(`{"inputs": [{"name": "times", "datatype": "INT64", "shape": [1], "data": [%d]}]}`, n)
	}
	requests := []onnxserve.Request{score(`{"input_data": [1000000000000]}`), score(`{"input_data": [10]}`), score(`{"input_data": ["x"]}`),
		infer("slow-rows", times(10)), infer("slow-rows", `{"inputs": []}`)}
	want := []asked{
		{status: 500, body: `{"message": "Scoring timeout after 50 ms"}`}, {status: 500, body: `{"message": "Scoring timeout after 50 ms"}`},
		{status: 400, body: `{"message": "Input`}, {status: 500, body: `{"error": "Scoring timeout after 50 ms"}`}, {status: 400, body: `{"error": "Input`},
	}
	for i, got := range joint(t, e, requests) {
		if got.status != want[i].status || !strings.HasPrefix(got.body, want[i].body) {
			t.Errorf("%d: %d %s, want %v", i, got.status, got.body, want[i])
		}
	}
	if got := joint(t, e, []onnxserve.Request{score(`{"input_data": [10]}`), infer("slow-rows", times(10))}); got[0].status != 200 || got[1].status != 200 {
		t.Errorf("the next: %v", got)
	}
}
