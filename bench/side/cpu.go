package side

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// tickHZ is the unit of times in /proc, which Linux keeps at 100 on every platform.
const tickHZ = 100

// CPU is the time that the server's processes that live now have used: user and system, all threads. 0 where there is
// no /proc.
func (s *Side) CPU() time.Duration {
	parents := map[int]int{}
	ticks := map[int]int64{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well-formed
	for _, path := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		text, readErr := os.ReadFile(path)
		if err != nil || readErr != nil {
			continue // it has ended
		}
		// After the name in brackets: state, parent, ... utime and stime are the 14th and 15th of all.
		f := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		if len(f) < 13 {
			continue
		}
		parents[pid] = number(f[1])
		ticks[pid] = int64(number(f[11]) + number(f[12]))
	}
	var total int64
	for pid, used := range ticks {
		if s.owns(pid, parents) {
			total += used
		}
	}
	return time.Duration(total) * time.Second / tickHZ
}

// owns says whether a process is the server's: its first one, one with its mark, or what these started.
func (s *Side) owns(pid int, parents map[int]int) bool {
	for ; pid > 1; pid = parents[pid] {
		if pid == s.root {
			return true
		}
		if s.mark != "" {
			line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
			if err == nil && bytes.Contains(line, []byte(s.mark)) {
				return true
			}
		}
	}
	return false
}

func number(b []byte) int {
	n, err := strconv.Atoi(string(b))
	if err != nil {
		return 0
	}
	return n
}
