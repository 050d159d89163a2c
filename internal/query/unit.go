package query

import (
	"errors"
	"fmt"
	"slices"

	"aliquot.example/internal/scale"
)

// Unit says whether a query's demand is counted by measured speeds, and fails where its
// unit is not that of the classes that a policy plans with. promised says that the policy
// has an objective.
func (q *Query) Unit(classes []scale.Class, promised bool) (measured bool, err error) {
	switch {
	case q.OfSlices():
		return false,
			fmt.Errorf("the query is for %s and not for the demand of a service: use the agent's strategy pass-through",
				q.Metric)
	case q.Metric == Tokens && q.Class == "" && promised:
		return false, nil
	case q.Metric == Tokens:
		return false,
			fmt.Errorf("the query counts tokens but the strategy plans in requests: "+
				"ask for %q with slots=measured in classes, or for tokens of all classes with an objective",
				"load service=… classes='…'")
	case q.Metric == Load && q.Class == "":
	case slices.ContainsFunc(classes, func(k scale.Class) bool { return k.Measured }):
		return false,
			fmt.Errorf("classes have slots=measured but the query is not for their load: ask for load, as in %q",
				"load service=… classes='…'")
	case slices.ContainsFunc(classes, func(k scale.Class) bool { return k.Speed != 1 }):
		return false,
			fmt.Errorf("classes have speeds but the query counts every slot the same: ask for load, as in %q, "+
				"or leave speed out", "load service=… classes='…'")
	case q.Metric == Load && len(classes) > 1:
		return false,
			errors.New("the query is for one class's part of the load but the strategy has classes and splits by " +
				"itself: leave class out of the query")
	default:
		return false, nil
	}
	if !slices.Equal(q.Classes, classes) {
		return false,
			errors.New("the query and the strategy have different classes: give both the same text, " +
				"because the query counts in slots of the fastest class and the strategy plans in them")
	}
	return true, nil
}
