package nvidia_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/device"
)

// ill counts the unhealthy instances of a group and returns the first reason.
func ill(g *device.DeviceGroup) (n int, why string) {
	for _, d := range g.Devices {
		if !d.Healthy {
			if n++; why == "" {
				why = d.HealthDesc
			}
		}
	}
	return n, why
}

// TestOneGPUHangsAndSevenGoOn: of the hanging one's calls none returns, not even the
// one for its handle.
func TestOneGPUHangsAndSevenGoOn(t *testing.T) {
	t.Parallel()
	b := newBench(t, "8xh100")
	c := b.plugin(t, `gpu "*" { mode = "whole" }`)
	until(t, c, "healthy", allWell)
	for _, call := range []string{"nvmlDeviceGetMemoryInfo", "*"} {
		hung, other := b.uuids(t)[3], b.uuids(t)[5]
		if err := b.Fail(hung, call, -1); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		gs := within(t, c, time.Minute, "one GPU that hangs", func(gs groups) bool { n, _ := ill(gs[0]); return n > 0 })
		if n, why := ill(gs[0]); n != 1 || !strings.HasPrefix(why, "a call into the driver about this GPU has not returned") {
			t.Errorf("%s: %d of 8 are unhealthy: %s", call, n, why)
		}
		t.Logf("%s: after %s one of eight is unhealthy", call, time.Since(begin).Round(100*time.Millisecond))
		// The rounds go on: what happens to another GPU is reported, and reservations are made.
		if err := b.XID(other, 79); err != nil {
			t.Fatal(err)
		}
		begin = time.Now()
		until(t, c, "an XID of another GPU", func(gs groups) bool { n, _ := ill(gs[0]); return n == 2 })
		t.Logf("%s: an XID of another GPU is reported after %s", call, time.Since(begin).Round(10*time.Millisecond))
		until(t, c, "the other's recovery", func(gs groups) bool { n, _ := ill(gs[0]); return n == 1 })
		i := slices.IndexFunc(c.groups()[0].Devices, func(d *device.Device) bool { return strings.HasPrefix(d.ID, other) })
		if i < 0 {
			t.Fatalf("no instance of %s", other)
		}
		if _, err := c.Reserve([]string{c.groups()[0].Devices[i].ID}); err != nil {
			t.Error(err)
		}
		if err := b.Fail(hung, call, 0); err != nil {
			t.Fatal(err)
		}
		until(t, c, "all eight", allWell)
	}
}

// TestLibrariesOfAnotherRelease: the packages were upgraded under the loaded module.
func TestLibrariesOfAnotherRelease(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	c := b.plugin(t, "")
	g := named(until(t, c, "healthy", allWell), "h100-0")
	p := b.program(t, reserve(t, c, g, 0, 4))
	file := filepath.Join(b.root, "sys/module/nvidia/version")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("470.57.02\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	until(t, c, "both GPUs withdrawn", func(gs groups) bool {
		for _, name := range []string{"h100-0", "t4-1"} {
			if ok, why := health(named(gs, name)); ok || !strings.Contains(why, fmt.Sprintf("libraries on this host are %s and its loaded kernel module is 470.57.02", strings.TrimSpace(string(before)))) {
				return false
			}
		}
		return true
	})
	if _, err := c.Reserve([]string{g.Devices[0].ID}); err == nil || !strings.Contains(err.Error(), "470.57.02") {
		t.Errorf("reserved: %v", err)
	}
	if answer := p.do(t, "alloc 1"); answer != "ok" {
		t.Errorf("a running task was disturbed: %s", answer)
	}
	if err := os.WriteFile(file, before, 0o644); err != nil {
		t.Fatal(err)
	}
	until(t, c, "the module loaded again", allWell)
}
