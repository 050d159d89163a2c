package top

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/api"

	"aliquot/internal/gpu"
)

// Cluster collects snapshots from Nomad and, where there is one, Consul.
type Cluster struct {
	Nomad *api.Client
	// Services reads the gateways' services; nil when there is no Consul.
	Services func(context.Context) ([]Service, error)
}

// Snapshot reads the cluster. It fails when Nomad cannot be asked; what else
// cannot be read is left out and named in the snapshot's notes.
func (c Cluster) Snapshot(ctx context.Context) (Snapshot, error) {
	q := (&api.QueryOptions{}).WithContext(ctx)
	stubs, _, err := c.Nomad.Nodes().List(q)
	if err != nil {
		return Snapshot{}, fmt.Errorf("cannot list the nodes of Nomad at %s: %w (is NOMAD_ADDR right, and NOMAD_TOKEN where ACLs are on?)", c.Nomad.Address(), err)
	}
	s := Snapshot{At: time.Now()}
	for _, stub := range stubs {
		n, notes, err := c.node(q, stub.ID)
		if err != nil {
			notes = append(notes, fmt.Sprintf("node %s: %v", stub.Name, err))
		}
		s.Notes = append(s.Notes, notes...)
		if len(n.GPUs) > 0 {
			s.Nodes = append(s.Nodes, n)
		}
	}
	if c.Services != nil {
		services, err := c.Services(ctx)
		if err != nil {
			s.Notes = append(s.Notes, "services: "+err.Error())
		}
		s.Services = services
	}
	s.sort()
	return s, nil
}

func (c Cluster) node(q *api.QueryOptions, id string) (Node, []string, error) {
	info, _, err := c.Nomad.Nodes().Info(id, q)
	if err != nil {
		return Node{}, nil, err
	}
	n := Node{ID: info.ID, Name: info.Name, Status: info.Status}
	if info.NodeResources == nil || !hasGPUs(info.NodeResources.Devices) {
		return n, nil, nil
	}
	if info.SchedulingEligibility != api.NodeSchedulingEligible {
		n.Status += ", " + info.SchedulingEligibility
	}
	allocs, _, err := c.Nomad.Nodes().Allocations(id, q)
	if err != nil {
		return n, nil, err
	}
	var notes []string
	stats := map[string]*api.DeviceStats{}
	if info.Status == api.NodeStatusReady {
		if host, err := c.Nomad.Nodes().Stats(id, q); err != nil {
			notes = append(notes, fmt.Sprintf("node %s: no device statistics: %v", info.Name, err))
		} else {
			for _, group := range host.DeviceStats {
				for instance, st := range group.InstanceStats {
					stats[instance] = st
				}
			}
		}
	}
	held := holders(allocs)
	for _, group := range info.NodeResources.Devices {
		if group.Type == gpu.DeviceType {
			n.GPUs = append(n.GPUs, gpusOf(group, held, stats)...)
		}
	}
	return n, notes, nil
}

func hasGPUs(groups []*api.NodeDeviceResource) bool {
	for _, g := range groups {
		if g.Type == gpu.DeviceType {
			return true
		}
	}
	return false
}

// holders maps device instances to the running or pending allocation that holds
// each, as slices with the instance's ID.
func holders(allocs []*api.Allocation) map[string]Slice {
	held := map[string]Slice{}
	for _, a := range allocs {
		if a.ClientTerminalStatus() || a.AllocatedResources == nil {
			continue
		}
		for task, r := range a.AllocatedResources.Tasks {
			for _, d := range r.Devices {
				for _, id := range d.DeviceIDs {
					held[id] = Slice{ID: id, Allocation: a.ID, Job: a.JobID, Task: task}
				}
			}
		}
	}
	return held
}

func gpusOf(group *api.NodeDeviceResource, held map[string]Slice, stats map[string]*api.DeviceStats) []GPU {
	var instances []Slice
	problem := map[string]string{}
	for _, d := range group.Instances {
		s := held[d.ID]
		s.ID, s.Healthy = d.ID, d.Healthy
		instances = append(instances, s)
		if !d.Healthy {
			problem[d.ID] = d.HealthDescription
		}
	}
	var out []GPU
	for id, list := range split(instances) {
		g := GPU{
			Group: group.Name, Vendor: group.Vendor, ID: string(id), Model: text(group.Attributes["model"]),
			Sharing: text(group.Attributes["sharing"]), Enforcement: text(group.Attributes["enforcement"]),
			Level: text(group.Attributes["enforcement_level"]), MemoryMiB: number(group.Attributes["memory"]),
			MemoryUsedMiB: -1, UsePercent: -1, Healthy: true, Slices: list,
		}
		for _, s := range list {
			if why, bad := problem[s.ID]; bad {
				g.Healthy, g.Health = false, why
			}
			g.add(stats[s.ID])
		}
		out = append(out, g)
	}
	return out
}

func text(a *api.Attribute) string {
	if a == nil || a.StringVal == nil {
		return ""
	}
	return *a.StringVal
}

func number(a *api.Attribute) int64 {
	switch {
	case a == nil:
		return 0
	case a.IntVal != nil:
		return *a.IntVal
	case a.FloatVal != nil:
		return int64(*a.FloatVal)
	default:
		return 0
	}
}

// add takes what the statistics of one instance say of its whole GPU; every
// instance of a GPU says the same.
func (g *GPU) add(st *api.DeviceStats) {
	if st == nil || st.Stats == nil {
		return
	}
	if v := st.Stats.Attributes["gpu_memory"]; v != nil && v.IntNumeratorVal != nil {
		g.MemoryUsedMiB = *v.IntNumeratorVal
	}
	if v := st.Stats.Attributes["gpu_busy"]; v != nil && v.FloatNumeratorVal != nil {
		g.UsePercent = *v.FloatNumeratorVal
	}
}
