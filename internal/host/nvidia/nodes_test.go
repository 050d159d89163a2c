package nvidia

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
)

// Grants of different MIG devices share the node of their GPU alone, and a grant
// holds no capability of a device that it does not name.
func TestMIGDevicesHaveTheirOwnCapabilities(t *testing.T) {
	root := host.Root(t.TempDir())
	put := func(path, text string) {
		path = root.Path(path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const gpusThere, instances = 3, 7
	next := 1
	own := map[string][]string{} // capability nodes by "pci gi/ci"
	for g := range gpusThere {
		pci := fmt.Sprintf("0000:%02x:00.0", g)
		put(gpus+"/"+pci+"/information", fmt.Sprintf("Model: \t H100\nGPU UUID: \t GPU-%d\nDevice Minor: \t %d\n", g, 9-g))
		for gi := 1; gi <= instances; gi++ {
			base := fmt.Sprintf("%s/capabilities/gpu%d/mig/gi%d", proc, 9-g, gi)
			put(base+"/access", fmt.Sprintf("DeviceFileMinor: %d\n", next))
			put(base+"/ci0/access", fmt.Sprintf("DeviceFileMinor: %d\n", next+1))
			own[fmt.Sprintf("%s %d/0", pci, gi)] = []string{fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", next), fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", next+1)}
			next += 2
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(t, "devices")
		grant := gpu.Grant{Sharing: gpu.SharingMIG}
		want := map[string]bool{}
		for i := range n {
			g, gi := rapid.IntRange(0, gpusThere-1).Draw(t, "gpu"), rapid.IntRange(1, instances).Draw(t, "instance")
			pci, mig := fmt.Sprintf("00000000:%02X:00.0", g), fmt.Sprintf("%d/0", gi) // as NVML writes it
			grant.GPUs, grant.PCI, grant.MIG = append(grant.GPUs, gpu.ID(fmt.Sprintf("MIG-%d", i))), append(grant.PCI, pci), append(grant.MIG, mig)
			want[fmt.Sprintf("/dev/nvidia%d", 9-g)] = true
			for _, node := range own[fmt.Sprintf("0000:%02x:00.0 %s", g, mig)] {
				want[node] = true
			}
		}
		got, err := OwnNodes(root, grant)
		if err != nil || len(got) != len(want) || slices.ContainsFunc(got, func(p string) bool { return !want[p] }) {
			t.Fatalf("%v of %v: %v, %v; want %v", grant.MIG, grant.PCI, got, err, want)
		}
	})
}

// TestMissingNodesAreMade by NVIDIA's program, once and without this process's variables;
// nothing runs where all are there.
func TestMissingNodesAreMade(t *testing.T) {
	root, bin := host.Root(t.TempDir()), t.TempDir()
	for path, text := range map[string]string{gpus + "/0000:01:00.0/information": "Device Minor: \t 3\n", "/dev/nvidiactl": ""} {
		if err := os.MkdirAll(filepath.Dir(root.Path(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root.Path(path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	asked := filepath.Join(bin, "asked")
	script := fmt.Sprintf("#!/bin/sh\necho \"$*$NOMAD_TOKEN\" >> %s\n: > %s\n: > %s\n", asked, root.Path("/dev/nvidia-uvm"), root.Path("/dev/nvidia3"))
	if err := os.WriteFile(filepath.Join(bin, "nvidia-modprobe"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	t.Setenv("NOMAD_TOKEN", "secret")
	grant := gpu.Grant{GPUs: []gpu.ID{"GPU-1"}, PCI: []string{"00000000:01:00.0"}}
	if paths, err := Nodes(root, grant); err == nil {
		t.Errorf("another root than this machine's: %v", paths)
	}
	for range 2 {
		paths, err := nodes(root, grant, true)
		if err != nil || !slices.Equal(paths, []string{"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia3"}) {
			t.Errorf("%v, %v", paths, err)
		}
	}
	if text, _ := os.ReadFile(asked); string(text) != "-u -c 0 -c 3\n" {
		t.Errorf("asked %q", text)
	}
}
