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

// Replica is what is measured, as Consul and Nomad know it.
type Replica struct {
	// URL is where it is.
	URL string
	// Class is its hardware class, and Slices what it has of it, see learned.SlicesOf.
	Class, Slices string
	// Slots is how many requests it takes at once, 0 where it does not say.
	Slots int
	// Image and Driver are the container's image and the version of the GPU's driver, ""
	// where Nomad does not know them.
	Image, Driver string

	id string
}

// Find returns a healthy replica of a service by its registration in Consul. class and
// size, such as 10of20, choose among replicas that differ; "" takes any. It fails where
// the replicas that are left differ still.
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
		return Replica{}, fmt.Errorf("the service %q has no such replica: it has %s", service, kinds)
	case len(fit) > 1:
		return Replica{}, fmt.Errorf("the replicas of %q differ: choose by -class and -slices one of %s",
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

// nomadService is the ID under which Nomad registers the service of an allocation.
var nomadService = regexp.MustCompile(
	`^_nomad-task-([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})-`)

// AllocOf is the allocation behind the ID of a service in Consul, "" where Nomad did not
// register it.
func AllocOf(service string) string {
	if m := nomadService.FindStringSubmatch(service); m != nil {
		return m[1]
	}
	return ""
}

// Versions reads image and driver of a replica that Nomad runs. Where it runs none of that
// kind, nothing is known and nothing is wrong.
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

// ReplicaOf is what Nomad knows of an allocation on its node: class, slices, image and
// driver of its task that has a GPU. It fails where none has.
func ReplicaOf(alloc *nomad.Allocation, node *nomad.Node) (r Replica, err error) {
	if alloc.AllocatedResources == nil || node.NodeResources == nil {
		return r, fmt.Errorf("allocation %s has no resources", alloc.ID)
	}
	for _, name := range slices.Sorted(maps.Keys(alloc.AllocatedResources.Tasks)) {
		devices := alloc.AllocatedResources.Tasks[name].Devices
		if len(devices) == 0 {
			continue
		}
		d := devices[0] // requests of our tasks lie in one group
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

// hardware takes over what a device group says of so many of its devices.
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
