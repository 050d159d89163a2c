package weigh

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"aliquot.example/internal/gpu"
)

func TestGroupNameRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := Group{Class: rapid.StringMatching(`[a-z][a-z0-9]{0,6}(-[a-z0-9]{1,4}){0,2}`).Draw(t, "class")}
		if g.check() != nil {
			return
		}
		switch rapid.IntRange(0, 2).Draw(t, "shape") {
		case 1:
			g.Slices = rapid.IntRange(1, 1000).Draw(t, "slices")
		case 2:
			g.Total = rapid.IntRange(1, 1000).Draw(t, "total")
			g.Slices = rapid.IntRange(1, g.Total).Draw(t, "slices")
		}
		if got, err := ParseGroup(g.Name()); err != nil || got != g {
			t.Fatalf("%+v -> %q -> %+v, %v", g, g.Name(), got, err)
		}
	})
}

func TestParseInstance(t *testing.T) {
	for name, c := range map[string]struct {
		meta map[string]string
		want string // group, or part of the error after "!"
	}{
		"whole":           {map[string]string{"gpu_class": "h100"}, "h100"},
		"whole, said so":  {map[string]string{"gpu_class": "h100", "aliquot_slices": "1", "aliquot_slices_total": "1"}, "h100"},
		"unset slices":    {map[string]string{"gpu_class": "h100", "aliquot_slices": ""}, "h100"},
		"slices":          {map[string]string{"gpu_class": "h100", "aliquot_slices": "6"}, "h100-s6"},
		"slices of total": {map[string]string{"gpu_class": "h100", "aliquot_slices": "1", "aliquot_slices_total": "20"}, "h100-s1of20"},
		"no class":        {map[string]string{}, "!no gpu_class"},
		"no label":        {map[string]string{"gpu_class": "H200_x"}, "!gpu_class"},
		"filter inside":   {map[string]string{"gpu_class": `h100" or "1" == "1`}, "!gpu_class"},
		"rule mark":       {map[string]string{"gpu_class": "h100--fast"}, "!gpu_class"},
		"looks sliced":    {map[string]string{"gpu_class": "h100-s6"}, "!gpu_class"},
		"too long":        {map[string]string{"gpu_class": strings.Repeat("h", 33)}, "!gpu_class"},
		"negative slices": {map[string]string{"gpu_class": "h100", "aliquot_slices": "-3"}, "!aliquot_slices"},
		"leading zero":    {map[string]string{"gpu_class": "h100", "aliquot_slices": "06"}, "!aliquot_slices"},
		"huge slices":     {map[string]string{"gpu_class": "h100", "aliquot_slices": "99999"}, "!99999 slices"},
		"total alone":     {map[string]string{"gpu_class": "h100", "aliquot_slices_total": "20"}, "!without aliquot_slices"},
		"no number":       {map[string]string{"gpu_class": "h100", "aliquot_weight": "NaN"}, "!aliquot_weight"},
		"infinite":        {map[string]string{"gpu_class": "h100", "aliquot_weight": "+Inf"}, "!aliquot_weight"},
		"negative weight": {map[string]string{"gpu_class": "h100", "aliquot_weight": "-1"}, "!aliquot_weight"},
		"unknown weight":  {map[string]string{"gpu_class": "h100", "aliquot_weight": "0.0000"}, "h100"},
		"total of one":    {map[string]string{"gpu_class": "h100", "aliquot_slices_total": "1"}, "h100"},
		"too many slices": {map[string]string{"gpu_class": "h100", "aliquot_slices": "30", "aliquot_slices_total": "20"}, "!30 slices of 20"},
		"greedy weight":   {map[string]string{"gpu_class": "h100", "aliquot_weight": "1e9"}, "!aliquot_weight"},
	} {
		in, err := ParseInstance("web-1", c.meta, true)
		if part, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), "web-1") {
				t.Errorf("%s: got %+v, %v", name, in, err)
			}
		} else if err != nil || in.Group.Name() != c.want {
			t.Errorf("%s: got %q, %v; want %q", name, in.Group.Name(), err, c.want)
		}
	}
}

func FuzzParseInstance(f *testing.F) {
	f.Add("h100", "6", "20", "0.3")
	f.Add("h100-s1", "", "", "")
	f.Fuzz(func(t *testing.T, class, slices, total, weight string) {
		in, err := ParseInstance("x", map[string]string{gpu.MetaClass: class, gpu.MetaSlices: slices, gpu.MetaTotal: total, gpu.MetaWeight: weight}, true)
		if err != nil {
			return
		}
		name := in.Group.Name()
		if g, err := ParseGroup(name); err != nil || g != in.Group || len(name)+len(ruleMark)+20 > 63 {
			t.Fatalf("%q: %+v, %v", name, g, err)
		}
		if strings.Count(in.Group.Filter(false, weight), `"`)%2 != 0 || in.Weight < 0 || in.Weight > maxInstanceWeight {
			t.Fatalf("%+v has filter %s", in, in.Group.Filter(false))
		}
	})
}
