package scale

import (
	"math"
	"time"
)

// MaxSlots bounds what several classes may offer together, so that planning for
// them exactly takes milliseconds.
const MaxSlots = 100_000

// Class is one kind of hardware that a service can run on.
type Class struct {
	Name string
	// Slots is how many requests one replica serves at once, at least 1.
	Slots int
	// Cost of one replica, in any unit that is the same for all classes.
	Cost float64
	// Max is how many replicas the available devices allow.
	Max int
	// Speed is the rate of one busy slot, where that of the fastest class is 1; 0
	// stands for 1.
	Speed float64
	// Measured says that Slots is what the gateways measure of an engine that batches:
	// the largest number of requests that it serves at once within the objective.
	Measured bool
	// Serving is what a replica serves within the objective of its service; nil while
	// that is unknown.
	Serving *Serving
	// Assumed says that Serving follows from what other classes serve, and that nobody has
	// measured this one.
	Assumed bool
	// Profiled is when the profile was measured that Serving follows from; the zero time where
	// it follows from requests that were served.
	Profiled time.Time
}

func (c Class) speed() float64 {
	if c.Speed == 0 {
		return 1
	}
	return c.Speed
}

// spare forgives the rounding of utilisation: 7 slots x 0.7 are enough for 4.9.
const spare = 1e-9

// mostWanted bounds what is planned for, far above what all devices offer (MaxSlots), so that
// no demand overflows into a small number.
const mostWanted = 1e15

// SlotsFor is the number of whole slots that serve a demand at a utilisation.
func SlotsFor(demand, utilization float64) int {
	return int(math.Ceil(min(mostWanted, demand/utilization-spare)))
}

// Plan returns the replicas of each class that offer at least so many slots of
// the fastest class at the least cost. Where all devices together do not, it
// returns all of them.
func Plan(slots int, classes []Class) []int {
	most := slots * grain(classes)
	return newPlanner(most, classes).plan(most)
}

// finest is the largest grain.
const finest = 100

// grain is into how many units of capacity a slot of the fastest class is cut, so
// that planning can be exact in whole numbers: one where all slots count the same.
// Otherwise as many as MaxSlots allows, because the capacity of a replica is
// rounded down to them. It depends on nothing but the classes, so that a plan
// changes with the demand alone.
func grain(classes []Class) int {
	if equal(classes) {
		return 1
	}
	total := 0.0
	for _, class := range classes {
		total += float64(class.Slots) * float64(class.Max) * class.speed()
	}
	return int(max(1, min(finest, MaxSlots/max(total, 1))))
}

// capacity of one replica in units.
func (c Class) capacity(grain int) int {
	return int(float64(c.Slots)*c.speed()*float64(grain) + spare)
}

// planner holds the exact solution of every covering problem up to a number of
// units: which lots of replicas are in the cheapest set that offers at least r.
type planner struct {
	classes []Class
	grain   int
	lots    []lot
	// taken[i][r] says that lot i is in the cheapest set for r among the first i lots.
	taken [][]bool
	// limit is what all devices offer.
	limit int
}

// lot is 1, 2, 4 … replicas of a class; together the lots of a class can form
// any number up to its Max.
type lot struct {
	class, replicas, units int
	cost                   float64
}

func newPlanner(most int, classes []Class) *planner {
	p := &planner{classes: classes, grain: grain(classes)}
	for c, class := range classes {
		capacity := class.capacity(p.grain)
		if capacity == 0 {
			continue // too slow to be planned with beside so many others
		}
		p.limit += capacity * class.Max
		useful := min(class.Max, (most+capacity-1)/capacity)
		for size := 1; useful > 0; size *= 2 {
			n := min(size, useful)
			useful -= n
			p.lots = append(p.lots, lot{class: c, replicas: n, units: n * capacity, cost: float64(n) * class.Cost})
		}
	}
	if len(classes) == 1 {
		return p
	}
	most = min(most, p.limit)
	best := make([]float64, max(most, 0)+1)
	for r := 1; r <= most; r++ {
		best[r] = math.Inf(1)
	}
	for _, l := range p.lots {
		taken := make([]bool, most+1)
		for r := most; r > 0; r-- {
			if with := best[max(0, r-l.units)] + l.cost; with < best[r]-spare || math.IsInf(best[r], 1) &&
				!math.IsInf(with, 1) {
				best[r], taken[r] = with, true
			}
		}
		p.taken = append(p.taken, taken)
	}
	return p
}

// plan answers for any number of units up to the planner's.
func (p *planner) plan(units int) []int {
	counts := make([]int, len(p.classes))
	if units <= 0 {
		return counts
	}
	if units >= p.limit {
		for c, class := range p.classes {
			counts[c] = class.Max
		}
		return counts
	}
	if len(p.classes) == 1 {
		capacity := p.classes[0].capacity(p.grain)
		counts[0] = (units + capacity - 1) / capacity
		return counts
	}
	for i := len(p.lots) - 1; i >= 0 && units > 0; i-- {
		if p.taken[i][units] {
			counts[p.lots[i].class] += p.lots[i].replicas
			units = max(0, units-p.lots[i].units)
		}
	}
	return counts
}

// Split divides a demand over the classes in proportion to the capacity that Plan
// gives each of them, so that the parts sum to the demand whatever the classes'
// policies make of them. Without any devices the first class bears it all.
func Split(demand, utilization float64, classes []Class) []float64 {
	parts := make([]float64, len(classes))
	if demand <= 0 {
		return parts
	}
	units := unitsFor(demand, utilization, grain(classes))
	p := newPlanner(units, classes)
	total := 0
	counts := p.plan(units)
	for c, n := range counts {
		total += n * classes[c].capacity(p.grain)
	}
	if total == 0 {
		parts[0] = demand
		return parts
	}
	for c, n := range counts {
		parts[c] = demand * float64(n*classes[c].capacity(p.grain)) / float64(total)
	}
	return parts
}

// unitsFor is SlotsFor in units.
func unitsFor(demand, utilization float64, grain int) int {
	return SlotsFor(demand*float64(grain), utilization)
}
