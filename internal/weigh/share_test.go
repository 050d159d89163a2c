package weigh

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func drawLoads(t *rapid.T) []Load {
	n := rapid.IntRange(1, 12).Draw(t, "groups")
	out := make([]Load, n)
	for i := range out {
		out[i] = Load{
			Group: string(rune('a' + i)),
			Count: rapid.IntRange(0, 50).Draw(t, "count"),
			Rate:  rapid.OneOf(rapid.Float64Range(1e-6, 100), rapid.SampledFrom([]float64{math.MaxFloat64, math.SmallestNonzeroFloat64, 1})).Draw(t, "rate"),
		}
	}
	return out
}

func TestSharesSumToWholeAndFollowTheLoad(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		loads := drawLoads(t)
		shares, err := Shares(loads)
		healthy, top := 0, 0.0
		for _, l := range loads {
			healthy += l.Count
			if l.Count > 0 {
				top = max(top, l.Rate)
			}
		}
		if healthy == 0 {
			if err == nil {
				t.Fatal("shares of nothing")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		sum, total := 0, 0.0
		for _, l := range loads {
			if l.Count > 0 {
				total += float64(l.Count) * (l.Rate / top)
			}
		}
		for i, s := range shares {
			sum += s.Hundredths
			if s.Hundredths < 0 || loads[i].Count == 0 && s.Hundredths != 0 {
				t.Fatalf("%+v for %+v", s, loads[i])
			}
			if exact := float64(loads[i].Count) * (loads[i].Rate / top) / total * Whole; loads[i].Count > 0 && math.Abs(float64(s.Hundredths)-exact) >= 1.001 {
				t.Fatalf("%+v: exact share is %v", s, exact)
			}
		}
		if sum != Whole {
			t.Fatalf("sum %d of %+v", sum, shares)
		}
	})
}

func TestSharesOfThreeEquals(t *testing.T) {
	got, err := Shares([]Load{{"c", 1, 1}, {"a", 1, 1}, {"b", 1, 1}})
	if err != nil || got[1].Hundredths != 3334 || got[0].Hundredths != 3333 || got[2].Hundredths != 3333 {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestSharesRefusesWhatIsNoNumber(t *testing.T) {
	for _, l := range []Load{{"a", -1, 1}, {"a", 1, 0}, {"a", 1, -2}, {"a", 1, math.NaN()}, {"a", 1, math.Inf(1)}} {
		if got, err := Shares([]Load{l, {"b", 1, 1}}); err == nil {
			t.Errorf("%+v: got %+v", l, got)
		}
	}
}

func TestDecide(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := DefaultLimits()
	prev := []Share{{"a", 0, 6000}, {"b", 0, 4000}, {"c", 0, 0}}
	next := func(a, b, c int) []Share {
		count := func(h int) int { return min(1, h) }
		return []Share{{"a", count(a), a}, {"b", count(b), b}, {"c", count(c), c}}
	}
	for name, c := range map[string]struct {
		next  []Share
		ago   time.Duration
		write bool
		wait  time.Duration
	}{
		"unchanged":             {next(6000, 4000, 0), time.Hour, false, 0},
		"below a point":         {next(6099, 3901, 0), time.Hour, false, 0},
		"one point":             {next(6100, 3900, 0), time.Hour, true, 0},
		"too soon":              {next(7000, 3000, 0), 400 * time.Millisecond, false, 600 * time.Millisecond},
		"just in time":          {next(7000, 3000, 0), time.Second, true, 0},
		"emptied at once":       {next(10000, 0, 0), 0, true, 0},
		"back from nothing":     {next(5980, 3990, 30), time.Hour, true, 0},
		"back, but too soon":    {next(5980, 3990, 30), 0, false, time.Second},
		"clock has jumped back": {next(7000, 3000, 0), -time.Hour, false, time.Second},
	} {
		d := Decide(prev, c.next, now.Add(-c.ago), now, l)
		if d.Write != c.write || d.Wait != c.wait {
			t.Errorf("%s: got %+v", name, d)
		}
	}
	if d := Decide(prev, next(10000, 0, 0)[:1], now.Add(-time.Hour), now, l); !d.Write {
		t.Errorf("a vanished group is not written: %+v", d)
	}
}

func TestDecideNeverLosesAnEmptiedGroup(t *testing.T) {
	now := time.Unix(1e9, 0)
	rapid.Check(t, func(t *rapid.T) {
		loads := drawLoads(t)
		prev, err := Shares(loads)
		if err != nil {
			return
		}
		for i := range loads {
			loads[i].Count = max(0, loads[i].Count+rapid.IntRange(-50, 50).Draw(t, "change"))
		}
		next, err := Shares(loads)
		if err != nil {
			return
		}
		d := Decide(prev, next, now.Add(-time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms"))*time.Millisecond), now, DefaultLimits())
		for i := range next {
			if next[i].Count == 0 && prev[i].Hundredths > 0 && !(d.Write && d.Urgent) {
				t.Fatalf("%s lost its instances and %+v", next[i].Group, d)
			}
		}
		if d.Write && d.Wait != 0 {
			t.Fatalf("writes and waits: %+v", d)
		}
	})
}
