package local

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"portico/internal/compute"
	"portico/internal/online"
)

func TestAdmit(t *testing.T) {
	small := online.InstanceType{Name: "S", CPUs: 2, MemoryMiB: 1000}
	gpu := online.InstanceType{Name: "G", CPUs: 1, MemoryMiB: 1000, GPUs: 1}
	m := Machine{CPUs: 4, MemoryMiB: 5000, GPUs: 1}
	for _, c := range []struct {
		name   string
		policy Overcommit
		now    demand
		typ    online.InstanceType
		count  int
		words  string // empty: admitted
	}{
		{"overcommit allows more than there is", OvercommitAllow, demand{cpus: 100}, small, 10, ""},
		{"overcommit bounds instances", OvercommitAllow, demand{instances: 15}, small, 6, "15 + 6 = 21, the engine's limit is 20"},
		{"strict fits exactly", OvercommitStrict, demand{cpus: 2}, small, 1, ""},
		{"strict refuses CPUs", OvercommitStrict, demand{cpus: 2}, small, 2, "CPUs in use 2 + 2 x 2 (S) = 6, this machine has 4"},
		{"strict refuses memory", OvercommitStrict, demand{memoryMiB: 4500}, small, 1, "4500 + 1 x 1000 (S) = 5500, this machine has 5000"},
		{"a GPU that is there", OvercommitAllow, demand{}, gpu, 1, ""},
		{"GPUs are never overcommitted", OvercommitAllow, demand{gpus: 1}, gpu, 1, "GPUs in use 1 + 1 x 1 (G) = 2, this machine has 1"},
		{"a CPU type beside used GPUs", OvercommitAllow, demand{gpus: 1}, small, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := admit(m, c.policy, 20, c.now, c.typ, c.count)
			if c.words == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			if !errors.Is(err, compute.ErrCapacity) || !strings.Contains(err.Error(), c.words) {
				t.Fatalf("got %v, want %q", err, c.words)
			}
		})
	}
}

// Whatever is admitted one after the other never exceeds the machine under the strict policy, and never its GPUs
// under any.
func TestAdmitNeverExceeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Machine{
			CPUs: rapid.IntRange(1, 32).Draw(t, "cpus"), MemoryMiB: rapid.IntRange(1, 1<<16).Draw(t, "memory"),
			GPUs: rapid.IntRange(0, 8).Draw(t, "gpus"),
		}
		policy := rapid.SampledFrom([]Overcommit{OvercommitAllow, OvercommitStrict}).Draw(t, "policy")
		const limit = 50
		var now demand
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			typ := online.InstanceType{
				Name: "T", CPUs: rapid.IntRange(1, 8).Draw(t, "c"), MemoryMiB: rapid.IntRange(1, 1<<14).Draw(t, "m"),
				GPUs: rapid.IntRange(0, 2).Draw(t, "g"),
			}
			count := rapid.IntRange(1, 5).Draw(t, "count")
			if admit(m, policy, limit, now, typ, count) == nil {
				now = now.plus(typ, count)
			}
		}
		if now.instances > limit || now.gpus > m.GPUs {
			t.Fatalf("%+v on %+v", now, m)
		}
		if policy == OvercommitStrict && (now.cpus > m.CPUs || now.memoryMiB > m.MemoryMiB) {
			t.Fatalf("%+v on %+v", now, m)
		}
	})
}

func TestFreeGPUsAreDistinct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.IntRange(0, 16).Draw(t, "total")
		taken := map[int]bool{}
		var list []int
		for left := total; left > 0; {
			n := rapid.IntRange(1, left).Draw(t, "n")
			got := freeGPUs(total, n, list)
			if len(got) != n {
				t.Fatalf("%d of %d free devices: %v", n, left, got)
			}
			for _, g := range got {
				if taken[g] || g < 0 || g >= total {
					t.Fatalf("device %d was given twice, or is not one of %d", g, total)
				}
				taken[g] = true
			}
			list = append(list, got...)
			left -= n
		}
	})
}

func TestDiscoverMachine(t *testing.T) {
	m, err := DiscoverMachine()
	if err != nil || m.CPUs < 1 || m.MemoryMiB < 64 {
		t.Fatalf("%+v, %v", m, err)
	}
}

func TestChoose(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		staying := []string{"a", "b", "c", "d", "e", "f"}[:rapid.IntRange(0, 6).Draw(t, "staying")]
		victims := rapid.SliceOfDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "other"}), rapid.ID).Draw(t, "victims")
		n := rapid.IntRange(0, len(staying)).Draw(t, "n")
		chosen := map[string]bool{}
		for _, id := range choose(staying, victims, n) {
			chosen[id] = true
		}
		if len(chosen) != n {
			t.Fatalf("chose %v, want %d", chosen, n)
		}
		// No one stays that should have gone before one that goes: a victim before all, the newer before the older.
		rank := func(index int) int {
			for _, v := range victims {
				if v == staying[index] {
					return 100
				}
			}
			return index
		}
		for i, id := range staying {
			for k, other := range staying {
				if chosen[id] && !chosen[other] && rank(k) > rank(i) {
					t.Fatalf("%s goes and %s stays; victims are %v", id, other, victims)
				}
			}
		}
	})
}
