package driver

import (
	"slices"
	"strings"
	"testing"
	"time"

	"aliquot.example/internal/gpu"
)

// What is never done, whatever is wanted: a line of docs/nodes.md for each.
func TestHostsThatAreNeverTouched(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Facts)
		why    string
	}{
		"a driver of a .run file":   {func(f *Facts) { foreignBy(f, "NVIDIA's installer (a .run file)") }, "installed by NVIDIA's installer"},
		"a driver of an image":      {func(f *Facts) { foreignBy(f, "the machine's image") }, "installed by the machine's image"},
		"an image without packages": {func(f *Facts) { f.Distribution = Distribution{ID: "flatcar"} }, "neither Debian nor Ubuntu"},
		"RHEL":                      {func(f *Facts) { f.Distribution = Distribution{ID: "rhel", Version: "9.4", Like: "fedora"} }, "uses dnf, with which this program cannot install packages"},
		"a container":               {func(f *Facts) { f.Container = "/.dockerenv is there" }, "this is a container"},
		"a screen": {func(f *Facts) {
			f.Holders = []Process{{PID: 7, Name: "Xorg", Device: "/dev/nvidia0", Vendor: gpu.NVIDIA, Display: true}}
		}, "Xorg (PID 7, /dev/nvidia0) uses a GPU for a display"},
		"Secure Boot without a signed module": {func(f *Facts) { f.SecureBoot = true }, "modules that are signed"},
		"Proxmox":                             {func(f *Facts) { f.Hypervisor = "Proxmox VE" }, "Proxmox VE"},
		"packages in pieces":                  {func(f *Facts) { f.Packages[0].Broken = "half-configured" }, "nvidia-kernel-dkms is half-configured"},
		"packages of two architectures":       {func(f *Facts) { f.Packages = append(f.Packages, f.Packages[3]) }, "libcuda1 is installed for several architectures"},
		"GPUs that exclude each other": {func(f *Facts) {
			f.GPUs = append(f.GPUs, Device{Vendor: gpu.NVIDIA, ID: 0x1db4}, Device{Vendor: gpu.NVIDIA, ID: 0x2901})
		}, "no driver supports both"},
		"a version that is nowhere": {func(f *Facts) { f.Available = nil }, "cannot be installed"},
	} {
		f := debian()
		c.change(&f)
		_, r := Make(f, upgrade)
		if r == nil || !strings.Contains(r.Error(), c.why) || !strings.Contains(r.Error(), "nothing was changed") {
			t.Errorf("%s: %v, want a refusal with %q", name, r, c.why)
		}
		// The walk asks again at its begin, so the node stays as it is.
		w := newWorld(1, 1)
		c.change(&w.nodes[0].facts)
		w.settle(t)
		if len(w.log) > 0 {
			t.Errorf("%s: something was done: %v", name, w.log)
		}
	}
}

func foreignBy(f *Facts, by string) {
	d := f.Drivers[gpu.NVIDIA]
	d.Foreign = by
	f.Drivers = map[gpu.Vendor]Installed{gpu.NVIDIA: d}
}

// No kernel is upgraded, and no package that is not of the driver is changed.
func TestKernelsAndOtherPackagesStay(t *testing.T) {
	for text, why := range map[string]string{
		"Inst nvidia-kernel-dkms [535.261.03-1] (535.309.01-1 Debian [amd64])\nInst dkms (3.0.10 Debian [all])\nRemv nvidia-open-kernel-dkms [535.261.03-1]\nConf dkms (3.0.10)": "",
		"Inst nvidia-legacy-check [535.261.03-1] (535.309.01-0+deb12u1 Debian-Security:12/oldstable-security [amd64])":                                                           "",
		"Inst perl-base [5.36.0-7+deb12u3] (5.36.0-7+deb12u5 Debian [amd64])":                                                                                                    "change package perl-base",
		"Inst linux-image-6.1.0-60-amd64 (6.1.200-1 Debian [amd64])":                                                                                                             "new kernel (linux-image-6.1.0-60-amd64)",
		"Inst linux-generic [6.8.0-60] (6.8.0-61 Ubuntu [amd64])":                                                                                                                "new kernel",
		"Inst proxmox-kernel-6.8 (6.8.12 Proxmox [amd64])":                                                                                                                       "new kernel",
		"Inst libc6 [2.36-9] (2.36-10 Debian [amd64])":                                                                                                                           "change package libc6",
		"Inst docker-ce [27.1] (28.0 Docker [amd64])":                                                                                                                            "change package docker-ce",
		"Remv nomad [1.11.3]": "remove package nomad",
		"Inst nvidia-container-toolkit [1.17] (1.18 NVIDIA [amd64])":   "change package nvidia-container-toolkit",
		"Remv linux-image-6.1.0-56-amd64 [6.1.147-1]":                  "remove package linux-image",
		"Inst libnvidia-ml1 [535.261.03-1] (535.309.01-1 Debian [..])": "",
	} {
		r := CheckSimulation(text, gpu.NVIDIA)
		if why == "" && r != nil || why != "" && (r == nil || !strings.Contains(r.Error(), why)) {
			t.Errorf("%q: %v, want %q", text, r, why)
		}
	}
}

