package online

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// TestSamples: the share that is kept is the rate, everybody decides alike, and a lower rate keeps part of the same.
func TestSamples(t *testing.T) {
	const n = 20000
	for _, rate := range []float64{0, 0.01, 0.25, 0.5, 0.999, 1} {
		c, half := Collection{SamplingRate: rate}, Collection{SamplingRate: rate / 2}
		kept := 0
		for i := range n {
			id := fmt.Sprintf("id-%d", i)
			if c.Samples(id) {
				kept++
			} else if half.Samples(id) {
				t.Fatalf("%s is kept at %g and not at %g", id, rate/2, rate)
			}
		}
		// Five standard deviations: the ids are fixed, so that this holds or not for ever.
		if bound := 5 * math.Sqrt(n*rate*(1-rate)); math.Abs(float64(kept)-n*rate) > bound {
			t.Errorf("at %g %d of %d are kept", rate, kept, n)
		}
	}
}

// TestSampleOfWorkers: the Python worker makes the same choice of the same ids (workers/python/tests has this list too).
func TestSampleOfWorkers(t *testing.T) {
	var got []string
	for i := range 20 {
		if id := fmt.Sprintf("request-%d", i); (&Collection{SamplingRate: 0.4}).Samples(id) {
			got = append(got, id)
		}
	}
	if want := "request-1 request-4 request-5 request-10 request-11 request-19"; strings.Join(got, " ") != want {
		t.Errorf("%s, want %s", strings.Join(got, " "), want)
	}
}

func TestFolder(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.FixedZone("east", 3600))
	for rate, want := range map[string]string{"Year": "2026", "Month": "2026/03", "Day": "2026/03/04", "Hour": "2026/03/04/04",
		"Minute": "2026/03/04/04/06"} {
		if got := (&DataCollector{RollingRate: rate}).Folder(at); got != want {
			t.Errorf("%s: %s, want %s", rate, got, want)
		}
	}
}

func TestDataCollectorValidate(t *testing.T) {
	on := func(names ...string) *DataCollector {
		c := &DataCollector{RollingRate: "Hour"}
		for _, n := range names {
			c.Collections = append(c.Collections, Collection{Name: n, Enabled: true, SamplingRate: 1})
		}
		return c
	}
	for _, c := range []struct {
		in     *DataCollector
		target string // of the only fault; empty: none
	}{
		{nil, ""},
		{on("model_inputs", "model_outputs", "request", "response", "a", "b", "c"), ""},
		{on("a", "b", "c", "d", "e", "f"), "properties.dataCollector.collections"},
		{on("../x"), "properties.dataCollector.collections"},
		{on("in", "IN"), "properties.dataCollector.collections.IN"},
		{&DataCollector{RollingRate: "Week"}, "properties.dataCollector.rollingRate"},
		{&DataCollector{RollingRate: "Day", Collections: []Collection{{Name: "a", SamplingRate: math.NaN()}}},
			"properties.dataCollector.collections.a.samplingRate"},
	} {
		faults := c.in.validate()
		if c.target == "" && len(faults) > 0 || c.target != "" && (len(faults) != 1 || faults[0].Target != c.target) {
			t.Errorf("%+v: %v, want a fault of %q", c.in, faults, c.target)
		}
	}
}
