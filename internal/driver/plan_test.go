package driver

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"aliquot.example/internal/gpu"
)

// debian is a host of Debian 12 with one H100 that serves with version 535.261.03 of
// Debian's packages.
func debian() Facts {
	const old = "535.261.03-1~deb12u1"
	f := Facts{
		Arch: "amd64", Kernel: "6.1.0-56-amd64", BootID: "one", Distribution: Distribution{ID: "debian", Version: "12"},
		GPUs:    []Device{{Address: "0000:18:00.0", Vendor: gpu.NVIDIA, ID: 0x2330, Class: 0x030200}},
		Drivers: map[gpu.Vendor]Installed{gpu.NVIDIA: {Loaded: "535.261.03", OnDisk: "535.261.03", Library: "535.261.03", Modules: Closed, Tools: true}},
		Available: map[string][]string{
			"linux-headers-6.1.0-56-amd64": {"6.1.147-1"},
			"nvidia-persistenced":          {"535.171.04-1~deb12u1"},
		},
	}
	for _, name := range []string{"nvidia-kernel-dkms", "nvidia-smi", "nvidia-cuda-mps", "libcuda1", "libnvidia-ml1", "firmware-nvidia-gsp"} {
		f.Packages = append(f.Packages, Package{Name: name, Version: old, Held: true})
		f.Available[name] = []string{"535.309.01-1~deb12u1", old}
	}
	f.Packages = append(f.Packages, Package{Name: "nvidia-persistenced", Version: "535.171.04-1~deb12u1", Held: true})
	return f
}

var upgrade = Want{Version: "535.309.01"}

func TestPlanOfAnUpgrade(t *testing.T) {
	p, r := Make(debian(), upgrade)
	if r != nil {
		t.Fatal(r)
	}
	for _, name := range []string{"nvidia-kernel-dkms", "nvidia-smi", "nvidia-cuda-mps", "libcuda1", "libnvidia-ml1", "firmware-nvidia-gsp"} {
		if !slices.Contains(p.Install, Pin{name, "535.309.01-1~deb12u1"}) {
			t.Errorf("%s is not in %v", name, p.Install)
		}
	}
	if !slices.Contains(p.Install, Pin{"linux-headers-6.1.0-56-amd64", "6.1.147-1"}) {
		t.Errorf("no headers of the running kernel in %v", p.Install)
	}
	if p.Apply != Reload || p.Modules != Closed || p.Source != "Debian" {
		t.Errorf("%+v", p)
	}
	if slices.ContainsFunc(p.Install, func(x Pin) bool { return x.Name == "nvidia-persistenced" }) {
		t.Error("a package is installed again that is there already")
	}
}

func TestNothingToDo(t *testing.T) {
	p, r := Make(debian(), Want{Version: "535.261.03"})
	if r != nil || !p.Done() || len(p.Hold) > 0 {
		t.Errorf("%+v, %v", p, r)
	}
	p, r = Make(debian(), Want{})
	if r != nil || !p.Done() || p.Version != "535.261.03" {
		t.Errorf("a driver that works is not left alone: %+v, %v", p, r)
	}
	f := debian()
	f.Packages[0].Held = false
	if p, _ = Make(f, Want{Version: "535.261.03"}); !p.Done() || !slices.Equal(p.Hold, []string{"nvidia-kernel-dkms"}) {
		t.Errorf("%+v", p)
	}
}

// A fresh host gets the newest driver that drives its GPUs.
func TestPlanOfAFreshHost(t *testing.T) {
	f := debian()
	f.Packages, f.Drivers = nil, nil
	p, r := Make(f, Want{})
	if r != nil || p.Version != "535.309.01" || p.Modules != Closed || p.Apply != Reload {
		t.Fatalf("%+v, %v", p, r)
	}
	f.GPUs[0].ID = 0x2335 // H200, which 535 does not drive
	_, r = Make(f, Want{})
	if r == nil || !strings.Contains(r.Error(), "nothing was changed") || !strings.Contains(r.Error(), "developer.download.nvidia.com") {
		t.Errorf("%v", r)
	}
}

func TestPlanOnUbuntu(t *testing.T) {
	f := Facts{
		Kernel: "6.8.0-60-generic", Distribution: Distribution{ID: "ubuntu", Version: "24.04"}, SecureBoot: true,
		GPUs: []Device{{Address: "0000:18:00.0", Vendor: gpu.NVIDIA, ID: 0x2901, Class: 0x030200}}, Switches: nil,
		Available: map[string][]string{"nvidia-fabricmanager-580": {"580.173.02-0ubuntu0.24.04.1"}, "nvlsm": {"2025.03.1-1"}},
	}
	const v = "580.173.02-0ubuntu0.24.04.1"
	for _, name := range []string{"nvidia-dkms-580-server-open", "nvidia-utils-580-server", "nvidia-compute-utils-580-server", "libnvidia-compute-580-server", "nvidia-kernel-common-580-server"} {
		f.Available[name] = []string{v}
	}
	want := Want{Version: "580.173.02"}
	if _, r := Make(f, want); r == nil || !strings.Contains(r.Reason, "with Secure Boot, modules that are compiled on the host would not load") {
		t.Errorf("Secure Boot and modules that are compiled here: %v", r)
	}
	f.Available["linux-modules-nvidia-580-server-open-6.8.0-60-generic"] = []string{"6.8.0-60.63+1"}
	// A newer version that must be compiled comes after one whose modules are ready.
	f.SecureBoot = false
	for _, name := range []string{"nvidia-dkms-590-server-open", "nvidia-utils-590-server", "nvidia-compute-utils-590-server", "libnvidia-compute-590-server", "nvidia-kernel-common-590-server", "nvidia-fabricmanager-590"} {
		f.Available[name] = []string{"590.48.01-0ubuntu0.24.04.5"}
	}
	f.Available["linux-headers-6.8.0-60-generic"] = []string{"6.8.0-60.63"}
	if p, r := Make(f, Want{}); r != nil || p.Version != "580.173.02" {
		t.Errorf("%+v, %v", p, r)
	}
	p, r := Make(f, want)
	if r != nil {
		t.Fatal(r)
	}
	for _, pin := range []Pin{{"linux-modules-nvidia-580-server-open-6.8.0-60-generic", "6.8.0-60.63+1"}, {"nvidia-compute-utils-580-server", v}, {"nvidia-fabricmanager-580", v}, {"nvlsm", "2025.03.1-1"}} {
		if !slices.Contains(p.Install, pin) {
			t.Errorf("%s is not in %v", pin, p.Install)
		}
	}
}

