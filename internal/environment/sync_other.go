//go:build !linux

package environment

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// syncTree brings everything to disk; only Linux can name one file system.
func syncTree(string) error { return unix.Sync() }

// diesWithServer needs Linux.
func diesWithServer(attr *syscall.SysProcAttr) *syscall.SysProcAttr { return attr }
