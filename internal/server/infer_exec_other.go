//go:build !linux

package server

import (
	"context"
	"syscall"
)

// diesWithParent does nothing here: after kill -9 of this process its workers must be ended by hand.
func diesWithParent(attr *syscall.SysProcAttr) *syscall.SysProcAttr { return attr }

// endGroup does nothing here: what a worker's code started and left behind is not ended with it.
func endGroup(int) {}

// adopts: see infer_reap_linux.go.
func adopts() bool { return false }

// reap does nothing here: no container begins with this process.
func (l *execLauncher) reap(context.Context) {}
