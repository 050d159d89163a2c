package scale

import (
	"math"
	"sort"
	"testing"

	"pgregory.net/rapid"
)

func drawClasses(t *rapid.T, most int) []Class {
	n := rapid.IntRange(1, most).Draw(t, "classes")
	classes := make([]Class, n)
	for c := range classes {
		classes[c] = Class{
			Name:  string(rune('a' + c)),
			Slots: rapid.IntRange(1, 12).Draw(t, "slots"),
			Cost:  float64(rapid.IntRange(0, 40).Draw(t, "cost")) / 4,
			Max:   rapid.IntRange(0, 6).Draw(t, "max"),
		}
	}
	return classes
}

func offered(counts []int, classes []Class) (slots int, cost float64) {
	for c, n := range counts {
		slots += n * classes[c].Slots
		cost += float64(n) * classes[c].Cost
	}
	return slots, cost
}

// greedy fills the class with the lowest cost per slot first.
func greedy(slots int, classes []Class) []int {
	order := make([]int, len(classes))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(i, j int) bool {
		a, b := classes[order[i]], classes[order[j]]
		return a.Cost*float64(b.Slots) < b.Cost*float64(a.Slots)
	})
	counts := make([]int, len(classes))
	for _, c := range order {
		for counts[c] < classes[c].Max && slots > 0 {
			counts[c]++
			slots -= classes[c].Slots
		}
	}
	return counts
}

func TestPlanCoversWhileDevicesLast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		classes := drawClasses(t, 4)
		slots := rapid.IntRange(0, 200).Draw(t, "wanted")
		counts := Plan(slots, classes)
		limit := 0
		for c, class := range classes {
			limit += class.Slots * class.Max
			if counts[c] < 0 || counts[c] > class.Max {
				t.Fatalf("%d of class %+v", counts[c], class)
			}
		}
		if got, _ := offered(counts, classes); got < min(slots, limit) {
			t.Fatalf("%v offers %d slots of %d wanted and %d there are", counts, got, slots, limit)
		}
	})
}

func TestPlanNeverCostsMoreThanGreedy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		classes := drawClasses(t, 4)
		slots := rapid.IntRange(0, 150).Draw(t, "wanted")
		_, ours := offered(Plan(slots, classes), classes)
		_, theirs := offered(greedy(slots, classes), classes)
		if ours > theirs+1e-9 {
			t.Fatalf("cost %v against greedy %v", ours, theirs)
		}
	})
}

func TestPlanIsTheCheapestOfAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		classes := drawClasses(t, 3)
		limit := 0
		for _, class := range classes {
			limit += class.Slots * class.Max
		}
		slots := rapid.IntRange(0, limit).Draw(t, "wanted")
		best := math.Inf(1)
		counts := make([]int, len(classes))
		var walk func(c int)
		walk = func(c int) {
			if c == len(classes) {
				if s, cost := offered(counts, classes); s >= slots {
					best = min(best, cost)
				}
				return
			}
			for n := 0; n <= classes[c].Max; n++ {
				counts[c] = n
				walk(c + 1)
			}
		}
		walk(0)
		if _, cost := offered(Plan(slots, classes), classes); math.Abs(cost-best) > 1e-9 {
			t.Fatalf("cost %v, cheapest %v", cost, best)
		}
	})
}

func TestPlanTakesOneBigWhereSmallOnesCostMore(t *testing.T) {
	classes := []Class{{Name: "l4", Slots: 2, Cost: 1, Max: 16, Speed: 1}, {Name: "h100", Slots: 8, Cost: 3.5, Max: 4, Speed: 1}}
	for _, c := range []struct{ slots, l4, h100 int }{
		{0, 0, 0}, {1, 1, 0}, {6, 3, 0}, {7, 0, 1}, {8, 0, 1}, {10, 1, 1}, {16, 0, 2},
		{32, 0, 4}, {33, 1, 4}, {64, 16, 4}, {1000, 16, 4},
	} {
		if got := Plan(c.slots, classes); got[0] != c.l4 || got[1] != c.h100 {
			t.Errorf("%d slots: %v, want l4 %d, h100 %d", c.slots, got, c.l4, c.h100)
		}
	}
}

func TestSplitSumsToTheDemand(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		classes := drawClasses(t, 4)
		demand := rapid.Float64Range(0, 300).Draw(t, "demand")
		sum := 0.0
		for _, part := range Split(demand, 0.9, classes) {
			if part < 0 {
				t.Fatalf("negative part")
			}
			sum += part
		}
		if math.Abs(sum-demand) > 1e-6 {
			t.Fatalf("parts sum to %v of %v", sum, demand)
		}
	})
}

func TestUtilizationAllowsForRounding(t *testing.T) {
	if got := SlotsFor(4.9, 0.7); got != 7 {
		t.Errorf("4.9 at 0.7 needs %d slots, want 7", got)
	}
}
