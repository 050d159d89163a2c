package main

import (
	"fmt"
	"math"
	"testing"

	"github.com/hashicorp/nomad/nomad/structs"

	"aliquot.example/internal/pack"
	"aliquot.example/internal/steer"
)

// The order in which jobs fill nodes relies on arithmetic of Nomad's scheduler that its
// documentation does not mention. These tests check it for the imported release. If a
// release fails them, jobs need other stanzas.

var onePerNode = pack.Demand{{Ask: pack.Ask{CPU: 100, MemoryMiB: 100, Instances: 20, Requests: 1}, Weight: 1}}

func small(t *testing.T, nodes, gpus int, policy pack.Policy) *cluster {
	t.Helper()
	machines := make([]machine, nodes)
	for i := range machines {
		machines[i] = machine{cpu: 4000, memory: 4000, gpus: gpus, model: "T4"}
	}
	c, err := newCluster(machines, 20, policy, onePerNode, math.MaxInt)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// set makes a node publish a level of the only class.
func (c *cluster) set(t *testing.T, node, level int) {
	t.Helper()
	stored, err := c.state.NodeByID(nil, nodeOf(node, machine{model: "T4"}, 20).ID)
	if err != nil || stored == nil {
		t.Fatal(stored, err)
	}
	changed := stored.Copy()
	changed.Attributes[c.classes[0].Attribute()] = fmt.Sprint(level)
	if err := c.state.UpsertNode(structs.MsgTypeTestSetup, c.plans.NextIndex(), changed); err != nil {
		t.Fatal(err)
	}
}

// placed places one task and returns its allocation.
func (c *cluster) placed(t *testing.T, gpu float64) *structs.Allocation {
	t.Helper()
	if ok, err := c.place(task{cpu: 100, memory: 100, gpus: 1, part: gpu}); err != nil || !ok {
		t.Fatalf("placed: %v, %v", ok, err)
	}
	out, err := c.state.AllocsByJob(nil, structs.DefaultNamespace, fmt.Sprintf("task-%d", c.jobs), true)
	if err != nil || len(out) != 1 {
		t.Fatalf("%d allocations, %v", len(out), err)
	}
	return out[0]
}

// A target of p percent scores 1-100/p for the one allocation of a group, and the node
// with the best level wins whatever the other scores say.
func TestSpreadTargetsOrderNodesByLevel(t *testing.T) {
	c := small(t, pack.Levels, 1, pack.Fragmentation)
	for i := range pack.Levels {
		c.set(t, i, i)
	}
	want := pack.Steer(pack.Fragmentation, c.classes[0]).Targets
	for level := range pack.Levels {
		a := c.placed(t, 1)
		if got := c.nodeName(t, a); got != fmt.Sprintf("node-%04d", level) {
			t.Errorf("task %d went to %s", level, got)
		}
		for _, meta := range a.Metrics.ScoreMetaData {
			if meta.NodeID == a.NodeID {
				score := 1 - 100/float64(want[level].Percent)
				if got := meta.Scores["allocation-spread"]; math.Abs(got-score) > 1e-9 {
					t.Errorf("level %d scores %v, want %v", level, got, score)
				}
			}
		}
	}
}

func (c *cluster) nodeName(t *testing.T, a *structs.Allocation) string {
	t.Helper()
	n, err := c.state.NodeByID(nil, a.NodeID)
	if err != nil {
		t.Fatal(err)
	}
	return n.Name
}

// A spread makes the scheduler look at 100 nodes instead of the logarithm of their number.
func TestASpreadLiftsTheSampling(t *testing.T) {
	looked := func(p pack.Policy) int { return small(t, 300, 1, p).placed(t, 1).Metrics.NodesEvaluated }
	if n := looked(pack.None); n > 20 {
		t.Errorf("%d nodes are looked at without a spread, want about 9", n)
	}
	if n := looked(pack.Fragmentation); n < 100 || n > 110 {
		t.Errorf("%d nodes are looked at with a spread, want 100", n)
	}
}

// Slices of one request come from the GPU with the lowest index that has room.
func TestGPUsFillInOrderOfTheirIndex(t *testing.T) {
	for _, p := range []pack.Policy{pack.Fragmentation, pack.BestFit} {
		c := small(t, 1, 4, p)
		for i, want := range []string{"t4-0", "t4-1", "t4-0", "t4-2"} { // of 0.6, 0.6, 0.4, 0.6 GPUs
			part := 0.6
			if i == 2 {
				part = 0.4
			}
			if got := c.placed(t, part).AllocatedResources.Tasks["work"].Devices[0].Name; got != want {
				t.Errorf("%s: request %d of %.1f GPUs is served from %s, want %s", p, i, part, got, want)
			}
		}
	}
}

// A node that publishes nothing comes before those that do: it scores -1, the best
// level -2.
func TestANodeThatPublishesNothingComesFirst(t *testing.T) {
	c := small(t, 2, 1, pack.Fragmentation)
	id := nodeOf(1, machine{model: "T4"}, 20).ID
	stored, _ := c.state.NodeByID(nil, id)
	bare := stored.Copy()
	for _, class := range c.classes {
		delete(bare.Attributes, class.Attribute())
	}
	if err := c.state.UpsertNode(structs.MsgTypeTestSetup, c.plans.NextIndex(), bare); err != nil {
		t.Fatal(err)
	}
	c.set(t, 0, 0)
	if got := c.nodeName(t, c.placed(t, 1)); got != "node-0001" {
		t.Errorf("placed on %s", got)
	}
}

// Two replicas of one job land on one node with a policy, and on two without one: Nomad's
// penalty for sharing a node raises the mean, because the spread's score is far below it.
func TestReplicasGatherUnderAPolicy(t *testing.T) {
	for policy, want := range map[pack.Policy]int{pack.Fragmentation: 1, pack.None: 2} {
		c := small(t, 2, 2, policy)
		job := c.jobOf(task{cpu: 100, memory: 100, gpus: 1, part: 0.5})
		two := 2
		job.TaskGroups[0].Count = &two
		steer.Apply(job, policy, c.classes)
		submitted, err := submission(job)
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := c.schedule(submitted, c.take); err != nil || !ok {
			t.Fatalf("placed: %v, %v", ok, err)
		}
		allocs, err := c.state.AllocsByJob(nil, structs.DefaultNamespace, submitted.ID, true)
		if err != nil || len(allocs) != two {
			t.Fatal(allocs, err)
		}
		nodes := map[string]bool{}
		for _, a := range allocs {
			nodes[a.NodeID] = true
		}
		if len(nodes) != want {
			t.Errorf("%s: replicas are on %d nodes, want %d", policy, len(nodes), want)
		}
	}
}

// The model of the scheduler allocates what the scheduler allocates.
func TestTheModelAgreesWithTheScheduler(t *testing.T) {
	machines := make([]machine, 40)
	for i := range machines {
		machines[i] = machine{cpu: 32000, memory: 131072, gpus: []int{1, 2, 4, 8}[i%4], model: "T4"}
	}
	var tasks []task
	for i := range 60 {
		part := []float64{0.2, 0.45, 0.8, 1, 1, 0.3}[i%6]
		tasks = append(tasks, task{cpu: 1000 + 900*(i%7), memory: 4096 + 2048*(i%5), gpus: 1, part: part})
	}
	demand := demandOf(tasks, 20)
	allocated := map[string]float64{}
	const orders = 4
	for seed := range uint64(orders) {
		for name, c := range map[string]contender{"model": simulated("levels"), "scheduler": nomad("fragmentation", 0)} {
			p, err := c.make(machines, 20, seed, demand)
			if err != nil {
				t.Fatal(err)
			}
			r, err := replay(p, arrivals(tasks, capacity(machines), 1.01, seed), capacity(machines), demand)
			if err != nil {
				t.Fatal(err)
			}
			allocated[name] += r.percent[2] / orders
		}
	}
	if math.Abs(allocated["model"]-allocated["scheduler"]) > 1 {
		t.Errorf("at 100%% demand %.2f%% are allocated by the model and %.2f%% by the scheduler", allocated["model"],
			allocated["scheduler"])
	}
}
