package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/driver"
	"aliquot.example/internal/gpu"
)

// mark is the key in a drain's meta with which this agent recognises its own drains.
const mark = "aliquot-node"

// ownNode returns the ID of the Nomad agent's node.
func ownNode(ctx context.Context, client *nomad.Client) (string, error) {
	var self nomad.AgentSelf
	if _, err := client.Raw().Query("/v1/agent/self", &self, (&nomad.QueryOptions{}).WithContext(ctx)); err != nil {
		return "", fmt.Errorf("cannot ask the Nomad agent at %s: %w", client.Address(), err)
	}
	id := self.Stats["client"]["node_id"]
	if id == "" {
		return "", fmt.Errorf("the Nomad agent at %s is not a client: run this on a client node", client.Address())
	}
	return id, nil
}

// ofNode returns the node's state in Nomad.
func ofNode(ctx context.Context, client *nomad.Client, n *nomad.Node) (driver.Node, error) {
	out := driver.Node{
		Ready: n.Status == nomad.NodeStatusReady, Eligible: n.SchedulingEligibility == nomad.NodeSchedulingEligible,
		Draining: n.DrainStrategy != nil,
	}
	if last := n.LastDrain; last != nil {
		out.Ours = last.Meta[mark] != ""
		out.Ended = last.Status == nomad.DrainStatusCanceled
		out.Drained = last.Status == nomad.DrainStatusComplete && !out.Eligible && !out.Draining
	}
	allocs, _, err := client.Nodes().Allocations(n.ID, (&nomad.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return out, fmt.Errorf("cannot read the allocations of node %s in Nomad: %w", n.ID, err)
	}
	for _, a := range allocs {
		if !stays(a) && (a.ClientStatus == nomad.AllocClientStatusRunning ||
			a.ClientStatus == nomad.AllocClientStatusPending) {
			out.Left = append(out.Left, a.Name)
		}
	}
	return out, nil
}

// stays reports whether a drain does not stop an allocation: those of system jobs and of storage
// plugins, as in Nomad.
func stays(a *nomad.Allocation) bool {
	if a.Job == nil {
		return false
	}
	if a.Job.Type != nil && *a.Job.Type == nomad.JobTypeSystem {
		return true
	}
	for _, g := range a.Job.TaskGroups {
		for _, t := range g.Tasks {
			if t.CSIPluginConfig != nil {
				return true
			}
		}
	}
	return false
}

// drain makes Nomad move the node's tasks.
func drain(ctx context.Context, client *nomad.Client, id string, s driver.State) error {
	spec := &nomad.DrainSpec{IgnoreSystemJobs: true} // without a deadline, no task is stopped by force
	if d, err := time.ParseDuration(s.Want.DrainDeadline); err == nil {
		spec.Deadline = d
	}
	_, err := client.Nodes().UpdateDrainOpts(id, &nomad.DrainOptions{
		DrainSpec: spec,
		Meta:      map[string]string{mark: s.Plan.Version, "message": "aliquot node: driver " + s.Plan.Version},
	}, (&nomad.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("the node cannot be drained: %w", err)
	}
	return nil
}

// endDrain cancels a drain of this agent, and makes the node eligible if it was before.
func endDrain(ctx context.Context, client *nomad.Client, id string, s driver.State) error {
	_, err := client.Nodes().UpdateDrainOpts(id, &nomad.DrainOptions{
		MarkEligible: s.Eligible,
		Meta:         map[string]string{mark: s.Plan.Version, "message": "aliquot node: its slot was freed"},
	}, (&nomad.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("the node's drain cannot be cancelled: %w", err)
	}
	return nil
}

func admit(ctx context.Context, client *nomad.Client, id string) error {
	if _, err := client.Nodes().ToggleEligibility(id, true, (&nomad.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("the node cannot be made eligible: %w", err)
	}
	return nil
}

// offeredBy returns what our device plugin offers of a vendor's GPUs.
func offeredBy(n *nomad.Node, v gpu.Vendor) driver.Offered {
	var out driver.Offered
	if n.NodeResources == nil {
		return out
	}
	well := map[string]bool{}
	for _, g := range n.NodeResources.Devices {
		if g.Type != gpu.DeviceType || g.Vendor != string(v) || g.Attributes["slices"] == nil {
			continue
		}
		pci := text(g, "pci")
		if _, seen := well[pci]; !seen {
			well[pci] = true
		}
		if version := text(g, "driver_version"); version != "" && !slices.Contains(out.Versions, version) {
			out.Versions = append(out.Versions, version)
		}
		for _, d := range g.Instances {
			if !d.Healthy {
				well[pci] = false
				if !slices.Contains(out.Sick, d.HealthDescription) {
					out.Sick = append(out.Sick, d.HealthDescription)
				}
			}
		}
	}
	for _, healthy := range well {
		if healthy {
			out.GPUs++
		}
	}
	return out
}

func text(g *nomad.NodeDeviceResource, key string) string {
	if a := g.Attributes[key]; a != nil && a.StringVal != nil {
		return *a.StringVal
	}
	return ""
}
