package amd

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/host"
	kernel "aliquot.example/internal/host/amd"
)

func newRack(t *testing.T, gpus ...rack.AMDGPU) *rack.AMD {
	t.Helper()
	r, err := rack.NewAMD(t.TempDir(), gpus...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCardsOfEveryModelAndMode(t *testing.T) {
	for _, c := range []struct {
		model           rack.AMDModel
		compute, memory string
		parts, units    int
		xccs            int
		paired          bool
		target, profile string
	}{
		{rack.MI210, "", "", 1, 104, 1, false, "gfx90a", ""},
		{rack.MI300X, "SPX", "NPS1", 1, 304, 8, false, "gfx942", "spx/nps1"},
		{rack.MI300X, "DPX", "NPS1", 2, 152, 4, false, "gfx942", "dpx/nps1"},
		{rack.MI300X, "CPX", "NPS1", 8, 38, 1, false, "gfx942", "cpx/nps1"},
		{rack.MI300X, "CPX", "NPS4", 8, 38, 1, false, "gfx942", "cpx/nps4"},
		{rack.MI325X, "QPX", "NPS1", 4, 76, 2, false, "gfx942", "qpx/nps1"},
		{rack.MI355X, "SPX", "NPS1", 1, 256, 8, false, "gfx950", "spx/nps1"},
		{rack.RX7900XTX, "", "", 1, 96, 1, true, "gfx1100", ""},
	} {
		t.Run(c.model.Name+" "+c.compute+c.memory, func(t *testing.T) {
			r := newRack(t, rack.AMDHost(c.model, 2, c.compute, c.memory)...)
			m := machine{host.Root(r.Root)}
			nodes, errs := m.nodes()
			if errs != nil {
				t.Fatal(errs)
			}
			cards := m.cards(nodes)
			if len(cards) != 2 {
				t.Fatalf("%d cards, want 2: %+v", len(cards), cards)
			}
			seen := map[string]bool{}
			for i, got := range cards {
				if want := r.GPUs()[i].PCI; string(got.ID) != want || got.Order != i {
					t.Errorf("card %d is %s, order %d, want %s", i, got.ID, got.Order, want)
				}
				if len(got.Nodes) != c.parts || got.profile() != c.profile || got.NUMANode != i%2 {
					t.Errorf("card %s: %d nodes, profile %q, NUMA %d", got.ID, len(got.Nodes), got.profile(), got.NUMANode)
				}
				for p, n := range got.Nodes {
					if n.Shape.Units != c.units || n.Shape.XCCs != c.xccs || n.Shape.Paired != c.paired || n.Target != c.target {
						t.Errorf("partition %d of %s is %+v", p, got.ID, n)
					}
					if want := c.model.MemoryMiB << 20 / uint64(c.parts); n.Memory != want {
						t.Errorf("partition %d of %s has %d bytes, want %d", p, got.ID, n.Memory, want)
					}
					if id := fmt.Sprint(got.id(n), host.RenderNode(n.Render)); seen[id] {
						t.Errorf("%s is listed twice", id)
					} else {
						seen[id] = true
					}
				}
				if name := m.modelOf(got); name != c.model.Name {
					t.Errorf("without library and product name the card is %q, want %q", name, c.model.Name)
				}
			}
		})
	}
}

// Kernels from 6.9 on put the partition's number into bits 28 to 31.
func TestPartitionNumberApartFromTheAddress(t *testing.T) {
	r := newRack(t, rack.AMDHost(rack.MI300X, 2, "CPX", "NPS4")...)
	m := machine{host.Root(r.Root)}
	for _, n := range m.Numbered(kfdNodes) {
		path := m.Path(kfdNodes, fmt.Sprint(n), "properties")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, line := range strings.Split(string(text), "\n") {
			var location uint64
			if k, _ := fmt.Sscanf(line, "location_id %d", &location); k == 1 {
				line = fmt.Sprintf("location_id %d", location&^7|location&7<<28)
			}
			out = append(out, line)
		}
		if err := os.WriteFile(path, []byte(strings.Join(out, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	nodes, errs := m.nodes()
	if errs != nil {
		t.Fatal(errs)
	}
	cards := m.cards(nodes)
	if len(cards) != 2 || len(cards[0].Nodes) != 8 || len(cards[1].Nodes) != 8 {
		t.Fatalf("cards %+v", cards)
	}
	for p, n := range cards[1].Nodes {
		if n.Partition != p || n.Render != r.GPUs()[1].Render+p {
			t.Errorf("partition %d is %+v", p, n)
		}
	}
}

// A virtual function is a card of its own although its function is not 0.
func TestVirtualFunctionsAreCards(t *testing.T) {
	gpus := rack.AMDHost(rack.MI300X, 2, "", "")
	gpus[0].PCI, gpus[1].PCI = "0000:05:02.0", "0000:05:02.1"
	m := machine{host.Root(newRack(t, gpus...).Root)}
	nodes, _ := m.nodes()
	cards := m.cards(nodes)
	if len(cards) != 2 || cards[0].partitioned() || cards[1].ID != "0000:05:02.1" {
		t.Fatalf("cards %+v", cards)
	}
}

func TestABadNodeIsToldAndTheOthersServed(t *testing.T) {
	for _, c := range []struct {
		name, want string
		spoil      func(t *testing.T, path string)
	}{
		{"truncated line", "has no device_id", func(t *testing.T, path string) {
			rewrite(t, path, func(s string) string { return s[:strings.Index(s, "device_id")+9] })
		}},
		{"truncated file", "has no vendor_id", func(t *testing.T, path string) {
			rewrite(t, path, func(s string) string { return s[:strings.Index(s, "vendor_id")] })
		}},
		{"empty file", "has no simd_count", func(t *testing.T, path string) { rewrite(t, path, func(string) string { return "" }) }},
		{"no number", "has no simd_per_cu", func(t *testing.T, path string) {
			rewrite(t, path, func(s string) string { return strings.Replace(s, "simd_per_cu 4", "simd_per_cu four", 1) })
		}},
		{"division by zero", "which no GPU has", func(t *testing.T, path string) {
			rewrite(t, path, func(s string) string { return strings.Replace(s, "simd_per_cu 4", "simd_per_cu 0", 1) })
		}},
		{"too large", "is larger than", func(t *testing.T, path string) {
			rewrite(t, path, func(s string) string { return s + strings.Repeat("x", host.MaxFile) })
		}},
		{"a directory", "KFD node 3", func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o755)); err != nil {
				t.Fatal(err)
			}
		}},
		{"gone", "KFD node 3", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := machine{host.Root(newRack(t, rack.AMDHost(rack.MI210, 3, "", "")...).Root)}
			c.spoil(t, m.Path(kfdNodes, "3", "properties"))
			nodes, errs := m.nodes()
			if len(nodes) != 2 || len(errs) != 1 {
				t.Fatalf("%d nodes and errors %v, want 2 nodes and one error", len(nodes), errs)
			}
			if text := errs[0].Error(); !strings.Contains(text, c.want) || strings.Contains(text, "\n") {
				t.Errorf("error %q does not hold %q on one line", text, c.want)
			}
		})
	}
}

// A partition that cannot be read moves no other, and does not make its card look
// whole.
func TestPartitionsKeepTheirNumbers(t *testing.T) {
	m := machine{host.Root(newRack(t, rack.AMDHost(rack.MI300X, 1, "CPX", "NPS1")...).Root)}
	for _, n := range []int{2, 3, 4, 5, 6, 8, 9} {
		if err := os.Remove(m.Path(kfdNodes, fmt.Sprint(n), "properties")); err != nil {
			t.Fatal(err)
		}
	}
	nodes, errs := m.nodes()
	cards := m.cards(nodes)
	if len(errs) != 7 || len(cards) != 1 || !cards[0].partitioned() {
		t.Fatalf("%d errors, cards %+v", len(errs), cards)
	}
	if id := cards[0].id(cards[0].Nodes[0]); id != "0000:05:00.0-p5" {
		t.Errorf("the readable partition is %s, want 0000:05:00.0-p5", id)
	}
}

func rewrite(t *testing.T, path string, change func(string) string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(change(string(text))), 0o644); err != nil {
		t.Fatal(err)
	}
}

// captured unpacks the topologies of real hosts (see the archive's own notes) and
// returns the directory.
func captured(t *testing.T) string {
	t.Helper()
	f, err := os.Open("../../../shared/data/captures/amd/kfd-vega10-mi210-mi308cpx.tar.gz")
	if err != nil {
		t.Skipf("the captured KFD trees are not on this machine: %v", err)
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for in := tar.NewReader(zipped); ; {
		h, err := in.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeReg:
			var text []byte
			if text, err = io.ReadAll(in); err == nil {
				err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o644))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestCapturedTopologies(t *testing.T) {
	dir := captured(t)
	for _, c := range []struct {
		tree         string
		cards, parts int
		units        int
		target       string
		memory       uint64
		first        string
		links        int // of each card
	}{
		// Four cards are joined by xGMI at each of two processors.
		{"topo-mi210-xgmi-pcie", 8, 1, 104, "gfx90a", 0, "0000:63:00.0", 3},
		{"topology-parsing-mi308/topology", 8, 4, 20, "gfx942", 51539607552, "0000:0a:00.0", 7},
		// One GPU, copied to a second node by whoever captured it.
		{"topology-parsing/topology", 1, 2, 64, "", 17163091968, "0000:19:00.0", 0},
	} {
		t.Run(c.tree, func(t *testing.T) {
			root := t.TempDir()
			kfd := filepath.Join(root, "sys/class/kfd/kfd")
			if err := os.MkdirAll(kfd, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(dir, c.tree), filepath.Join(kfd, "topology")); err != nil {
				t.Fatal(err)
			}
			m := machine{host.Root(root)}
			nodes, errs := m.nodes()
			if errs != nil {
				t.Fatal(errs)
			}
			cards := m.cards(nodes)
			if len(cards) != c.cards {
				t.Fatalf("%d cards, want %d", len(cards), c.cards)
			}
			if string(cards[0].ID) != c.first {
				t.Errorf("first card is %s, want %s", cards[0].ID, c.first)
			}
			var renders []int
			for _, card := range cards {
				if len(card.Links) != c.links || slices.Contains(card.Links, card.PCI.String()) {
					t.Errorf("card %s has links to %v, want %d", card.ID, card.Links, c.links)
				}
				if len(card.Nodes) != c.parts {
					t.Errorf("card %s has %d nodes, want %d", card.ID, len(card.Nodes), c.parts)
				}
				for _, n := range card.Nodes {
					if n.Shape.Units != c.units || n.Target != c.target {
						t.Errorf("node %+v", n)
					}
					renders = append(renders, n.Render)
				}
			}
			if got := cards[0].Nodes[0].Memory; got != c.memory {
				t.Errorf("memory %d, want %d", got, c.memory)
			}
			if c.parts != 2 && len(slices.Compact(slices.Sorted(slices.Values(renders)))) != c.cards*c.parts {
				t.Errorf("render nodes repeat: %v", renders)
			}
		})
	}
}

func FuzzProperties(f *testing.F) {
	f.Add("simd_count 416\nsimd_per_cu 4\nvendor_id 4098\ndevice_id 29711\nlocation_id 25344\ndomain 0\ndrm_render_minor 128\nnum_xcc 1\ngfx_target_version 90010\nunique_id 18446744073709551615\n")
	f.Add("simd_count 0\n")
	f.Add("simd_count 4\nsimd_per_cu 0\n")
	f.Add("location_id -1")
	f.Add("x")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := nodeOf(1, kernel.Properties(text))
		if err != nil {
			return
		}
		if n.Shape.Units < 0 || n.Shape.Units > 1<<16 || n.Shape.XCCs < 1 || n.Render < 0 {
			t.Fatalf("node %+v from %q", n, text)
		}
		if limit := n.Shape.MaxSlices(); limit > 0 && n.Shape.PerSlice(limit) < 1 {
			t.Fatalf("shape %+v", n.Shape)
		}
		if a := n.Address; a.Bus > 255 || a.Device > 31 || a.Function > 7 {
			t.Fatalf("address %+v", a)
		}
	})
}

// FuzzFiles reads files of any content at every place that is parsed.
func FuzzFiles(f *testing.F) {
	f.Add("ue: 1\nce: 2\n")
	f.Add("0x00000001 : 0x00001000 : R\n")
	f.Add("SPX, DPX, CPX")
	f.Add("-1")
	f.Add("used_memory 12")
	f.Add("\x00\xff\n::\n")
	f.Fuzz(func(t *testing.T, text string) {
		if ue, ce, err := errorCounts(text); err != nil && ue+ce != 0 {
			t.Fatal("counts with an error")
		}
		if n := badPages(text); n > strings.Count(text, "\n")+1 {
			t.Fatalf("%d bad pages", n)
		}
		for _, mode := range modes(text) {
			if mode == "" || strings.ContainsAny(mode, " /\n") {
				t.Fatalf("mode %q", mode)
			}
		}
		dir := t.TempDir()
		m := machine{host.Root(dir)}
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Number("f"); err != nil && strings.Contains(err.Error(), "\n") {
			t.Fatalf("error %q has several lines", err)
		}
		bank := kfdNodes + "/1/mem_banks/0"
		if err := os.MkdirAll(m.Path(bank), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"properties", "used_memory"} {
			if err := os.WriteFile(m.Path(bank, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		m.usedMemory(node{Node: kernel.Node{Number: 1}})
		m.bank(kfdNodes+"/1", "size_in_bytes")
	})
}
