package plugin

import (
	"maps"
	"slices"
	"testing"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

// fourGPUs are two pairs joined by a link, one next to each NUMA node.
func fourGPUs() ([]share.Offer, []*device.Device) {
	var offers []share.Offer
	var devices []*device.Device
	for i, id := range []gpu.ID{"GPU-a", "GPU-b", "GPU-c", "GPU-d"} {
		offers = append(offers, share.Offer{GPU: gpu.GPU{ID: id, PCI: string(id), NUMANode: i / 2, Links: []string{[]string{"GPU-b", "GPU-a", "GPU-d", "GPU-c"}[i]}}, Group: "h100", Slices: 1})
		devices = append(devices, &device.Device{ID: string(id), Healthy: true})
	}
	return offers, devices
}

func TestIslandsArePublished(t *testing.T) {
	offers, devices := fourGPUs()
	got := islands(offers, devices, nil)
	for name, want := range map[string]string{
		"unique.numa_0": "GPU-a,GPU-b", "unique.numa_1": "GPU-c,GPU-d", "unique.link_0": "GPU-a,GPU-b", "unique.link_1": "GPU-c,GPU-d",
		"unique.link_for_2": "GPU-a,GPU-b", "unique.numa_for_2": "GPU-a,GPU-b",
	} {
		if a := got[name]; a == nil || *a.String != want {
			t.Errorf("%s is %v, want %s", name, a, want)
		}
	}
	if size := got["link_size"]; size == nil || *size.Int != 2 || got["switch_size"] != nil || got["unique.link_for_3"] != nil {
		t.Errorf("published are %v", slices.Sorted(maps.Keys(got)))
	}
	if got := islands(offers[:1], devices[:1], nil); len(got) != 0 {
		t.Errorf("a group of one GPU has islands: %v", got)
	}
}

// The island for a request follows what is free: what a task holds, or is ill, is not.
func TestTheIslandFollowsWhatIsFree(t *testing.T) {
	offers, devices := fourGPUs()
	if got := *islands(offers, devices, map[string]bool{"GPU-b": true})["unique.link_for_2"].String; got != "GPU-c,GPU-d" {
		t.Errorf("with GPU-b taken the island is %s", got)
	}
	devices[0].Healthy = false
	if got := *islands(offers, devices, nil)["unique.link_for_2"].String; got != "GPU-c,GPU-d" {
		t.Errorf("with GPU-a ill the island is %s", got)
	}
}
