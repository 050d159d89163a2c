package doctor

import (
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/pack"
)

// testedNomad lists the Nomad releases with which packing policies were tested (bench/packing). The
// policies depend on arithmetic of the scheduler that is not documented and may change.
var testedNomad = []string{"1.11.3"}

// packing checks whether packing policies were tested with the servers' Nomad release.
func packing(f Facts) []Finding {
	published := 0
	for name := range f.Node.Attributes {
		if strings.HasPrefix(name, pack.AttributePrefix) {
			published++
		}
	}
	if published == 0 {
		return nil // packing is not in use
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
			fmt.Sprintf("the node publishes %d levels for packing policies, but the servers' version cannot be read",
				published), "give NOMAD_TOKEN the capability agent:read"}}
	case len(untested) > 0:
		return []Finding{{Warning, "packing", fmt.Sprintf("servers run Nomad %s; packing policies were tested with %s",
			strings.Join(untested, ", "), strings.Join(testedNomad, ", ")),
			"compare  aliquot top -fragmentation  before and after an upgrade; " +
				"if the policies no longer work, Nomad places these jobs like any others"}}
	}
	return []Finding{{OK, "packing",
		fmt.Sprintf(
			"the node publishes %d levels for packing policies, and the servers run a tested release of Nomad",
			published), ""}}
}
