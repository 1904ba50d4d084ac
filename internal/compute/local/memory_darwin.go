package local

import "golang.org/x/sys/unix"

// memoryMiB is the memory of the machine.
func memoryMiB() (int, error) {
	bytes, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0, err
	}
	return int(bytes >> 20), nil
}
