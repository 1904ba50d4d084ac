package local

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// The files in which a control group's memory limit is seen from inside, of cgroup v2 and v1.
var memoryLimitFiles = []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}

// memoryMiB is the memory of the machine or, where it is less, of the control group that this process runs in.
func memoryMiB() (int, error) {
	const file = "/proc/meminfo"
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	total := 0
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "MemTotal: %d kB", &total); err == nil {
			break
		}
	}
	if total /= 1 << 10; total == 0 {
		return 0, fmt.Errorf("%s does not say MemTotal", file)
	}
	for _, file := range memoryLimitFiles {
		// A file that is missing, or says "max", sets no limit.
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if limit, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil {
			total = int(min(uint64(total), max(limit>>20, 1)))
		}
	}
	return total, nil
}
