package steer

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/share"
)

// Joined is what Join did to one device request.
type Joined struct {
	Group, Task, Device string
	Count               int
	// Constraint was added, nil for none.
	Constraint *api.Constraint
	// Note says why none was added, or what an operator should know of one that was.
	Note string
}

// NoJoint takes out what an earlier Join added.
const NoJoint share.Joint = "none"

// ParseJoint reads the name of a joint, or "none".
func ParseJoint(name string) (share.Joint, error) {
	if j, ok := share.ParseJoint(name); ok || j == NoJoint {
		return j, nil
	}
	return "", fmt.Errorf("%q joins no GPUs: use link, switch, numa or none", name)
}

// Join makes each request of a job for several whole GPUs land inside one island of
// GPUs. What an earlier Join added is replaced.
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

// island returns what a request needs, or why it needs nothing. Of a request that may mean
// slices the note says what its count then means: on shared GPUs it finds no place.
func island(d *api.RequestedDevice, by share.Joint) (*api.Constraint, string) {
	k := countOf(d)
	switch slices := slicesOf(d); {
	case k < 2:
		return nil, "it asks for one instance: there is nothing to join"
	case slices > 1:
		return nil, fmt.Sprintf("it asks for slices of %d, which are of one GPU anyhow", slices)
	case k > share.MostJoined:
		return nil, fmt.Sprintf("nodes name islands for at most %d GPUs", share.MostJoined)
	}
	note := ""
	if slicesOf(d) == 0 {
		note = fmt.Sprintf("it does not say whether it counts GPUs or slices: now it counts %d whole GPUs, "+
			"and only nodes that "+
			"offer GPUs whole have room; say so by a constraint ${device.attr.slices} = 1", k)
	}
	// Nomad compares each instance by itself.
	return api.NewConstraint("${device.attr."+by.Attribute(k)+"}", "set_contains_any", "${device.ids}"), note
}

var islandTarget = regexp.MustCompile(`^\$\{device\.attr\.unique\.(link|switch|numa)_for_[0-9]+\}$`)

func ofIsland(c *api.Constraint) bool {
	return islandTarget.MatchString(c.LTarget) && c.RTarget == "${device.ids}"
}

// Constraint returns a constraint as a block of HCL that can be pasted into a device
// block.
func Constraint(c *api.Constraint) string {
	var b strings.Builder
	fmt.Fprintf(&b, "constraint {\n  attribute = %q\n  operator  = %q\n  value     = %q\n}\n", c.LTarget,
		c.Operand, c.RTarget)
	return b.String()
}
