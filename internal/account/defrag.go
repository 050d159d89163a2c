package account

import (
	"context"
	"fmt"
	"strconv"

	"github.com/hashicorp/nomad/api"

	"aliquot/internal/pack"
)

// The meta of a job that allows `aliquot job defrag` to move its allocations, and that
// which says how many of a group stay healthy meanwhile.
const (
	DefragMeta    = "aliquot_defrag"
	DefragMinMeta = "aliquot_defrag_min_healthy"
)

// Move is one allocation that would leave its node.
type Move struct {
	Allocation *api.Allocation
	From, To   Node
	// GPU is the GPU capacity that it holds, Gain how much less would be wasted, in
	// GPUs.
	GPU, Gain float64
	// Refused says why it must not be moved now, "" where it may.
	Refused string
}

// Fragmentation is what is free and cannot be used.
type Fragmentation struct {
	Nodes  []Node
	Demand pack.Demand
	// Moves would make more of it usable, most first; each counts on those before it.
	Moves []Move
}

// Report reads the cluster and looks for at most most moves. With willing set, it looks
// among allocations alone that may be moved now.
func Report(ctx context.Context, client *api.Client, d pack.Demand, most int, willing bool) (Fragmentation, error) {
	nodes, err := Cluster(ctx, client)
	if err != nil {
		return Fragmentation{}, err
	}
	f := Fragmentation{Nodes: nodes, Demand: d}
	rules := newRules(ctx, client, nodes)
	free := make([]pack.Node, len(nodes))
	closed := make([]bool, len(nodes))
	var placed []pack.Placed
	var held []Held
	for i, n := range nodes {
		free[i], closed[i] = n.Free, !n.Open
		for _, h := range n.Held {
			if h.GPU(n.Free) == 0 || willing && rules.refusal(h.Allocation) != "" {
				continue
			}
			placed = append(placed, pack.Placed{Node: i, Ask: askOf(h, n.Free), Held: h.Instances})
			held = append(held, h)
		}
	}
	for _, m := range d.Moves(free, placed, closed, most) {
		a := held[m.Placed].Allocation
		f.Moves = append(f.Moves, Move{
			Allocation: a, From: nodes[m.From], To: nodes[m.To], GPU: held[m.Placed].GPU(nodes[m.From].Free), Gain: m.Gain, Refused: rules.refusal(a),
		})
	}
	return f, ctx.Err()
}

// askOf is what an allocation would ask of another node: each of its groups is one
// request of the largest. What runs on one vendor's GPUs has an image for those.
func askOf(h Held, on pack.Node) pack.Ask {
	a := pack.Ask{CPU: h.CPU, MemoryMiB: h.MemoryMiB}
	for i, n := range h.Instances {
		if n > 0 {
			a.Vendor = on.Groups[i].Vendor
			a.Requests++
			a.Instances = max(a.Instances, n)
		}
	}
	return a
}

// rules say which allocations may be moved.
type rules struct {
	ctx     context.Context
	client  *api.Client
	healthy map[group]int // running and not unhealthy
	jobs    map[group]*api.Job
	why     map[group]string // a job cannot be read
}

type group struct{ namespace, job, name string }

func newRules(ctx context.Context, client *api.Client, nodes []Node) *rules {
	r := &rules{ctx: ctx, client: client, healthy: map[group]int{}, jobs: map[group]*api.Job{}, why: map[group]string{}}
	for _, n := range nodes {
		for _, h := range n.Held {
			if Healthy(h.Allocation, true) {
				r.healthy[group{h.Allocation.Namespace, h.Allocation.JobID, h.Allocation.TaskGroup}]++
			}
		}
	}
	return r
}

// Healthy reports whether an allocation runs, is wanted, and Nomad found it healthy.
// Nomad decides this for every allocation of a service job, by the job's update block
// within a deployment and by its migrate block otherwise. Until then the allocation has
// no status: it may still load its model. With settled set, no status counts as healthy,
// because where an operator sets the health by hand, Nomad may never decide.
func Healthy(a *api.Allocation, settled bool) bool {
	if a.ClientStatus != api.AllocClientStatusRunning || a.DesiredStatus != api.AllocDesiredStatusRun {
		return false
	}
	s := a.DeploymentStatus
	if s == nil {
		return settled
	}
	return s.Healthy != nil && *s.Healthy
}

// refusal says why an allocation must stay where it is, "" where it may be moved.
func (r *rules) refusal(a *api.Allocation) string {
	g := group{a.Namespace, a.JobID, a.TaskGroup}
	job, why := r.job(group{a.Namespace, a.JobID, ""})
	if why != "" {
		return why
	}
	tg := job.LookupTaskGroup(a.TaskGroup)
	if tg == nil {
		return "its job has no group " + a.TaskGroup + " any more"
	}
	return Refusal(job, tg, r.healthy[g])
}

// Refusal says why no allocation of a group may be moved while so many of it are
// healthy.
func Refusal(job *api.Job, tg *api.TaskGroup, healthy int) string {
	if job.Meta[DefragMeta] != "true" {
		return fmt.Sprintf("its job does not allow it: meta { %s = \"true\" }", DefragMeta)
	}
	if job.Type == nil || *job.Type != api.JobTypeService {
		return "only allocations of service jobs are started again elsewhere"
	}
	count := 1
	if tg.Count != nil {
		count = *tg.Count
	}
	keep := max(1, count-1)
	if text := job.Meta[DefragMinMeta]; text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Sprintf("meta %s is %q: want a number of at least 1", DefragMinMeta, text)
		}
		keep = n
	}
	if healthy-1 < keep {
		return fmt.Sprintf("%d of its group are healthy, and %d must stay so", healthy, keep)
	}
	return ""
}

func (r *rules) job(g group) (*api.Job, string) {
	if job, ok := r.jobs[g]; ok {
		return job, ""
	}
	if why, ok := r.why[g]; ok {
		return nil, why
	}
	job, _, err := r.client.Jobs().Info(g.job, (&api.QueryOptions{Namespace: g.namespace}).WithContext(r.ctx))
	if err != nil {
		r.why[g] = "its job cannot be read: " + err.Error()
		return nil, r.why[g]
	}
	r.jobs[g] = job
	return job, ""
}
