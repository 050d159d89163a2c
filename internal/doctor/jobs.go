package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/gpu"
)

// Ask is a task's requests for GPUs.
type Ask struct {
	// Task is "job/group/task", with the namespace before where it is not the default.
	Task    string
	Devices []*api.RequestedDevice
}

// AsksOf lists the tasks of a job that ask for GPUs.
func AsksOf(job *api.Job) []Ask {
	var out []Ask
	for _, g := range job.TaskGroups {
		for _, t := range g.Tasks {
			if t.Resources == nil {
				continue
			}
			a := Ask{Task: fmt.Sprintf("%s/%s/%s", place(job), text(g.Name), t.Name)}
			for _, d := range t.Resources.Devices {
				if kind, _ := named(d.Name); kind == gpu.DeviceType {
					a.Devices = append(a.Devices, d)
				}
			}
			if len(a.Devices) > 0 {
				out = append(out, a)
			}
		}
	}
	return out
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// named splits the name of a request, <type>, <vendor>/<type> or
// <vendor>/<type>/<group>.
func named(name string) (kind, group string) {
	switch parts := strings.SplitN(name, "/", 3); len(parts) {
	case 1:
		return parts[0], ""
	case 2:
		return parts[1], ""
	default:
		return parts[1], parts[2]
	}
}

// jobs looks for requests that were written for another device plugin, and for what
// Nomad and the driver cannot serve.
func jobs(f Facts) []Finding {
	if f.JobsProblem != "" {
		return []Finding{{Warning, "jobs", "what jobs ask for cannot be read: " + f.JobsProblem,
			"give NOMAD_TOKEN the right read-job in the jobs' namespaces"}}
	}
	var out []Finding
	single := 0
	for _, a := range f.Asks {
		if len(a.Devices) > 1 {
			fix := "write one device block and its count: a task can use one"
			if f.Preemption {
				fix += "; with preemption on, Nomad 1.11 finds no place for several even where it could make one " +
					"(hashicorp/nomad#27820)"
			}
			out = append(out, Finding{Warning, "jobs", fmt.Sprintf("%s asks for GPUs in %d device blocks", a.Task,
				len(a.Devices)), fix})
		}
		for _, d := range a.Devices {
			if d.Count == nil || *d.Count == 1 {
				single++
			}
			out = append(out, foreign(a.Task, d)...)
		}
	}
	if len(out) == 0 {
		what := fmt.Sprintf("%d tasks ask for GPUs, in names that the plugins use", len(f.Asks))
		if single > 0 && slices.ContainsFunc(f.slices(), func(n int64) bool { return n > 1 }) {
			what += fmt.Sprintf("; %d for one instance, which is one slice of a shared GPU", single)
		}
		out = append(out, Finding{OK, "jobs", what, ""})
	}
	return out
}

// slices lists how many slices each of the node's groups has.
func (f Facts) slices() []int64 {
	var out []int64
	if f.Node.NodeResources != nil {
		for _, g := range f.Node.NodeResources.Devices {
			if n := g.Attributes["slices"]; n != nil && n.IntVal != nil {
				out = append(out, *n.IntVal)
			}
		}
	}
	return out
}

// foreign finds product names where this suite's plugins have names of groups: those
// are never placed, and Nomad does not say why.
func foreign(task string, d *api.RequestedDevice) []Finding {
	const fix = "ask for the class: constraint { attribute = \"${device.attr.class}\" value = \"t4\" }; " +
		"see docs/migration.md"
	var out []Finding
	if _, group := named(d.Name); group != "" && group != strings.ToLower(group) || strings.Contains(group, " ") {
		out = append(out, Finding{Warning,
			"jobs", fmt.Sprintf("%s asks for device %q: no group has a product's name, so it is never placed", task,
				d.Name), fix})
	}
	for _, c := range d.Constraints {
		if c.LTarget == "${device.model}" && (c.RTarget != strings.ToLower(c.RTarget) ||
			strings.Contains(c.RTarget, " ")) {
			out = append(out, Finding{Warning,
				"jobs", fmt.Sprintf("%s compares ${device.model} with %q: it is a group's name such as t4-0 here", task,
					c.RTarget), fix})
		}
	}
	return out
}
