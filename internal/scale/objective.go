package scale

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Objective is what a service promises of its answers; 0 promises nothing.
type Objective struct {
	// TTFT is from a request to its first token, TPOT between two tokens, and E2E from
	// the request to the last token.
	TTFT, TPOT, E2E time.Duration
	// Quantile is the part of the requests of which it is promised, 0.5 to 0.9999.
	Quantile float64
}

const objectiveForm = `want "ttft=2s tpot=100ms quantile=0.99", with one of ttft, tpot and e2e at least`

// ParseObjective reads an objective: ttft, tpot and e2e with durations, and quantile with
// a number, 0.99 by default, in any order.
func ParseObjective(text string) (Objective, error) {
	o := Objective{Quantile: 0.99}
	limits := map[string]*time.Duration{"ttft": &o.TTFT, "tpot": &o.TPOT, "e2e": &o.E2E}
	seen := map[string]bool{}
	for _, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		if seen[key] {
			return o, fmt.Errorf("%s stands twice", key)
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
			return o, fmt.Errorf("%q is no part of an objective: %s", word, objectiveForm)
		}
	}
	if o.TTFT == 0 && o.TPOT == 0 && o.E2E == 0 {
		return o, errors.New(objectiveForm)
	}
	return o, nil
}

// String is what ParseObjective reads.
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

// Serving is what one replica serves at most so that a mean request is within the objective.
type Serving struct {
	// Most is how many requests it serves at once, 0 where it misses the objective with one.
	Most float64
	// Rate is how many requests it then serves a second; where Most is 0, half of what it
	// serves at most.
	Rate float64
	// First is the seconds to a first token, and Token between two, among so many requests;
	// where Most is 0, those of a single one.
	First, Token float64
	// Slack is how many seconds a mean answer may be held up between its tokens, 0 for any.
	Slack float64
}

// ServingMoved says whether what classes serve differs so much that it should come into force:
// by more than the margin of a capacity, or in which of them meet the objective.
func ServingMoved(from, to map[string]Serving) bool {
	for class, after := range to {
		before, known := from[class]
		if !known || (before.Most > 0) != (after.Most > 0) ||
			math.Abs(math.Log(after.Rate/before.Rate)) > math.Log(margin) {
			return true
		}
	}
	return false
}

// Traffic is what gateways saw of a service that has an objective, on the grid of a
// Series: one value per Step, oldest first, ending now.
type Traffic struct {
	// Arrived is how much came in each Step, in mean requests.
	Arrived []float64
	// Waiting is what waits now, in mean requests.
	Waiting float64
	// Met and Missed are how many requests ended within the objective in each Step, and
	// how many not.
	Met, Missed []float64
}

// Attained is the part of the requests of the series that were within the objective; false
// where none ended.
func (t *Traffic) Attained() (share float64, known bool) {
	met, all := 0.0, 0.0
	for i := range t.Met {
		met += t.Met[i]
		all += t.Met[i] + t.Missed[i]
	}
	return met / max(all, 1), all > 0
}
