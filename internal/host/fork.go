package host

import (
	"encoding/json"
	"time"
)

// Bounds of fork servers and of what they fork.
const (
	MaxSpares        = 8                      // forks of one fork server that wait for a start
	forkReadyTimeout = 2 * time.Minute        // from the start of a fork server to its report
	forkTimeout      = 10 * time.Second       // one fork, set up and waiting for its plan
	spareDelay       = 200 * time.Millisecond // before a spare is replaced: what was just started comes first
	maxForkReport    = 64 << 10               // bytes of a fork server's report
	forksToldAlike   = 32                     // of the pages that one worker wrote to, before another is looked at
)

// ForkSpec makes a process a fork server: one that other processes can be started from (ProcessSpec.From).
//
// Its descriptor 3 is a socket that keeps the bounds of messages. It sends one there, a JSON object, when it can fork:
// {"unfit": "why"} says that it never will, everything else is the caller's and given back as Process.Report. From then
// on it gets one message per fork, {"isolate": bool}, with descriptors: a stream socket for the child, and files of
// cgroups into each of which the child writes a 0. The child must have the supervisor as its parent. On its socket, one
// JSON object a line, it says {} once it leads a session and has, if it is to isolate itself, user, mount and IPC
// namespaces of its own; is told {"uid": N, "touch": vector}; gives up everything but that id and says {}; may write to
// the pages of the vector, an array of struct iovec in base64, ahead of time, which costs nobody anything now; is told
// argv, env, dir and files, the numbers that the descriptors with that message must get; says {} and is the process.
// Where it fails it says {"error": "why"}, as does the fork server when it cannot fork.
type ForkSpec struct {
	Spares int `json:"spares,omitempty"` // forks that wait for a start, at most MaxSpares
}

// forkOrder is what a fork server is told.
type forkOrder struct {
	Isolate bool `json:"isolate"`
}

// forkIdentity is what a fork is told first.
type forkIdentity struct {
	UID   int    `json:"uid"`
	Touch []byte `json:"touch,omitempty"` // pages that the last fork wrote to, as the kernel takes them (struct iovec)
}

// forkPlan makes a fork the process that was asked for. It holds the environment and travels over the socket only.
type forkPlan struct {
	Argv  []string          `json:"argv"`
	Env   map[string]string `json:"env"`
	Dir   string            `json:"dir"`
	Files []int             `json:"files"`
}

// unfitReport is a report that says that there will be no forks.
type unfitReport struct {
	Unfit string `json:"unfit"`
}

// unfit gives the reason of a report; empty for a fork server that is ready.
func unfit(report json.RawMessage) (string, error) {
	var r unfitReport
	if err := json.Unmarshal(report, &r); err != nil {
		return "", err
	}
	return r.Unfit, nil
}
