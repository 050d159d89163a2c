package share

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"aliquot.example/internal/gpu"
)

// wholes are whole GPUs of one group, at PCI addresses 0, 1, 2 and so on.
func wholes(n int, change func(i int, g *gpu.GPU)) []Offer {
	out := make([]Offer, n)
	for i := range out {
		out[i] = Offer{GPU: gpu.GPU{ID: gpu.ID(fmt.Sprintf("GPU-%d", i)), Index: i, PCI: fmt.Sprint(i), NUMANode: -1}, Group: "h100", Slices: 1, Sharing: gpu.SharingNone}
		change(i, &out[i].GPU)
	}
	return out
}

func text(islands []Island) string {
	var out []string
	for _, i := range islands {
		out = append(out, fmt.Sprintf("%d:%s", i.Number, strings.ReplaceAll(strings.Join(i.IDs, ","), "GPU-", "")))
	}
	return strings.Join(out, " ")
}

func TestIslands(t *testing.T) {
	for name, c := range map[string]struct {
		by   Joint
		gpus []Offer
		want string
	}{
		"eight on NVSwitches": {ByLink, wholes(8, func(_ int, g *gpu.GPU) { g.LinkSwitches = []string{"s0", "s1"} }), "0:0,1,2,3,4,5,6,7"},
		"two boards":          {ByLink, wholes(4, func(i int, g *gpu.GPU) { g.LinkSwitches = []string{fmt.Sprint("s", i/2)} }), "0:0,1 1:2,3"},
		"pairs by a bridge":   {ByLink, wholes(4, func(i int, g *gpu.GPU) { g.Links = []string{fmt.Sprint(i ^ 1)} }), "0:0,1 1:2,3"},
		"a cube mesh": {ByLink, wholes(8, func(i int, g *gpu.GPU) { // of a DGX-1: each quad is complete, and i is linked to i+4
			for j := range 4 {
				g.Links = append(g.Links, fmt.Sprint(i/4*4+j))
			}
			g.Links = append(g.Links, fmt.Sprint((i+4)%8))
		}), "0:0,1,2,3 1:4,5,6,7"},
		"a chain is no island of three": {ByLink, wholes(3, func(i int, g *gpu.GPU) { g.Links = [][]string{{"1"}, {"0", "2"}, {"1"}}[i] }), "0:0,1"},
		"without links":                 {ByLink, wholes(4, func(int, *gpu.GPU) {}), ""},
		"PCIe switches":                 {BySwitch, wholes(5, func(i int, g *gpu.GPU) { g.Switch = []string{"a", "b", "b", "", "a"}[i] }), "0:0,4 1:1,2"},
		"NUMA nodes":                    {ByNUMA, wholes(4, func(i int, g *gpu.GPU) { g.NUMANode = []int{1, 0, 1, -1}[i] }), "1:0,2 0:1"},
		"partitions of one card": {ByLink, wholes(3, func(i int, g *gpu.GPU) {
			g.PCI, g.Parent = []string{"a", "a", "b"}[i], gpu.ID([]string{"a", "a", "b"}[i])
		}), "0:0,1"},
	} {
		if got := text(Islands(c.gpus, c.by)); got != c.want {
			t.Errorf("%s: islands %q, want %q", name, got, c.want)
		}
	}
	mig := wholes(2, func(_ int, g *gpu.GPU) { g.NUMANode = 0 })
	mig[0].Sharing, mig[1].Sharing = gpu.SharingMIG, gpu.SharingMIG
	if got := Islands(mig, ByNUMA); got != nil {
		t.Errorf("MIG devices have islands %v", got)
	}
}

// A request goes to the island with the least room that is enough, and one too large
// for any has none.
func TestChooseAnIsland(t *testing.T) {
	islands := []Island{{0, []string{"a", "b", "c", "d"}}, {1, []string{"e", "f", "g", "h"}}, {2, []string{"i", "j"}}}
	for taken, want := range map[string]string{"": "2 0 0 none", "e": "2 1 0 none", "ij": "0 0 0 none", "abef": "0 0 0 none", "abcefgi": "0 0 0 none", "abcdfgi": "1 1 1 none"} {
		var got []string
		for _, k := range []int{2, 3, 4, 5} {
			island, ok := Choose(islands, func(id string) bool { return !strings.Contains(taken, id) }, k)
			number := fmt.Sprint(island.Number)
			if !ok {
				number = "none"
			}
			got = append(got, number)
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("taken %q: islands %s for 2, 3, 4 and 5, want %s", taken, s, want)
		}
	}
}

// No instance is in two islands, every two of an island are joined, and where some
// island has room for a request the chosen one has.
func TestIslandsAreDisjointAndChosenWithRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 16).Draw(t, "GPUs")
		linked := map[[2]int]bool{}
		gpus := wholes(n, func(i int, g *gpu.GPU) {
			g.NUMANode = rapid.IntRange(-1, 2).Draw(t, "numa")
			g.Switch = rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "switch")
			for j := range n {
				if j < i && linked[[2]int{j, i}] || j > i && rapid.Bool().Draw(t, "linked") {
					linked[[2]int{i, j}] = true
					g.Links = append(g.Links, fmt.Sprint(j))
				}
			}
		})
		taken := rapid.SliceOf(rapid.IntRange(0, 15)).Draw(t, "taken")
		free := func(id string) bool {
			return !slices.ContainsFunc(taken, func(i int) bool { return id == fmt.Sprintf("GPU-%d", i) })
		}
		for _, by := range Joints() {
			islands := Islands(gpus, by)
			seen := map[string]Offer{}
			for _, island := range islands {
				for i, id := range island.IDs {
					if _, twice := seen[id]; twice {
						t.Fatalf("%s: %s is in two islands", by, id)
					}
					o := gpus[slices.IndexFunc(gpus, func(o Offer) bool { return string(o.ID) == id })]
					seen[id] = o
					for _, other := range island.IDs[:i] {
						if !joined(seen[other], o, by) {
							t.Fatalf("%s: %s and %s are of one island and not joined", by, other, id)
						}
					}
				}
			}
			room := func(i Island) (n int) {
				for _, id := range i.IDs {
					if free(id) {
						n++
					}
				}
				return n
			}
			for k := 2; k <= 8; k++ {
				chosen, ok := Choose(islands, free, k)
				if ok != (Largest(islands) >= k) {
					t.Fatalf("%s: an island for %d of islands up to %d: %v", by, k, Largest(islands), ok)
				}
				if slices.ContainsFunc(islands, func(i Island) bool { return room(i) >= k }) && room(chosen) < k {
					t.Fatalf("%s: island %v is chosen for %d, which another has room for", by, chosen, k)
				}
			}
		}
	})
}
