package plugin

import (
	"fmt"
	"strings"

	"github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot/internal/share"
)

// islands lists the instances of a group of several GPUs by the NUMA node that they are
// next to, as attributes unique.numa_<node>. Nomad takes instances of a group in any
// order; a job that wants its GPUs side by side compares ${device.ids} with one of
// these. The group stays one, so that all of its GPUs can still be asked for at once.
func islands(offers []share.Offer) map[string]*structs.Attribute {
	if len(offers) < 2 {
		return nil
	}
	ids := map[string][]string{}
	for _, o := range offers {
		if o.NUMANode >= 0 {
			name := fmt.Sprintf("unique.numa_%d", o.NUMANode)
			ids[name] = append(ids[name], o.Instances()...)
		}
	}
	out := map[string]*structs.Attribute{}
	for name, list := range ids {
		out[name] = structs.NewStringAttribute(strings.Join(list, ","))
	}
	return out
}
