package environment

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// syncTree brings everything under dir to disk. An environment has tens of thousands of files: one call for the file
// system is quicker than one for each.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// diesWithServer makes the kernel end a process when the thread that started it ends, which it does only with this process:
// whoever bounds its time is gone then.
func diesWithServer(attr *syscall.SysProcAttr) *syscall.SysProcAttr {
	attr.Pdeathsig = syscall.SIGKILL
	return attr
}
