package nvidia_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/e2e/conformance"
	"aliquot.example/e2e/rack"
	"aliquot.example/internal/mps"
)

func named(gs groups, name string) *device.DeviceGroup {
	if i := slices.IndexFunc(gs, func(g *device.DeviceGroup) bool { return g.Name == name }); i >= 0 {
		return gs[i]
	}
	return &device.DeviceGroup{}
}

// health reports whether all instances of a group are healthy, and of none, why.
func health(g *device.DeviceGroup) (ok bool, why string) {
	ok = len(g.Devices) > 0
	for _, d := range g.Devices {
		if !d.Healthy {
			ok, why = false, d.HealthDesc
		}
	}
	return ok, why
}

func allWell(gs groups) bool {
	return len(gs) > 0 && !slices.ContainsFunc(gs, func(g *device.DeviceGroup) bool { ok, _ := health(g); return !ok })
}

func reserve(t *testing.T, c *child, g *device.DeviceGroup, from, to int) map[string]string {
	t.Helper()
	var ids []string
	for _, d := range g.Devices[from:to] {
		ids = append(ids, d.ID)
	}
	r, err := c.Reserve(ids)
	if err != nil {
		t.Fatal(err)
	}
	return r.Envs
}

// TestUnequalSlicesHold checks the numbers with programs that run over MPS: 6 and
// 10 of 20 slices are 30% and 50% of SMs and memory.
func TestUnequalSlicesHold(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	c := b.plugin(t, "")
	h100 := named(until(t, c, "healthy", allWell), "h100-0")
	for _, want := range []struct{ from, to, sms int }{{0, 6, 38}, {6, 16, 66}} {
		envs := reserve(t, c, h100, want.from, want.to)
		p := b.program(t, envs)
		limit := int(*h100.Attributes["memory"].Int) * (want.to - want.from) / 20
		if d := p.Devices[0]; !p.MPS || d.SMs != want.sms || d.Limit != limit {
			t.Errorf("%d slices: %+v over MPS %v, want %d SMs and %d MiB", want.to-want.from, d, p.MPS, want.sms, limit)
		}
		if answer := p.do(t, "alloc 1000000"); answer == "ok" {
			t.Error("a program took more than its limit")
		}
	}
}

