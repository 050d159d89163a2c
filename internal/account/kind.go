package account

import (
	"cmp"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/pack"
	"aliquot.example/internal/steer"
)

// Kind selects nodes: those with GPUs of a class and, if these are set, of a node pool, a node
// class and a datacenter.
type Kind struct{ Class, Pool, NodeClass, Datacenter string }

// Earlier is a class of GPUs that is preferred for work until Max nodes have GPUs of it; 0 for no
// limit.
type Earlier struct {
	Class string
	Max   int
}

// Waiting has the tasks of one group of a job that Nomad could not place.
type Waiting struct {
	Job   *api.Job
	Group *api.TaskGroup
	Count int
	// Exhausted is the number of nodes that were suitable but had no room when Nomad tried to place
	// the tasks, at the index Snapshot of its state.
	Exhausted int
	Snapshot  uint64
}

// Supply has the resources of the nodes of one kind, and the work that waits for them.
type Supply struct {
	// Placed and Free are slices of the kind's class: in use, and free on open nodes.
	Placed, Free int
	Standing     []pack.Standing
	Waiting      []pack.Work
	// Fresh has the resources of the largest node when it is empty, of the newest among equals; nil
	// if there is no node.
	Fresh *pack.Node
	// Others are the classes of GPUs on the nodes of the kind's pool, node class and datacenter, if
	// one of these is set and none of the nodes has the kind's class.
	Others []string
}

// Blocked returns the number of slices that the waiting work requests.
func (s Supply) Blocked() (slices int) {
	for _, w := range s.Waiting {
		slices += w.Slices()
	}
	return slices
}

// Of returns the supply of a kind. A node is kept for a while after its last allocation has ended.
// A node that an operator has closed, or that offers less than the largest because GPUs are
// unhealthy, is kept, too: otherwise the scaling group that contains it would be one node short, or
// would stop a good node in its place. Work that an earlier class could also serve waits for that
// class.
func (k Kind) Of(nodes []Node, waiting []Waiting, earlier []Earlier, keep time.Duration, now time.Time) Supply {
	var s Supply
	var mine []Node
	var offers []float64 // GPUs of each when it is empty
	newest := uint64(0)
	for _, n := range nodes {
		if !k.has(n) {
			continue
		}
		mine = append(mine, n)
		free, fresh := k.groups(n)
		s.stand(n, free, n.inUse(keep, now))
		offers = append(offers, fresh.Free())
		if s.Fresh == nil || cmp.Or(cmp.Compare(fresh.Free(), s.Fresh.Free()), cmp.Compare(n.Created, newest)) > 0 {
			s.Fresh, newest = &fresh, n.Created
		}
	}
	if len(mine) == 0 {
		s.Others = k.others(nodes)
	}
	for i, n := range s.Standing {
		s.Standing[i].Kept = n.Kept || n.Open && offers[i] < s.Fresh.Free()-rounding
	}
	for _, w := range waiting {
		if k.couldRun(w, mine) && !k.first(w, nodes, earlier) {
			asks := steer.AsksOf(w.Group)
			s.Waiting = append(s.Waiting, pack.Work{Ask: asks[0], More: asks[1:], Count: w.Count})
		}
	}
	return s
}

// rounding is the tolerance for sums of a GPU's slices: in floating point, 49 times 1/49 is less than 1.
const rounding = 1e-6

// inUse reports whether a node has work, had work recently, or was closed by an operator.
func (n Node) inUse(keep time.Duration, now time.Time) bool {
	return n.Busy || !n.Open && !n.Leaving || !n.Ended.IsZero() && now.Sub(n.Ended) < keep
}

// stand adds an existing node.
func (s *Supply) stand(n Node, free pack.Node, kept bool) {
	s.Standing = append(s.Standing, pack.Standing{Node: free, Open: n.Open, Kept: kept})
	for _, g := range free.Groups {
		s.Placed += g.Total - g.Free
		if n.Open {
			s.Free += g.Free
		}
	}
}

func (k Kind) has(n Node) bool { return k.among(n) && slices.Contains(n.Classes, k.Class) }

// among reports whether a node belongs to the kind's pool, node class and datacenter.
func (k Kind) among(n Node) bool {
	same := func(want, is string) bool { return want == "" || want == is }
	return same(k.Pool, n.Pool) && same(k.NodeClass, n.NodeClass) && same(k.Datacenter, n.Datacenter)
}

// others returns Supply.Others.
func (k Kind) others(nodes []Node) (classes []string) {
	if k.Pool == "" && k.NodeClass == "" && k.Datacenter == "" {
		return nil
	}
	for _, n := range nodes {
		if k.among(n) {
			classes = append(classes, n.Classes...)
		}
	}
	slices.Sort(classes)
	return slices.Compact(classes)
}

// groups returns the free resources of a node with its GPUs of the class, and those that it has
// when it is empty.
func (k Kind) groups(n Node) (free, fresh pack.Node) {
	free = pack.Node{CPU: n.Free.CPU, MemoryMiB: n.Free.MemoryMiB}
	fresh = free
	for _, h := range n.Held {
		fresh.CPU += h.CPU
		fresh.MemoryMiB += h.MemoryMiB
	}
	for i, g := range n.Free.Groups {
		if n.Classes[i] == k.Class {
			free.Groups = append(free.Groups, g)
			g.Free = g.Total
			fresh.Groups = append(fresh.Groups, g)
		}
	}
	return free, fresh
}

