package profiler

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/learned"
)

// Replica is the replica to measure, from Consul and Nomad.
type Replica struct {
	// URL is its address.
	URL string
	// Class is its hardware class, and Slices its part of the GPU; see learned.SlicesOf.
	Class, Slices string
	// Slots is the number of concurrent requests, 0 if unknown.
	Slots int
	// Image is the container's image, and Driver the version of the GPU's driver. They are "" if
	// Nomad does not know them.
	Image, Driver string

	id string
}

// Find returns a healthy replica of a service in Consul. class and size, such as 10of20, select a
// kind of replica; "" matches any. Find fails if the matching replicas are of different kinds.
func Find(ctx context.Context, client *consul.Client, service, class, size string) (Replica, error) {
	entries, _, err := client.Health().Service(service, "", true, (&consul.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return Replica{}, fmt.Errorf("replicas of %q in Consul: %w", service, err)
	}
	all, fit := map[string]bool{}, map[string]Replica{}
	for _, e := range entries {
		if e.Service.Kind != consul.ServiceKindTypical {
			continue
		}
		r := replicaOf(e)
		kind := cmp.Or(r.Class, "no class") + " " + r.Slices
		all[kind] = true
		if (class == "" || r.Class == class) && (size == "" || r.Slices == size) {
			if have, ok := fit[kind]; !ok || r.id < have.id {
				fit[kind] = r
			}
		}
	}
	kinds := strings.Join(slices.Sorted(maps.Keys(all)), ", ")
	switch {
	case len(all) == 0:
		return Replica{}, fmt.Errorf("the service %q has no healthy replica in Consul", service)
	case len(fit) == 0:
		return Replica{}, fmt.Errorf("the service %q has no replica of that class and size: it has %s", service, kinds)
	case len(fit) > 1:
		return Replica{}, fmt.Errorf("the replicas of %q differ: choose one of these with -class and -slices: %s",
			service, kinds)
	}
	for _, r := range fit {
		return r, nil
	}
	panic("a map of one entry is empty")
}

func replicaOf(e *consul.ServiceEntry) Replica {
	have, _ := strconv.Atoi(e.Service.Meta[gpu.MetaSlices])
	of, _ := strconv.Atoi(e.Service.Meta[gpu.MetaTotal])
	slots, _ := strconv.Atoi(e.Service.Meta[gpu.MetaSlots])
	host := net.JoinHostPort(cmp.Or(e.Service.Address, e.Node.Address), strconv.Itoa(e.Service.Port))
	return Replica{
		URL: "http://" + host, Class: e.Service.Meta[gpu.MetaClass], Slices: learned.SlicesOf(have, of),
		Slots: max(0, slots), id: e.Service.ID,
	}
}

// nomadService matches the IDs of the services that Nomad registers in Consul.
var nomadService = regexp.MustCompile(
	`^_nomad-task-([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})-`)

// AllocOf returns the allocation ID in the ID of a Consul service, or "" if Nomad did not register
// it.
func AllocOf(service string) string {
	if m := nomadService.FindStringSubmatch(service); m != nil {
		return m[1]
	}
	return ""
}

// Versions reads the image and driver of a replica that Nomad runs. For other replicas it does
// nothing.
func (r *Replica) Versions(ctx context.Context, client *nomad.Client) error {
	id := AllocOf(r.id)
	if id == "" {
		return nil
	}
	q := (&nomad.QueryOptions{Namespace: nomad.AllNamespacesNamespace}).WithContext(ctx)
	alloc, _, err := client.Allocations().Info(id, q)
	if err != nil {
		return fmt.Errorf("allocation %s: %w", id, err)
	}
	node, _, err := client.Nodes().Info(alloc.NodeID, q)
	if err != nil {
		return fmt.Errorf("node %s: %w", alloc.NodeID, err)
	}
	of, err := ReplicaOf(alloc, node)
	r.Image, r.Driver = of.Image, of.Driver
	return err
}

// ReplicaOf returns what Nomad knows of an allocation on its node: class, slices, image and driver
// of the first task with a GPU. It fails if no task has one.
func ReplicaOf(alloc *nomad.Allocation, node *nomad.Node) (r Replica, err error) {
	if alloc.AllocatedResources == nil || node.NodeResources == nil {
		return r, fmt.Errorf("allocation %s has no resources", alloc.ID)
	}
	for _, name := range slices.Sorted(maps.Keys(alloc.AllocatedResources.Tasks)) {
		devices := alloc.AllocatedResources.Tasks[name].Devices
		if len(devices) == 0 {
			continue
		}
		d := devices[0] // all devices of a task of ours are in one group
		for _, g := range node.NodeResources.Devices {
			if g.Vendor == d.Vendor && g.Type == d.Type && g.Name == d.Name {
				r.hardware(g.Attributes, len(d.DeviceIDs))
			}
		}
		if state := alloc.TaskStates[name]; state != nil {
			for _, e := range state.Events {
				r.Image = cmp.Or(e.Details["image"], r.Image)
			}
		}
		return r, nil
	}
	return r, fmt.Errorf("allocation %s has no GPU", alloc.ID)
}

// hardware sets the fields that follow from the attributes of a device group and the number of
// devices.
func (r *Replica) hardware(attributes map[string]*nomad.Attribute, devices int) {
	text := func(name string) string {
		if a := attributes[name]; a != nil {
			return a.String()
		}
		return ""
	}
	total, _ := strconv.Atoi(text("slices"))
	r.Class, r.Driver, r.Slices = text("class"), text("driver_version"), learned.SlicesOf(devices, total)
}