func TestStatsNameTheTask(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	c := b.plugin(t, "")
	g := named(until(t, c, "healthy", allWell), "h100-0")
	const alloc = "11111111-2222-3333-4444-555555555555"
	envs := reserve(t, c, g, 2, 5)
	envs["NOMAD_ALLOC_ID"], envs["NOMAD_TASK_NAME"] = alloc, "server"
	p := b.program(t, envs)
	p.do(t, "alloc 1000")
	p.do(t, "load 30 10")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := c.Stats(ctx, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for r := range stream {
		if r.Error != nil {
			t.Fatal(r.Error)
		}
		i := slices.IndexFunc(r.Groups, func(s *device.DeviceGroupStats) bool { return s.Name == "h100-0" })
		sum := int64(0)
		for _, id := range g.Devices {
			sum += *r.Groups[i].InstanceStats[id.ID].Summary.IntNumeratorVal
		}
		st := r.Groups[i].InstanceStats[g.Devices[3].ID].Stats.Attributes
		if sum == 0 || st["alloc"] == nil || st["task_busy"] == nil {
			continue
		}
		if *st["alloc"].StringVal != alloc || *st["task"].StringVal != "server" || int64(*st["task_memory"].FloatNumeratorVal) != sum || sum < 1000 ||
			*st["task_busy"].FloatNumeratorVal != 30 || *st["busy"].FloatNumeratorVal != 10 {
			t.Errorf("the slices sum to %d MiB, %v", sum, st)
		}
		return
	}
	t.Fatal("no statistics name the task")
}

func TestXIDOnOneGPUOfTwo(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	c := b.plugin(t, "")
	until(t, c, "healthy", allWell)
	// The fault of a program must not touch the GPU; it comes first, so that the
	// fatal one proves that it was read.
	for _, n := range []int{13, 94, 79} {
		if err := b.XID(b.uuids(t)[0], n); err != nil {
			t.Fatal(err)
		}
	}
	gs := until(t, c, "XID 79", func(gs groups) bool { ok, _ := health(named(gs, "h100-0")); return !ok })
	if _, why := health(named(gs, "h100-0")); !strings.HasPrefix(why, "XID 79 (GPU has fallen off the bus)") {
		t.Errorf("%q", why)
	}
	if ok, why := health(named(gs, "t4-1")); !ok {
		t.Errorf("the other GPU is unhealthy: %s", why)
	}
	if _, err := c.Reserve([]string{named(gs, "h100-0").Devices[0].ID}); err == nil || !strings.Contains(err.Error(), "XID 79") {
		t.Errorf("a failed GPU was reserved: %v", err)
	}
	until(t, c, "recovery", allWell)
}

// TestEventsThatCannotBeHadForAMoment are asked for again: without them the GPU's
// XIDs would be missed for ever.
func TestEventsThatCannotBeHadForAMoment(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"nvmlDeviceRegisterEvents", "nvmlDeviceGetSupportedEventTypes"} {
		b := newBench(t, "h100-t4")
		uuid := b.uuids(t)[0]
		if err := b.Fail(uuid, call, 999); err != nil {
			t.Fatal(err)
		}
		c := b.plugin(t, "")
		until(t, c, "healthy", allWell)
		if err := b.Fail(uuid, call, 0); err != nil {
			t.Fatal(err)
		}
		await(t, "an XID that is heard", func() bool {
			if err := b.XID(uuid, 79); err != nil {
				t.Fatal(err)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			_, why := health(named(c.last, "h100-0"))
			return strings.HasPrefix(why, "XID 79")
		})
		c.stop()
	}
}

func TestAFaultSurvivesThePlugin(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	c := b.plugin(t, "")
	until(t, c, "healthy", allWell)
	uuid := b.uuids(t)[0]
	// The driver asks for a reset for as long as nobody makes one.
	if err := b.Set(uuid, "recovery_action", 1); err != nil {
		t.Fatal(err)
	}
	if err := b.XID(uuid, 95); err != nil {
		t.Fatal(err)
	}
	broken := func(gs groups) bool {
		_, why := health(named(gs, "h100-0"))
		return strings.HasPrefix(why, "XID 95")
	}
	until(t, c, "XID 95", broken)
	c.kill(t)
	next := b.plugin(t, "")
	until(t, next, "XID 95 after kill -9", broken)
	if err := b.Set(uuid, "recovery_action", 0); err != nil {
		t.Fatal(err)
	}
	until(t, next, "recovery", allWell)
}

func TestPendingRemapWithdrawsTheGPU(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	c := b.plugin(t, "")
	until(t, c, "healthy", allWell)
	uuid := b.uuids(t)[0]
	for _, key := range []string{"remap_pending", "remap_failure"} {
		if err := b.Set(uuid, key, true); err != nil {
			t.Fatal(err)
		}
		until(t, c, key, func(gs groups) bool {
			_, why := health(named(gs, "h100-0"))
			ok, _ := health(named(gs, "t4-1"))
			return ok && why != ""
		})
		if err := b.Set(uuid, key, false); err != nil {
			t.Fatal(err)
		}
		until(t, c, "the end of "+key, allWell)
	}
}

func TestDriverLoadedLater(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	if err := b.SetDriver("loaded", false); err != nil {
		t.Fatal(err)
	}
	c := b.plugin(t, "")
	if gs := until(t, c, "no devices", func(groups) bool { return true }); len(gs) > 0 {
		t.Fatalf("devices without a driver:%s", conformance.Describe(gs))
	}
	if err := b.SetDriver("loaded", true); err != nil {
		t.Fatal(err)
	}
	until(t, c, "a driver loaded later", allWell)
	if err := b.SetDriver("loaded", false); err != nil {
		t.Fatal(err)
	}
	until(t, c, "an unloaded driver", func(gs groups) bool { ok, why := health(named(gs, "t4-0")); return !ok && why != "" })
	if err := b.SetDriver("loaded", true); err != nil {
		t.Fatal(err)
	}
	until(t, c, "the driver loaded again", allWell)
}

// awaitDaemon waits until another daemon than before runs, and returns how long that took.
func awaitDaemon(t *testing.T, c mps.Control, before int) time.Duration {
	t.Helper()
	began := time.Now()
	await(t, "a new daemon", func() bool { pid := c.Process(); return pid != 0 && pid != before })
	return time.Since(began)
}

// kill ends a daemon and its servers' master with kill -9.
func kill(t *testing.T, c mps.Control) {
	t.Helper()
	pid := c.Process()
	if pid == 0 {
		t.Fatal("no daemon to kill")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func TestMPSDaemonIsStartedAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	c := b.plugin(t, "")
	g := named(until(t, c, "healthy", allWell), "t4-0")
	daemon := b.control(b.uuids(t)[0])
	before := daemon.Process()
	kill(t, daemon)
	if took := awaitDaemon(t, daemon, before); took > 5*time.Second {
		t.Errorf("the daemon came back after %s, want within 5s", took)
	}
	until(t, c, "healthy again", allWell)
	if p := b.program(t, reserve(t, c, g, 0, 1)); !p.MPS {
		t.Error("a program does not reach the new daemon")
	}
}

func TestMPSFaultAndRecovery(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	c := b.plugin(t, "")
	g := named(until(t, c, "healthy", allWell), "t4-1")
	p := b.program(t, reserve(t, c, g, 0, 4))
	bystander := b.program(t, reserve(t, c, g, 4, 8))
	daemon := b.control(b.uuids(t)[1])
	before := daemon.Process()
	p.do(t, "fault")
	gs := until(t, c, "FAULT", func(gs groups) bool { ok, _ := health(named(gs, "t4-1")); return !ok })
	if _, why := health(named(gs, "t4-1")); !strings.Contains(why, "FAULT") {
		t.Errorf("%q", why)
	}
	if ok, why := health(named(gs, "h100-0")); !ok {
		t.Errorf("the other GPU is unhealthy: %s", why)
	}
	p.end()
	if daemon.Process() != before {
		t.Error("the daemon was restarted under a client")
	}
	bystander.end()
	until(t, c, "recovery", allWell)
	if after := daemon.Process(); after == before || after == 0 {
		t.Errorf("daemon %d was not started again (%d)", before, after)
	}
	if q := b.program(t, reserve(t, c, g, 0, 4)); !q.MPS {
		t.Error("a program does not reach the new daemon")
	}
}

func TestKilledPluginAdoptsTheDaemon(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	c := b.plugin(t, "")
	g := named(until(t, c, "healthy", allWell), "t4-0")
	p := b.program(t, reserve(t, c, g, 0, 2))
	daemon := b.control(b.uuids(t)[0])
	before := daemon.Process()
	c.kill(t)
	until(t, b.plugin(t, ""), "healthy", allWell)
	if after := daemon.Process(); after != before {
		t.Errorf("daemon %d was replaced by %d", before, after)
	}
	if answer := p.do(t, "alloc 1"); answer != "ok" {
		t.Errorf("the program was disturbed: %s", answer)
	}
}

// TestTwoPluginsOfferOnce: the second offers nothing, whatever becomes of the daemon,
// before the first has ended.
func TestTwoPluginsOfferOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	one := b.plugin(t, "")
	until(t, one, "healthy", allWell)
	two := b.plugin(t, "")
	gs := until(t, two, "a fingerprint", func(gs groups) bool { return len(gs) > 0 })
	if ok, why := health(gs[0]); ok || !strings.Contains(why, "another device plugin for nvidia already uses run_dir") {
		t.Errorf("the second plugin offers the GPU: %v, %q", ok, why)
	}
	if _, err := two.Reserve([]string{gs[0].Devices[0].ID}); err == nil || !strings.Contains(err.Error(), "another device plugin") {
		t.Errorf("the second plugin reserves: %v", err)
	}
	daemon := b.control(b.uuids(t)[0])
	before := daemon.Process()
	kill(t, daemon)
	awaitDaemon(t, daemon, before)
	until(t, one, "healthy", allWell)
	one.kill(t)
	until(t, two, "the second plugin alone", allWell)
	log, err := os.ReadFile(b.Path + ".d/mps.log")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(log), "started"); n != 2 || strings.Contains(string(log), rack.SecondDaemon) {
		t.Errorf("%d daemons were started, want one and one after the kill:\n%s", n, log)
	}
}

