package e2e

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/cluster"
	"aliquot.example/internal/gpu"
)

// The GPUs of the rack "h100-t4", by their place in it.
const (
	h100 = 0
	t4   = 1
)

// uuid returns the UUID of a GPU of the rack.
func uuid(t *testing.T, c *cluster.Cluster, index int) string {
	t.Helper()
	file, err := c.Rack.File()
	if err != nil {
		t.Fatal(err)
	}
	return file.GPUs[index].UUID()
}

// sliceVars returns the variables of slicesJob for one allocation of each size on one GPU.
func sliceVars(c *cluster.Cluster, name string, more cluster.Vars) cluster.Vars {
	vars := cluster.Vars{"name": name, "image": c.Image, "gpus": "^h100-"}
	for key, value := range more {
		vars[key] = value
	}
	return vars
}

// TestSlices runs the tests that restore their cluster on a shared one.
func TestSlices(t *testing.T) {
	ctx, c := start(t, cluster.Options{Rack: "h100-t4"})
	t.Run("unequal slices on one GPU", func(t *testing.T) { unequalSlices(ctx, t, c) })
	t.Run("a job that does not fit waits for room", func(t *testing.T) { waitsForRoom(ctx, t, c) })
	t.Run("all slices of a request on one GPU", func(t *testing.T) { neverSplit(ctx, t, c) })
	t.Run("image by hardware", func(t *testing.T) { imageByHardware(ctx, t, c) })
	t.Run("no matching variant", func(t *testing.T) { noMatchingVariant(ctx, t, c) })
	t.Run("attachment", func(t *testing.T) { attachment(ctx, t, c) })
	t.Run("bridge network", func(t *testing.T) { bridgeNetwork(ctx, t, c) })
}

func unequalSlices(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	allocs := run(ctx, t, c, slicesJob, sliceVars(c, "unequal", nil), 2)
	seen := infos(ctx, t, c, allocs)
	on := uuid(t, c, h100)
	for group, want := range map[string]struct{ slices, percentage, units int }{
		// Of 132 SMs; a percentage rounds down to a multiple of two.
		"small": {6, 30, 38},
		"large": {10, 50, 66},
	} {
		info := seen[group]
		if info.Grant == nil || info.CUDA == nil {
			t.Fatalf("%s: the task sees no grant or no GPU: %+v", group, info)
		}
		if info.Grant.Slices != want.slices || info.Grant.Total != 20 || info.Grant.Class != "h100" {
			t.Errorf("%s: granted %d of %d slices of %s, want %d of 20 of h100", group, info.Grant.Slices, info.Grant.Total, info.Grant.Class, want.slices)
		}
		if got := info.Environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"]; got != fmt.Sprint(want.percentage) {
			t.Errorf("%s: percentage %q, want %d", group, got, want.percentage)
		}
		device := info.CUDA.Devices[0]
		if device.UUID != on || !info.CUDA.MPS {
			t.Errorf("%s: the task is on %s (MPS %v), want MPS on %s", group, device.UUID, info.CUDA.MPS, on)
		}
		if step := 2; device.SMs != want.units || info.Grant.Units < want.units || info.Grant.Units >= want.units+step {
			t.Errorf("%s: sees %d SMs and was granted %d, want %d, and the same up to the hardware's step", group, device.SMs, info.Grant.Units, want.units)
		}
		if limit := gpu.MiB(device.Limit); limit != info.Grant.Memory || limit == 0 {
			t.Errorf("%s: memory is limited to %v, want the granted %v", group, limit, info.Grant.Memory)
		}
		if info.Variant != "nvidia" {
			t.Errorf("%s: the image is for %s, want nvidia", group, info.Variant)
		}
	}
	checkMeta(ctx, t, c, "unequal")
	checkStats(ctx, t, c, allocs)
}

// checkMeta checks that the service's meta in Consul describes the grant.
func checkMeta(ctx context.Context, t *testing.T, c *cluster.Cluster, service string) {
	t.Helper()
	for tag, want := range map[string]string{"small": "6", "large": "10"} {
		err := cluster.AwaitWithin(ctx, 30*time.Second, "passing service "+tag, func() string {
			entries, _, err := c.Consul.Health().Service(service, tag, true, nil)
			if err != nil {
				return err.Error()
			}
			if len(entries) != 1 {
				return fmt.Sprintf("there are %d", len(entries))
			}
			meta := entries[0].Service.Meta
			if meta["gpu_class"] != "h100" || meta["aliquot_slices"] != want || meta["aliquot_weight"] == "" {
				t.Errorf("meta of %s is %v, want class h100 and %s slices", tag, meta, want)
			}
			return ""
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// checkStats checks that Nomad shows for each slice which allocation holds it and how much memory
// that uses: 512 MiB each, as the model server allocates.
func checkStats(ctx context.Context, t *testing.T, c *cluster.Cluster, allocs []*nomad.Allocation) {
	t.Helper()
	for _, alloc := range allocs {
		err := cluster.AwaitWithin(ctx, 30*time.Second, "device statistics of "+alloc.Name, func() string {
			usage, err := c.Nomad.Allocations().Stats(alloc, nil)
			if err != nil {
				return err.Error()
			}
			return missingStats(usage.ResourceUsage.DeviceStats, alloc.ID, devices(t, alloc), 512)
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// missingStats returns what is missing in the statistics of an allocation whose task uses mib MiB
// of GPU memory, or "".
func missingStats(groups []*nomad.DeviceGroupStats, alloc string, slices []gpu.Slice, mib float64) string {
	found := map[string]*nomad.DeviceStats{}
	for _, group := range groups {
		maps.Copy(found, group.InstanceStats)
	}
	for _, slice := range slices {
		stats := found[slice.String()]
		if stats == nil {
			return "there are none of " + slice.String()
		}
		values := stats.Stats.Attributes
		owner, memory := values["alloc"], values["task_memory"]
		if owner == nil || owner.StringVal == nil || *owner.StringVal != alloc {
			return slice.String() + " is not said to be the allocation's"
		}
		if memory == nil || memory.FloatNumeratorVal == nil || *memory.FloatNumeratorVal != mib {
			return fmt.Sprintf("the task's memory is %v MiB", memory)
		}
	}
	return ""
}

func waitsForRoom(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	first, err := c.Run(slicesJob, sliceVars(c, "first", nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AwaitRunning(ctx, *first.ID, 2); err != nil {
		t.Fatal(err)
	}
	// 4 of 20 slices are free now.
	second, err := c.Run(slicesJob, sliceVars(c, "second", cluster.Vars{"small": 4, "large": 8}))
	if err != nil {
		t.Fatal(err)
	}
	purge(ctx, t, c, *second.ID)
	running, err := c.AwaitRunning(ctx, *second.ID, 1)
	if err != nil {
		t.Fatal(err)
	}
	if running[0].TaskGroup != "small" {
		t.Errorf("group %s runs in 4 free slices", running[0].TaskGroup)
	}
	if reason := c.Blocked(*second.ID); !strings.Contains(reason, "large") || !strings.Contains(reason, "devices") {
		t.Errorf("the group that does not fit is blocked by %q, want devices", reason)
	}
	if err := c.Purge(ctx, *first.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AwaitRunning(ctx, *second.ID, 2); err != nil {
		t.Error(err)
	}
}
