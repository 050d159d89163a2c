package scale

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Objective is the latency that a service promises. A limit of 0 means no promise.
type Objective struct {
	// TTFT is the time to the first token, TPOT the time between two tokens, and E2E the time to
	// the last token.
	TTFT, TPOT, E2E time.Duration
	// Quantile is the part of the requests that the promise covers, 0.5 to 0.9999.
	Quantile float64
}

const objectiveForm = `want "ttft=2s tpot=100ms quantile=0.99", with one of ttft, tpot and e2e at least`

// ParseObjective parses an objective: ttft, tpot and e2e as durations, and quantile as a number,
// default 0.99, in any order.
func ParseObjective(text string) (Objective, error) {
	o := Objective{Quantile: 0.99}
	limits := map[string]*time.Duration{"ttft": &o.TTFT, "tpot": &o.TPOT, "e2e": &o.E2E}
	seen := map[string]bool{}
	for _, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		if seen[key] {
			return o, fmt.Errorf("%s is given twice: give it once", key)
		}
		seen[key] = true
		var err error
		switch limit := limits[key]; {
		case limit != nil:
			if *limit, err = time.ParseDuration(value); err != nil || *limit < time.Millisecond || *limit > time.Hour {
				return o, fmt.Errorf("%s is %q: want a duration from 1ms to 1h", key, value)
			}
		case key == "quantile":
			if o.Quantile, err = strconv.ParseFloat(value, 64); err != nil ||
				!(o.Quantile >= 0.5 && o.Quantile <= 0.9999) {
				return o, fmt.Errorf("quantile is %q: want a number from 0.5 to 0.9999", value)
			}
		default:
			return o, fmt.Errorf("unknown word %q in the objective: %s", word, objectiveForm)
		}
	}
	if o.TTFT == 0 && o.TPOT == 0 && o.E2E == 0 {
		return o, errors.New(objectiveForm)
	}
	return o, nil
}

// String formats the objective as ParseObjective reads it.
func (o Objective) String() string {
	var words []string
	for _, limit := range []struct {
		name string
		of   time.Duration
	}{{"ttft", o.TTFT}, {"tpot", o.TPOT}, {"e2e", o.E2E}} {
		if limit.of > 0 {
			words = append(words, limit.name+"="+limit.of.String())
		}
	}
	return strings.Join(append(words, fmt.Sprintf("quantile=%g", o.Quantile)), " ")
}

// Serving is the largest load at which one replica serves a mean request within the objective.
type Serving struct {
	// Concurrency is the number of concurrent requests, 0 if the replica misses the objective even with
	// one.
	Concurrency float64
	// Rate is the requests per second at Concurrency. If that is 0, it is half of the replica's maximum.
	Rate float64
	// First is the time to the first token, and Token the time between two tokens, in seconds, at
	// Concurrency requests. If that is 0, they are those of a single request.
	First, Token float64
	// Slack is how many seconds of stalls between its tokens a mean response can absorb. 0 means no
	// limit.
	Slack float64
}

// moved is the ratio of two rates that replaces the one in force.
const moved = 1.1

// ServingMoved reports whether what the classes serve has changed enough to replace the values in
// force: a rate by more than the factor moved, or whether a class meets the objective.
func ServingMoved(from, to map[string]Serving) bool {
	for class, after := range to {
		before, known := from[class]
		if !known || (before.Concurrency > 0) != (after.Concurrency > 0) ||
			math.Abs(math.Log(after.Rate/before.Rate)) > math.Log(moved) {
			return true
		}
	}
	return false
}

// Traffic is what the gateways observed of a service that has an objective, on the grid of a
// Series: one value per Step, oldest first, ending now.
type Traffic struct {
	// Arrived is the arrivals in each Step, in mean requests.
	Arrived []float64
	// Waiting is the present queue, in mean requests.
	Waiting float64
	// Met and Missed are the requests that ended in each Step within the objective, and outside it.
	Met, Missed []float64
}

// Attained returns the part of the ended requests that were within the objective. known is false if
// none ended.
func (t *Traffic) Attained() (share float64, known bool) {
	met, all := 0.0, 0.0
	for i := range t.Met {
		met += t.Met[i]
		all += t.Met[i] + t.Missed[i]
	}
	return met / max(all, 1), all > 0
}
