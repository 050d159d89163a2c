package variant

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"aliquot.example/internal/gpu"
)

func hopper() *gpu.Grant {
	return &gpu.Grant{
		Vendor: gpu.NVIDIA, Group: "h100-0", Class: "h100", Model: "NVIDIA H100 80GB HBM3",
		GPUs: []gpu.ID{"GPU-1"}, PCI: []string{"0000:1b:00.0"}, Slices: 6, Total: 20, Memory: 24467, Units: 39,
		Sharing: gpu.SharingMPS, Enforcement: gpu.EnforceMPSPercent, MemoryEnforcement: gpu.LevelCooperative,
		Target: "9.0", Driver: "550.54.15", Runtime: "12.4", Weight: 0.3,
	}
}

func instinct() *gpu.Grant {
	return &gpu.Grant{
		Vendor: gpu.AMD, Group: "mi300x", Class: "mi300x", Model: "AMD Instinct MI300X",
		GPUs: []gpu.ID{"0000:c1:00.0", "0000:c6:00.0"}, Slices: 2, Total: 1, Memory: 393184, Units: 608,
		Sharing: gpu.SharingNone, Enforcement: gpu.EnforceNone, Target: "gfx942", Driver: "6.10.5", Runtime: "6.3.0", Weight: 1.8,
	}
}

func TestBaseImageByHardware(t *testing.T) {
	all := Spec{Images: map[string]string{"cuda": "app:cuda", "rocm": "app:rocm", "cpu": "app:cpu"}}
	tags := Spec{Image: "registry:5000/app", TagByHardware: true}
	for _, c := range []struct {
		spec  Spec
		grant *gpu.Grant
		want  string
	}{
		{all, hopper(), "app:cuda"}, {all, instinct(), "app:rocm"}, {all, nil, "app:cpu"},
		{tags, hopper(), "registry:5000/app:nvidia"}, {tags, instinct(), "registry:5000/app:amd"}, {tags, nil, "registry:5000/app:cpu"},
		{Spec{Image: "one:1"}, hopper(), "one:1"}, {Spec{Image: "one:1"}, nil, "one:1"},
	} {
		if err := c.spec.Validate(); err != nil {
			t.Fatal(err)
		}
		got, err := Choose(c.spec, c.grant)
		if err != nil || got.Image != c.want || got.Variant != "" {
			t.Errorf("got %+v, %v; want %s", got, err, c.want)
		}
	}
}

func TestMissingImageNamesHardwareAndImages(t *testing.T) {
	_, err := Choose(Spec{Images: map[string]string{"rocm": "r", "cpu": "c"}}, hopper())
	wantLine(t, err, "images has no cuda", "nvidia h100-0", "6 of 20 slices", "rocm, cpu")
}

func TestFirstVariantThatFitsWins(t *testing.T) {
	spec := Spec{Image: "base", Variants: []Variant{
		{Name: "rocm", Image: "rocm", Vendor: gpu.AMD},
		{Name: "big", Image: "big", Constraints: []Constraint{{"memory", ">=", "40 GiB"}}},
		{Name: "hopper", Image: "hopper", Constraints: []Constraint{{"compute_capability", ">=", "9.0"}}, Override: Override{Args: []string{"--fp8"}}},
		{Name: "rest"},
	}}
	for _, c := range []struct {
		grant          *gpu.Grant
		variant, image string
	}{{hopper(), "hopper", "hopper"}, {instinct(), "rocm", "rocm"}, {nil, "rest", "base"}} {
		got, err := Choose(spec, c.grant)
		if err != nil || got.Variant != c.variant || got.Image != c.image {
			t.Errorf("got %+v, %v; want %s", got, err, c.variant)
		}
	}
}

func TestNoVariantIsOneLineWithEveryReason(t *testing.T) {
	spec := Spec{Variants: []Variant{
		{Name: "rocm", Image: "x", Vendor: gpu.AMD},
		{Name: "big", Image: "x", Constraints: []Constraint{{"memory", ">=", "40 GiB"}}},
		{Name: "new", Image: "x", Constraints: []Constraint{{"driver_version", "version", ">= 570, < 600"}}},
	}}
	_, err := Choose(spec, hopper())
	wantLine(t, err, "no variant fits nvidia h100-0 (NVIDIA H100 80GB HBM3; 6 of 20 slices; 24467 MiB; target 9.0; driver 550.54.15; sharing mps)",
		`"rocm" is for vendor amd`, `"big" wants memory >= 40 GiB, granted 24467 MiB`, `"new" wants driver_version version >= 570, < 600, granted 550.54.15`)
	_, err = Choose(spec, nil)
	wantLine(t, err, "no variant fits a task without a GPU", `"big" wants memory >= 40 GiB, which this hardware does not have`)
}

