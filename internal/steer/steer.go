// Package steer adds to a Nomad job the spread and the affinities that make it fill nodes in
// the order of a packing policy. It adds nothing else.
package steer

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/pack"
)

// coreMHz is the speed that one reserved core counts as, because a job does not say how
// fast the core will be.
const coreMHz = 2500

// Change is what Apply did to one group of a job.
type Change struct {
	Group string
	// Ask is what one allocation of the group asks for.
	Ask pack.Ask
	// Class is empty where nothing was added.
	Class pack.Class
	Added pack.Steering
	// Removed is the number of blocks of an earlier policy that were removed.
	Removed int
	// Notes tell an operator what matters about the change, or why nothing was added.
	Notes []string
}

// Apply makes a job fill nodes in the order of a policy. It replaces what an earlier Apply
// added, so a second Apply changes nothing. The policy None removes it.
func Apply(job *api.Job, policy pack.Policy, classes []pack.Class) []Change {
	var out []Change
	for _, group := range job.TaskGroups {
		c := Change{Group: text(group.Name), Ask: AskOf(group), Removed: clear(group)}
		c.Class, c.Notes = classFor(job, policy, classes, c.Ask)
		if c.Class.Name != "" {
			c.Added = pack.Steer(policy, c.Class)
			c.Notes = append(c.Notes, ownNotes(job, group)...)
			add(group, c.Added)
		}
		out = append(out, c)
	}
	return out
}

// classFor returns the class by which a group orders nodes, or notes that say why it has none.
func classFor(job *api.Job, policy pack.Policy, classes []pack.Class, ask pack.Ask) (pack.Class, []string) {
	if policy == pack.None {
		return pack.Class{}, nil
	}
	if kind := text(job.Type); kind == api.JobTypeSystem || kind == api.JobTypeSysbatch {
		return pack.Class{}, []string{fmt.Sprintf("a %s job runs on every node, so no node comes first", kind)}
	}
	class, ok := pack.ClassOf(classes, ask)
	if !ok {
		return pack.Class{}, []string{"the typical demand has no class for this group: " +
			"aliquot demand lists the classes"}
	}
	return class, nil
}

// ownNotes returns notes on the job's own spreads, affinities and count that a policy affects.
func ownNotes(job *api.Job, group *api.TaskGroup) []string {
	var notes []string
	if len(job.Spreads)+len(group.Spreads) > 0 {
		notes = append(notes, "the job has its own spread: Nomad adds both by their weights")
	}
	affine := len(job.Affinities)+len(group.Affinities) > 0
	for _, task := range group.Tasks {
		if n := len(GPUs(task)); n > 1 && task.Driver == "aliquot" {
			notes = append(notes,
				fmt.Sprintf("task %s has %d device blocks for GPUs, "+
					"but the aliquot driver starts only tasks with one: "+
					"request several whole GPUs with count", task.Name, n))
		}
		affine = affine || len(task.Affinities) > 0
		for _, d := range GPUs(task) {
			affine = affine || len(d.Affinities) > 0
		}
	}
	if affine {
		notes = append(notes, "the policy outweighs the job's own affinities: "+
			"they decide only among nodes of one level")
	}
	if count := cmp.Or(group.Count, new(int)); *count > 1 {
		notes = append(notes,
			fmt.Sprintf("with count = %d the order is less strict, because Nomad divides the targets among the "+
				"allocations; replicas also gather on one node: "+
				"the constraint distinct_hosts keeps them apart", *count))
	}
	return notes
}

// AskOf returns what one allocation of a group requests from a node. All its GPU requests
// count as requests of the largest size.
func AskOf(group *api.TaskGroup) pack.Ask {
	var a pack.Ask
	for _, task := range group.Tasks {
		r := host(task)
		a.CPU += number(r.CPU) + coreMHz*number(r.Cores)
		a.MemoryMiB += number(r.MemoryMB)
		for _, d := range GPUs(task) {
			a.Requests++
			if count := countOf(d); count > a.Instances {
				a.Instances, a.Of = count, slicesOf(d)
			}
		}
	}
	return a
}

// AsksOf is AskOf with one ask for each size of GPU request, the largest first. The first
// ask has the CPU and memory of all tasks.
func AsksOf(group *api.TaskGroup) []pack.Ask {
	all := AskOf(group)
	var out []pack.Ask
	for _, task := range group.Tasks {
		for _, d := range GPUs(task) {
			size := pack.Ask{Instances: countOf(d), Requests: 1, Of: slicesOf(d)}
			same := func(a pack.Ask) bool { return a.Instances == size.Instances && a.Of == size.Of }
			if at := slices.IndexFunc(out, same); at >= 0 {
				out[at].Requests++
			} else {
				out = append(out, size)
			}
		}
	}
	if out == nil {
		return []pack.Ask{all}
	}
	slices.SortStableFunc(out, func(a, b pack.Ask) int { return cmp.Compare(b.Instances, a.Instances) })
	out[0].CPU, out[0].MemoryMiB = all.CPU, all.MemoryMiB
	return out
}