// A node that somebody else drained, or whose drain somebody ended, is left alone.
func TestDrainsOfOthersStay(t *testing.T) {
	for name, node := range map[string]Node{
		"draining": {Ready: true, Draining: true},
		"drained":  {Ready: true, Drained: true},
	} {
		w := newWorld(1, 1)
		w.nodes[0].node = node
		w.nodes[0].tasks = 0
		for range 50 {
			w.step(w.nodes[0], false, false, nil)
			w.now = w.now.Add(time.Minute)
		}
		if len(w.log) > 0 || !strings.Contains(w.nodes[0].state.Why, "somebody else drained") {
			t.Errorf("%s: %v, %+v", name, w.log, w.nodes[0].state)
		}
	}
	w := newWorld(1, 1)
	m := w.nodes[0]
	for m.state.LastDone != Drain {
		w.step(m, false, false, nil)
	}
	m.node.Draining, m.node.Ended, m.node.Eligible = false, true, true
	w.settle(t)
	if m.state.Phase != Failed || !strings.Contains(m.state.Why, "somebody ended the drain; nothing was changed") || m.loaded() != "535.261.03" {
		t.Errorf("%+v", m.state)
	}
}

// A node that took no tasks before takes none afterwards.
func TestANodeThatWasIneligibleStaysSo(t *testing.T) {
	w := newWorld(1, 1)
	w.nodes[0].node.Eligible, w.nodes[0].tasks = false, 0
	w.settle(t)
	if m := w.nodes[0]; m.node.Eligible || m.loaded() != "535.309.01" || m.state.Phase != Current {
		t.Errorf("%+v, %+v", m.node, m.state)
	}
}

// Nothing that uses a GPU is ended: the node waits and says who it is.
func TestWhoUsesAGPUIsWaitedFor(t *testing.T) {
	w := newWorld(1, 1)
	m := w.nodes[0]
	m.facts.Holders = []Process{{PID: 42, Name: "python3", Device: "/dev/nvidia0", Vendor: gpu.NVIDIA}}
	for range 500 {
		w.step(m, false, false, nil)
		w.move()
	}
	if m.state.Phase != Idle || m.state.Why != "nvidia is in use by python3 (PID 42, /dev/nvidia0)" || m.loaded() != "535.261.03" {
		t.Errorf("%+v", m.state)
	}
	m.facts.Holders = nil
	w.settle(t)
	if m.loaded() != "535.309.01" || !m.node.Eligible {
		t.Errorf("%+v", m.state)
	}
}

// No time frees a slot: a node that does not come back from its reboot keeps it, and
// nobody else begins.
func TestNoTimeFreesASlot(t *testing.T) {
	w := newWorld(3, 1)
	for len(w.slots.Holders) == 0 {
		w.step(w.nodes[0], false, false, nil)
	}
	w.nodes = w.nodes[1:]
	w.now = w.now.Add(365 * 24 * time.Hour)
	w.settle(t)
	if _, has := w.slots.Holders["n0"]; !has || len(w.slots.Holders) != 1 {
		t.Errorf("%+v", w.slots)
	}
	for _, m := range w.nodes {
		if m.loaded() != "535.261.03" || m.state.Why != "1 of 1 slots are taken, by n0" {
			t.Errorf("%+v", m.state)
		}
	}
}

// For each version there is one reboot.
func TestOneRebootForAVersion(t *testing.T) {
	w := newWorld(1, 1)
	m := w.nodes[0]
	m.state = State{Phase: Installing, Plan: Plan{Vendor: gpu.NVIDIA, Version: "535.309.01", Apply: Reboot}, FromVersion: "535.261.03", Rebooted: []string{"535.309.01"}, From: pins(m.facts.DriverPackages(gpu.NVIDIA))}
	w.slots = w.slots.Take(m.id, m.state.Holder(w.seen(m)))
	d := m.facts.Drivers[gpu.NVIDIA]
	d.OnDisk = "535.309.01"
	m.facts.Drivers = map[gpu.Vendor]Installed{gpu.NVIDIA: d}
	s, _ := Step(m.state, w.seen(m))
	if !s.RollingBack || !strings.Contains(s.Cause, "after a reboot version 535.309.01 is not loaded") {
		t.Errorf("%+v", s)
	}
}