// first reports whether work goes to an earlier class.
func (k Kind) first(w Waiting, nodes []Node, earlier []Earlier) bool {
	return slices.ContainsFunc(earlier, func(e Earlier) bool {
		other := Kind{Class: e.Class}
		var there []Node
		for _, n := range nodes {
			if other.has(n) {
				there = append(there, n)
			}
		}
		if len(there) == 0 {
			return !k.onlyPool(w.Job) && other.couldRun(w, there)
		}
		return (e.Max == 0 || len(there) < e.Max) && slices.ContainsFunc(there, func(n Node) bool {
			return Kind{e.Class, n.Pool, n.NodeClass, n.Datacenter}.couldRun(w, there)
		})
	})
}

// onlyPool reports whether a job requires the kind's pool, and the kind is defined by its pool alone,
// so that the pool has no nodes of another kind.
func (k Kind) onlyPool(job *api.Job) bool {
	return k.Pool != "" && k.NodeClass == "" && k.Datacenter == "" && job.NodePool != nil && *job.NodePool == k.Pool
}

// couldRun reports whether one more node of the kind could run work, as far as this package can tell:
// by the job's pool, datacenters, requested GPUs and constraints on node classes. there has the
// existing nodes of the kind.
func (k Kind) couldRun(w Waiting, there []Node) bool {
	a := steer.AskOf(w.Group)
	if a.Instances == 0 || !k.admits(w.Job) || !k.satisfies(w.Job.Constraints) || !k.satisfies(w.Group.Constraints) {
		return false
	}
	for _, task := range w.Group.Tasks {
		if !k.satisfies(task.Constraints) {
			return false
		}
		for _, d := range steer.GPUs(task) {
			if !k.serves(d, there) {
				return false
			}
		}
	}
	// If Nomad has considered nodes of this kind in their present state and not counted them as
	// exhausted, they are not suitable.
	seen := func(n Node) bool { return n.Open && n.Modified < w.Snapshot }
	return w.Exhausted > 0 || !slices.ContainsFunc(there, seen)
}

// admits reports whether a job may run in the kind's pool and datacenter.
func (k Kind) admits(job *api.Job) bool {
	if t := job.Type; t != nil && (*t == api.JobTypeSystem || *t == api.JobTypeSysbatch) {
		return false // such a job needs no further nodes
	}
	if pool := job.NodePool; k.Pool != "" && pool != nil && *pool != k.Pool && *pool != api.NodePoolAll {
		return false
	}
	return k.Datacenter == "" || slices.ContainsFunc(job.Datacenters, func(glob string) bool {
		ok, err := path.Match(glob, k.Datacenter)
		return ok && err == nil
	})
}

// satisfies reports whether no constraint excludes the kind's node class.
func (k Kind) satisfies(constraints []*api.Constraint) bool {
	return k.NodeClass == "" || !slices.ContainsFunc(constraints, func(c *api.Constraint) bool {
		return c.LTarget == "${node.class}" && !meets(c, k.NodeClass)
	})
}

// serves reports whether GPUs of the kind can serve a device request.
func (k Kind) serves(d *api.RequestedDevice, there []Node) bool {
	serves := func(vendor, name string, attributes map[string]*api.Attribute) bool {
		parts := strings.Split(d.Name, "/") // type, vendor/type or vendor/type/group
		if len(parts) > 1 && vendor != "" && parts[0] != vendor || len(parts) > 2 && name != "" && parts[2] != name {
			return false
		}
		known := map[string]string{
			"${device.vendor}": vendor, "${device.type}": gpu.DeviceType,
			"${device.model}": name, "${device.attr.class}": k.Class,
		}
		return !slices.ContainsFunc(d.Constraints, func(c *api.Constraint) bool {
			value := known[c.LTarget]
			return value != "" && !meets(c, value) || value == "" && !compares(c, attributes)
		})
	}
	found := false
	for _, n := range there {
		for i, g := range n.Free.Groups {
			if n.Classes[i] != k.Class {
				continue
			}
			if found = true; serves(g.Vendor, n.Names[i], n.attributes(i)) {
				return true
			}
		}
	}
	return !found && serves("", "", nil)
}

// attributes returns the attributes of a group, nil if they are not known.
func (n Node) attributes(group int) map[string]*api.Attribute {
	if group < len(n.Attributes) {
		return n.Attributes[group]
	}
	return nil
}

// compares reports whether a constraint on a device attribute, such as a minimum memory, holds for
// GPUs with these attributes, by Nomad's rules. A constraint on an unknown attribute counts as met.
func compares(c *api.Constraint, attributes map[string]*api.Attribute) bool {
	name, ok := strings.CutPrefix(strings.TrimSuffix(c.LTarget, "}"), "${device.attr.")
	is := attributes[name]
	if !ok || is == nil || strings.Contains(c.RTarget, "${") {
		return true
	}
	order, ok := compare(is, c.RTarget)
	if !ok {
		return true
	}
	switch c.Operand {
	case "", "=", "==", "is":
		return order == 0
	case "!=", "not":
		return order != 0
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	case ">=":
		return order >= 0
	}
	return true
}

// meets reports whether a constraint holds for a value. A constraint with an unknown operator
// counts as met.
func meets(c *api.Constraint, value string) bool {
	switch c.Operand {
	case "", "=", "==", "is":
		return c.RTarget == value
	case "!=", "not":
		return c.RTarget != value
	case api.ConstraintSetContainsAny:
		same := func(s string) bool { return strings.TrimSpace(s) == value }
		return slices.ContainsFunc(strings.Split(c.RTarget, ","), same)
	case api.ConstraintSetContains, api.ConstraintSetContainsAll:
		return c.RTarget == value
	case api.ConstraintRegex:
		re, err := regexp.Compile(c.RTarget)
		return err != nil || re.MatchString(value)
	}
	return true
}
