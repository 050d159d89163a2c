package quantile

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/DataDog/sketches-go/ddsketch/store"
)

// What several sketches make together, over their encoding, are the quantiles of all
// values, as accurate as is said.
func TestQuantilesOfSeveral(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var all []float64
	var sum Sketch
	for range 5 {
		var one Sketch
		for range 1000 {
			v := math.Exp(rng.NormFloat64() * 3)
			all = append(all, v)
			one.Add(v)
		}
		read, err := Decode(one.Encode())
		if err != nil {
			t.Fatal(err)
		}
		sum.Merge(read)
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.5, 0.9, 0.99, 1} {
		want := all[int(q*float64(len(all)-1))]
		if got := sum.At(q); math.Abs(got-want) > 1.01*Accuracy*want {
			t.Errorf("%g: got %g, want %g", q, got, want)
		}
	}
	at := all[4000]
	if got := sum.Above(at * (1 + 2*Accuracy)); got > 999 || got < 900 {
		t.Errorf("%g are above", got)
	}
}

func TestEmptyAndAbsurd(t *testing.T) {
	var s Sketch
	if s.At(0.5) != 0 || s.Count() != 0 || s.Above(0) != 0 || s.Encode() != nil {
		t.Error("an empty sketch has something in it")
	}
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, 0} {
		s.Add(v)
	}
	if s.Count() != 4 || s.At(1) < maxValue*(1-Accuracy) {
		t.Errorf("%g values, the largest %g", s.Count(), s.At(1))
	}
	if _, err := Decode([]byte("nonsense")); err == nil {
		t.Error("nonsense is read")
	}
	other, _ := ddsketch.NewDefaultDDSketch(0.05)
	_ = other.Add(1)
	var b []byte
	other.Encode(&b, false)
	if _, err := Decode(b); err == nil {
		t.Error("a sketch of another accuracy is read")
	}
}

// A sketch that another program made may hold what Add keeps out: JSON has no infinity.
func TestDecodedValuesAreBounded(t *testing.T) {
	d := ddsketch.NewDDSketchFromStoreProvider(scale, store.SparseStoreConstructor)
	for _, v := range []float64{1e300, -1e300} {
		_ = d.Add(v)
	}
	d.GetPositiveValueStore().Add(1 << 40) // beyond what a float64 holds
	var b []byte
	d.Encode(&b, false)
	s, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if low, high := s.At(0), s.At(1); low != 0 || high != maxValue {
		t.Errorf("from %g to %g", low, high)
	}
}

func FuzzDecode(f *testing.F) {
	var s Sketch
	s.Add(1)
	s.Add(100)
	f.Add(s.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Decode(b)
		if err != nil {
			return
		}
		var sum Sketch
		sum.Add(1)
		sum.Merge(s)
		for _, q := range []float64{0, 0.5, 1} {
			if v := sum.At(q); !(v >= 0 && v <= maxValue) {
				t.Errorf("%x: %g", b, v)
			}
		}
		sum.Above(1)
		sum.Encode()
	})
}
