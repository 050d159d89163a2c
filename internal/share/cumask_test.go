package share

import (
	"math/big"
	"strconv"
	"strings"
	"testing"

	"aliquot.example/internal/gpu"
	"pgregory.net/rapid"
)

// shapes are real ones: MI210, MI300X SPX, DPX, QPX and CPX, MI308X CPX, MI355X,
// Radeon RX 7900 XTX.
var shapes = []CUShape{
	{Units: 104, XCCs: 1}, {Units: 304, XCCs: 8}, {Units: 152, XCCs: 4}, {Units: 76, XCCs: 2},
	{Units: 38, XCCs: 1}, {Units: 20, XCCs: 1}, {Units: 256, XCCs: 8}, {Units: 96, XCCs: 1, Paired: true},
}

func drawShape(t *rapid.T) CUShape {
	if rapid.Bool().Draw(t, "real") {
		return rapid.SampledFrom(shapes).Draw(t, "shape")
	}
	s := CUShape{XCCs: rapid.IntRange(0, 8).Draw(t, "xccs"), Paired: rapid.Bool().Draw(t, "paired")}
	s.Units = rapid.IntRange(1, 400/s.step()).Draw(t, "units") * s.step()
	return s
}

// drawGrants deals the slices of one GPU to tasks (0 is nobody), in any order.
func drawGrants(t *rapid.T, of int) [][]gpu.Slice {
	grants := make([][]gpu.Slice, rapid.IntRange(1, 5).Draw(t, "tasks")+1)
	order := rapid.Permutation(indices(of)).Draw(t, "order")
	for _, i := range order {
		task := rapid.IntRange(0, len(grants)-1).Draw(t, "task")
		grants[task] = append(grants[task], gpu.Slice{GPU: "0000:c1:00.0", Index: i, Of: of})
	}
	return grants[1:]
}

func indices(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// units lists what a grant can use; a grant without a mask has the whole GPU.
func units(t *rapid.T, shape CUShape, grant []gpu.Slice) []int {
	ranges, err := CUMask(shape, grant)
	if err != nil {
		t.Fatalf("CUMask(%+v, %v): %v", shape, grant, err)
	}
	if ranges == nil {
		return indices(shape.Units)
	}
	var out []int
	for _, r := range ranges {
		for cu := r.First; cu <= r.Last; cu++ {
			out = append(out, cu)
		}
	}
	return out
}

func TestGrantsOfOneGPUAreDisjointAndInProportion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shape := drawShape(t)
		if shape.MaxSlices() == 0 {
			t.Skip("fewer CUs than XCCs")
		}
		of := rapid.IntRange(1, shape.MaxSlices()).Draw(t, "of")
		step := shape.step()
		owner := map[int]int{}
		for task, grant := range drawGrants(t, of) {
			if len(grant) == 0 {
				continue
			}
			cus := units(t, shape, grant)
			for _, cu := range cus {
				if other, taken := owner[cu]; taken {
					t.Fatalf("tasks %d and %d share CU %d", other, task, cu)
				}
				if cu < 0 || cu >= shape.Units {
					t.Fatalf("CU %d of %d", cu, shape.Units)
				}
				owner[cu] = task
			}
			// Each slice is less than one CU (or pair) below its exact share, and
			// equal to every other slice: k slices are k times one slice.
			if len(grant) < of && len(cus) != len(grant)*shape.PerSlice(of) {
				t.Fatalf("%d of %d slices have %d CUs, one slice has %d", len(grant), of, len(cus), shape.PerSlice(of))
			}
			exact := float64(shape.Units) / float64(of)
			if got := float64(len(cus)) / float64(len(grant)); got > exact || got <= exact-float64(step) {
				t.Fatalf("%d of %d slices of %+v have %d CUs: %.2f per slice, exact share %.2f", len(grant), of, shape, len(cus), got, exact)
			}
		}
	})
}

// place follows the kernel driver: where bit i of a mask lands on a chip without
// harvested CUs.
func place(shape CUShape, engines, bit int) (xcc, engine int) {
	unit := bit / shape.step()
	return unit % max(shape.XCCs, 1), unit / max(shape.XCCs, 1) % engines
}

func TestASliceIsBalancedOverXCCsAndShaderEngines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shape := drawShape(t)
		if shape.MaxSlices() < 2 {
			t.Skip("cannot be shared")
		}
		of := rapid.IntRange(2, shape.MaxSlices()).Draw(t, "of")
		engines := rapid.SampledFrom([]int{1, 2, 4, 6, 8}).Draw(t, "engines")
		slice := gpu.Slice{GPU: "0000:c1:00.0", Index: rapid.IntRange(0, of-1).Draw(t, "index"), Of: of}
		perXCC := map[int]int{}
		perEngine := map[int]map[int]int{}
		seen := map[int]bool{}
		for _, cu := range units(t, shape, []gpu.Slice{slice}) {
			seen[cu] = true
			xcc, engine := place(shape, engines, cu)
			perXCC[xcc]++
			if perEngine[xcc] == nil {
				perEngine[xcc] = map[int]int{}
			}
			perEngine[xcc][engine]++
		}
		if shape.Paired {
			for cu := range seen {
				if !seen[cu^1] {
					t.Fatalf("CU %d is granted without its partner", cu)
				}
			}
		}
		evenly(t, "XCC", perXCC, max(shape.XCCs, 1), shape.step())
		for xcc := range perEngine {
			evenly(t, "shader engine", perEngine[xcc], engines, shape.step())
		}
		if len(perXCC) != max(shape.XCCs, 1) {
			t.Fatalf("slice %s reaches %d of %d XCCs", slice, len(perXCC), shape.XCCs)
		}
	})
}

