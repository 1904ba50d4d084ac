//go:build !linux

package host

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// ownRoot is what Linux alone has.
type ownRoot struct {
	egress *egress
	out    bool
}

type egress struct{}

func (*egress) close(*children) {}

func (s *supervisor) openEgress(*proc) error { return errNoRoots }

func (s *supervisor) endCutOff(*proc) {}

var errNoRoots = errors.New("processes have no root file systems of their own on this system")

func (s *supervisor) makeRoot(*Root, string, int, []binding) (*ownRoot, error) {
	return nil, errNoRoots
}

func (s *supervisor) probeRoot(context.Context, bool) error { return errNoRoots }

func newSocket(*os.File) (int, error) { return -1, errNoRoots }

func (r *ownRoot) again() (*os.File, error)    { return nil, errNoRoots }
func (r *ownRoot) attr() *syscall.SysProcAttr  { return nil }
func (r *ownRoot) enter(*stagePlan) []*os.File { return nil }
func (r *ownRoot) started(int) error           { return errNoRoots }
func (r *ownRoot) close()                      {}
