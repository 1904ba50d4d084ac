package sqlite

import "golang.org/x/sys/unix"

// mountSmall mounts a file system in memory; only root may.
func mountSmall(dir, options string) error { return unix.Mount("tmpfs", dir, "tmpfs", 0, options) }

func unmount(dir string) error { return unix.Unmount(dir, 0) }