func wantLine(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("want an error")
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %q", err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q misses in %q", p, err)
		}
	}
}

func TestValidateNamesWhatIsWrong(t *testing.T) {
	on := func(c Constraint) Spec {
		return Spec{Variants: []Variant{{Name: "a", Image: "x", Constraints: []Constraint{c}}}}
	}
	for want, spec := range map[string]Spec{
		"image and images are both set":                 {Image: "x", Images: map[string]string{"cuda": "y"}},
		"images is empty":                               {Images: map[string]string{}},
		"no image: set image":                           {},
		"needs image":                                   {TagByHardware: true, Images: map[string]string{"cpu": "x"}},
		`"app:1" already has a tag or digest`:           {TagByHardware: true, Image: "app:1"},
		`"r:5000/app@sha256:0" already has a tag`:       {TagByHardware: true, Image: "r:5000/app@sha256:0"},
		`variant "a" is defined twice`:                  {Image: "x", Variants: []Variant{{Name: "a"}, {Name: "a"}}},
		"has no name":                                   {Image: "x", Variants: []Variant{{}}},
		`vendor is "tpu"`:                               {Image: "x", Variants: []Variant{{Name: "a", Vendor: "tpu"}}},
		`variant "a" has no image`:                      {Variants: []Variant{{Name: "a"}}},
		`variant "a": constraint attribute "colour" is`: on(Constraint{"colour", "=", "red"}),
		`operator "=>" is unknown`:                      on(Constraint{"memory", "=>", "1 GiB"}),
		"value is missing":                              on(Constraint{"memory", ">=", ""}),
		`"40" has no unit`:                              on(Constraint{"memory", ">=", "40"}),
		`"forty GiB" is not an amount`:                  on(Constraint{"memory", "=", "forty GiB"}),
		"class is text and has no order":                on(Constraint{"class", ">", "a"}),
		"error parsing regexp":                          on(Constraint{"class", "regexp", "("}),
		"memory is an amount of memory, not a version":  on(Constraint{"memory", "version", ">= 1"}),
		`">> 1" is not a version condition`:             on(Constraint{"driver_version", "version", ">> 1"}),
		`"new" is not a version`:                        on(Constraint{"driver_version", ">=", "new"}),
		`"six" is not a number`:                         on(Constraint{"slices", "=", "six"}),
		"is_set takes no value":                         on(Constraint{"target", "is_set", "x"}),
	} {
		wantLine(t, spec.Validate(), want)
	}
}

func TestOperators(t *testing.T) {
	for _, c := range []struct {
		Constraint
		nvidia, amd, none bool
	}{
		{Constraint{"memory", "<=", "24467 MiB"}, true, false, false},
		{Constraint{"memory", ">", "25 GB"}, true, true, false},
		{Constraint{"memory", "<", "0.03 TB"}, true, false, false},
		{Constraint{"memory_per_gpu", "=", "196592 MiB"}, false, true, false},
		{Constraint{"compute_capability", ">=", "8.9"}, true, false, false},
		{Constraint{"compute_capability", "<", "10.0"}, true, false, false},
		{Constraint{"target", "=", "gfx942"}, false, true, false},
		{Constraint{"target", "!=", "gfx942"}, true, false, true},
		{Constraint{"target", ">=", "9.0"}, true, false, false},
		{Constraint{"target", "is", "9"}, true, false, false},
		{Constraint{"class", "regexp", "^h[12]00$"}, true, false, false},
		{Constraint{"class", "set_contains_any", "a100-80gb, h100"}, true, false, false},
		{Constraint{"sharing", "not", "mps"}, false, true, true},
		{Constraint{"driver_version", "version", "~> 550.54"}, true, false, false},
		{Constraint{"runtime_version", "semver", ">= 6.2, < 7"}, false, true, false},
		{Constraint{"compute_capability", "is_set", ""}, true, false, false},
		{Constraint{"compute_capability", "is_not_set", ""}, false, true, true},
		{Constraint{"slices", ">=", "6"}, true, false, false},
		{Constraint{"gpus", "==", "2"}, false, true, false},
		{Constraint{"enforcement_level", "=", "cooperative"}, true, false, false},
	} {
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", c.Constraint, err)
		}
		for grant, want := range map[*gpu.Grant]bool{hopper(): c.nvidia, instinct(): c.amd, nil: c.none} {
			if why := c.mismatch(Attributes(grant)); (why == "") != want {
				t.Errorf("%s on %s: %q, want match %v", c.Constraint, Describe(grant), why, want)
			}
		}
	}
}

