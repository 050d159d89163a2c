// Package steer adds to a Nomad job what makes it fill nodes in the order of a packing
// policy: a spread, affinities, and nothing else.
package steer

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"aliquot/internal/gpu"
	"aliquot/internal/pack"
)

// coreMHz is what one reserved core counts for: a job does not say how fast the core
// will be.
const coreMHz = 2500

// Change is what Apply did to one group of a job.
type Change struct {
	Group string
	// Ask is what one allocation of the group asks for.
	Ask pack.Ask
	// Class is empty where nothing was added.
	Class pack.Class
	Added pack.Steering
	// Removed is how many blocks of an earlier policy were taken out.
	Removed int
	// Notes say what an operator should know, or why nothing was added.
	Notes []string
}

// Apply makes a job fill nodes in the order of a policy. What an earlier Apply added is
// replaced, so that applying twice is applying once, and None takes it out.
func Apply(job *api.Job, policy pack.Policy, classes []pack.Class) []Change {
	var out []Change
	for _, group := range job.TaskGroups {
		c := Change{Group: text(group.Name), Ask: AskOf(group), Removed: clear(group)}
		c.Class, c.Notes = classFor(job, policy, classes, c.Ask)
		if c.Class.Name != "" {
			c.Added = pack.Steer(policy, c.Class)
			c.Notes = append(c.Notes, own(job, group)...)
			add(group, c.Added)
		}
		out = append(out, c)
	}
	return out
}

// classFor chooses the class by which a group orders nodes, or says why it has none.
func classFor(job *api.Job, policy pack.Policy, classes []pack.Class, ask pack.Ask) (pack.Class, []string) {
	if policy == pack.None {
		return pack.Class{}, nil
	}
	if kind := text(job.Type); kind == api.JobTypeSystem || kind == api.JobTypeSysbatch {
		return pack.Class{}, []string{fmt.Sprintf("a %s job runs on every node: it has no order", kind)}
	}
	class, ok := pack.ClassOf(classes, ask)
	if !ok {
		return pack.Class{}, []string{"the typical demand has no class that is like this group"}
	}
	return class, nil
}

// own says what of the job's own wishes stands behind the policy.
func own(job *api.Job, group *api.TaskGroup) []string {
	var notes []string
	if len(job.Spreads)+len(group.Spreads) > 0 {
		notes = append(notes, "the job has a spread of its own: Nomad adds both up by their weights")
	}
	affine := len(job.Affinities)+len(group.Affinities) > 0
	for _, task := range group.Tasks {
		affine = affine || len(task.Affinities) > 0
		for _, d := range gpus(task) {
			affine = affine || len(d.Affinities) > 0
		}
	}
	if affine {
		notes = append(notes, "the policy comes before the job's own affinities: they decide among nodes of one level")
	}
	if count := cmp.Or(group.Count, new(int)); *count > 1 {
		notes = append(notes, fmt.Sprintf("with count = %d the order is less strict, because Nomad divides the targets among the allocations, and replicas gather on one node: a constraint distinct_hosts keeps them apart", *count))
	}
	return notes
}

// AskOf is what one allocation of a group asks of a node. Its GPU requests are counted
// as equal ones of the largest.
func AskOf(group *api.TaskGroup) pack.Ask {
	var a pack.Ask
	for _, task := range group.Tasks {
		r := host(task)
		a.CPU += number(r.CPU) + coreMHz*number(r.Cores)
		a.MemoryMiB += number(r.MemoryMB)
		for _, d := range gpus(task) {
			count := 1
			if d.Count != nil {
				count = int(*d.Count)
			}
			a.Requests++
			a.Instances = max(a.Instances, count)
		}
	}
	return a
}

// host is what a task asks for besides devices, with Nomad's defaults for what it
// leaves out.
func host(task *api.Task) api.Resources {
	var r api.Resources
	if asked := task.Resources; asked != nil {
		r = api.Resources{CPU: asked.CPU, Cores: asked.Cores, MemoryMB: asked.MemoryMB}
	}
	r.Canonicalize()
	return r
}

// gpus lists the GPU requests of a task.
func gpus(task *api.Task) []*api.RequestedDevice {
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
		for _, d := range gpus(task) {
			d.Affinities = append(d.Affinities, affinities(s.Devices)...)
		}
	}
}

func affinities(list []pack.Affinity) []*api.Affinity {
	var out []*api.Affinity
	for _, a := range list {
		out = append(out, &api.Affinity{LTarget: a.Attribute, Operand: a.Operand, RTarget: a.Value, Weight: weight(a.Weight)})
	}
	return out
}

func weight(n int) *int8 {
	w := int8(n)
	return &w
}

// clear takes out of a group what Apply adds to one, and counts it.
func clear(group *api.TaskGroup) int {
	removed := 0
	keep := func(list []*api.Affinity, ours func(*api.Affinity) bool) []*api.Affinity {
		out := without(list, ours)
		removed += len(list) - len(out)
		return out
	}
	before := len(group.Spreads)
	group.Spreads = without(group.Spreads, func(s *api.Spread) bool { return published(s.Attribute) })
	removed += before - len(group.Spreads)
	group.Affinities = keep(group.Affinities, func(a *api.Affinity) bool { return published(a.LTarget) })
	ofDevices := affinities(pack.LowIndexFirst())
	for _, task := range group.Tasks {
		for _, d := range gpus(task) {
			d.Affinities = keep(d.Affinities, func(a *api.Affinity) bool {
				return slices.ContainsFunc(ofDevices, func(b *api.Affinity) bool { return same(a, b) })
			})
		}
	}
	return removed
}

// without returns what is not ours, nil where that is nothing: as if nothing had been
// added.
func without[T any](list []T, ours func(T) bool) []T {
	var out []T
	for _, v := range list {
		if !ours(v) {
			out = append(out, v)
		}
	}
	return out
}

// published reports whether a node attribute is one that nodes publish for packing.
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
