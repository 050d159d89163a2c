package query

import (
	"errors"
	"fmt"
	"slices"

	"aliquot.example/internal/scale"
)

// Unit reports whether a query counts demand by measured speeds. It returns an error if the unit of
// the query differs from the unit in which the policy plans with classes. promised reports whether
// the policy has an objective.
func (q *Query) Unit(classes []scale.Class, promised bool) (measured bool, err error) {
	switch {
	case q.OfSlices():
		return false,
			fmt.Errorf("the query is for %s instead of the demand of a service: use the agent's strategy pass-through",
				q.Metric)
	case q.Metric == Tokens && q.Class == "" && promised:
		return false, nil
	case q.Metric == Tokens:
		return false,
			fmt.Errorf("the query counts tokens but the strategy plans in requests: "+
				"ask for %q with slots=measured in classes, or set an objective and ask for tokens without class",
				"load service=… classes='…'")
	case q.Metric == Load && q.Class == "":
	case slices.ContainsFunc(classes, func(k scale.Class) bool { return k.Measured }):
		return false,
			fmt.Errorf("classes have slots=measured but the query is not for load: ask for load, as in %q",
				"load service=… classes='…'")
	case slices.ContainsFunc(classes, func(k scale.Class) bool { return k.Speed != 1 }):
		return false,
			fmt.Errorf("classes have speeds but the query counts all slots equally: ask for load, as in %q, "+
				"or leave out speed", "load service=… classes='…'")
	case q.Metric == Load && len(classes) > 1:
		return false,
			errors.New("the query asks for the load of one class but the strategy splits the load over its classes " +
				"itself: leave class out of the query")
	default:
		return false, nil
	}
	if !slices.Equal(q.Classes, classes) {
		return false,
			errors.New("the query and the strategy have different classes: give both the same text, " +
				"because both count in slots of the fastest class")
	}
	return true, nil
}
