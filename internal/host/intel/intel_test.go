package intel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
)

func machine(t *testing.T, gpus ...rack.IntelGPU) (host.Root, *rack.Intel) {
	t.Helper()
	r, err := rack.NewIntel(t.TempDir(), gpus...)
	if err != nil {
		t.Fatal(err)
	}
	return host.Root(r.Root), r
}

func put(t *testing.T, root host.Root, path, text string) {
	t.Helper()
	path = root.Path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestGPUs(t *testing.T) {
	root, _ := machine(t,
		rack.IntelGPU{PCI: "0000:03:00.0", Device: 0x0bd5, Driver: "i915", Render: 128, Tiles: 2, MemoryMiB: 131072},
		rack.IntelGPU{PCI: "0000:83:00.0", Device: 0xe211, Driver: "xe", Render: 130, MemoryMiB: 24576, NUMA: 1, Functions: 3, QuotaMiB: 7000, ForMachines: 1},
	)
	// The GPU of the processor, and a network card of Intel's.
	for pci, class := range map[string]string{"0000:00:02.0": "0x030000", "0000:05:00.0": "0x020000"} {
		put(t, root, at(pci, "vendor"), "0x8086\n")
		put(t, root, at(pci, "class"), class+"\n")
	}
	want := []GPU{
		{PCI: "0000:03:00.0", Device: 0x0bd5, Driver: "i915", Render: 128, Memory: 131072, Tiles: 2},
		{PCI: "0000:83:00.0", Device: 0xe211, Driver: "xe", Render: 130, Memory: 24576, Tiles: 1, NUMANode: 1, Functions: 3},
		{PCI: "0000:83:00.1", Device: 0xe211, Driver: "xe", Render: 131, Memory: 7000, Tiles: 1, NUMANode: 1, Parent: "0000:83:00.0", Function: 1},
		{PCI: "0000:83:00.2", Device: 0xe211, Driver: "xe", Render: 132, Memory: 7000, Tiles: 1, NUMANode: 1, Parent: "0000:83:00.0", Function: 2},
	}
	if got := GPUs(root); !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if !Present(root) || Present(host.Root(t.TempDir())) {
		t.Error("presence is not that of a discrete GPU")
	}
}

// A card that a virtual machine was given may stand where processors have their own
// GPU, which has no memory of its own.
func TestACardInTheProcessorsPlace(t *testing.T) {
	for name, c := range map[string]struct {
		gpu  rack.IntelGPU
		card bool
	}{
		"a known model, without memory": {rack.IntelGPU{Device: 0x56c0, Driver: "i915"}, true},
		"a new model, with memory":      {rack.IntelGPU{Device: 0xe2ff, Driver: "xe", MemoryMiB: 24576}, true},
		"a processor's":                 {rack.IntelGPU{Device: 0x4680, Driver: "i915"}, false},
		"a processor's, under xe":       {rack.IntelGPU{Device: 0x64a0, Driver: "xe"}, false},
	} {
		c.gpu.PCI, c.gpu.Render = "0000:00:02.0", 128
		root, _ := machine(t, c.gpu)
		if got := len(GPUs(root)) == 1; got != c.card {
			t.Errorf("%s: a card %v, want %v", name, got, c.card)
		}
	}
}

func TestProblems(t *testing.T) {
	for want, change := range map[string]func(*testing.T, host.Root, *rack.Intel){
		"":                   func(*testing.T, host.Root, *rack.Intel) {},
		"fallen off the bus": func(t *testing.T, _ host.Root, r *rack.Intel) { edit(t, r, func(g *rack.IntelGPU) { g.Lost = true }) },
		"survivability mode": func(t *testing.T, _ host.Root, r *rack.Intel) {
			edit(t, r, func(g *rack.IntelGPU) { g.Survival = true })
		},
		"no kernel driver":     func(t *testing.T, root host.Root, _ *rack.Intel) { remove(t, root, "driver") },
		"made no render node":  func(t *testing.T, root host.Root, _ *rack.Intel) { remove(t, root, "drm") },
		"bound to it; load xe": func(t *testing.T, root host.Root, _ *rack.Intel) { remove(t, root, "driver") },
	} {
		root, r := machine(t, rack.IntelGPU{PCI: "0000:03:00.0", Device: 0xe20b, Driver: "xe", Render: 128, MemoryMiB: 12288})
		change(t, root, r)
		got := GPUs(root)[0].Problem(root)
		if (got == "") != (want == "") || !strings.Contains(got, want) || strings.Contains(got, "\n") {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// The i915 of the kernel itself does not tell the memory. A whole GPU needs none.
func TestAGPUOfUnknownMemoryIsWell(t *testing.T) {
	root, _ := machine(t, rack.IntelGPU{PCI: "0000:03:00.0", Device: 0x56a0, Driver: "i915", Render: 128, MemoryMiB: 16384})
	remove(t, root, "drm/card1/lmem_total_bytes")
	g := GPUs(root)[0]
	if why := g.Problem(root); g.Memory != 0 || why != "" {
		t.Errorf("%s of memory, problem %q", g.Memory, why)
	}
}

func edit(t *testing.T, r *rack.Intel, change func(*rack.IntelGPU)) {
	t.Helper()
	if err := r.Edit("0000:03:00.0", change); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, root host.Root, name string) {
	t.Helper()
	if err := os.RemoveAll(root.Path(at("0000:03:00.0", name))); err != nil {
		t.Fatal(err)
	}
}

func TestNodesOfAGrant(t *testing.T) {
	root, _ := machine(t, rack.IntelGPU{PCI: "0000:03:00.0", Device: 0xe211, Driver: "xe", Render: 128, MemoryMiB: 24576, Functions: 2, QuotaMiB: 9000})
	for _, c := range []struct {
		grant gpu.Grant
		want  string // nodes, or part of the error
	}{
		{gpu.Grant{GPUs: []gpu.ID{"0000:03:00.2"}, PCI: []string{"0000:03:00.2"}}, "/dev/dri/renderD130 <nil>"},
		{gpu.Grant{GPUs: []gpu.ID{"a", "b"}, PCI: []string{"0000:03:00.0", "0000:03:00.1"}}, "/dev/dri/renderD128 /dev/dri/renderD129 <nil>"},
		{gpu.Grant{GPUs: []gpu.ID{"0000:04:00.0"}, PCI: []string{"0000:04:00.0"}}, "has no render node for 0000:04:00.0"},
		{gpu.Grant{GPUs: []gpu.ID{"0000:04:00.0"}}, "names no PCI address"},
	} {
		paths, err := Nodes(root, c.grant)
		text := strings.Join(paths, " ") + " <nil>"
		if err != nil {
			text = err.Error()
		}
		if !strings.Contains(text, c.want) {
			t.Errorf("got %q, want %q", text, c.want)
		}
	}
}

// A file that was duplicated counts once, files of several clients are summed, and
// files of other drivers are left out.
func TestClients(t *testing.T) {
	root := host.Root(t.TempDir())
	info := func(driver, client, pdev, rest string) string {
		return "pos:\t0\ndrm-driver:\t" + driver + "\ndrm-client-id:\t" + client + "\ndrm-pdev:\t" + pdev + "\n" + rest
	}
	const xe = "drm-resident-vram0:\t4096 KiB\ndrm-cycles-ccs:\t100\ndrm-cycles-bcs:\t900\ndrm-total-cycles-ccs:\t5000\n"
	for fd, text := range map[string]string{
		"3": info("xe", "7", "0000:03:00.0", xe), "4": info("xe", "7", "0000:03:00.0", xe),
		"5": info("xe", "8", "0000:03:00.0", "drm-resident-vram0:\t2 MiB\ndrm-cycles-ccs:\t11\ndrm-total-cycles-ccs:\t5001\n"),
		"6": info("i915", "9", "0000:04:00.0", "drm-resident-local0:\t1 GiB\ndrm-engine-compute:\t77 ns\n"),
		"7": info("amdgpu", "1", "0000:05:00.0", "drm-memory-vram:\t9 MiB\n"),
	} {
		put(t, root, "proc/12/fdinfo/"+fd, text)
		put(t, root, "proc/12/fd/x", "")
		if err := os.Symlink("/dev/dri/renderD128", root.Path("proc/12/fd", fd)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, root, "proc/13/fdinfo/3", info("xe", "10", "0000:03:00.0", xe)) // not open any more
	got := Clients(root)
	slices.SortFunc(got, func(a, b Client) int { return strings.Compare(a.PCI, b.PCI) })
	want := []Client{
		{PID: 12, PCI: "0000:03:00.0", Memory: 6, Busy: 111, Clock: 5001},
		{PID: 12, PCI: "0000:04:00.0", Memory: 1024, Busy: 77},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func FuzzFDInfo(f *testing.F) {
	f.Add("drm-driver:\txe\ndrm-pdev:\t0000:03:00.0\ndrm-resident-vram0:\t18446744073709551615 GiB\n")
	f.Add("drm-driver:\ndrm-pdev:x\n:\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, _, ok := parseFDInfo(text)
		if ok && (c.PCI == "" || strings.ContainsAny(c.PCI, " \n")) {
			t.Errorf("client %+v of %q", c, text)
		}
		if c.Memory > 1<<44 {
			t.Errorf("%s is more than can be counted in bytes", c.Memory)
		}
	})
}
