package scale

import "math"

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
}

// spare forgives the rounding of utilisation: 7 slots x 0.7 are enough for 4.9.
const spare = 1e-9

// SlotsFor is the number of slots that serve a demand at a utilisation.
func SlotsFor(demand, utilization float64) int {
	return int(math.Ceil(demand/utilization - spare))
}

// Plan returns the replicas of each class that offer at least so many slots at
// the least cost. Where all devices together do not, it returns all of them.
func Plan(slots int, classes []Class) []int {
	return newPlanner(slots, classes).plan(slots)
}

// planner holds the exact solution of every covering problem up to a number of
// slots: which lots of replicas are in the cheapest set that offers at least r.
type planner struct {
	classes []Class
	lots    []lot
	// taken[i][r] says that lot i is in the cheapest set for r among the first i lots.
	taken [][]bool
	limit int
}

// lot is 1, 2, 4 … replicas of a class; together the lots of a class can form
// any number up to its Max.
type lot struct {
	class, replicas, slots int
	cost                   float64
}

func newPlanner(most int, classes []Class) *planner {
	p := &planner{classes: classes}
	for c, class := range classes {
		p.limit += class.Slots * class.Max
		useful := min(class.Max, (most+class.Slots-1)/class.Slots)
		for size := 1; useful > 0; size *= 2 {
			n := min(size, useful)
			useful -= n
			p.lots = append(p.lots, lot{class: c, replicas: n, slots: n * class.Slots, cost: float64(n) * class.Cost})
		}
	}
	if len(classes) == 1 {
		return p
	}
	most = min(most, p.limit)
	best := make([]float64, most+1)
	for r := 1; r <= most; r++ {
		best[r] = math.Inf(1)
	}
	for _, l := range p.lots {
		taken := make([]bool, most+1)
		for r := most; r > 0; r-- {
			if with := best[max(0, r-l.slots)] + l.cost; with < best[r]-spare || math.IsInf(best[r], 1) && !math.IsInf(with, 1) {
				best[r], taken[r] = with, true
			}
		}
		p.taken = append(p.taken, taken)
	}
	return p
}

// plan answers for any number of slots up to the planner's.
func (p *planner) plan(slots int) []int {
	counts := make([]int, len(p.classes))
	if slots >= p.limit {
		for c, class := range p.classes {
			counts[c] = class.Max
		}
		return counts
	}
	if len(p.classes) == 1 {
		counts[0] = (max(slots, 0) + p.classes[0].Slots - 1) / p.classes[0].Slots
		return counts
	}
	for i := len(p.lots) - 1; i >= 0 && slots > 0; i-- {
		if p.taken[i][slots] {
			counts[p.lots[i].class] += p.lots[i].replicas
			slots = max(0, slots-p.lots[i].slots)
		}
	}
	return counts
}

// Split divides a demand over the classes in proportion to the slots that Plan
// gives each of them, so that the parts sum to the demand whatever the classes'
// policies make of them. Without any devices the first class bears it all.
func Split(demand, utilization float64, classes []Class) []float64 {
	parts := make([]float64, len(classes))
	if demand <= 0 {
		return parts
	}
	total := 0
	counts := Plan(SlotsFor(demand, utilization), classes)
	for c, n := range counts {
		total += n * classes[c].Slots
	}
	if total == 0 {
		parts[0] = demand
		return parts
	}
	for c, n := range counts {
		parts[c] = demand * float64(n*classes[c].Slots) / float64(total)
	}
	return parts
}
