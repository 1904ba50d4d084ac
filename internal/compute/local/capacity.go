package local

import (
	"fmt"
	"path/filepath"
	"runtime"
	"slices"

	"portico/internal/compute"
	"portico/internal/online"
)

// Machine is what instances share.
type Machine struct {
	CPUs      int
	MemoryMiB int
	GPUs      int
}

// DiscoverMachine looks at this machine: the processors that this process may use, the memory that the system
// (or the container) has, and the NVIDIA devices that are there.
func DiscoverMachine() (Machine, error) {
	memory, err := memoryMiB()
	if err != nil {
		return Machine{}, fmt.Errorf("find the machine's memory: %w", err)
	}
	gpus, err := filepath.Glob(gpuDevices)
	if err != nil {
		return Machine{}, fmt.Errorf("find GPUs: %w", err)
	}
	return Machine{CPUs: runtime.NumCPU(), MemoryMiB: memory, GPUs: len(gpus)}, nil
}

// gpuDevices match the device files of NVIDIA GPUs, numbered from 0.
const gpuDevices = "/dev/nvidia[0-9]*"

// demand is what instances take together.
type demand struct {
	instances, cpus, memoryMiB, gpus int
}

func (d demand) plus(t online.InstanceType, count int) demand {
	return demand{d.instances + count, d.cpus + count*t.CPUs, d.memoryMiB + count*t.MemoryMiB, d.gpus + count*t.GPUs}
}

// admit says whether count more instances of a type may run beside what runs now. The error wraps
// compute.ErrCapacity and shows the arithmetic.
func admit(m Machine, policy Overcommit, maxInstances int, now demand, t online.InstanceType, count int) error {
	then := now.plus(t, count)
	refuse := func(what string, used, each, have int) error {
		return fmt.Errorf("%w: %s in use %d + %d x %d (%s) = %d, this machine has %d",
			compute.ErrCapacity, what, used, count, each, t.Name, used+count*each, have)
	}
	switch {
	case t.GPUs > 0 && then.gpus > m.GPUs:
		return refuse("GPUs", now.gpus, t.GPUs, m.GPUs)
	case then.instances > maxInstances:
		return fmt.Errorf("%w: instances in use %d + %d = %d, the engine's limit is %d",
			compute.ErrCapacity, now.instances, count, then.instances, maxInstances)
	case policy != OvercommitStrict:
		return nil
	case then.cpus > m.CPUs:
		return refuse("CPUs", now.cpus, t.CPUs, m.CPUs)
	case then.memoryMiB > m.MemoryMiB:
		return refuse("memory (MiB)", now.memoryMiB, t.MemoryMiB, m.MemoryMiB)
	}
	return nil
}

// freeGPUs picks the lowest n device numbers that nobody has. admit has made sure that there are enough.
func freeGPUs(total, n int, taken []int) []int {
	var free []int
	for device := range total {
		if len(free) == n {
			break
		}
		if !slices.Contains(taken, device) {
			free = append(free, device)
		}
	}
	return free
}
