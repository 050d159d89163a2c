package steer

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/share"
)

// Joined is the result of Join for one device request.
type Joined struct {
	Group, Task, Device string
	Count               int
	// Constraint is the added constraint, nil for none.
	Constraint *api.Constraint
	// Note says why none was added, or what an operator should know about the one added.
	Note string
}

// NoJoint removes what an earlier Join added.
const NoJoint share.Joint = "none"

// ParseJoint reads the name of a joint, or "none".
func ParseJoint(name string) (share.Joint, error) {
	if j, ok := share.ParseJoint(name); ok || j == NoJoint {
		return j, nil
	}
	return "", fmt.Errorf("unknown joint %q of GPUs: use link, switch, numa or none", name)
}

// Join makes each request of a job for several whole GPUs land inside one island of GPUs.
// It replaces what an earlier Join added.
func Join(job *api.Job, by share.Joint) []Joined {
	var out []Joined
	for _, group := range job.TaskGroups {
		for _, task := range group.Tasks {
			for _, d := range GPUs(task) {
				d.Constraints = without(d.Constraints, ofIsland)
				if by == NoJoint {
					continue
				}
				j := Joined{Group: text(group.Name), Task: task.Name, Device: d.Name, Count: countOf(d)}
				if j.Constraint, j.Note = island(d, by); j.Constraint != nil {
					d.Constraints = append(d.Constraints, j.Constraint)
				}
				out = append(out, j)
			}
		}
	}
	return out
}

// island returns the constraint that a request needs, or a note that says why it needs none.
// If the count may mean slices, the note says that it now means whole GPUs.
func island(d *api.RequestedDevice, by share.Joint) (*api.Constraint, string) {
	k := countOf(d)
	switch slices := slicesOf(d); {
	case k < 2:
		return nil, "it requests one instance: there is nothing to join"
	case slices > 1:
		return nil, fmt.Sprintf("it requests slices of GPUs in %d slices, which come from one GPU", slices)
	case k > share.MaxJoined:
		return nil, fmt.Sprintf("nodes name islands for at most %d GPUs", share.MaxJoined)
	}
	note := ""
	if slicesOf(d) == 0 {
		note = fmt.Sprintf("it does not say whether it counts GPUs or slices: it now requests %d whole GPUs, "+
			"which only nodes with whole GPUs offer; state it with the constraint ${device.attr.slices} = 1", k)
	}
	// Nomad checks each instance on its own.
	return api.NewConstraint("${device.attr."+by.Attribute(k)+"}", "set_contains_any", "${device.ids}"), note
}

var islandTarget = regexp.MustCompile(`^\$\{device\.attr\.unique\.(link|switch|numa)_for_[0-9]+\}$`)

func ofIsland(c *api.Constraint) bool {
	return islandTarget.MatchString(c.LTarget) && c.RTarget == "${device.ids}"
}

// Constraint returns a constraint as HCL to paste into a device block.
func Constraint(c *api.Constraint) string {
	var b strings.Builder
	fmt.Fprintf(&b, "constraint {\n  attribute = %q\n  operator  = %q\n  value     = %q\n}\n", c.LTarget,
		c.Operand, c.RTarget)
	return b.String()
}
