package amd

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
)

// Whatever kernel wrote the topology, and whichever of its nodes cannot be read,
// each partition that can be keeps its own render node.
func TestPartitionsKeepTheirRenderNodes(t *testing.T) {
	root := host.Root(t.TempDir())
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SampledFrom([]int{2, 3, 4, 8}).Draw(t, "partitions")
		apart := rapid.Bool().Draw(t, "partition apart from the function")
		lost := rapid.SliceOfN(rapid.Bool(), parts, parts).Draw(t, "unreadable")
		bus := rapid.Uint64Range(0, 255).Draw(t, "bus")
		var nodes []Node
		for p := range parts {
			location := bus<<8 | uint64(p)
			if apart {
				location = bus<<8 | uint64(p)<<28
			}
			if !lost[p] {
				nodes = append(nodes, NodeOf(parts-p, map[string]uint64{"location_id": location, "drm_render_minor": uint64(128 + p)}))
			}
		}
		pci := host.PCI{Bus: int(bus)}.String()
		for p := range parts {
			minor, err := RenderMinor(root, nodes, PartID(gpu.ID(pci), p), pci)
			switch {
			case lost[p] && err == nil:
				t.Fatalf("partition %d, which cannot be read, has render node %d", p, minor)
			case !lost[p] && (err != nil || minor != 128+p):
				t.Fatalf("partition %d has render node %d, %v", p, minor, err)
			}
		}
	})
}

func TestPropertiesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.MapOf(rapid.StringMatching(`[a-z_]{1,12}`), rapid.Uint64()).Draw(t, "properties")
		text := ""
		for name, n := range want {
			text += fmt.Sprintf("%s %d\n", name, n)
		}
		// A line that is not a property is skipped.
		for _, odd := range []string{"name n/a\n", "alone\n", "BELOW -1\n", "\n"} {
			if rapid.Bool().Draw(t, "odd") {
				text += odd
			}
		}
		if got := Properties(text); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%v; want %v", got, want)
		}
	})
}
