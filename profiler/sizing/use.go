package sizing

import (
	"context"

	nomad "github.com/hashicorp/nomad/api"
)

// Use is the most that a replica of a kind takes of its GPU, by the device plugins.
type Use struct {
	// Memory is in MiB, and Busy the part of the GPU's time in percent; 0 where that is not
	// known.
	Memory, Busy float64
}

// mostAsked bounds how many replicas of a kind are asked.
const mostAsked = 8

// Measure asks Nomad what the replicas take of their GPUs. Those that cannot be asked are
// passed over: an engine that has a cache of a fixed size says more by that.
func Measure(ctx context.Context, client *nomad.Client, running []Running) {
	q := (&nomad.QueryOptions{Namespace: nomad.AllNamespacesNamespace}).WithContext(ctx)
	for i := range running {
		r := &running[i]
		for _, id := range r.Allocs[:min(len(r.Allocs), mostAsked)] {
			alloc, _, err := client.Allocations().Info(id, q)
			if err != nil {
				continue
			}
			stats, err := client.Allocations().Stats(alloc, q)
			if err != nil {
				continue
			}
			u := useOf(stats)
			r.Use.Memory, r.Use.Busy = max(r.Use.Memory, u.Memory), max(r.Use.Busy, u.Busy)
		}
	}
}

// useOf sums up what the devices of an allocation say. Each slice says what its task takes
// of all its slices together.
func useOf(stats *nomad.AllocResourceUsage) (u Use) {
	if stats == nil || stats.ResourceUsage == nil {
		return u
	}
	for _, group := range stats.ResourceUsage.DeviceStats {
		for _, d := range group.InstanceStats {
			if d.Stats == nil {
				continue
			}
			if v := d.Stats.Attributes["task_memory"]; v != nil && v.FloatNumeratorVal != nil {
				u.Memory = max(u.Memory, *v.FloatNumeratorVal)
			}
			if v := d.Stats.Attributes["task_busy"]; v != nil && v.FloatNumeratorVal != nil {
				u.Busy = max(u.Busy, *v.FloatNumeratorVal)
			}
		}
	}
	return u
}