// A paused rollout begins nowhere, and a canary goes before the others.
func TestPausesAndCanaries(t *testing.T) {
	w := newWorld(3, 3)
	w.wanted.Paused = true
	w.settle(t)
	if len(w.log) > 0 {
		t.Fatalf("a paused rollout began: %v", w.log)
	}
	w.wanted.Paused = false
	want := upgrade
	want.Canary = []string{"n2"}
	w.wanted.Classes[Others] = want
	w.settle(t)
	if first := slices.IndexFunc(w.log, func(l string) bool { return strings.HasSuffix(l, string(TakeSlot)) }); !strings.HasPrefix(w.log[first], "n2 ") {
		t.Errorf("%v", w.log)
	}
	if w.most != 2 || len(w.slots.Done) != 3 {
		t.Errorf("at most %d at once, %+v", w.most, w.slots)
	}
}

func TestWantedDocuments(t *testing.T) {
	for text, why := range map[string]string{
		`{"max": 2, "classes": {"h100": {"version": "580.126.09", "modules": "open", "drain_deadline": "1h"}, "*": {"version": "535.309.01"}}}`: "",
		`{"classes": {"*": {"version": "580"}}}`:                                         `want the whole version of a driver`,
		`{"classes": {"*": {"version": "580.1 --force"}}}`:                               `want the whole version of a driver`,
		`{"max": 0, "classes": {}}`:                                                      `max is 0`,
		`{"clases": {}}`:                                                                 `unknown field "clases"`,
		`{"classes": {"*": {"version": "580.126.09", "vendor": "matrox"}}}`:              `vendor is "matrox"`,
		`{"classes": {"*": {"version": "580.126.09", "modules": "both"}}}`:               `modules is "both"`,
		`{"classes": {"*": {"version": "6.14.14", "vendor": "amd", "modules": "open"}}}`: `only one kind`,
		`{"classes": {"*": {"version": "580.126.09", "drain_deadline": "soon"}}}`:        `drain_deadline is "soon"`,
		`{} {}`: `text after the JSON document`,
		`[]`:    `not a JSON document`,
	} {
		w, err := ParseWanted([]byte(text))
		if why == "" && err != nil || why != "" && (err == nil || !strings.Contains(err.Error(), why)) {
			t.Errorf("%s: %v, want %q", text, err, why)
		}
		if why == "" && (w.For("h100").Version != "580.126.09" || w.For("other").Version != "535.309.01") {
			t.Errorf("%+v", w)
		}
	}
}

func TestSymptoms(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Facts)
		severe bool
		what   string
	}{
		"library and module differ": {func(f *Facts) { with(f, func(d *Installed) { d.Library = "535.309.01" }) }, true, "library is 535.309.01 and its loaded module is 535.261.03"},
		"pending reboot": {func(f *Facts) {
			with(f, func(d *Installed) { d.OnDisk = "535.309.01" })
		}, false, "the next boot loads 535.309.01"},
		"not held":            {func(f *Facts) { f.Packages[1].Held = false }, false, "1 packages of NVIDIA's driver are not held (nvidia-smi)"},
		"unattended upgrades": {func(f *Facts) { f.Packages[1].Held, f.Unattended = false, true }, false, "unattended upgrades are on"},
		"wrong modules": {func(f *Facts) {
			f.GPUs[0].ID = 0x2901
			with(f, func(d *Installed) { d.Loaded, d.Library, d.OnDisk = "580.1", "580.1", "580.1" })
		}, true, "the closed kernel modules do not support it"},
		"no MPS program":    {func(f *Facts) { with(f, func(d *Installed) { d.Tools = false }) }, false, "nvidia-cuda-mps-control"},
		"no fabric manager": {func(f *Facts) { f.Switches = []Device{{ID: 0x22a3}} }, true, "no fabric manager"},
		"fabric manager": {func(f *Facts) {
			f.Switches = []Device{{ID: 0x22a3}}
			f.Packages = append(f.Packages, Package{Name: "nvidia-fabricmanager-535", Version: "535.309.01-1", Held: true})
		}, true, "fabric manager is 535.309.01"},
		"no driver":           {func(f *Facts) { f.Drivers = nil }, true, "no driver for them is loaded"},
		"half-configured":     {func(f *Facts) { f.Packages[0].Broken = "half-configured" }, true, "is half-configured"},
		"a driver of a .run":  {func(f *Facts) { foreignBy(f, "NVIDIA's installer (a .run file)") }, false, "installed by NVIDIA's installer"},
		"a model of tomorrow": {func(f *Facts) { f.GPUs[0].ID = 0x4000 }, false, "an unknown model"},
		"GPUs of two kinds": {func(f *Facts) {
			f.GPUs = append(f.GPUs, Device{Vendor: gpu.NVIDIA, ID: 0x1db4}, Device{Vendor: gpu.NVIDIA, ID: 0x2901})
		}, true, "no driver supports both"},
	} {
		f := debian()
		if s := Diagnose(f); len(s) > 0 {
			t.Fatalf("a host that is well: %+v", s)
		}
		c.change(&f)
		if !slices.ContainsFunc(Diagnose(f), func(s Symptom) bool { return s.Severe == c.severe && strings.Contains(s.What, c.what) && s.Fix != "" }) {
			t.Errorf("%s: %+v, want %q", name, Diagnose(f), c.what)
		}
	}
}

