//go:build unix

package sqlite

import (
	"errors"

	"golang.org/x/sys/unix"
)

// freeSpace is how many bytes an unprivileged writer may still add to the file system of dir.
func freeSpace(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return uint64(st.Bavail) * uint64(st.Bsize), nil //nolint:unconvert // other systems have other widths
}

// isNoSpace tells a full disk or quota.
func isNoSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
