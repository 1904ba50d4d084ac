package host

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// mountPoint is one line of /proc/self/mountinfo.
type mountPoint struct {
	root, point, options, fstype, super string
}

// readMounts lists the mounts that this thread sees, in the order in which they were made.
func readMounts() ([]mountPoint, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	var mounts []mountPoint
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		front, back, ok := strings.Cut(sc.Text(), " - ")
		a, b := strings.Fields(front), strings.Fields(back)
		if !ok || len(a) < 6 || len(b) < 3 {
			continue
		}
		mounts = append(mounts, mountPoint{
			root: unescapeMount(a[3]), point: unescapeMount(a[4]), options: a[5], fstype: b[0], super: b[2],
		})
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return mounts, nil
}

// unescapeMount undoes the kernel's octal escapes of blanks and backslashes.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
