package doctor

import (
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/pack"
)

// testedNomad are the releases of Nomad whose scheduler the order of packing policies
// was tested with (bench/packing). The order rests on arithmetic that Nomad's
// documentation does not name, so another release may have another.
var testedNomad = []string{"1.11.3"}

// packing looks at whether the servers keep the order that packing policies ask for.
func packing(f Facts) []Finding {
	published := 0
	for name := range f.Node.Attributes {
		if strings.HasPrefix(name, pack.AttributePrefix) {
			published++
		}
	}
	if published == 0 {
		return nil // nobody asked for it
	}
	var untested []string
	for _, build := range f.Servers {
		release, _, _ := strings.Cut(build, "+") // an enterprise build has the same scheduler
		if !slices.Contains(testedNomad, release) && !slices.Contains(untested, build) {
			untested = append(untested, build)
		}
	}
	slices.Sort(untested)
	switch {
	case len(f.Servers) == 0:
		return []Finding{{Warning,
			"packing",
			fmt.Sprintf("the node publishes %d levels for packing policies; which Nomad the servers run cannot be read",
				published), "give NOMAD_TOKEN the right agent:read"}}
	case len(untested) > 0:
		return []Finding{{Warning, "packing", fmt.Sprintf("servers run Nomad %s; packing policies were tested with %s",
			strings.Join(untested, ", "), strings.Join(testedNomad, ", ")),
			"compare  aliquot top -fragmentation  before and after an upgrade; " +
				"without the order of the policies jobs are placed as Nomad places others"}}
	}
	return []Finding{{OK, "packing",
		fmt.Sprintf(
			"the node publishes %d levels for packing policies, and the servers run a Nomad that they were tested with",
			published), ""}}
}
