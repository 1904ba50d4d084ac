package onnxserve_test

import (
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
	requests := make([]onnxserve.Request, 3)
	for i, body := range []string{`{"input_data": [1000000000000]}`, `{"input_data": [10]}`, `{"input_data": ["x"]}`} {
		requests[i] = onnxserve.Request{Method: []byte("POST"), Path: []byte("/score"), Body: []byte(body)}
	}
	given := map[int]int{}
	e.Joint(requests, func(i int, a onnxserve.Answer) { given[i] = a.Status })
	if given[0] != 500 || given[1] != 500 || given[2] != 400 || len(given) != 3 {
		t.Errorf("%v", given)
	}
}
