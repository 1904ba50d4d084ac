//go:build !linux

package compat

import (
	"errors"
	"os/exec"
)

func isolate(*exec.Cmd) bool { return false }

func loopbackUp() error { return errors.New("network namespaces are Linux's") }
