package aliquot

import (
	"slices"
	"strings"
	"testing"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
	kernel "aliquot.example/internal/host/intel"
)

func TestIntelFunctionGetsItsRenderNodeOnly(t *testing.T) {
	root := tree{t, t.TempDir()}
	if _, err := rack.NewIntel(root.dir, rack.IntelGPU{PCI: "0000:03:00.0", Device: 0xe211, Driver: "xe", Render: 128, MemoryMiB: 24576, Functions: 2, QuotaMiB: 9000}); err != nil {
		t.Fatal(err)
	}
	s := attachSettings(root, AttachAuto)
	g := gpu.Grant{Vendor: gpu.Intel, Group: "arc-pro-b60-vf-2", GPUs: []gpu.ID{"0000:03:00.2"}, PCI: []string{"0000:03:00.2"}, Slices: 1, Total: 1, Sharing: gpu.SharingFunction, Enforcement: gpu.EnforceFunction}
	a, err := s.attachTo(g, TaskConfig{}, []string{"runc", "nvidia"})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"/dev/dri/renderD130"}; !slices.Equal(paths(a.nodes), want) || a.how != AttachNodes {
		t.Errorf("attached by %s: %v, want %v", a.how, paths(a.nodes), want)
	}
	if len(a.mounts) != 1 || a.mounts[0].TaskPath != kernel.Links || !a.mounts[0].Readonly {
		t.Errorf("mounts %+v, want the links alone and read-only", a.mounts)
	}
	if a.env[visibleDevices] != visibleNone {
		t.Errorf("NVIDIA's runtime is asked for %q", a.env[visibleDevices])
	}
	if !intel.present(root.host()) || intel.present(nvidiaTree(t).host()) {
		t.Error("the driver's presence is not told")
	}
}

// The same through the container engine: the image by its key, one node, the mask that
// the job cannot change.
func TestIntelTaskInItsContainer(t *testing.T) {
	c := engine(t)
	probeImage(t, c, "aliquot-test:xpu")
	root := tree{t, t.TempDir()}
	if _, err := rack.NewIntel(root.dir, rack.IntelGPU{PCI: "0000:03:00.0", Device: 0xe211, Driver: "xe", Render: 128, MemoryMiB: 24576, Functions: 2, QuotaMiB: 9000}); err != nil {
		t.Fatal(err)
	}
	s := ship(t, driverConfig(root.dir, t.TempDir(), ""))
	g := gpu.Grant{
		Vendor: gpu.Intel, Group: "arc-pro-b60-vf-2", GPUs: []gpu.ID{"0000:03:00.1"}, PCI: []string{"0000:03:00.1"}, Slices: 1, Total: 1,
		Memory: 9000, Sharing: gpu.SharingFunction, Enforcement: gpu.EnforceFunction, Target: "bmg-g21",
	}
	env := reserved(g)
	env["ZE_AFFINITY_MASK"] = "0"
	job := s.job(`{"images": [{"cuda": "none:1", "xpu": "aliquot-test:xpu"}], "args": ["stay"]}`, env, map[string]string{"ZE_AFFINITY_MASK": "0,1,2,3"})
	job.User = "1000:1000"
	s.run(job)
	seen := s.seen(t, job)
	if want := []string{"/dev/dri/renderD129"}; !slices.Equal(seen.Nodes, want) {
		t.Errorf("nodes %v, want %v", seen.Nodes, want)
	}
	if seen.Env["ZE_AFFINITY_MASK"] != "0" {
		t.Errorf("ZE_AFFINITY_MASK is %q", seen.Env["ZE_AFFINITY_MASK"])
	}
	s.event(t, "image aliquot-test:xpu on arc-pro-b60-vf-2", "1 virtual function", "sr-iov (hard)", "attached by nodes")
}

// A vendor that the driver does not know is refused, and never taken for another.
func TestUnknownVendorIsRefused(t *testing.T) {
	root := nvidiaTree(t)
	g := wholeGrant()
	g.Vendor = "tenstorrent"
	_, err := attachSettings(root, AttachNodes).attachTo(g, TaskConfig{}, nil)
	if err == nil || !strings.Contains(err.Error(), `vendor "tenstorrent"`) || !strings.Contains(err.Error(), "nvidia, amd, intel") {
		t.Errorf("attached with %v", err)
	}
}
