package steer

import (
	"fmt"
	"strings"

	"aliquot.example/internal/pack"
)

// Group returns what a group carries under a policy, as HCL to paste into the group. It is ""
// if the policy adds nothing to the group.
func Group(s pack.Steering) string {
	var b strings.Builder
	if s.SpreadAttribute != "" {
		fmt.Fprintf(&b, "spread {\n  attribute = %q\n  weight    = %d\n", s.SpreadAttribute, pack.SpreadWeight)
		for _, t := range s.Targets {
			fmt.Fprintf(&b, "  target %q { percent = %d }\n", t.Value, t.Percent)
		}
		b.WriteString("}\n")
	}
	for _, a := range s.Affinities {
		affinity(&b, a)
	}
	return b.String()
}

// Device returns what each GPU request carries under a policy, as HCL to paste into the
// device block.
func Device(s pack.Steering) string {
	var b strings.Builder
	for _, a := range s.Devices {
		affinity(&b, a)
	}
	return b.String()
}

func affinity(b *strings.Builder, a pack.Affinity) {
	fmt.Fprintf(b, "affinity {\n  attribute = %q\n  operator  = %q\n  value     = %q\n  weight    = %d\n}\n",
		a.Attribute, a.Operand, a.Value, a.Weight)
}