// countOf returns the number of instances of a request.
func countOf(d *api.RequestedDevice) int {
	if d.Count == nil {
		return 1 // Nomad's default
	}
	return int(min(*d.Count, 1<<20))
}

// slicesOf returns the number of slices that the GPUs of a request must be cut into: 1 for
// whole GPUs, 0 if the request does not say.
func slicesOf(d *api.RequestedDevice) int {
	for _, c := range d.Constraints {
		if c.LTarget != "${device.attr.slices}" || c.Operand != "=" && c.Operand != "==" && c.Operand != "is" &&
			c.Operand != "" {
			continue
		}
		if n, err := strconv.Atoi(c.RTarget); err == nil && n > 0 && n <= gpu.MaxSlices {
			return n
		}
	}
	return 0
}

// host returns what a task requests besides devices, with Nomad's defaults for what it
// omits.
func host(task *api.Task) api.Resources {
	var r api.Resources
	if asked := task.Resources; asked != nil {
		r = api.Resources{CPU: asked.CPU, Cores: asked.Cores, MemoryMB: asked.MemoryMB}
	}
	r.Canonicalize()
	return r
}

// GPUs returns the GPU requests of a task.
func GPUs(task *api.Task) []*api.RequestedDevice {
	if task.Resources == nil {
		return nil
	}
	var out []*api.RequestedDevice
	for _, d := range task.Resources.Devices {
		parts := strings.Split(d.Name, "/") // type, vendor/type or vendor/type/group
		if parts[min(1, len(parts)-1)] == gpu.DeviceType {
			out = append(out, d)
		}
	}
	return out
}

func add(group *api.TaskGroup, s pack.Steering) {
	if s.SpreadAttribute != "" {
		spread := &api.Spread{Attribute: s.SpreadAttribute, Weight: weight(pack.SpreadWeight)}
		for _, t := range s.Targets {
			spread.SpreadTarget = append(spread.SpreadTarget, api.NewSpreadTarget(t.Value, uint8(t.Percent)))
		}
		group.Spreads = append(group.Spreads, spread)
	}
	group.Affinities = append(group.Affinities, affinities(s.Affinities)...)
	for _, task := range group.Tasks {
		for _, d := range GPUs(task) {
			d.Affinities = append(d.Affinities, affinities(s.Devices)...)
		}
	}
}

func affinities(list []pack.Affinity) []*api.Affinity {
	var out []*api.Affinity
	for _, a := range list {
		out = append(out, &api.Affinity{LTarget: a.Attribute, Operand: a.Operand, RTarget: a.Value,
			Weight: weight(a.Weight)})
	}
	return out
}

func weight(n int) *int8 {
	w := int8(n)
	return &w
}

// clear removes from a group what Apply adds, and returns how many blocks it removed.
func clear(group *api.TaskGroup) int {
	removed := 0
	before := len(group.Spreads) + len(group.Affinities)
	group.Spreads = without(group.Spreads, func(s *api.Spread) bool { return published(s.Attribute) })
	group.Affinities = without(group.Affinities, func(a *api.Affinity) bool { return published(a.LTarget) })
	removed += before - len(group.Spreads) - len(group.Affinities)
	for _, task := range group.Tasks {
		for _, d := range GPUs(task) {
			if left, ok := subtract(d.Affinities, lowIndexFirst); ok {
				removed += len(d.Affinities) - len(left)
				d.Affinities = left
			}
		}
	}
	return removed
}

// without returns the elements that are not ours. It returns nil if there are none, like a
// job to which nothing was added.
func without[T any](list []T, ours func(T) bool) []T {
	var out []T
	for _, v := range list {
		if !ours(v) {
			out = append(out, v)
		}
	}
	return out
}

// lowIndexFirst is what policies add to device requests.
var lowIndexFirst = affinities(pack.LowIndexFirst())

// subtract removes each affinity in some from list once. It removes the last equal one,
// because a user's own affinity may be equal and comes first. If one is missing, it returns
// list unchanged and false.
func subtract(list, some []*api.Affinity) ([]*api.Affinity, bool) {
	out := slices.Clone(list)
	for _, a := range some {
		i := len(out) - 1
		for i >= 0 && !same(out[i], a) {
			i--
		}
		if i < 0 {
			return list, false
		}
		out = slices.Delete(out, i, i+1)
	}
	if len(out) == 0 {
		return nil, true
	}
	return out, true
}

// published reports whether nodes publish the attribute for packing.
func published(attribute string) bool {
	return strings.HasPrefix(attribute, "${attr."+pack.AttributePrefix)
}

func same(a, b *api.Affinity) bool {
	return a.LTarget == b.LTarget && a.RTarget == b.RTarget && a.Operand == b.Operand &&
		a.Weight != nil && b.Weight != nil && *a.Weight == *b.Weight
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func number(n *int) int {
	if n == nil {
		return 0
	}
	return *n
}
