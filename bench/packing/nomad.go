package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/client/lib/numalib"
	"github.com/hashicorp/nomad/client/lib/numalib/hw"
	"github.com/hashicorp/nomad/nomad/state"
	"github.com/hashicorp/nomad/nomad/structs"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"
	"github.com/hashicorp/nomad/scheduler"
	sstructs "github.com/hashicorp/nomad/scheduler/structs"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/pack"
	"aliquot.example/internal/share"
	"aliquot.example/internal/steer"
)

// cluster is Nomad's scheduler with its state in memory.
type cluster struct {
	n       int // slices of a GPU
	policy  pack.Policy
	demand  pack.Demand
	classes []pack.Class
	// lag is how many placements pass before a node publishes what changed.
	lag     int
	state   *state.StateStore
	plans   *sstructs.PlanBuilder
	events  chan any
	nodes   map[string]*pack.Node
	waiting []string // nodes that have not published their last change, oldest first
	jobs    int
	writes  int // of nodes, after the first
	spent   time.Duration
}

func newCluster(machines []machine, n int, policy pack.Policy, demand pack.Demand, lag int) (*cluster, error) {
	store, err := state.NewStateStore(&state.StateStoreConfig{Logger: hclog.NewNullLogger(),
		Region: "global", JobTrackedVersions: structs.JobDefaultTrackedVersions})
	if err != nil {
		return nil, err
	}
	c := &cluster{
		n: n, policy: policy, demand: demand, classes: demand.Classes(), lag: lag, state: store,
		plans: sstructs.NewPlanWithStateAndIndex(store, 1, true), events: make(chan any, 1),
		nodes: map[string]*pack.Node{},
	}
	// The configuration of a server that nobody has changed.
	usual := &structs.SchedulerConfiguration{SchedulerAlgorithm: structs.SchedulerAlgorithmBinpack,
		PreemptionConfig: structs.PreemptionConfig{SystemSchedulerEnabled: true}}
	if err := store.SchedulerSetConfig(c.plans.NextIndex(), usual); err != nil {
		return nil, err
	}
	for i, free := range nodesOf(machines, n) {
		node := nodeOf(i, machines[i], n)
		c.nodes[node.ID] = &free
		if err := c.publish(node); err != nil {
			return nil, err
		}
	}
	c.writes = 0
	return c, nil
}

// nodeOf returns a node as its agent and the device plugins register it.
func nodeOf(i int, m machine, n int) *structs.Node {
	id := fmt.Sprintf("%08x-0000-4000-8000-000000000000", i)
	node := &structs.Node{
		ID: id, SecretID: id, Name: fmt.Sprintf("node-%04d", i), Datacenter: "dc1", NodePool: structs.NodePoolDefault,
		Attributes: map[string]string{"kernel.name": "linux", "driver.aliquot": "1"},
		Drivers:    map[string]*structs.DriverInfo{"aliquot": {Detected: true, Healthy: true}},
		NodeResources: &structs.NodeResources{
			// One core as fast as all of the machine's, so that its CPU is a number like
			// that of the trace.
			Processors: structs.NodeProcessorResources{Topology: topology(m.cpu)},
			Memory:     structs.NodeMemoryResources{MemoryMB: int64(m.memory)},
			Disk:       structs.NodeDiskResources{DiskMB: 1 << 30},
			Networks:   []*structs.NetworkResource{{Mode: "host", Device: "eth0", CIDR: "10.0.0.1/8"}},
		},
		ReservedResources:     &structs.NodeReservedResources{},
		Status:                structs.NodeStatusReady,
		SchedulingEligibility: structs.NodeSchedulingEligible,
	}
	var found []share.Found
	for g := range m.gpus {
		found = append(found, share.Found{
			GPU: gpu.GPU{Vendor: vendor, ID: gpu.ID(fmt.Sprintf("GPU-%04d-%d", i, g)), Index: g, Model: m.model,
				Class: gpu.Slug(m.model)},
			Slicing: share.Slicing{Sharing: gpu.SharingMPS},
		})
	}
	rule := share.Rule{Selector: share.Any, Mode: share.Shared, Slices: n}
	if m.whole {
		rule.Mode, rule.Slices = share.Whole, 1
	}
	var group *structs.NodeDeviceResource
	for _, o := range share.NewPlan(found, []share.Rule{rule}).Offers {
		if group != nil && group.Name == o.Group {
			delete(group.Attributes, "index") // the GPUs of a group have different ones
			group.Instances = append(group.Instances, &structs.NodeDevice{ID: string(o.ID), Healthy: true})
			continue
		}
		group = &structs.NodeDeviceResource{Vendor: string(o.Vendor), Type: gpu.DeviceType, Name: o.Group,
			Attributes: map[string]*pstructs.Attribute{
				"index": pstructs.NewIntAttribute(int64(o.Index), ""), "class": pstructs.NewStringAttribute(o.Class),
				"slices": pstructs.NewIntAttribute(int64(o.Slices), ""),
			}}
		for _, id := range o.Instances() {
			group.Instances = append(group.Instances, &structs.NodeDevice{ID: id, Healthy: true})
		}
		node.NodeResources.Devices = append(node.NodeResources.Devices, group)
	}
	node.NodeResources.Compatibility()
	return node
}

func topology(mhz int) *numalib.Topology {
	return &numalib.Topology{Distances: numalib.SLIT{{10}},
		Cores: []numalib.Core{{Grade: numalib.Performance, BaseSpeed: hw.MHz(mhz)}}}
}

