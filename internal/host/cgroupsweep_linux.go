package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"portico/internal/durable"
)

// cgroupsFile in the state directory names every directory that the last supervisor may have had in a hierarchy. Where that is
// depends on which cgroup a supervisor is in itself, and the next one may be in another.
const cgroupsFile = "cgroups"

// cgroupKey names the cgroups of a data directory. It is of this directory alone, not of its path: another one may have the same
// path in another mount namespace, and see the same hierarchies.
func cgroupKey(dataDir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dataDir, &st); err != nil {
		return "", fmt.Errorf("identify data directory: %w", err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%d:%s", st.Dev, st.Ino, dataDir))
	return "portico-" + hex.EncodeToString(sum[:6]), nil
}

// sweepCgroups ends and removes what earlier supervisors left below bases, or where they recorded that they might, and records
// bases. Only who holds the lock of the data directory may.
func sweepCgroups(ctx context.Context, state, key string, mounts []cgroupMount, bases []string) error {
	record := filepath.Join(state, cgroupsFile)
	text, unread := os.ReadFile(record)
	if errors.Is(unread, fs.ErrNotExist) {
		unread = nil
	}
	// A record that came with a copy of another data directory names what is that one's.
	all := slices.DeleteFunc(strings.Fields(string(text)), func(base string) bool {
		return filepath.Base(base) != key || !slices.ContainsFunc(mounts, func(m cgroupMount) bool { return m.holds(base) })
	})
	all = append(all, bases...)
	slices.Sort(all)
	for _, base := range slices.Compact(all) {
		sweepCgroup(ctx, base)
	}
	var unwritten error
	if now := strings.Join(bases, "\n") + "\n"; now != string(text) {
		unwritten = durable.Replace(record, []byte(now), 0o600)
	}
	if err := errors.Join(unread, unwritten); err != nil {
		return fmt.Errorf("keep record of cgroups: %w", err)
	}
	return nil
}

// sweepCgroup removes a supervisor's directory with those of its processes, and ends what lives in them.
func sweepCgroup(ctx context.Context, base string) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return // there is none
	}
	for _, e := range entries {
		if e.IsDir() {
			dirs := []string{filepath.Join(base, e.Name())}
			ctx, cancel := context.WithTimeout(ctx, endTimeout)
			_ = endMembers(ctx, &record{Cgroups: dirs}) // what does not end keeps its cgroup, for the next supervisor
			cancel()
			removeCgroups(context.WithoutCancel(ctx), dirs)
		}
	}
	removeCgroups(ctx, []string{base})
}
