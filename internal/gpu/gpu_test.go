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
			t.Errorf("class %q is no DNS label or stands twice", h.Class)
		}
		seen[h.Class] = true
		if h.Weight <= 0 || h.Bandwidth <= 0 || h.TFLOPS <= 0 || h.MemoryGB <= 0 {
			t.Errorf("class %q has an empty figure: %+v", h.Class, h)
		}
	}
}
