package variant

import (
	"testing"

	"aliquot.example/internal/gpu"
)

// A model of 15 GiB does not fit two MIG devices of 10 GiB: no CUDA process has both.
// Two whole GPUs it has.
func TestMemoryIsWhatOneProcessCanUse(t *testing.T) {
	spec := Spec{Variants: []Variant{
		{Name: "large", Image: "x:large", Constraints: []Constraint{{Attribute: "memory", Operator: ">=", Value: "15 GiB"}}},
		{Name: "small", Image: "x:small"},
	}}
	grant := gpu.Grant{Vendor: gpu.NVIDIA, GPUs: []gpu.ID{"a", "b"}, Slices: 2, Total: 1, Memory: 20480}
	for sharing, want := range map[gpu.Sharing]string{gpu.SharingMIG: "small", gpu.SharingNone: "large", gpu.SharingPartition: "large"} {
		grant.Sharing = sharing
		choice, err := Choose(spec, &grant)
		if err != nil || choice.Variant != want {
			t.Errorf("%s: %q, %v; want %q", sharing, choice.Variant, err, want)
		}
	}
	grant.Sharing = gpu.SharingMIG
	if got := grant.Env()[gpu.EnvProcessMemory]; got != "10240" {
		t.Errorf("%s is %s MiB", gpu.EnvProcessMemory, got)
	}
}
