package sizing

import (
	"context"

	nomad "github.com/hashicorp/nomad/api"
)

// Use is the largest GPU usage of a replica of a kind, as the device plugins report it.
type Use struct {
	// Memory is in MiB. Busy is the part of the GPU's time in percent. 0 is unknown.
	Memory, Busy float64
}

// maxConcurrent bounds how many replicas of a kind are queried.
const maxConcurrent = 8

// Measure reads the GPU usage of the replicas from Nomad. It skips replicas that cannot be queried:
// for an engine with a cache of fixed size, that size is better evidence anyway.
func Measure(ctx context.Context, client *nomad.Client, running []Running) {
	q := (&nomad.QueryOptions{Namespace: nomad.AllNamespacesNamespace}).WithContext(ctx)
	for i := range running {
		r := &running[i]
		for _, id := range r.Allocs[:min(len(r.Allocs), maxConcurrent)] {
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

// useOf combines the device statistics of an allocation. Each slice reports the usage of its task
// on all its slices together, so useOf takes the maximum.
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