// publish writes the node with the attributes that its driver would publish now, if they
// differ from those of the state.
func (c *cluster) publish(node *structs.Node) error {
	fresh := c.demand.Attributes(c.classes, *c.nodes[node.ID])
	changed := node.ComputedClass == ""
	for name, value := range fresh {
		changed = changed || node.Attributes[name] != value
	}
	if !changed {
		return nil
	}
	node = node.Copy()
	for name, value := range fresh {
		node.Attributes[name] = value
	}
	if err := node.ComputeClass(); err != nil {
		return err
	}
	c.writes++
	return c.state.UpsertNode(structs.MsgTypeTestSetup, c.plans.NextIndex(), node)
}

// jobOf returns the job that a user would write for a task.
func (c *cluster) jobOf(t task) *api.Job {
	memory := max(t.memory, 10) // the least that Nomad takes
	work := api.NewTask("work", "aliquot").Require(&api.Resources{CPU: &t.cpu, MemoryMB: &memory})
	a := t.ask(c.n)
	for range a.Requests {
		count := uint64(a.Instances)
		d := &api.RequestedDevice{Name: gpu.DeviceType, Count: &count}
		if a.Of > 0 {
			d.Constraints = []*api.Constraint{api.NewConstraint("${device.attr.slices}", "=", fmt.Sprint(a.Of))}
		}
		work.Resources.Devices = append(work.Resources.Devices, d)
	}
	c.jobs++
	name := fmt.Sprintf("task-%d", c.jobs)
	job := api.NewServiceJob(name, name,
		"global", 50).AddDatacenter("*").AddTaskGroup(api.NewTaskGroup("work", 1).AddTask(work))
	pool := api.NodePoolDefault // a server would set it
	job.NodePool = &pool
	job.Canonicalize()
	return job
}

// place implements placer: it submits the job as `aliquot job run` would.
func (c *cluster) place(t task) (bool, error) {
	job := c.jobOf(t)
	steer.Apply(job, c.policy, c.classes)
	submitted, err := submission(job)
	if err != nil {
		return false, fmt.Errorf("job of %+v: %w", t, err)
	}
	return c.schedule(submitted, c.take)
}

// submission returns a job as a server takes it from the API.
func submission(job *api.Job) (*structs.Job, error) {
	text, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	var out structs.Job
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, err
	}
	out.Canonicalize()
	return &out, out.Validate()
}

// schedule registers a job and lets the scheduler place it. It calls take with each
// allocation.
func (c *cluster) schedule(submitted *structs.Job, take func(*pack.Node, *structs.Allocation)) (bool, error) {
	if err := c.state.UpsertJob(structs.MsgTypeTestSetup, c.plans.NextIndex(), nil, submitted); err != nil {
		return false, err
	}
	eval := &structs.Evaluation{
		ID: fmt.Sprintf("%08x-0000-4000-9000-000000000000", c.jobs), Namespace: structs.DefaultNamespace, Priority: 50,
		Type:        submitted.Type,
		TriggeredBy: structs.EvalTriggerJobRegister, JobID: submitted.ID, Status: structs.EvalStatusPending,
	}
	if err := c.state.UpsertEvals(structs.MsgTypeTestSetup, c.plans.NextIndex(),
		[]*structs.Evaluation{eval}); err != nil {
		return false, err
	}
	snapshot, err := c.state.Snapshot()
	if err != nil {
		return false, err
	}
	before := len(c.plans.Plans)
	start := time.Now()
	err = scheduler.NewServiceScheduler(hclog.NewNullLogger(), c.events, snapshot, c.plans).Process(eval)
	c.spent += time.Since(start)
	if err != nil {
		return false, err
	}
	return c.account(before, take)
}

// account subtracts what the last plans placed from the free capacity of its nodes, and
// publishes the nodes that are due.
func (c *cluster) account(before int, take func(*pack.Node, *structs.Allocation)) (bool, error) {
	placed := false
	for _, plan := range c.plans.Plans[before:] {
		for id, allocations := range plan.NodeAllocation {
			for _, a := range allocations {
				placed = true
				take(c.nodes[id], a)
				c.waiting = append(c.waiting, id)
			}
		}
	}
	c.plans.Plans, c.plans.Evals, c.plans.CreateEvals = nil, nil, nil
	for len(c.waiting) > c.lag {
		node, err := c.state.NodeByID(nil, c.waiting[0])
		if err != nil {
			return false, err
		}
		if err := c.publish(node); err != nil {
			return false, err
		}
		c.waiting = c.waiting[1:]
	}
	return placed, nil
}

func (c *cluster) free() []pack.Node {
	out := make([]pack.Node, 0, len(c.nodes))
	for _, n := range c.nodes {
		out = append(out, *n)
	}
	return out
}

// take subtracts an allocation from the free capacity of its node.
func (c *cluster) take(n *pack.Node, a *structs.Allocation) {
	for _, r := range a.AllocatedResources.Tasks {
		n.CPU -= int(r.Cpu.CpuShares)
		n.MemoryMiB -= int(r.Memory.MemoryMB)
		for _, d := range r.Devices {
			slice, _ := gpu.ParseSlice(d.DeviceIDs[0])
			index := int(slice.GPU[len(slice.GPU)-1] - '0')
			if slice.Of == 1 && c.n > 1 {
				index = 0 // the one group of whole GPUs
			}
			n.Groups[index].Free -= len(d.DeviceIDs)
		}
	}
}
