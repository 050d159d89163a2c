package main

import (
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/scheduler"

	"aliquot.example/internal/pack"
)

// systemJob runs Nomad's scheduler of system jobs for a job, and returns the job's only
// allocation.
func (c *cluster) systemJob(t *testing.T, job *structs.Job) *structs.Allocation {
	t.Helper()
	c.jobs++
	eval := &structs.Evaluation{
		ID: nodeOf(c.jobs+100, machine{}, 1).ID, Namespace: job.Namespace, Priority: job.Priority, Type: job.Type,
		TriggeredBy: structs.EvalTriggerNodeUpdate, JobID: job.ID, Status: structs.EvalStatusPending,
	}
	if err := c.state.UpsertEvals(structs.MsgTypeTestSetup, c.plans.NextIndex(), []*structs.Evaluation{eval}); err != nil {
		t.Fatal(err)
	}
	snapshot, err := c.state.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := scheduler.NewSystemScheduler(hclog.NewNullLogger(), c.events, snapshot, c.plans).Process(eval); err != nil {
		t.Fatal(err)
	}
	found, err := c.state.AllocsByJob(nil, job.Namespace, job.ID, true)
	if err != nil || len(found) != 1 {
		t.Fatalf("%d allocations, %v", len(found), err)
	}
	return found[0]
}

// client writes the status that the node's client reports of an allocation.
func (c *cluster) client(t *testing.T, a *structs.Allocation, status string) {
	t.Helper()
	a = a.Copy()
	a.ClientStatus = status
	if err := c.state.UpdateAllocsFromClient(structs.MsgTypeTestSetup, c.plans.NextIndex(), []*structs.Allocation{a}); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) nodeStatus(t *testing.T, id, status string) {
	t.Helper()
	request := &structs.NodeUpdateStatusRequest{NodeID: id, Status: status, UpdatedAt: time.Now().Unix()}
	if err := c.state.UpdateNodeStatus(structs.MsgTypeTestSetup, c.plans.NextIndex(), request); err != nil {
		t.Fatal(err)
	}
}

// The agent of a node comes back with the node, even if the node was drained and Nomad
// missed its heartbeat: a lost allocation would never be replaced there. An update of the
// job ends the agent for good, and the job's file warns of that.
func TestTheNodeAgentOutlivesAReboot(t *testing.T) {
	text, err := os.ReadFile("../../jobs/node.nomad.hcl")
	if err != nil {
		t.Fatal(err)
	}
	stanza := regexp.MustCompile(`(?s)disconnect \{[^}]*lost_after\s*=\s*"([^"]+)"`).FindSubmatch(text)
	if stanza == nil {
		t.Fatal("jobs/node.nomad.hcl has no disconnect stanza with lost_after")
	}
	lost, err := time.ParseDuration(string(stanza[1]))
	if err != nil {
		t.Fatal(err)
	}
	group := api.NewTaskGroup("node", 1).AddTask(api.NewTask("agent", "raw_exec").SetConfig("command", "/usr/bin/aliquot"))
	group.Disconnect = &api.DisconnectStrategy{LostAfter: &lost}
	parsed := api.NewSystemJob("node", "node", "global", 90).AddDatacenter("*").AddTaskGroup(group)
	pool := structs.NodePoolDefault
	parsed.NodePool = &pool
	parsed.Canonicalize()
	job, err := submission(parsed)
	if err != nil {
		t.Fatal(err)
	}
	c := small(t, 1, 1, pack.None)
	node, err := c.state.NodeByID(nil, nodeOf(0, machine{}, 1).ID)
	if err != nil || node == nil {
		t.Fatal(node, err)
	}
	node = node.Copy()
	node.Attributes["driver.raw_exec"] = "1"
	node.Attributes["nomad.version"] = "1.11.3"
	node.Drivers["raw_exec"] = &structs.DriverInfo{Detected: true, Healthy: true}
	if err := node.ComputeClass(); err != nil {
		t.Fatal(err)
	}
	if err := c.state.UpsertNode(structs.MsgTypeTestSetup, c.plans.NextIndex(), node); err != nil {
		t.Fatal(err)
	}
	if err := c.state.UpsertJob(structs.MsgTypeTestSetup, c.plans.NextIndex(), nil, job); err != nil {
		t.Fatal(err)
	}
	placed := c.systemJob(t, job)
	c.client(t, placed, structs.AllocClientStatusRunning)
	if err := c.state.UpdateNodeEligibility(structs.MsgTypeTestSetup, c.plans.NextIndex(), node.ID, structs.NodeSchedulingIneligible, time.Now().Unix(), nil); err != nil {
		t.Fatal(err)
	}
	// The state that a server gives a node with such an allocation; without a disconnect
	// stanza it would be "down".
	away := structs.NodeStatusDown
	if now := time.Now(); placed.DisconnectTimeout(now).After(now.Add(time.Hour)) {
		away = structs.NodeStatusDisconnected
	}
	c.nodeStatus(t, node.ID, away)
	if a := c.systemJob(t, job); a.ClientStatus != structs.AllocClientStatusUnknown || a.DesiredStatus != structs.AllocDesiredStatusRun {
		t.Fatalf("while the node is away: %s, %s", a.ClientStatus, a.DesiredStatus)
	}
	c.nodeStatus(t, node.ID, structs.NodeStatusInit)
	c.systemJob(t, job)
	c.nodeStatus(t, node.ID, structs.NodeStatusReady)
	a := c.systemJob(t, job)
	c.client(t, a, structs.AllocClientStatusRunning)
	a = c.systemJob(t, job)
	if a.ID != placed.ID || a.DesiredStatus != structs.AllocDesiredStatusRun || a.NeedsToReconnect() {
		t.Fatalf("back: %s, %s, needs to reconnect %v", a.ClientStatus, a.DesiredStatus, a.NeedsToReconnect())
	}
	changed := job.Copy()
	changed.TaskGroups[0].Tasks[0].Resources.CPU++
	if err := c.state.UpsertJob(structs.MsgTypeTestSetup, c.plans.NextIndex(), nil, changed); err != nil {
		t.Fatal(err)
	}
	if a := c.systemJob(t, changed); a.DesiredStatus != structs.AllocDesiredStatusStop {
		t.Errorf("an update leaves the agent of a drained node: the warnings of jobs/node.nomad.hcl and docs/nodes.md can go")
	}
}
