package online

import (
	"slices"
	"strings"
)

// InstanceType is a size of instance. On the local engine it is a ceiling, not a reservation.
type InstanceType struct {
	Name      string `json:"name" yaml:"name"`
	CPUs      int    `json:"cpus" yaml:"cpus"`
	MemoryMiB int    `json:"memoryMiB" yaml:"memory_mib"`
	GPUs      int    `json:"gpus,omitempty" yaml:"gpus"`
	GPU       string `json:"gpu,omitempty" yaml:"gpu"` // model name
}

// Catalogue is the set of instance types in force and what the engine can offer of them.
type Catalogue struct {
	Types []InstanceType
	GPUs  int // that the engine has; GPU types are never overcommitted
}

// Find gives the type with this name, compared without regard to case.
func (c Catalogue) Find(name string) (InstanceType, bool) {
	i := slices.IndexFunc(c.Types, func(t InstanceType) bool { return strings.EqualFold(t.Name, name) })
	if i < 0 {
		return InstanceType{}, false
	}
	return c.Types[i], true
}

// Check says why an instance type cannot be used here, or nil.
func (c Catalogue) Check(name string) *Error {
	const target = "properties.instanceType"
	if name == "" {
		return Errorf(CodeBadArgument, target, "an instance type is required, for example Standard_DS3_v2")
	}
	t, ok := c.Find(name)
	if !ok {
		return Errorf(CodeBadArgument, target, "instance type %.40q is not in the catalogue; use one of %s", name, c.near(name))
	}
	if t.GPUs > c.GPUs {
		return Errorf(CodeOutOfQuota, target, "instance type %s needs %d GPU (%s) and this machine has %d; choose a CPU type, for example Standard_DS3_v2", t.Name, t.GPUs, t.GPU, c.GPUs)
	}
	return nil
}

// near lists a few names for an error message: those of the same family first.
func (c Catalogue) near(name string) string {
	const most = 6
	prefix := strings.ToLower(name)
	if len(prefix) > len("standard_d") {
		prefix = prefix[:len("standard_d")]
	}
	var same, other []string
	for _, t := range c.Types {
		if strings.HasPrefix(strings.ToLower(t.Name), prefix) {
			same = append(same, t.Name)
		} else {
			other = append(other, t.Name)
		}
	}
	all := append(same, other...)
	return strings.Join(all[:min(most, len(all))], ", ") + " (see portico config show for all)"
}

// AzureTypes are the sizes that Azure lists for managed online endpoints
// (reference-managed-online-endpoints-vm-sku-list); memory from Azure's general VM documentation.
func AzureTypes() []InstanceType { return slices.Clone(azureTypes) }

var azureTypes = []InstanceType{
	{Name: "Standard_DS1_v2", CPUs: 1, MemoryMiB: 3584},
	{Name: "Standard_DS2_v2", CPUs: 2, MemoryMiB: 7168},
	{Name: "Standard_DS3_v2", CPUs: 4, MemoryMiB: 14336},
	{Name: "Standard_DS4_v2", CPUs: 8, MemoryMiB: 28672},
	{Name: "Standard_DS5_v2", CPUs: 16, MemoryMiB: 57344},
	{Name: "Standard_D2as_v4", CPUs: 2, MemoryMiB: 8192},
	{Name: "Standard_D4as_v4", CPUs: 4, MemoryMiB: 16384},
	{Name: "Standard_D8as_v4", CPUs: 8, MemoryMiB: 32768},
	{Name: "Standard_D16as_v4", CPUs: 16, MemoryMiB: 65536},
	{Name: "Standard_E2s_v3", CPUs: 2, MemoryMiB: 16384},
	{Name: "Standard_E4s_v3", CPUs: 4, MemoryMiB: 32768},
	{Name: "Standard_E8s_v3", CPUs: 8, MemoryMiB: 65536},
	{Name: "Standard_E16s_v3", CPUs: 16, MemoryMiB: 131072},
	{Name: "Standard_F2s_v2", CPUs: 2, MemoryMiB: 4096},
	{Name: "Standard_F4s_v2", CPUs: 4, MemoryMiB: 8192},
	{Name: "Standard_F8s_v2", CPUs: 8, MemoryMiB: 16384},
	{Name: "Standard_F16s_v2", CPUs: 16, MemoryMiB: 32768},
	{Name: "Standard_F32s_v2", CPUs: 32, MemoryMiB: 65536},
	{Name: "Standard_F72s_v2", CPUs: 72, MemoryMiB: 147456},
	{Name: "Standard_NC4as_T4_v3", CPUs: 4, MemoryMiB: 28672, GPUs: 1, GPU: "T4"},
	{Name: "Standard_NC8as_T4_v3", CPUs: 8, MemoryMiB: 57344, GPUs: 1, GPU: "T4"},
	{Name: "Standard_NC16as_T4_v3", CPUs: 16, MemoryMiB: 112640, GPUs: 1, GPU: "T4"},
	{Name: "Standard_NC64as_T4_v3", CPUs: 64, MemoryMiB: 450560, GPUs: 4, GPU: "T4"},
	{Name: "Standard_NC6s_v3", CPUs: 6, MemoryMiB: 114688, GPUs: 1, GPU: "V100"},
	{Name: "Standard_NC12s_v3", CPUs: 12, MemoryMiB: 229376, GPUs: 2, GPU: "V100"},
	{Name: "Standard_NC24s_v3", CPUs: 24, MemoryMiB: 458752, GPUs: 4, GPU: "V100"},
	{Name: "Standard_NV6ads_A10_v5", CPUs: 6, MemoryMiB: 56320, GPUs: 1, GPU: "A10"},
	{Name: "Standard_NV36ads_A10_v5", CPUs: 36, MemoryMiB: 450560, GPUs: 1, GPU: "A10"},
	{Name: "Standard_NC24ads_A100_v4", CPUs: 24, MemoryMiB: 225280, GPUs: 1, GPU: "A100"},
	{Name: "Standard_NC48ads_A100_v4", CPUs: 48, MemoryMiB: 450560, GPUs: 2, GPU: "A100"},
	{Name: "Standard_NC96ads_A100_v4", CPUs: 96, MemoryMiB: 901120, GPUs: 4, GPU: "A100"},
	{Name: "Standard_ND96asr_v4", CPUs: 96, MemoryMiB: 921600, GPUs: 8, GPU: "A100"},
	{Name: "Standard_NC40ads_H100_v5", CPUs: 40, MemoryMiB: 327680, GPUs: 1, GPU: "H100"},
	{Name: "Standard_ND96isr_H100_v5", CPUs: 96, MemoryMiB: 1945600, GPUs: 8, GPU: "H100"},
}
