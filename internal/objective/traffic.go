package objective

import "aliquot.example/internal/scale"

// Second is what gateways report of one second of a service: the tokens of the arriving requests,
// and the requests that ended within the objective and outside it.
type Second struct{ Arrived, Met, Missed float64 }

// Serving returns the classes with what a replica of each serves, where it is known.
func (f Force) Serving(classes []scale.Class) []scale.Class {
	out := make([]scale.Class, len(classes))
	for i, class := range classes {
		if serving, known := f.serving[class.Name]; known {
			class.Serving, class.Assumed, class.Profiled = &serving, f.assumed[class.Name], f.profiled[class.Name]
		}
		out[i] = class
	}
	return out
}

// Traffic converts consecutive seconds, and the tokens that wait now, to mean requests. It returns
// nil if no curve gives the tokens of a mean request.
func (f Force) Traffic(seconds []Second, waiting float64) *scale.Traffic {
	if !f.Measured() {
		return nil
	}
	t := &scale.Traffic{Waiting: waiting / f.tokens}
	for _, s := range seconds {
		t.Arrived = append(t.Arrived, s.Arrived/f.tokens)
		t.Met, t.Missed = append(t.Met, s.Met), append(t.Missed, s.Missed)
	}
	return t
}
