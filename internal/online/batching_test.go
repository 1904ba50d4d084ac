package online

import (
	"strings"
	"testing"
	"time"
)

func TestBatching(t *testing.T) {
	s := DeploymentSpec{Batching: &Batching{MaxSize: 16}, EnvironmentVariables: map[string]Secret{"WORKER_COUNT": "3"}}
	s.Default()
	if faults := s.Batching.validate(s.Request.MaxConcurrent); len(faults) > 0 || s.Batching.MaxWait != DefaultBatchWait ||
		s.Request.MaxConcurrent != 96 {
		t.Errorf("%+v, %d concurrent: %v", s.Batching, s.Request.MaxConcurrent, faults)
	}
	given := DeploymentSpec{Batching: &Batching{MaxSize: 16}, Request: RequestSettings{MaxConcurrent: 16}}
	given.Default()
	if given.Request.MaxConcurrent != 16 {
		t.Errorf("what was given became %d", given.Request.MaxConcurrent)
	}
	for want, bad := range map[string]struct {
		batching   Batching
		concurrent int
		target     string
	}{
		"needs a max size":       {Batching{}, 1, "properties." + PropertyBatchSize},
		"max size 1 ":            {Batching{MaxSize: 1}, 1, "properties." + PropertyBatchSize},
		"max size 257 ":          {Batching{MaxSize: 257}, 1000, "properties." + PropertyBatchSize},
		"no batch could be full": {Batching{MaxSize: 16}, 15, "requestSettings.maxConcurrentRequestsPerInstance"},
		"max wait 1.001s ":       {Batching{MaxSize: 2, MaxWait: 1001 * time.Millisecond}, 2, "properties." + PropertyBatchWait},
		"max wait 1µs ":          {Batching{MaxSize: 2, MaxWait: time.Microsecond}, 2, "properties." + PropertyBatchWait},
	} {
		bad.batching.fill()
		faults := bad.batching.validate(bad.concurrent)
		if len(faults) != 1 || !strings.Contains(faults[0].Message, want) || faults[0].Target != "properties."+bad.target {
			t.Errorf("%s: %v", want, faults)
		}
	}
}
