package scale

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// slowest is the lowest speed that counts for a class, so that one bad measurement does not make
// its replicas worthless.
const slowest = 0.01

// deadBand is the relative change of a measured speed that replaces the one in force. It is well
// above the difference of two measurements of the same hardware.
const deadBand = 0.15

// WithSpeeds returns the classes with the speeds from measured rates, in requests per second of one
// busy slot, by class. A class without a rate keeps its own Speed, scaled to match the rates of the
// others. The fastest class with devices has speed 1; a faster class without devices has more. All
// speeds have two significant digits.
func WithSpeeds(classes []Class, rates map[string]float64) []Class {
	speeds := measured(classes, rates)
	out := make([]Class, len(classes))
	for i, class := range classes {
		class.Speed, _ = strconv.ParseFloat(strconv.FormatFloat(speeds[i], 'g', 2, 64), 64)
		out[i] = class
	}
	return out
}

// WithSlots returns the classes with their measured slots, by class. It changes only classes with
// Measured. The total stays within MaxSlots.
func WithSlots(classes []Class, slots map[string]float64) []Class {
	replicas := 0
	for _, class := range classes {
		replicas += class.Max
	}
	out := slices.Clone(classes)
	for i := range out {
		if n := slots[out[i].Name]; out[i].Measured && n > 0 {
			out[i].Slots = max(1, min(int(n), MaxSlots/max(1, replicas)))
		}
	}
	return out
}

// SlotsMoved is Moved for measured slots.
func SlotsMoved(classes []Class, from, to map[string]float64) bool {
	for _, class := range classes {
		before, after := from[class.Name], to[class.Name]
		if class.Measured && after > 0 && !(math.Abs(math.Log(after/before)) <= math.Log1p(deadBand)) {
			return true
		}
	}
	return false
}

// Moved reports whether the speeds from new rates differ enough to replace those in force.
func Moved(classes []Class, from, to map[string]float64) bool {
	after := measured(classes, to)
	for i, before := range measured(classes, from) {
		if math.Abs(math.Log(after[i]/before)) > math.Log1p(deadBand) {
			return true
		}
	}
	return false
}

func measured(classes []Class, rates map[string]float64) []float64 {
	sum, n := 0.0, 0.0
	for _, class := range classes {
		if rate := rates[class.Name]; rate > 0 {
			sum += math.Log(rate / class.speed())
			n++
		}
	}
	scale := math.Exp(sum / max(n, 1))
	speeds := make([]float64, len(classes))
	for i, class := range classes {
		speeds[i] = class.speed() * scale
		if rate := rates[class.Name]; rate > 0 {
			speeds[i] = rate
		}
	}
	unit := fastest(classes, speeds)
	for i := range speeds {
		speeds[i] = min(max(speeds[i]/unit, slowest), 1/slowest)
	}
	return speeds
}

// fastest returns the largest speed of a class that has devices, because no other class can serve
// the queue. Without any devices it returns the largest speed of all.
func fastest(classes []Class, speeds []float64) float64 {
	most, there := 0.0, 0.0
	for i, class := range classes {
		most = max(most, speeds[i])
		if class.Max > 0 {
			there = max(there, speeds[i])
		}
	}
	if there > 0 {
		return there
	}
	return most
}

// equal reports whether a slot of every class has the speed 1.
func equal(classes []Class) bool {
	for _, class := range classes {
		if class.speed() != 1 {
			return false
		}
	}
	return true
}

// Load returns a demand in slots of the fastest class. A queued request counts 1, and an active
// request the speed of its class. By Little's law the sum is the arrival rate over the rate of one
// such slot, whatever mix serves it. byClass gives the active requests by class. Active requests on
// classes that are not listed count 1 each.
func Load(queued, active float64, byClass map[string]float64, classes []Class) float64 {
	load := queued + active
	for _, class := range classes {
		load -= byClass[class.Name] * (1 - class.speed())
	}
	return max(0, load)
}

// overlap keeps a count from shrinking for one cold start after the speeds of the classes, or what
// they serve within an objective, have changed. The replicas of the new mix then serve before those
// of the old one end. The demand does not show this change, so decide cannot see it.
func (c Config) overlap(d Decision, current int, age time.Duration) Decision {
	if d.Awake >= current || d.Need.Idle || age > c.Policy.ColdStart {
		return d
	}
	changed := "the speeds of the classes"
	if c.Objective != nil {
		changed = "what replicas serve within the objective"
	}
	d.Count, d.Awake = current, current
	d.Reason = fmt.Sprintf("holding %d: %s changed %s ago, and nothing shrinks for one cold start of %s",
		current, changed, age.Round(Step), c.Policy.ColdStart)
	return d
}

// words lists the speeds for operators, "" if all are equal.
func words(classes []Class) string {
	if equal(classes) {
		return ""
	}
	parts := make([]string, len(classes))
	for i, class := range classes {
		parts[i] = fmt.Sprintf("%s %.2g", class.Name, class.speed())
	}
	return ", speed per slot: " + strings.Join(parts, ", ")
}
