package top

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/gpu"
)

const (
	// answerTime is the timeout for each node and each gateway.
	answerTime = 2 * time.Second
	// atOnce is the number of nodes that are asked at the same time.
	atOnce = 16
)

// Cluster collects snapshots from Nomad and, if there is one, Consul.
type Cluster struct {
	Nomad *api.Client
	// Services reads the gateways' services. It is nil without Consul.
	Services func(context.Context) ([]Service, error)
}

// Snapshot reads the cluster. It returns an error if it cannot list Nomad's nodes. It leaves out
// other things that it cannot read, and names them in the node's Problem or in Notes. A node that
// does not answer delays the snapshot by at most answerTime.
func (c Cluster) Snapshot(ctx context.Context) (Snapshot, error) {
	q := (&api.QueryOptions{Params: map[string]string{"resources": "true"}}).WithContext(ctx)
	stubs, _, err := c.Nomad.Nodes().List(q)
	if err != nil {
		return Snapshot{},
			fmt.Errorf("cannot list the nodes of Nomad at %s: %w (check NOMAD_ADDR and, with ACLs, NOMAD_TOKEN)",
				c.Nomad.Address(), err)
	}
	stubs = slices.DeleteFunc(stubs, func(stub *api.NodeListStub) bool {
		return stub.NodeResources == nil || !hasGPUs(stub.NodeResources.Devices)
	})
	s := Snapshot{At: time.Now(), Nodes: make([]Node, len(stubs))}
	var asked sync.WaitGroup
	if c.Services != nil {
		asked.Go(func() {
			services, err := c.Services(ctx)
			if err != nil {
				s.Notes = append(s.Notes, "services: "+err.Error())
			}
			s.Services = services
		})
	}
	blind := make(chan string, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		blind <- c.blind(ctx)
	}()
	next := make(chan int)
	for range min(atOnce, len(stubs)) {
		asked.Go(func() {
			for i := range next {
				s.Nodes[i] = c.node(ctx, stubs[i])
			}
		})
	}
	for i := range stubs {
		next <- i
	}
	close(next)
	asked.Wait()
	for _, n := range s.Nodes {
		s.Starts = append(s.Starts, n.starts...)
	}
	s.Starts = mean(s.Starts)
	if why := <-blind; why != "" {
		s.Notes = append(s.Notes, why)
		s.unsee()
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return Snapshot{}, ctx.Err()
	}
	s.sort()
	return s, nil
}

// node adds what the list of nodes does not contain: the allocations of the node and the statistics
// of its devices.
func (c Cluster) node(ctx context.Context, stub *api.NodeListStub) Node {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	q := (&api.QueryOptions{}).WithContext(ctx)
	n := Node{ID: stub.ID, Name: stub.Name, Status: stub.Status}
	if stub.SchedulingEligibility != api.NodeSchedulingEligible {
		n.Status += ", " + stub.SchedulingEligibility
	}
	var problems []string
	allocs, _, err := c.Nomad.Nodes().Allocations(stub.ID, q)
	if err != nil {
		problems = append(problems, "the holders of its slices are unknown: "+reason(err))
	}
	stats := map[string]*api.DeviceStats{}
	if stub.Status == api.NodeStatusReady && ctx.Err() == nil {
		host, err := c.Nomad.Nodes().Stats(stub.ID, q)
		if err != nil {
			problems = append(problems, "no device statistics: "+reason(err))
		} else {
			for _, group := range host.DeviceStats {
				maps.Copy(stats, group.InstanceStats)
			}
		}
	}
	n.Problem = strings.Join(problems, "; ")
	n.starts = startsOf(allocs)
	n.GPUs = GPUs(stub.NodeResources, allocs, stats)
	for i := range n.GPUs {
		n.GPUs[i].Unseen = err != nil
	}
	return n
}

// GPUs returns the GPUs that a node offers, with the allocations that hold them. stats are the
// statistics of the node's device instances by ID.
func GPUs(r *api.NodeResources, allocs []*api.Allocation, stats map[string]*api.DeviceStats) []GPU {
	if r == nil {
		return nil
	}
	var out []GPU
	held := holders(allocs)
	for _, group := range r.Devices {
		if group.Type == gpu.DeviceType {
			out = append(out, gpusOf(group, held, stats)...)
		}
	}
	return out
}

// unsee sets Unseen for every GPU.
func (s *Snapshot) unsee() {
	for _, n := range s.Nodes {
		for i := range n.GPUs {
			n.GPUs[i].Unseen = true
		}
	}
}

// reason returns the reason for a failed request in one line.
func reason(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %s", answerTime)
	}
	return strings.Join(strings.Fields(err.Error()), " ") // Nomad's errors have line breaks
}

func hasGPUs(groups []*api.NodeDeviceResource) bool {
	for _, g := range groups {
		if g.Type == gpu.DeviceType {
			return true
		}
	}
	return false
}

// holders returns the held slices by the ID of their device instance.
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
			Class:   text(group.Attributes["class"]),
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

// add sets the use of the GPU from the statistics of one of its instances. All instances of a GPU
// report the same values.
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
