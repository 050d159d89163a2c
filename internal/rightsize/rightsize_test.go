package rightsize

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var l4 = Option{Class: "l4", Slices: 10, Total: 20, Concurrency: 8, Rate: 1.5, KV: 30_000, Memory: 11_500, GPU: 1}

func with(change func(*Option)) Option {
	o := l4
	change(&o)
	return o
}

func TestTheCheapestThatKeepsTheObjective(t *testing.T) {
	whole := with(func(o *Option) { o.Slices, o.Rate, o.KV = 20, 4, 85_000 })
	h100 := with(func(o *Option) { o.Class, o.Rate, o.KV, o.GPU = "h100", 9, 200_000, 5 })
	small := with(func(o *Option) { o.Slices, o.Rate, o.KV = 5, 0, 1000 })
	for name, w := range map[string]struct {
		need     Need
		best     Option
		replicas int
		cost     float64
	}{
		"by the cost of a request":        {Need{}, whole, 0, 0},
		"little comes":                    {Need{Rate: 1}, l4, 1, 0.5},
		"more comes":                      {Need{Rate: 8}, whole, 2, 2},
		"long requests":                   {Need{Rate: 1, MaxTokens: 40_000}, whole, 1, 1},
		"requests that only one can hold": {Need{Rate: 1, MaxTokens: 100_000}, h100, 1, 2.5},
	} {
		got := Choose([]Option{small, h100, whole, l4}, w.need)
		if got[0].Option != w.best || got[0].Replicas != w.replicas || got[0].Cost != w.cost || got[0].Refused != "" {
			t.Errorf("%s: %+v", name, got[0])
		}
		for _, c := range got {
			if c.Option == small && c.Refused == "" {
				t.Errorf("%s: %+v can be used", name, c)
			}
		}
	}
	none := Choose([]Option{l4}, Need{Memory: 20_000})
	if none[0].Refused != "it has 11500 MiB, the weights and the cache need 20000" {
		t.Errorf("%+v", none)
	}
	free := with(func(o *Option) { o.Class, o.GPU = "t4", 0 })
	if got := Choose([]Option{free, l4}, Need{}); got[0].Option != l4 || !strings.Contains(got[1].Refused, "cost of t4") {
		t.Errorf("of one without a cost: %+v", got)
	}
	if got := Choose([]Option{free, with(func(o *Option) { o.GPU = 0; o.Slices = 5 })}, Need{}); got[0].Slices != 5 || got[1].Refused != "" {
		t.Errorf("where no cost is known: %+v", got)
	}
}

func options(t *rapid.T) []Option {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Option {
		return Option{
			Class: rapid.SampledFrom([]string{"h100", "l4", "t4"}).Draw(t, "class"), Slices: rapid.IntRange(0, 20).Draw(t, "slices"), Total: 20,
			Concurrency: rapid.Float64Range(0, 100).Draw(t, "concurrency"), Rate: rapid.SampledFrom([]float64{0, 1e-9, 0.5, 3, 80}).Draw(t, "rate"),
			KV: rapid.SampledFrom([]float64{0, 1000, 85_000}).Draw(t, "kv"), Memory: rapid.SampledFrom([]float64{0, 8_000, 40_000}).Draw(t, "memory"),
			GPU: rapid.SampledFrom([]float64{1, 2.5, 10}).Draw(t, "cost"),
		}
	}), 1, 8).Draw(t, "options")
}

// For any figures: the choice can hold a request and the weights and meets the objective, no usable
// option is cheaper, and no option is lost.
func TestNothingThatCanBeUsedIsCheaper(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := options(t)
		need := Need{
			Rate:      rapid.SampledFrom([]float64{0, 0.1, 7, 500}).Draw(t, "rate"),
			MaxTokens: rapid.SampledFrom([]float64{0, 4096, 100_000}).Draw(t, "longest"), Memory: rapid.SampledFrom([]float64{0, 16_000}).Draw(t, "memory"),
		}
		got := Choose(all, need)
		if len(got) != len(all) {
			t.Fatalf("%d of %d options", len(got), len(all))
		}
		for i, c := range got {
			if c.Refused != "" {
				continue
			}
			if c.Slices < 1 || c.Concurrency < 1 || c.KV > 0 && c.KV < need.MaxTokens || c.Memory > 0 && c.Memory < need.Memory {
				t.Fatalf("%+v is used for %+v", c, need)
			}
			if need.Rate > 0 && (c.Replicas < 1 || c.Replicas < maxReplicas && float64(c.Replicas)*c.Rate < need.Rate*(1-1e-9)) {
				t.Fatalf("%d replicas of %+v for %v a second", c.Replicas, c, need.Rate)
			}
			if i > 0 && (got[i-1].Refused != "" || got[i-1].Cost > c.Cost || need.Rate == 0 && got[i-1].PerMillion > c.PerMillion) {
				t.Fatalf("%+v before %+v", got[i-1], c)
			}
			if math.IsNaN(c.Cost) || math.IsInf(c.Cost+c.PerMillion, 0) {
				t.Fatalf("%+v", c)
			}
		}
	})
}

// More work never costs less, and a harder need never makes more options usable.
func TestMoreWorkNeverCostsLess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := options(t)
		need := Need{Rate: rapid.Float64Range(0.01, 100).Draw(t, "rate"), MaxTokens: rapid.Float64Range(0, 50_000).Draw(t, "longest")}
		more := Need{Rate: need.Rate * rapid.Float64Range(1, 10).Draw(t, "more"), MaxTokens: need.MaxTokens * rapid.Float64Range(1, 3).Draw(t, "longer")}
		a, b := Choose(all, need)[0], Choose(all, more)[0]
		if a.Refused != "" && b.Refused == "" || b.Refused == "" && b.Cost < a.Cost {
			t.Fatalf("%+v costs %v, and %+v %v", need, a.Cost, more, b.Cost)
		}
	})
}