// A refusal names what is missing of the version that comes closest.
func TestARefusalNamesWhatIsMissing(t *testing.T) {
	f := debian()
	delete(f.Available, "nvidia-cuda-mps")
	f.Available["nvidia-xconfig"] = []string{"545.23.08-1"}
	f.Packages, f.Drivers = nil, nil
	_, r := Make(f, Want{})
	if r == nil || !strings.HasPrefix(r.Reason, "version 535.309.01 cannot be installed (Debian: missing nvidia-cuda-mps 535.309.01)") {
		t.Errorf("%v", r)
	}
	_, r = Make(debian(), Want{Version: "620.10.01", Modules: Closed})
	if r == nil || !strings.Contains(r.Reason, "version 620.10.01 has no closed kernel modules") {
		t.Errorf("%v", r)
	}
}

// Where the other kind of module is wanted, the packages of the present kind go.
func TestPlanOfOtherModules(t *testing.T) {
	f := debian()
	f.Available["nvidia-open-kernel-dkms"] = []string{"535.309.01-1~deb12u1"}
	p, r := Make(f, Want{Version: "535.309.01", Modules: Open})
	if r != nil || !slices.Contains(p.Remove, "nvidia-kernel-dkms") || p.Modules != Open {
		t.Errorf("%+v, %v", p, r)
	}
}

func TestPlanForAMD(t *testing.T) {
	f := Facts{
		Kernel: "6.8.0-60-generic", Distribution: Distribution{ID: "ubuntu", Version: "24.04"},
		GPUs:    []Device{{Address: "0000:c1:00.0", Vendor: gpu.AMD, ID: 0x75a0, Class: 0x120000}, {Vendor: gpu.Intel, ID: 0x4680, Class: 0x030000}},
		Drivers: map[gpu.Vendor]Installed{gpu.AMD: {Loaded: InTree, Tools: true}},
		Available: map[string][]string{
			"amdgpu-dkms": {"1:6.14.14.30100100-2193512.24.04", "1:6.12.12.60402-2187269.24.04"}, "linux-headers-6.8.0-60-generic": {"6.8.0-60.63"},
		},
	}
	if _, r := Make(f, Want{Version: "6.12.12"}); r == nil || !strings.Contains(r.Reason, "MI350X") {
		t.Errorf("a driver that does not know the GPU: %v", r)
	}
	p, r := Make(f, Want{Version: "6.14.14"})
	if r != nil || p.Apply != Reboot || !slices.Contains(p.Install, Pin{"amdgpu-dkms", "1:6.14.14.30100100-2193512.24.04"}) {
		t.Errorf("%+v, %v", p, r)
	}
}

// Whatever a host is like, a plan never goes past its GPUs, its distribution or its
// sources.
func TestPlansHoldTheirRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := debian()
		f.Distribution.ID = rapid.SampledFrom([]string{"debian", "ubuntu", "rhel", "nixos"}).Draw(t, "distribution")
		f.GPUs[0].ID = rapid.SampledFrom([]uint16{0x1021, 0x1db4, 0x1eb8, 0x2330, 0x2335, 0x2901, 0x3182}).Draw(t, "gpu")
		f.SecureBoot = rapid.Bool().Draw(t, "secure boot")
		if rapid.Bool().Draw(t, "in use by a screen") {
			f.Holders = []Process{{PID: 1, Name: "Xorg", Vendor: gpu.NVIDIA, Display: true}}
		}
		w := Want{Version: rapid.SampledFrom([]string{"", "535.309.01", "535.261.03", "580.126.09"}).Draw(t, "version")}
		p, r := Make(f, w)
		if r != nil {
			if !strings.Contains(r.Error(), "nothing was changed") {
				t.Fatalf("a refusal that does not say so: %v", r)
			}
			return
		}
		if why := requireNVIDIA(f.GPUs[0]).allows(p.Version, p.Modules); why != "" {
			t.Fatalf("planned %+v: %s", p, why)
		}
		if f.Distribution.ID != "debian" && f.Distribution.ID != "ubuntu" || len(f.Holders) > 0 {
			t.Fatalf("planned %+v on %+v", p, f)
		}
		if f.SecureBoot && len(p.Install) > 0 {
			t.Fatalf("modules that nobody signed are planned: %+v", p)
		}
		for _, pin := range p.Install {
			if !slices.Contains(f.Available[pin.Name], pin.Version) {
				t.Fatalf("%s is planned and not offered", pin)
			}
			if strings.HasPrefix(pin.Name, "linux-image") || pin.Name == "linux-headers-amd64" {
				t.Fatalf("%s brings a kernel", pin)
			}
		}
	})
}
