package plugin

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/hashicorp/nomad/plugins/device"
	"github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/share"
)

// readings is one reading of all offers and of the owners of their processes.
type readings struct {
	plan   share.Plan
	usage  map[gpu.ID]Usage
	owners map[int]owner
	at     time.Time
}

// readingTTL is how long a reading is reused: Nomad and Prometheus read independently, and some drivers
// return each utilisation sample only once.
const readingTTL = time.Second

// usage reads the load of all offers, or returns the last reading while it is fresh. Concurrent calls
// share one reading. The second result is false if ctx ended before the reading, so a hung driver
// blocks no caller for longer.
func (l *loop) usage(ctx context.Context) (readings, bool) {
	l.measuring.Lock()
	if !l.last.at.IsZero() && time.Since(l.last.at) < readingTTL {
		defer l.measuring.Unlock()
		return l.last, true
	}
	if l.pending == nil {
		l.pending = make(chan struct{})
		go l.measure(l.pending)
	}
	pending := l.pending
	l.measuring.Unlock()
	select {
	case <-pending:
		l.measuring.Lock()
		defer l.measuring.Unlock()
		return l.last, true
	case <-ctx.Done():
		return readings{}, false
	}
}

// measureTime limits the requests to the container engine in one reading. The driver's calls cannot
// be limited.
const measureTime = 10 * time.Second

// measure takes a reading, and then closes done for the callers that wait.
func (l *loop) measure(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), measureTime)
	defer cancel()
	r := readings{plan: l.current(ctx), at: time.Now()}
	r.usage = l.vendor.Usage(ctx, r.plan)
	var pids []int
	for _, u := range r.usage {
		for _, p := range u.Processes {
			pids = append(pids, p.PID)
		}
	}
	r.owners = l.owners.of(ctx, pids)
	l.measuring.Lock()
	l.last, l.pending = r, nil
	l.measuring.Unlock()
	close(done)
}

// stats sends statistics now and after each interval until ctx ends.
func (l *loop) stats(ctx context.Context, interval time.Duration, out chan<- *device.StatsResponse) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		r, ok := l.usage(ctx)
		if !ok {
			return
		}
		groups := statsOf(l.maker, r.plan, r.usage, r.owners, r.at)
		select {
		case out <- &device.StatsResponse{Groups: groups}:
		case <-ctx.Done():
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// statsOf builds the statistics of every instance whose GPU could be read.
func statsOf(vendor gpu.Vendor, plan share.Plan, usage map[gpu.ID]Usage, owners map[int]owner,
	now time.Time) []*device.DeviceGroupStats {
	groups := []*device.DeviceGroupStats{}
	byName := map[string]*device.DeviceGroupStats{}
	for _, o := range plan.Offers {
		u, ok := usage[o.ID]
		if !ok {
			continue
		}
		g := byName[o.Group]
		if g == nil {
			g = &device.DeviceGroupStats{Vendor: string(vendor), Type: gpu.DeviceType, Name: o.Group,
				InstanceStats: map[string]*device.DeviceStats{}}
			byName[o.Group] = g
			groups = append(groups, g)
		}
		tasks, stray := tasksOn(o, u, owners)
		for _, id := range o.Instances() {
			g.InstanceStats[id] = instanceStats(o, id, u, tasks[id], stray, now)
		}
	}
	return groups
}

// taskUse is what one task uses of one GPU.
type taskUse struct {
	owner
	memory    gpu.MiB
	busy      float64 // negative when unknown
	processes int
	// held lists the task's instances on this GPU in order, so that part can divide evenly.
	held []string
}

// part returns one instance's share of the task's memory. The shares add up to the task's memory.
func (t *taskUse) part(id string) gpu.MiB {
	n := gpu.MiB(len(t.held))
	part := t.memory / n
	if gpu.MiB(slices.Index(t.held, id)) < t.memory%n {
		part++
	}
	return part
}

// tasksOn adds up the processes of each task that holds instances of the offer, by instance. The
// second result is the memory of processes that belong to no such task.
func tasksOn(o share.Offer, u Usage, owners map[int]owner) (map[string]*taskUse, gpu.MiB) {
	byInstance := map[string]*taskUse{}
	var stray gpu.MiB
	instances := o.Instances()
	for _, p := range u.Processes {
		own := owners[p.PID]
		held := slices.DeleteFunc(slices.Clone(own.instances), func(id string) bool {
			return !slices.Contains(instances, id)
		})
		if len(held) == 0 {
			stray += p.Memory
			continue
		}
		slices.Sort(held)
		t := byInstance[held[0]]
		if t == nil {
			t = &taskUse{owner: own, busy: -1, held: held}
			for _, id := range held {
				byInstance[id] = t
			}
		}
		t.memory += p.Memory
		t.processes++
		if p.Busy >= 0 {
			t.busy = max(t.busy, 0) + p.Busy
		}
	}
	return byInstance, stray
}

func instanceStats(o share.Offer, id string, u Usage, t *taskUse, stray gpu.MiB, now time.Time) *device.DeviceStats {
	values := map[string]*structs.StatValue{
		"gpu_memory": memoryStat(u.MemoryUsed, u.MemoryTotal, "memory in use on the whole GPU"),
	}
	if u.Busy >= 0 {
		values["gpu_busy"] = floatStat(u.Busy, "%", "percentage of time in which the GPU ran work")
	}
	for _, m := range u.Metrics {
		values[m.Name] = floatStat(m.Value, m.Unit, m.Desc)
	}
	summary := memoryStat(u.MemoryUsed, cmp.Or(o.Memory, u.MemoryTotal), "memory in use")
	if o.Slices > 1 {
		summary = memoryStat(0, share.MemoryOf(o.Memory, 1, o.Slices), "the slice's share of its task's memory in use")
		values["gpu_unattributed_memory"] = floatStat(float64(stray), structs.UnitMiB,
			"memory of processes that belong to no task with slices")
	}
	if t != nil {
		if o.Slices > 1 {
			used := int64(t.part(id))
			summary.IntNumeratorVal = &used
		}
		taskStats(values, t)
	}
	values["memory"] = summary
	return &device.DeviceStats{Summary: summary, Stats: &structs.StatObject{Attributes: values}, Timestamp: now}
}

func taskStats(values map[string]*structs.StatValue, t *taskUse) {
	values["task_memory"] = floatStat(float64(t.memory), structs.UnitMiB,
		"memory in use by the task, on all of its slices")
	values["task_processes"] = floatStat(float64(t.processes), "", "processes of the task on the GPU")
	if t.busy >= 0 {
		values["task_busy"] = floatStat(t.busy, "%", "the task's percentage of the GPU's time, on all of its slices")
		values["busy"] = floatStat(t.busy/float64(len(t.held)), "%", "the slice's share of its task's GPU time")
	}
	for name, text := range map[string]string{"alloc": t.alloc, "task": t.task} {
		if text != "" {
			values[name] = &structs.StatValue{StringVal: &text, Desc: name + " that holds the slice"}
		}
	}
}

func memoryStat(used, of gpu.MiB, desc string) *structs.StatValue {
	n, d := int64(used), int64(of)
	return &structs.StatValue{IntNumeratorVal: &n, IntDenominatorVal: &d, Unit: structs.UnitMiB, Desc: desc}
}

func floatStat(v float64, unit, desc string) *structs.StatValue {
	return &structs.StatValue{FloatNumeratorVal: &v, Unit: unit, Desc: desc}
}
