package nvidia_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/device"
)

// TestMIGThatCannotBeReadForAMoment: without its MIG devices the GPU would be
// offered whole, in slices, beside the tasks that hold them.
func TestMIGThatCannotBeReadForAMoment(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex"} {
		b := newBench(t, "a100-mig")
		c := b.plugin(t, "")
		before := names(until(t, c, "healthy", allWell))
		if err := b.Fail(b.uuids(t)[0], call, 999); err != nil {
			t.Fatal(err)
		}
		// The event proves that rounds passed with the call failing.
		if err := b.XID(b.uuids(t)[0], 79); err != nil {
			t.Fatal(err)
		}
		gs := until(t, c, "XID 79 on all", func(gs groups) bool {
			return slices.ContainsFunc(gs, func(g *device.DeviceGroup) bool { _, why := health(g); return strings.HasPrefix(why, "XID 79") })
		})
		if after := names(gs); !slices.Equal(after, before) {
			t.Errorf("%s fails: %v, before %v", call, after, before)
		}
		// A plugin that starts now cannot know what the GPU is.
		c.kill(t)
		if gs := until(t, b.plugin(t, ""), "a fingerprint", func(groups) bool { return true }); len(gs) != 0 {
			t.Errorf("%s fails from the start: %v", call, names(gs))
		}
	}
}

// TestAGPUWithoutMemoryOfItsOwn answers NOT_SUPPORTED where others tell their
// memory, and is well.
func TestAGPUWithoutMemoryOfItsOwn(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	for _, call := range []string{"nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"} {
		if err := b.Fail(b.uuids(t)[0], call, 3); err != nil {
			t.Fatal(err)
		}
	}
	c := b.plugin(t, "")
	g := named(until(t, c, "healthy", allWell), "h100-0")
	envs := reserve(t, c, g, 0, 5)
	if limit, set := envs["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"]; set || envs["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] != "25" {
		t.Errorf("memory limit %q, percentage %q", limit, envs["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"])
	}
	if level := *g.Attributes["memory_enforcement"].String; level != "none" {
		t.Errorf("memory_enforcement %q", level)
	}
}
