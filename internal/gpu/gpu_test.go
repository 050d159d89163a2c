package gpu

import (
	"reflect"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func TestSlugIsADNSLabel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "text")
		if got := Slug(s); !label.MatchString(got) {
			t.Fatalf("Slug(%q) = %q", s, got)
		}
	})
}

func TestSliceRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		of := rapid.IntRange(1, MaxSlices).Draw(t, "of")
		s := Slice{GPU: ID(rapid.SampledFrom([]string{"GPU-1", "MIG-a", "0000:c1:00.0", "0000:c1:00.1-p3"}).Draw(t, "gpu")), Of: of}
		s.Index = rapid.IntRange(0, of-1).Draw(t, "index")
		got, err := ParseSlice(s.String())
		if err != nil || got != s {
			t.Fatalf("%+v -> %q -> %+v, %v", s, s.String(), got, err)
		}
	})
}

func TestParseSliceRefuses(t *testing.T) {
	for _, id := range []string{"", "::01of20", "GPU-1::", "GPU-1::1", "GPU-1::20of20", "GPU-1::-1of20", "GPU-1::00of01", "GPU-1::00of101", "GPU-1::1of20", "GPU-1::xofy"} {
		if s, err := ParseSlice(id); err == nil {
			t.Errorf("ParseSlice(%q) = %+v, want an error", id, s)
		}
	}
}

func FuzzParseSlice(f *testing.F) {
	f.Add("GPU-1::03of20")
	f.Fuzz(func(t *testing.T, id string) {
		if s, err := ParseSlice(id); err == nil && s.String() != id {
			t.Fatalf("%q parsed as %+v, which prints as %q", id, s, s)
		}
	})
}

func example() Grant {
	return Grant{
		Vendor: NVIDIA, Group: "h100-0", Class: "h100", Model: "NVIDIA H100 80GB HBM3",
		GPUs: []ID{"GPU-1"}, PCI: []string{"0000:1b:00.0"}, Slices: 2, Total: 20,
		Instances: []string{"GPU-1::00of20", "GPU-1::07of20"}, Memory: 8155, Units: 13,
		Sharing: SharingMPS, Enforcement: EnforceMPSPercent, MemoryEnforcement: LevelCooperative,
		Target: "9.0", Driver: "550.54.15", Runtime: "12.4", Weight: 0.1, Pipe: "/run/aliquot/mps/GPU-1/pipe",
	}
}

func TestGrantRoundTrip(t *testing.T) {
	want := example()
	got, ok, err := ParseGrant(want.Env())
	if err != nil || !ok || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v, %v; want %+v", got, ok, err, want)
	}
}

func TestParseGrantWithoutOne(t *testing.T) {
	if _, ok, err := ParseGrant(map[string]string{"PATH": "/bin"}); ok || err != nil {
		t.Fatalf("got %v, %v", ok, err)
	}
}

func TestTwoGrantsAreRefused(t *testing.T) {
	env := example().Env()
	other := example()
	other.Group = "t4-1"
	for k, v := range other.Env() {
		env[k] = v
	}
	if _, _, err := ParseGrant(env); err == nil || !strings.Contains(err.Error(), "2 GPU grants") {
		t.Fatalf("got %v", err)
	}
}

func TestParseGrantNamesTheBrokenVariable(t *testing.T) {
	env := example().Env()
	env[EnvSlices] = "six"
	if _, _, err := ParseGrant(env); err == nil || !strings.Contains(err.Error(), EnvSlices) {
		t.Fatalf("got %v", err)
	}
}

func TestClassOf(t *testing.T) {
	for _, c := range []struct {
		vendor Vendor
		pci    uint16
		model  string
		want   string
	}{
		{NVIDIA, 0x2330, "NVIDIA H100 80GB HBM3", "h100"},
		{NVIDIA, 0, "NVIDIA H100 80GB HBM3", "h100"},
		{NVIDIA, 0, "NVIDIA A100-SXM4-80GB", "a100-80gb"},
		{NVIDIA, 0, "NVIDIA A100-SXM4-40GB", "a100-40gb"},
		{NVIDIA, 0, "NVIDIA A10G", "a10g"},
		{NVIDIA, 0, "Tesla T4", "t4"},
		{NVIDIA, 0, "NVIDIA L40S", "l40s"},
		{NVIDIA, 0, "NVIDIA L4", "l4"},
		{AMD, 0x74a1, "", "mi300x"},
		{AMD, 0, "AMD Instinct MI300X OAM", "mi300x"},
		{NVIDIA, 0x9999, "NVIDIA GeForce GTX 1080", "gtx-1080"},
		{NVIDIA, 0x31c2, "NVIDIA GB300", "gb300"},
		{NVIDIA, 0x2702, "NVIDIA GeForce RTX 4080 SUPER", "rtx-4080-super"},
		{NVIDIA, 0, "NVIDIA GeForce RTX 4080 SUPER", "rtx-4080-super"},
		{NVIDIA, 0, "NVIDIA RTX A6000", "rtx-a6000"},
		{AMD, 0x74a0, "AMD Instinct MI300A", "mi300a"},
		{AMD, 0x74a2, "", "mi308x"},
		{AMD, 0x75a0, "", "mi350x"},
		// What bears a card's name and is less.
		{NVIDIA, 0x2757, "NVIDIA GeForce RTX 4090 Laptop GPU", "rtx-4090-laptop-gpu"},
		{NVIDIA, 0x20b0, "GRID A100-10C", "grid-a100-10c"},
		{NVIDIA, 0x20f1, "NVIDIA A100-1-5C", "a100-1-5c"},
		{NVIDIA, 0x20b3, "NVIDIA A100-SXM-64GB", "a100-64gb"},
		{NVIDIA, 0x2203, "NVIDIA GeForce RTX 3090 Ti", "rtx-3090-ti"},
		{NVIDIA, 0x2bb4, "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "rtx-pro-6000-blackwell-max-q"},
		{NVIDIA, 0, "NVIDIA Strange-S4", "stranges4"},
	} {
		if got := ClassOf(c.vendor, c.pci, c.model); got != c.want {
			t.Errorf("ClassOf(%s, %#x, %q) = %q, want %q", c.vendor, c.pci, c.model, got, c.want)
		}
	}
}

func TestEveryClassIsADNSLabelAndUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, h := range Table() {
		if !label.MatchString(h.Class) || seen[h.Class] {
			t.Errorf("class %q is not a DNS label or is listed twice", h.Class)
		}
		seen[h.Class] = true
		if h.Weight <= 0 || h.Bandwidth <= 0 || h.TFLOPS <= 0 || h.MemoryGB <= 0 {
			t.Errorf("class %q has an empty figure: %+v", h.Class, h)
		}
	}
}

