package plugin

import (
	"testing"

	"aliquot/internal/gpu"
	"aliquot/internal/share"
)

func TestIslandsAreListedByNUMANode(t *testing.T) {
	offer := func(id string, numa int) share.Offer {
		return share.Offer{GPU: gpu.GPU{ID: gpu.ID(id), NUMANode: numa}, Group: "h100", Slices: 1}
	}
	got := attributesOf([]share.Offer{offer("GPU-a", 0), offer("GPU-b", 1), offer("GPU-c", 0), offer("GPU-d", -1)}, nil)
	for name, want := range map[string]string{"unique.numa_0": "GPU-a,GPU-c", "unique.numa_1": "GPU-b"} {
		if a := got[name]; a == nil || *a.String != want {
			t.Errorf("%s is %v, want %s", name, a, want)
		}
	}
	if a := attributesOf([]share.Offer{offer("GPU-a", 0)}, nil)["unique.numa_0"]; a != nil {
		t.Errorf("a group of one GPU has islands: %v", a)
	}
}
