package conformance

import (
	"testing"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
)

// Intel's GPUs have no slices. The suite runs on a whole card and on the virtual functions of
// another, with each of the kernel's drivers.
func TestIntel(t *testing.T) {
	for _, driver := range []string{"xe", "i915"} {
		t.Run(driver, func(t *testing.T) {
			Run(t, func(t *testing.T) Rig { return intelRig(t, driver) })
		})
	}
}

func intelRig(t *testing.T, driver string) Rig {
	t.Helper()
	root := t.TempDir()
	r, err := rack.NewIntel(root,
		rack.IntelGPU{PCI: "0000:03:00.0", Device: 0x56c0, Driver: driver, Render: 128, MemoryMiB: 14336},
		rack.IntelGPU{PCI: "0000:83:00.0", Device: 0x56c1, Driver: driver, Render: 129, MemoryMiB: 5120, NUMA: 1, Functions: 4, QuotaMiB: 1200, ForMachines: 1},
	)
	if err != nil {
		t.Fatal(err)
	}
	absent := func(gone bool) func(gpu.ID) error {
		return func(id gpu.ID) error {
			return r.Edit(string(id), func(g *rack.IntelGPU) { g.Absent = gone })
		}
	}
	return Rig{
		Vendor: gpu.Intel, Binary: shipped(t, "aliquot-device-intel"),
		Env: plain(), Bare: plain(),
		Config:     map[string]any{"root": root, "run_dir": t.TempDir()},
		BareConfig: map[string]any{"root": t.TempDir(), "run_dir": t.TempDir()},
		Lose:       absent(true), Restore: absent(false),
		UnitsUnknown: true, Unshared: true,
	}
}