func TestEveryAttributeIsKnownAndOfItsKind(t *testing.T) {
	for _, grant := range []*gpu.Grant{hopper(), instinct()} {
		for name, v := range Attributes(grant) {
			kind, ok := attributeKinds[name]
			if !ok || kind != v.Kind && !(kind == Version && v.Kind == Text) {
				t.Errorf("attribute %s is %v, want %v", name, v.Kind, kind)
			}
		}
	}
}

// The choice depends on nothing but the first variant that fits: dropping those
// behind it changes nothing, dropping it gives another or none.
func TestChoiceIsTheFirstThatFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := Spec{Image: "base"}
		for i := range rapid.IntRange(1, 8).Draw(t, "variants") {
			v := Variant{Name: fmt.Sprint(i), Image: fmt.Sprint("image", i)}
			v.Vendor = rapid.SampledFrom([]gpu.Vendor{"", gpu.NVIDIA, gpu.AMD, CPU}).Draw(t, "vendor")
			for range rapid.IntRange(0, 2).Draw(t, "constraints") {
				v.Constraints = append(v.Constraints, rapid.SampledFrom([]Constraint{
					{"memory", ">=", "24 GiB"}, {"memory", "<", "10 GB"}, {"class", "=", "h100"}, {"target", "regexp", "^gfx"}, {"slices", ">", "4"},
				}).Draw(t, "constraint"))
			}
			spec.Variants = append(spec.Variants, v)
		}
		if err := spec.Validate(); err != nil {
			t.Fatal(err)
		}
		grant := rapid.SampledFrom([]*gpu.Grant{hopper(), instinct(), nil}).Draw(t, "grant")
		choice, err := Choose(spec, grant)
		first := slices.IndexFunc(spec.Variants, func(v Variant) bool { return v.mismatch(grant, Attributes(grant)) == "" })
		switch {
		case first < 0 && err == nil:
			t.Fatalf("%+v fits nothing, chose %+v", spec, choice)
		case first < 0:
			for _, v := range spec.Variants {
				if !strings.Contains(err.Error(), fmt.Sprintf("%q", v.Name)) {
					t.Fatalf("variant %s is not in %q", v.Name, err)
				}
			}
		case err != nil || choice.Variant != spec.Variants[first].Name || choice.Image != spec.Variants[first].Image:
			t.Fatalf("chose %+v, %v; want %s", choice, err, spec.Variants[first].Name)
		}
	})
}

func TestOrderOfVersionsIsTotal(t *testing.T) {
	gen := rapid.StringMatching(`[0-9]{1,3}(\.[0-9]{1,3}){0,3}(-(alpha|beta|rc1))?`)
	rapid.Check(t, func(t *rapid.T) {
		parse := func(name string) version {
			v, err := parseVersion(gen.Draw(t, name))
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		a, b, c := parse("a"), parse("b"), parse("c")
		if a.compare(a) != 0 || a.compare(b) != -b.compare(a) {
			t.Fatalf("%v and %v", a, b)
		}
		if a.compare(b) <= 0 && b.compare(c) <= 0 && a.compare(c) > 0 {
			t.Fatalf("%v <= %v <= %v", a, b, c)
		}
	})
}

// A constraint that validates never fails on any hardware for another reason
// than the hardware, and a constraint and its opposite never both hold.
func FuzzConstraint(f *testing.F) {
	for _, c := range []Constraint{{"memory", ">=", "40 GiB"}, {"target", "version", "~> 9.0, < 10"}, {"class", "regexp", "^h"}, {"model", "set_contains", "a,b"}, {"slices", "<", "1e3"}} {
		f.Add(c.Attribute, c.Operator, c.Value)
	}
	opposite := map[string]string{"=": "!=", "<": ">=", ">": "<=", "is_set": "is_not_set"}
	f.Fuzz(func(t *testing.T, attribute, operator, value string) {
		c := Constraint{attribute, operator, value}
		if c.Validate() != nil {
			return
		}
		for _, grant := range []*gpu.Grant{hopper(), instinct(), nil} {
			attrs := Attributes(grant)
			why := c.mismatch(attrs)
			if other, ok := opposite[operator]; ok {
				o := Constraint{attribute, other, value}
				if why == "" && o.mismatch(attrs) == "" {
					t.Fatalf("%s and %s both hold on %s", c, o, Describe(grant))
				}
			}
		}
	})
}

func FuzzVersionRange(f *testing.F) {
	f.Add(">= 12.1, < 13", "12.4")
	f.Fuzz(func(t *testing.T, condition, v string) {
		r, err := parseRange(condition)
		parsed, verr := parseVersion(v)
		if err == nil && verr == nil {
			r.contains(parsed)
		}
	})
}
