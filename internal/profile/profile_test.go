package profile

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// A fit finds the coefficients that the data were generated with, whatever the terms, and none is
// negative.
func TestALineIsFoundAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Float64Range(1e-3, 0.1).Draw(t, "a")
		b := rapid.SampledFrom([]float64{0, 2e-5, 1e-3}).Draw(t, "b")
		c := rapid.SampledFrom([]float64{0, 5e-8, 5e-7}).Draw(t, "c")
		noise := rapid.SampledFrom([]float64{0, 0.002}).Draw(t, "noise")
		var points []Point
		for i, prompt := range []float64{120, 480, 1900, 7600} {
			for j, n := range []int{1, 4, 16, 64} {
				p := Point{Cell: Cell{Concurrency: n}, KV: prompt * float64(n)}
				off := 1 + noise*math.Sin(float64(7*i+3*j))
				p.Step = Mean{Value: off * (a + b*float64(n) + c*p.KV), N: 3}
				points = append(points, p)
			}
		}
		s, ok := FitStep(points)
		if !ok || s.A < 0 || s.B < 0 || s.C < 0 {
			t.Fatalf("%+v, %v", s, ok)
		}
		if noise == 0 && (math.Abs(s.A/a-1) > 1e-6 || math.Abs(s.B-b) > 1e-6*a || math.Abs(s.C-c) > 1e-9*a) {
			t.Fatalf("found %v, %v, %v", s.A, s.B, s.C)
		}
		if s.Line.Mean() > 2*noise+1e-9 {
			t.Fatalf("off by %v", s.Line.Mean())
		}
	})
}

// A bend in the data shows in the residuals.
func TestABendShows(t *testing.T) {
	var points []Point
	for _, n := range []int{1, 2, 4, 8, 16, 32, 64} {
		step := 0.01
		if n > 16 {
			step = 0.05 // past what the hardware computes at once
		}
		points = append(points, Point{Cell: Cell{Concurrency: n}, KV: float64(100 * n * n), Step: Mean{Value: step, N: 3}})
	}
	s, ok := FitStep(points)
	if !ok || s.Line.Mean() < 0.05 {
		t.Errorf("off by %v on average", s.Line.Mean())
	}
}

// A 95% interval contains the true mean about as often as it should.
func TestIntervalsHold(t *testing.T) {
	held, all := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		var values []float64
		for range rapid.IntRange(3, 12).Draw(t, "n") {
			// A sum of three uniform values is close enough to normal.
			sum := 0.0
			for range 3 {
				sum += float64(rapid.IntRange(-1000, 1000).Draw(t, "v"))
			}
			values = append(values, 10_000+sum)
		}
		m := MeanOf(values)
		if all++; math.Abs(m.Value-10_000) <= m.Half {
			held++
		}
		if q := Quantile(values, 0.5); q < Quantile(values, 0) || q > Quantile(values, 1) {
			t.Fatalf("the median of %v is %v", values, q)
		}
	})
	if float64(held) < 0.6*float64(all) { // the drawn values are not random enough for 0.95
		t.Errorf("%d of %d intervals hold the mean", held, all)
	}
}

func TestCellsStayWithinLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limits{Context: rapid.SampledFrom([]int{0, 500, 4096}).Draw(t, "context"), KV: rapid.SampledFrom([]int{0, 10_000, 500_000}).Draw(t, "kv"), Slots: rapid.SampledFrom([]int{0, 1, 8}).Draw(t, "slots")}
		d := Usual()
		cells, left := d.Cells(l)
		if len(cells)+len(left) != len(d.Prompts)*len(d.Concurrencies)+len(d.Alone) {
			t.Fatalf("%d cells and %d left out", len(cells), len(left))
		}
		for i, c := range cells {
			if l.Context > 0 && c.Prompt+c.Output > l.Context || l.KV > 0 && c.Tokens() > l.KV || l.Slots > 0 && c.Concurrency > l.Slots || c.Output < d.Window {
				t.Fatalf("%+v of %+v", c, l)
			}
			if i > 0 && c.Tokens() < cells[i-1].Tokens() {
				t.Fatal("an expensive cell comes before a cheap one")
			}
		}
	})
}

// Steps count while all responses are decoding. A piece may contain several tokens.
func TestWave(t *testing.T) {
	steady := func(first float64, pieces, per int) Answer {
		a := Answer{Asked: pieces * per, Output: pieces * per, Prompt: 100}
		for i := range pieces {
			a.Tokens = append(a.Tokens, first+0.01*float64(i))
		}
		a.End = a.Tokens[pieces-1]
		return a
	}
	w := WaveOf([]Answer{steady(0.1, 40, 1), steady(0.25, 40, 1)})
	if math.Abs(w.Step-0.01) > 1e-9 || w.KV < 200 || w.KV > 280 || w.Written != 80 {
		t.Errorf("%+v", w)
	}
	if w := WaveOf([]Answer{steady(0.1, 40, 2)}); math.Abs(w.Step-0.005) > 1e-9 {
		t.Errorf("two tokens in a piece: %+v", w)
	}
	if w := WaveOf([]Answer{steady(0.1, 20, 1), steady(0.25, 20, 1)}); w.Step != 0 {
		t.Errorf("four steps together say %v", w.Step)
	}
}

func TestRoundsEndWhenKnown(t *testing.T) {
	r := UsualRounds()
	if r.Done(2, []float64{1, 1}) || !r.Done(3, []float64{1, 1.001, 1}) || r.Done(3, []float64{1, 1.2, 1}) || !r.Done(20, []float64{1, 5}) {
		t.Error("rounds end at the wrong time")
	}
}

func TestScaleNeedsATokenizer(t *testing.T) {
	if s, err := FitScale([3]int{32, 96, 256}, [3]int{50, 130, 330}); err != nil || s.Words(1000) != 792 {
		t.Errorf("%+v, %d, %v", s, s.Words(1000), err)
	}
	for _, tokens := range [][3]int{{7, 7, 7}, {50, 400, 330}, {0, 0, 9000}} {
		if s, err := FitScale([3]int{32, 96, 256}, tokens); err == nil {
			t.Errorf("%v passes as %+v", tokens, s)
		}
	}
}
