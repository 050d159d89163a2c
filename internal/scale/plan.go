package scale

import (
	"math"
	"time"
)

// MaxSlots bounds the total slots of several classes, so that exact planning takes milliseconds.
const MaxSlots = 100_000

// Class is one kind of hardware that a service can run on.
type Class struct {
	Name string
	// Slots is the number of requests that one replica serves concurrently, at least 1.
	Slots int
	// Cost is the cost of one replica, in a unit common to all classes.
	Cost float64
	// Max is the number of replicas that the available devices allow.
	Max int
	// Speed is the rate of one busy slot relative to the fastest class. 0 means 1.
	Speed float64
	// Measured means that Slots comes from the gateways' measurements of an engine that batches:
	// the largest number of concurrent requests within the objective.
	Measured bool
	// Serving is what a replica serves within the service's objective, nil while unknown.
	Serving *Serving
	// Assumed means that Serving is derived from other classes, because nobody has measured this
	// one.
	Assumed bool
	// Profiled is the time of the profile that Serving is derived from, or the zero time if Serving
	// is derived from served requests.
	Profiled time.Time
}

func (c Class) speed() float64 {
	if c.Speed == 0 {
		return 1
	}
	return c.Speed
}

// spare absorbs rounding errors of the utilization: 7 slots x 0.7 are enough for 4.9.
const spare = 1e-9

// maxWanted bounds the planned demand far above MaxSlots, so that no demand overflows to a small
// integer.
const maxWanted = 1e15

// SlotsFor returns the number of whole slots that serve a demand at a utilization.
func SlotsFor(demand, utilization float64) int {
	return int(math.Ceil(min(maxWanted, demand/utilization-spare)))
}

// Plan returns the cheapest replicas of each class that together offer at least the given number of
// slots of the fastest class. If all devices together are not enough, it returns all of them.
func Plan(slots int, classes []Class) []int {
	most := slots * grain(classes)
	return newPlanner(most, classes).plan(most)
}

// finest is the largest grain.
const finest = 100

// grain returns the number of capacity units per slot of the fastest class, so that planning is
// exact in integers. It is 1 if all slots have the same speed. Otherwise it is as large as MaxSlots
// allows, because the capacity of a replica is rounded down to units. It depends only on the
// classes, so that a plan changes only with the demand.
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

// capacity returns the capacity of one replica in units.
func (c Class) capacity(grain int) int {
	return int(float64(c.Slots)*c.speed()*float64(grain) + spare)
}

// planner holds the exact solution of every covering problem up to a number of units: which lots of
// replicas are in the cheapest set that offers at least r units.
type planner struct {
	classes []Class
	grain   int
	lots    []lot
	// taken[i][r] reports whether lot i is in the cheapest set for r among the lots 0 to i.
	taken [][]bool
	// limit is the capacity of all devices, in units.
	limit int
}

// lot is 1, 2, 4 … replicas of a class. The lots of a class combine to any number up to Max.
type lot struct {
	class, replicas, units int
	cost                   float64
}

func newPlanner(most int, classes []Class) *planner {
	p := &planner{classes: classes, grain: grain(classes)}
	for c, class := range classes {
		capacity := class.capacity(p.grain)
		if capacity == 0 {
			continue // too slow for this grain
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

// plan returns the counts for a number of units up to the planner's.
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

// Split divides a demand over the classes in proportion to the capacity that Plan gives each of
// them. The parts sum to the demand. If there are no devices, the first class gets all of it.
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