func TestEstimate(t *testing.T) {
	for _, c := range []struct {
		name       string
		g          GPU
		least, max float64
	}{
		{"laptop", GPU{Vendor: NVIDIA, Model: "NVIDIA GeForce RTX 4090 Laptop GPU", Target: "8.9", Units: 76, Memory: 16376}, 0.08, 0.15},
		{"next of a kind", GPU{Vendor: NVIDIA, Model: "NVIDIA GB400", Target: "10.7", Units: 160, Memory: 300000}, 2, 6},
		{"a quarter of a card", GPU{Vendor: NVIDIA, Model: "GRID A100-10C", PCIDevice: 0x20b0, Target: "8.0", Units: 108, Memory: 10240}, 0.13, 0.14},
		{"a virtual card by name", GPU{Vendor: NVIDIA, Model: "NVIDIA L40S-24Q", Target: "8.9", Units: 142, Memory: 24576}, 0.10, 0.11},
		{"unknown architecture", GPU{Vendor: AMD, Model: "AMD Instinct MI900", Target: "gfx2000", Units: 300, Memory: 1 << 19}, 0.1, 1},
		{"only memory", GPU{Vendor: NVIDIA, Model: "NVIDIA X", Memory: 24576}, 0.05, 0.2},
		{"nothing", GPU{Vendor: NVIDIA, Model: "NVIDIA X"}, 0, 0},
	} {
		if got := Estimate(c.g); !(got >= c.least && got <= c.max) {
			t.Errorf("%s: %.3f, want %.3f to %.3f", c.name, got, c.least, c.max)
		}
	}
}

// Each class of the table is estimated within 2 x by the units and target that it has.
func TestEstimatesAreNearTheTable(t *testing.T) {
	for class, g := range map[string]GPU{
		"t4": {Units: 40, Target: "7.5"}, "v100": {Units: 80, Target: "7.0"}, "a100-40gb": {Units: 108, Target: "8.0"},
		"a10": {Units: 72, Target: "8.6"}, "rtx-3090": {Units: 82, Target: "8.6"}, "rtx-a6000": {Units: 84, Target: "8.6"},
		"l4": {Units: 58, Target: "8.9"}, "l40s": {Units: 142, Target: "8.9"}, "rtx-4080-super": {Units: 80, Target: "8.9"}, "rtx-4060": {Units: 24, Target: "8.9"},
		"h100": {Units: 132, Target: "9.0"}, "h200": {Units: 132, Target: "9.0"}, "b200": {Units: 148, Target: "10.0"}, "gb300": {Units: 152, Target: "10.3"},
		"rtx-5090": {Units: 170, Target: "12.0"}, "rtx-5080": {Units: 84, Target: "12.0"}, "mi210": {Units: 104, Target: "gfx90a"},
		"mi300x": {Units: 304, Target: "gfx942"}, "mi300a": {Units: 228, Target: "gfx942"}, "mi308x": {Units: 80, Target: "gfx942"}, "mi355x": {Units: 256, Target: "gfx950"},
	} {
		for _, h := range Table() {
			if got := Estimate(g); h.Class == class && (got > 2*h.Weight || got < h.Weight/2) {
				t.Errorf("%s is estimated at %.3f, the table has %.3f", class, got, h.Weight)
			}
		}
	}
}

func TestAnUnknownWeightIsNotZero(t *testing.T) {
	g := example()
	g.Weight = 0
	env := g.Env()
	if env[EnvWeight] != "" {
		t.Errorf("%s is %q: a job would pass it on as a claim", EnvWeight, env[EnvWeight])
	}
	if got, ok, err := ParseGrant(env); err != nil || !ok || got.Weight != 0 {
		t.Errorf("read back: %+v, %v, %v", got, ok, err)
	}
}

func TestAClassIsRatedByItsOwnRow(t *testing.T) {
	for class, want := range map[string]string{"h100": "h100", "a100": "a100-80gb", "l4": "l4", "own-chip": "", "h10": ""} {
		if got, ok := Rated(class); got.Class != want || ok != (want != "") {
			t.Errorf("%s is rated as %q, %v; want %q", class, got.Class, ok, want)
		}
	}
}
