package conformance

import (
	"context"
	"path/filepath"
	"testing"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
)

// The plugin passes with every generation of the library's binary interface, and without the
// library, from the kernel's files alone.
func TestAMD(t *testing.T) {
	for _, release := range append([]string{""}, rack.AMDReleases...) {
		name := "library " + release
		if release == "" {
			name = "no library"
		}
		t.Run(name, func(t *testing.T) {
			Run(t, func(t *testing.T) Rig { return amdRig(t, release) })
		})
	}
}

func amdRig(t *testing.T, release string) Rig {
	t.Helper()
	root := t.TempDir()
	gpus := append(rack.AMDHost(rack.MI210, 1, "", ""), rack.NewAMDGPU(rack.MI300X, 1))
	r, err := rack.NewAMD(root, gpus...)
	if err != nil {
		t.Fatal(err)
	}
	lib := ""
	if release != "" {
		if lib, err = rack.BuildAMD(t.Context(), filepath.Join(folder, "rack"), release); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	go r.Follow(ctx)
	absent := func(gone bool) func(gpu.ID) error {
		return func(id gpu.ID) error {
			return r.EditGPU(string(id), func(g *rack.AMDGPU) { g.Absent, g.Lost = gone, gone })
		}
	}
	return Rig{
		Vendor: gpu.AMD, Binary: shipped(t, "aliquot-device-amd"),
		Env: r.Env(lib, plain()), Bare: plain(),
		Config:     map[string]any{"root": root, "run_dir": t.TempDir()},
		BareConfig: map[string]any{"root": t.TempDir(), "run_dir": t.TempDir()},
		Lose:       absent(true), Restore: absent(false),
		Close: cancel,
	}
}
