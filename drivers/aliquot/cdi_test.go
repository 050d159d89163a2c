package aliquot

import (
	"slices"
	"strings"
	"testing"

	"aliquot.example/internal/gpu"
)

// migText has the shape of what NVIDIA's toolkit writes for one GPU with two MIG
// devices: the GPU's own node is listed with each of them, and every device has an
// index, a UUID and a place in "all".
const migText = `---
cdiVersion: 0.5.0
containerEdits:
  deviceNodes:
  - path: /dev/nvidia-uvm
  - path: /dev/nvidia-uvm-tools
  - path: /dev/nvidiactl
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  hooks:
  - args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib/x86_64-linux-gnu]
    hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
    - path: /dev/nvidia-caps/nvidia-cap75
    - path: /dev/nvidia-caps/nvidia-cap76
  name: "0:0"
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
    - path: /dev/nvidia-caps/nvidia-cap66
    - path: /dev/nvidia-caps/nvidia-cap67
  name: "0:1"
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia3
    - path: /dev/dri/card1
    - path: /dev/dri/renderD128
  name: "1"
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia-caps/nvidia-cap75
    - path: /dev/nvidia-caps/nvidia-cap76
    - path: /dev/nvidia-caps/nvidia-cap66
    - path: /dev/nvidia-caps/nvidia-cap67
    - path: /dev/nvidia0
    - path: /dev/nvidia3
  name: all
kind: nvidia.com/gpu
`

func migTree(t testing.TB) tree {
	r := nvidiaTree(t)
	for _, n := range []string{"nvidia-caps/nvidia-cap76", "dri/card1", "dri/renderD128"} {
		r.node("dev/"+n, 0)
	}
	r.file("proc/driver/nvidia/capabilities/gpu0/mig/gi8/ci0/access", "DeviceFileMinor: 76\n")
	r.file("etc/cdi/nvidia.yaml", migText)
	return r
}

func migGrant(devices ...string) gpu.Grant {
	g := gpu.Grant{Vendor: gpu.NVIDIA, Group: "a100-mig-1g.10gb", Sharing: gpu.SharingMIG, Enforcement: gpu.EnforceMIG, Slices: 1, Total: 1}
	for _, d := range devices {
		g.GPUs, g.PCI, g.MIG = append(g.GPUs, gpu.ID("MIG-"+d)), append(g.PCI, "0000:1b:00.0"), append(g.MIG, d)
	}
	return g
}

// A MIG device comes by CDI with its own capability nodes, not those of its neighbour
// on the same GPU, wherever the two stand in the specification.
func TestMIGByCDIIsTheGrantedDevice(t *testing.T) {
	caps := func(g gpu.Grant) []string {
		t.Helper()
		s := attachSettings(migTree(t), AttachCDI)
		a, err := s.attachTo(g, TaskConfig{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, p := range paths(a.nodes) {
			if name, ok := strings.CutPrefix(p, "/dev/nvidia-caps/nvidia-cap"); ok {
				out = append(out, name)
			}
		}
		if !slices.Contains(paths(a.nodes), "/dev/nvidia0") || slices.Contains(paths(a.nodes), "/dev/nvidia3") {
			t.Errorf("%v: nodes %v", g.MIG, paths(a.nodes))
		}
		slices.Sort(out)
		return out
	}
	for _, c := range []struct {
		grant gpu.Grant
		want  []string
	}{
		{migGrant("7/0"), []string{"66", "67"}},
		{migGrant("8/0"), []string{"75", "76"}},
		{migGrant("7/0", "8/0"), []string{"66", "67", "75", "76"}},
	} {
		if got := caps(c.grant); !slices.Equal(got, c.want) {
			t.Errorf("%v: capability nodes %v, want %v", c.grant.MIG, got, c.want)
		}
	}
}

// A whole GPU is no MIG device of it, and a specification that lacks the granted
// device brings no other in its place.
func TestCDIBringsNothingInPlaceOfWhatItLacks(t *testing.T) {
	r := migTree(t)
	first := wholeGrant()
	if _, err := attachSettings(r, AttachCDI).attachTo(first, TaskConfig{}, nil); err == nil || !strings.Contains(err.Error(), "has /dev/nvidia0 and nothing of another GPU") {
		t.Errorf("a whole GPU that the specification has only in parts: %v", err)
	}
	r.file("etc/cdi/nvidia.yaml", strings.ReplaceAll(migText, "nvidia-cap66", "nvidia-cap99"))
	if _, err := attachSettings(r, AttachCDI).attachTo(migGrant("7/0"), TaskConfig{}, nil); err == nil || !strings.Contains(err.Error(), "nvidia-ctk cdi generate") {
		t.Errorf("a specification from before the device was made: %v", err)
	}
	second := wholeGrant()
	second.GPUs, second.PCI = []gpu.ID{"GPU-4"}, []string{"0000:3b:00.0"}
	a, err := attachSettings(r, AttachCDI).attachTo(second, TaskConfig{}, nil)
	if err != nil || !slices.Contains(paths(a.nodes), "/dev/dri/renderD128") || slices.Contains(paths(a.nodes), "/dev/nvidia0") {
		t.Errorf("nodes %v, %v", paths(a.nodes), err)
	}
}
