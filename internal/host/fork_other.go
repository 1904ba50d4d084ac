//go:build !linux

package host

import (
	"context"
	"errors"
)

var errNoFork = errors.New("this operating system cannot fork a process into being the supervisor's child")

type forkServer struct{}

func (*forkServer) stop() {}

func (*forkServer) left() {}

func (s *supervisor) newForkServer(*proc, ForkSpec, *inherited, *undoing) error { return errNoFork }

func (s *supervisor) tend(*forkServer) {}

func (s *supervisor) reported(context.Context, *proc, Process) (Process, error) {
	return Process{}, errNoFork
}

func (s *supervisor) setUpFork(*proc, *ProcessSpec, *undoing) error {
	return errNoFork
}

func tryNamespaces() error { return errNoFork }
