package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/gpu"
)

// Ask holds the GPU requests of a task.
type Ask struct {
	// Task is "job/group/task", or "namespace:job/group/task" outside the default namespace.
	Task    string
	Devices []*api.RequestedDevice
}

// AsksOf lists the GPU requests of a job's tasks.
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

// named splits the name of a request: <type>, <vendor>/<type> or <vendor>/<type>/<group>.
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

// jobs finds requests that were written for another device plugin, and requests that Nomad or the
// driver cannot serve.
func jobs(f Facts) []Finding {
	if f.JobsProblem != "" {
		return []Finding{{Warning, "jobs", "cannot read the jobs' requests: " + f.JobsProblem,
			"give NOMAD_TOKEN the capability read-job in the jobs' namespaces"}}
	}
	var out []Finding
	single := 0
	for _, a := range f.Asks {
		if len(a.Devices) > 1 {
			fix := "write one device block with a count: a task can use only one"
			if f.Preemption {
				fix += "; with preemption on, Nomad 1.11 cannot place several even if it could preempt for them " +
					"(hashicorp/nomad#27820)"
			}
			out = append(out, Finding{Warning, "jobs", fmt.Sprintf("%s requests GPUs in %d device blocks", a.Task,
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
		what := fmt.Sprintf("%d tasks request GPUs, all by names that the plugins use", len(f.Asks))
		if single > 0 && slices.ContainsFunc(f.slices(), func(n int64) bool { return n > 1 }) {
			what += fmt.Sprintf("; %d for one instance, which is one slice of a shared GPU", single)
		}
		out = append(out, Finding{OK, "jobs", what, ""})
	}
	return out
}

// slices returns the number of slices of each of the node's groups.
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

// foreign finds requests that name a product. Aliquot's plugins have names of groups instead, so
// Nomad never places these requests, without saying why.
func foreign(task string, d *api.RequestedDevice) []Finding {
	const fix = "request the class: constraint { attribute = \"${device.attr.class}\" value = \"t4\" }; " +
		"see docs/migration.md"
	var out []Finding
	if _, group := named(d.Name); group != "" && group != strings.ToLower(group) || strings.Contains(group, " ") {
		out = append(out, Finding{Warning,
			"jobs", fmt.Sprintf("%s requests device %q: no group has the name of a product, so it is never placed",
				task, d.Name), fix})
	}
	for _, c := range d.Constraints {
		if c.LTarget == "${device.model}" && (c.RTarget != strings.ToLower(c.RTarget) ||
			strings.Contains(c.RTarget, " ")) {
			out = append(out, Finding{Warning,
				"jobs", fmt.Sprintf("%s compares ${device.model} with %q, but its value here is the name of a "+
					"group, such as t4-0", task, c.RTarget), fix})
		}
	}
	return out
}