// TestHangingDaemonIsReplaced, but never under a client.
func TestHangingDaemonIsReplaced(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	c := b.plugin(t, "")
	g := named(until(t, c, "healthy", allWell), "t4-0")
	p := b.program(t, reserve(t, c, g, 0, 4))
	daemon := b.control(b.uuids(t)[0])
	before := daemon.Process()
	if err := syscall.Kill(before, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	within(t, c, 90*time.Second, "a hanging daemon with a client", func(gs groups) bool {
		_, why := health(gs[0])
		return strings.HasPrefix(why, "MPS daemon does not answer; it is started again when")
	})
	if after := daemon.Process(); after != before || p.do(t, "alloc 1") != "ok" {
		t.Errorf("daemon %d was replaced by %d under a client", before, after)
	}
	p.end()
	within(t, c, time.Minute, "a new daemon", allWell)
	if after := daemon.Process(); after == before || after == 0 {
		t.Errorf("daemon %d, was %d", after, before)
	}
}

func TestGPUThatLeavesSharing(t *testing.T) {
	t.Parallel()
	b := newBench(t, "t4")
	c := b.plugin(t, "")
	g := named(until(t, c, "healthy", allWell), "t4-0")
	p := b.program(t, reserve(t, c, g, 0, 2))
	c.stop()
	next := b.plugin(t, `gpu "t4" { mode = "whole" }`)
	gs := until(t, next, "whole but busy", func(gs groups) bool { _, why := health(named(gs, "t4")); return why != "" })
	if _, why := health(gs[0]); len(gs) != 1 || !strings.Contains(why, "leaves MPS sharing") {
		t.Errorf("%d groups, %q", len(gs), why)
	}
	p.end()
	until(t, next, "whole", allWell)
	if pid := b.control(b.uuids(t)[0]).Process(); pid != 0 {
		t.Errorf("daemon %d is left", pid)
	}
	// The task driver goes by this: a task that starts again must not run unlimited.
	if _, err := os.Stat(b.control(b.uuids(t)[0]).Pipe + "/control"); err == nil {
		t.Error("the pipe directory looks as if a daemon served")
	}
}

// TestADaemonThatCannotBeAskedLeavesSharing: its socket was removed, as any client of it
// can, or it has ended and the control program is not installed any more.
func TestADaemonThatCannotBeAskedLeavesSharing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config string
		spoil  func(*testing.T, mps.Control)
	}{
		"no socket": {"", func(t *testing.T, daemon mps.Control) {
			if err := os.Remove(daemon.Pipe + "/control"); err != nil {
				t.Fatal(err)
			}
		}},
		"no program": {"mps_control = \"/nonexistent/nvidia-cuda-mps-control\"\n", kill},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "t4")
			first := b.plugin(t, "")
			until(t, first, "healthy", allWell)
			uuid := b.uuids(t)[0]
			await(t, "EXCLUSIVE_PROCESS", func() bool { return b.computeMode(uuid) == exclusiveProcess })
			daemon := b.control(uuid)
			first.kill(t)
			c.spoil(t, daemon)
			until(t, b.plugin(t, c.config+`gpu "t4" { mode = "whole" }`), "whole", allWell)
			if pid := daemon.Process(); pid != 0 {
				t.Errorf("daemon %d is left", pid)
			}
			if mode := b.computeMode(uuid); mode != "0" {
				t.Errorf("compute mode %s", mode)
			}
		})
	}
}
