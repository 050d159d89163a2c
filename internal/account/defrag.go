package account

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/pack"
)

// The keys of a job's meta that allow `aliquot job defrag` to move its allocations, and that set
// how many allocations of a group must stay healthy.
const (
	DefragMeta    = "aliquot_defrag"
	DefragMinMeta = "aliquot_defrag_min_healthy"
)

// Move is one allocation that would leave its node.
type Move struct {
	Allocation *api.Allocation
	From, To   Node
	// GPU is the capacity that it holds, Gain the reduction of wasted capacity, both in GPUs.
	GPU, Gain float64
	// Refused is why it must not be moved now, "" if it may.
	Refused string
}

// Fragmentation describes the free capacity of a cluster that cannot be used.
type Fragmentation struct {
	Nodes  []Node
	Demand pack.Demand
	// Moves make more capacity usable, the best first. Each depends on those before it.
	Moves []Move
}

// MoveLimits limits the moves that Report looks for.
type MoveLimits struct {
	// Max is the maximum number of moves.
	Max int
	// OnlyMovable leaves out allocations that must not be moved now.
	OnlyMovable bool
	// Fits reports whether a node accepts an allocation, by criteria that this package does not
	// know, such as the constraints of its job. before are the moves that are made first. If it is
	// nil, every node does.
	Fits func(ctx context.Context, m Move, before []Move) (bool, error)
}

// maxFitCalls is the maximum number of calls of Fits in one report.
const maxFitCalls = 200

// Report reads the cluster and looks for moves.
func Report(ctx context.Context, client *api.Client, d pack.Demand, limits MoveLimits) (Fragmentation, error) {
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
			if h.GPU(n.Free) == 0 || limits.OnlyMovable && rules.refusal(h.Allocation) != "" {
				continue
			}
			name := groupOf(h.Allocation).String()
			placed = append(placed, pack.Placed{Node: i, Ask: askOf(h, n.Free), Group: name, Held: h.Instances})
			held = append(held, h)
		}
	}
	look := func(barred pack.Barred) (out []Move, to []int) {
		for _, m := range d.Moves(free, placed, closed, barred, limits.Max) {
			a := held[m.Placed].Allocation
			out = append(out, Move{
				Allocation: a, From: nodes[m.From], To: nodes[m.To],
				GPU: held[m.Placed].GPU(nodes[m.From].Free), Gain: m.Gain, Refused: rules.refusal(a),
			})
			to = append(to, m.To)
		}
		return out, to
	}
	if f.Moves, err = limits.accepted(ctx, look); err != nil {
		return Fragmentation{}, err
	}
	return f, ctx.Err()
}

// accepted looks for moves until Fits accepts all of them. After maxFitCalls calls, it returns those that
// Fits has accepted.
func (w MoveLimits) accepted(ctx context.Context, look func(pack.Barred) ([]Move, []int)) ([]Move, error) {
	barred, agreed := pack.Barred{}, map[string]bool{}
	for asked := 0; ; {
		moves, to := look(barred)
		if w.Fits == nil {
			return moves, nil
		}
		known := true
		for i, m := range moves {
			group := groupOf(m.Allocation).String()
			key := fmt.Sprintf("%s to %d", group, to[i])
			if agreed[key] {
				continue
			}
			if asked++; asked > maxFitCalls {
				return moves[:i], nil
			}
			ok, err := w.Fits(ctx, m, moves[:i])
			if err != nil {
				return nil, err
			}
			if !ok {
				barred.Add(group, to[i])
				known = false
				break
			}
			agreed[key] = true
		}
		if known {
			return moves, nil
		}
	}
}

// askOf returns what an allocation would request of another node: one request of the largest size
// for each of its groups. It fixes the vendor, because the image is for that vendor's GPUs, and the
// number of slices of a GPU, because the same number of slices would otherwise be another share.
func askOf(h Held, on pack.Node) pack.Ask {
	a := pack.Ask{CPU: h.CPU, MemoryMiB: h.MemoryMiB}
	for i, n := range h.Instances {
		if n > 0 {
			a.Vendor, a.Of = on.Groups[i].Vendor, on.Groups[i].Slices()
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
	problem map[group]string // why a job cannot be read
}

type group struct{ namespace, job, name string }

func groupOf(a *api.Allocation) group { return group{a.Namespace, a.JobID, a.TaskGroup} }

func (g group) String() string { return strings.Join([]string{g.namespace, g.job, g.name}, "/") }

func newRules(ctx context.Context, client *api.Client, nodes []Node) *rules {
	r := &rules{
		ctx: ctx, client: client, healthy: map[group]int{}, jobs: map[group]*api.Job{}, problem: map[group]string{},
	}
	for _, n := range nodes {
		for _, h := range n.Held {
			if Healthy(h.Allocation, true) {
				r.healthy[groupOf(h.Allocation)]++
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

// refusal returns why an allocation must not be moved, or "" if it may.
func (r *rules) refusal(a *api.Allocation) string {
	g := groupOf(a)
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

// Refusal returns why no allocation of a group may be moved while this many are healthy, or "".
func Refusal(job *api.Job, tg *api.TaskGroup, healthy int) string {
	if job.Meta[DefragMeta] != "true" {
		return fmt.Sprintf("its job does not allow it: meta { %s = \"true\" }", DefragMeta)
	}
	if job.Type == nil || *job.Type != api.JobTypeService {
		return "only allocations of service jobs can be moved"
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
	if why, ok := r.problem[g]; ok {
		return nil, why
	}
	job, _, err := r.client.Jobs().Info(g.job, (&api.QueryOptions{Namespace: g.namespace}).WithContext(r.ctx))
	if err != nil {
		r.problem[g] = "its job cannot be read: " + err.Error()
		return nil, r.problem[g]
	}
	r.jobs[g] = job
	return job, ""
}