func evenly(t *rapid.T, what string, count map[int]int, n, step int) {
	low, high := 1<<30, 0
	for i := range n {
		low, high = min(low, count[i]), max(high, count[i])
	}
	if high-low > step {
		t.Fatalf("between %d and %d CUs per %s: %v", low, high, what, count)
	}
}

func TestMaskVariablesNameTheSameUnits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shape := drawShape(t)
		if shape.MaxSlices() < 2 {
			t.Skip("cannot be shared")
		}
		grants := drawGrants(t, rapid.IntRange(2, shape.MaxSlices()).Draw(t, "of"))
		if len(grants[0]) == 0 {
			t.Skip("no slice")
		}
		ranges, err := CUMask(shape, grants[0])
		if err != nil {
			t.Fatal(err)
		}
		hsa, roc := HSACUMask(3, ranges), ROCGlobalCUMask(ranges)
		if ranges == nil {
			if hsa != "" || roc != "" {
				t.Fatalf("a whole GPU has masks %q and %q", hsa, roc)
			}
			return
		}
		want := new(big.Int)
		list, ok := strings.CutPrefix(hsa, "3:")
		if !ok {
			t.Fatalf("HSA_CU_MASK %q is not for GPU 3", hsa)
		}
		for _, part := range strings.Split(list, ",") {
			from, to, isRange := strings.Cut(part, "-")
			if !isRange {
				to = from
			}
			a, errA := strconv.Atoi(from)
			b, errB := strconv.Atoi(to)
			if errA != nil || errB != nil || b < a {
				t.Fatalf("HSA_CU_MASK %q has range %q", hsa, part)
			}
			for cu := a; cu <= b; cu++ {
				if want.Bit(cu) == 1 {
					t.Fatalf("HSA_CU_MASK %q repeats CU %d, a syntax error to ROCr", hsa, cu)
				}
				want.SetBit(want, cu, 1)
			}
		}
		if got := "0x" + want.Text(16); got != roc {
			t.Fatalf("HSA_CU_MASK %q is %s, ROC_GLOBAL_CU_MASK %s", hsa, got, roc)
		}
	})
}

func TestCUMaskRefusals(t *testing.T) {
	slice := func(id string) gpu.Slice {
		s, err := gpu.ParseSlice(id)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	mi300x := CUShape{Units: 304, XCCs: 8}
	for _, c := range []struct {
		name  string
		shape CUShape
		grant []gpu.Slice
		want  string
	}{
		{"nothing", mi300x, nil, "at least one slice"},
		{"no units", CUShape{}, []gpu.Slice{slice("0000:c1:00.0::00of02")}, "at most 0"},
		{"more slices than every XCC can serve", mi300x, []gpu.Slice{slice("0000:c1:00.0::00of39")}, "at most 38"},
		{"two GPUs", mi300x, []gpu.Slice{slice("0000:c1:00.0::00of02"), slice("0000:c2:00.0::01of02")}, "not of one GPU"},
		{"two totals", mi300x, []gpu.Slice{slice("0000:c1:00.0::00of02"), slice("0000:c1:00.0::01of03")}, "not of one GPU"},
		{"twice", mi300x, []gpu.Slice{slice("0000:c1:00.0::01of03"), slice("0000:c1:00.0::01of03")}, "granted twice"},
	} {
		if _, err := CUMask(c.shape, c.grant); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}

func TestCUMaskExamples(t *testing.T) {
	for _, c := range []struct {
		shape    CUShape
		ids      string
		hsa, roc string
	}{
		{CUShape{Units: 104, XCCs: 1}, "a::00of20 a::01of20 a::06of20", "0:0-9,30-34", "0x7c00003ff"},
		{CUShape{Units: 304, XCCs: 8}, "a::19of20", "0:285-299", "0x" + strings.TrimLeft(new(big.Int).Lsh(big.NewInt(0x7fff), 285).Text(16), "0")},
		{CUShape{Units: 96, XCCs: 1, Paired: true}, "a::01of10", "0:8-15", "0xff00"},
		{CUShape{Units: 38, XCCs: 1}, "a::00of02 a::01of02", "", ""},
		{CUShape{Units: 4, XCCs: 1}, "a::02of04", "0:2", "0x4"},
	} {
		var grant []gpu.Slice
		for _, id := range strings.Fields(c.ids) {
			s, err := gpu.ParseSlice(id)
			if err != nil {
				t.Fatal(err)
			}
			grant = append(grant, s)
		}
		ranges, err := CUMask(c.shape, grant)
		if err != nil {
			t.Fatal(err)
		}
		if hsa, roc := HSACUMask(0, ranges), ROCGlobalCUMask(ranges); hsa != c.hsa || roc != c.roc {
			t.Errorf("%+v %s: %q %q, want %q %q", c.shape, c.ids, hsa, roc, c.hsa, c.roc)
		}
	}
}
