package driver

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"aliquot.example/internal/gpu"
)

func TestRequirementsByDeviceID(t *testing.T) {
	for _, c := range []struct {
		id      uint16
		version string
		modules Flavour
		fits    bool
	}{
		{0x1021, "470.256.02", Closed, false}, // K20X: nothing drives it that is kept up
		{0x1db4, "580.126.09", Closed, true},  // V100
		{0x1db4, "580.126.09", Open, false},
		{0x1db4, "590.48.01", Closed, false},
		{0x1eb8, "535.309.01", Open, true}, // T4
		{0x1eb8, "535.309.01", Closed, true},
		{0x20b0, "620.10.01", Open, true},    // A100
		{0x2330, "525.147.05", Open, false},  // H100
		{0x2330, "535.309.01", Closed, true}, // H100
		{0x2335, "535.309.01", Open, false},  // H200
		{0x2335, "550.163.01", Open, true},
		{0x2348, "550.163.01", Open, false}, // GH200 144G
		{0x2342, "570.86.15", Closed, false},
		{0x2901, "570.86.15", Open, false}, // B200
		{0x2901, "570.133.20", Open, true},
		{0x2b85, "570.86.15", Open, true}, // RTX 5090
		{0x2b85, "570.86.15", Closed, false},
		{0x3182, "570.133.20", Open, false}, // B300
		{0x3182, "580.126.09", Open, true},
		{0x4000, "999.1", Open, false}, // not known
	} {
		r := requireNVIDIA(Device{Vendor: gpu.NVIDIA, ID: c.id})
		if why := r.allows(c.version, c.modules); (why == "") != c.fits {
			t.Errorf("%04x with %s (%s): %q, want fits %v", c.id, c.version, c.modules, why, c.fits)
		}
	}
}

func TestGPUsThatExcludeEachOther(t *testing.T) {
	need := func(id uint16, at string) Need {
		d := Device{Address: at, Vendor: gpu.NVIDIA, ID: id}
		return Need{d, requireNVIDIA(d)}
	}
	_, why := Intersect([]Need{need(0x1db4, "0000:01:00.0"), need(0x2901, "0000:02:00.0")})
	for _, part := range []string{"no driver supports both", "1db4 at 0000:01:00.0", "2901 at 0000:02:00.0"} {
		if !strings.Contains(why, part) {
			t.Errorf("V100 and B200: %q lacks %q", why, part)
		}
	}
	all, why := Intersect([]Need{need(0x2330, "a"), need(0x2335, "b"), need(0x1eb8, "c")})
	if why != "" || all.Min != "550" || all.Last != 0 {
		t.Errorf("H100, H200 and T4: %+v, %q", all, why)
	}
}

// What the intersection allows, every GPU allows, and the other way round.
func TestIntersectionIsWhatAllAllow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var needs []Need
		for range rapid.IntRange(1, 4).Draw(t, "gpus") {
			d := Device{Vendor: gpu.NVIDIA, ID: rapid.SampledFrom([]uint16{0x1db4, 0x1eb8, 0x20b0, 0x2330, 0x2335, 0x2342, 0x2901, 0x2b85, 0x2e12, 0x3182}).Draw(t, "id")}
			needs = append(needs, Need{d, requireNVIDIA(d)})
		}
		version := rapid.SampledFrom([]string{"535.309.01", "550.163.01", "570.86.15", "570.133.20", "580.126.09", "590.48.01", "620.1"}).Draw(t, "version")
		modules := rapid.SampledFrom([]Flavour{Open, Closed}).Draw(t, "modules")
		every := true
		for _, n := range needs {
			every = every && n.Requirement.allows(version, modules) == ""
		}
		all, why := Intersect(needs)
		if together := why == "" && all.allows(version, modules) == ""; together != every {
			t.Fatalf("%s (%s): together %v (%q, %+v), each %v", version, modules, together, why, all, every)
		}
	})
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"580.95.05", "580.126.09", -1}, {"580", "580.1", -1}, {"590.1", "580.999", 1}, {"6.14.14", "6.12.12", 1}, {"1.2", "1.2", 0}} {
		if got := Compare(c.a, c.b); got != c.want {
			t.Errorf("Compare(%s, %s) = %d", c.a, c.b, got)
		}
	}
	for version, want := range map[string]string{
		"535.309.01-1~deb12u1": "535.309.01", "580.173.02-0ubuntu0.24.04.1": "580.173.02", "1:6.14.14.30100100-2193512.24.04": "6.14.14.30100100", "580.1": "580.1",
	} {
		if got := Upstream(version); got != want {
			t.Errorf("Upstream(%s) = %s", version, got)
		}
	}
	for version, want := range map[string]bool{"580.126.09": true, "550.67": true, "6.14.14": true, "580": false, "": false, "latest": false, "580.1 -y": false, "--force": false, "580.1;reboot": false} {
		if ValidVersion(version) != want {
			t.Errorf("ValidVersion(%q) = %v", version, !want)
		}
	}
}