func with(f *Facts, change func(*Installed)) {
	d := f.Drivers[gpu.NVIDIA]
	change(&d)
	f.Drivers = map[gpu.Vendor]Installed{gpu.NVIDIA: d}
}

// A failure behind the canary stops the rollout too, whatever slots are free.
func TestAFailureStopsTheRollout(t *testing.T) {
	w := newWorld(3, 3)
	w.nodes[1].broken["535.309.01"] = true
	w.nodes[2].node.Ready = false
	w.settle(t)
	w.nodes[2].node.Ready = true
	w.settle(t)
	if w.nodes[0].loaded() != "535.309.01" || w.nodes[1].state.Phase != Failed {
		t.Fatalf("%+v\n%+v", w.nodes[0].state, w.nodes[1].state)
	}
	if m := w.nodes[2]; m.loaded() != "535.261.03" || !strings.HasPrefix(m.state.Why, "the rollout stopped: node n1 failed: ") {
		t.Errorf("loaded %s, %+v", m.loaded(), m.state)
	}
}

// Where somebody lets tasks in again while the node waits for a program that uses a GPU,
// it is drained again before anything is installed.
func TestTasksThatComeBackMoveAgain(t *testing.T) {
	w := newWorld(1, 1)
	m := w.nodes[0]
	m.facts.Holders = []Process{{PID: 42, Name: "python3", Device: "/dev/nvidia0", Vendor: gpu.NVIDIA}}
	for range 500 {
		w.step(m, false, false, nil)
		w.move()
	}
	m.facts.Holders, m.node.Eligible, m.node.Drained, m.tasks = nil, true, false, 2
	from := len(w.log)
	w.settle(t)
	if again := w.log[from]; again != "n0 draining drain" || m.loaded() != "535.309.01" {
		t.Errorf("%v", w.log[from:])
	}
}

// A machine that was away for long while its node was verified gives the device plugin its
// whole time again, and a clock that was set back keeps nothing waiting.
func TestAnAgentThatStartsAgain(t *testing.T) {
	w := newWorld(1, 1)
	m := w.nodes[0]
	m.state = State{Phase: Verifying, Plan: Plan{Vendor: gpu.NVIDIA, Version: "535.261.03", Apply: Reload}, Since: w.now, HealthyBefore: 1}
	w.slots = w.slots.Take(m.id, m.state.Holder(w.seen(m)))
	m.gpus, w.now = 0, w.now.Add(time.Hour)
	if s, _ := Step(m.state, w.seen(m)); !s.RollingBack {
		t.Errorf("without a start it waits for ever: %+v", s)
	}
	if s, verb := Step(m.state.Restarted(w.now), w.seen(m)); s.RollingBack || verb != Wait {
		t.Errorf("%s, %+v", verb, s)
	}
	m.state = State{Phase: Rebooting, BootID: m.facts.BootID, Trouble: "no systemd", Retry: w.now.Add(24 * time.Hour)}
	if _, verb := Step(m.state.Restarted(w.now), w.seen(m)); verb != BootAgain {
		t.Errorf("it waits for %s", m.state.Retry)
	}
}

// A service that does not start with the new driver is no way to be well: after its time the
// node goes back.
func TestAServiceThatDoesNotStart(t *testing.T) {
	w := newWorld(1, 1)
	m := w.nodes[0]
	m.state = State{Phase: Verifying, Plan: Plan{Vendor: gpu.NVIDIA, Version: "535.261.03", Apply: Reload}, Since: w.now, HealthyBefore: 1, Released: true, Trouble: "service nvidia-dcgm cannot be started"}
	m.state.Retry = w.now.Add(time.Minute)
	w.slots = w.slots.Take(m.id, m.state.Holder(w.seen(m)))
	if s, verb := Step(m.state, w.seen(m)); verb != Wait || s.Why != m.state.Trouble {
		t.Errorf("%s, %+v", verb, s)
	}
	m.state.Since = w.now.Add(-verifyTimeout)
	if s, _ := Step(m.state, w.seen(m)); !s.RollingBack || !strings.Contains(s.Cause, "nvidia-dcgm cannot be started") {
		t.Errorf("%+v", s)
	}
}
