package environment

import (
	"os"

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
