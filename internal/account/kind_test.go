package account

import (
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/pack"
)

// gpuNode is an open node of pool gpu with one GPU of a class in 20 slices.
func gpuNode(class string, free int) Node {
	return Node{
		ID: class, Pool: "gpu", NodeClass: "rented", Datacenter: "eu-1", Open: true, Busy: free < 20, Created: 10, Modified: 20,
		Names: []string{class + "-0"}, Classes: []string{class},
		Free: pack.Node{CPU: 1000, MemoryMiB: 1000, Groups: []pack.Group{{Free: free, Total: 20, Unit: 0.05, Vendor: "nvidia"}}},
	}
}

var ofH100 = Kind{Class: "h100"}

// waits is work that waits for 10 slices, with constraints of its device request.
func waits(device string, constraints ...*api.Constraint) Waiting {
	ten := uint64(10)
	resources := &api.Resources{Devices: []*api.RequestedDevice{{Name: device, Count: &ten, Constraints: constraints}}}
	group := api.NewTaskGroup("group", 3).AddTask(api.NewTask("task", "docker").Require(resources))
	return Waiting{Job: api.NewServiceJob("job", "job", "global", 50).AddDatacenter("eu-*").AddTaskGroup(group), Group: group, Count: 3, Exhausted: 1, Snapshot: 30}
}

func TestSupplyOfAKind(t *testing.T) {
	now := time.Unix(1000, 0)
	full, empty, fresh, closed, mixed := gpuNode("h100", 0), gpuNode("h100", 20), gpuNode("h100", 20), gpuNode("h100", 15), gpuNode("h100", 5)
	empty.Ended = now.Add(-time.Minute)
	fresh.Created, fresh.Free.CPU, fresh.Free.MemoryMiB, fresh.Held = 11, 400, 500, []Held{{CPU: 600, MemoryMiB: 300}}
	closed.Open = false
	mixed.Names, mixed.Classes = append(mixed.Names, "t4-1"), append(mixed.Classes, "t4")
	mixed.Free.Groups = append(mixed.Free.Groups, pack.Group{Free: 1, Total: 4, Unit: 0.25})
	s := ofH100.Of([]Node{full, empty, fresh, closed, mixed, gpuNode("t4", 3)}, []Waiting{waits("gpu")}, nil, 5*time.Minute, now)
	if s.Placed != 20+0+0+5+15 || s.Free != 0+20+20+0+5 || s.Blocked() != 30 {
		t.Errorf("placed %d, free %d, blocked %d", s.Placed, s.Free, s.Blocked())
	}
	for i, want := range []bool{true, true, false, true, true} {
		if s.Standing[i].Kept != want {
			t.Errorf("node %d is kept: %v", i, s.Standing[i].Kept)
		}
	}
	if len(s.Standing) != 5 || s.Standing[3].Open || !s.Standing[4].Open || len(s.Standing[4].Groups) != 1 {
		t.Errorf("standing are %+v", s.Standing)
	}
	if f := s.Fresh; f == nil || f.CPU != 1000 || f.MemoryMiB != 800 || len(f.Groups) != 1 || f.Groups[0].Free != 20 {
		t.Errorf("a new node offers %+v", f)
	}
	ill := gpuNode("h100", 20)
	ill.Free.Groups[0] = pack.Group{Free: 0, Total: 0, Unit: 0.05}
	ill.Created = 99
	if s := ofH100.Of([]Node{gpuNode("h100", 20), ill}, nil, nil, 0, now); s.Standing[0].Kept || !s.Standing[1].Kept || s.Fresh.Free() != 1 {
		t.Errorf("a node whose GPU is ill would be ended in place of another, or is what a new one offers: %+v", s)
	}
	cut := gpuNode("h100", 20)
	cut.Free.Groups[0] = pack.Group{Free: 49, Total: 49, Unit: 1.0 / 49}
	if s := ofH100.Of([]Node{gpuNode("h100", 20), cut}, nil, nil, 0, now); s.Standing[0].Kept || s.Standing[1].Kept {
		t.Errorf("an empty node whose GPU is cut into other slices never goes: %+v", s.Standing)
	}
	closed.Busy = false
	if s := ofH100.Of([]Node{closed}, nil, nil, 0, now); !s.Standing[0].Kept {
		t.Error("a closed node would be ended in place of another")
	}
	closed.Leaving = true
	if s := ofH100.Of([]Node{closed}, nil, nil, 0, now); s.Standing[0].Kept {
		t.Error("a node is kept that the autoscaler is about to end")
	}
	if later := ofH100.Of([]Node{empty}, nil, nil, time.Second, now); later.Standing[0].Kept {
		t.Error("a node is kept whose last allocation ended long ago")
	}
	if none := ofH100.Of([]Node{gpuNode("t4", 3)}, nil, nil, 0, now); none.Fresh != nil || len(none.Standing) != 0 {
		t.Errorf("no node of the class: %+v", none)
	}
}

// Work counts for the nodes that could take it, and for no others.
func TestWorkIsOfTheNodesThatCouldTakeIt(t *testing.T) {
	is := func(attribute, operator, value string) *api.Constraint {
		return api.NewConstraint(attribute, operator, value)
	}
	with := func(change func(*Waiting)) Waiting {
		w := waits("gpu")
		change(&w)
		return w
	}
	group := Kind{Class: "h100", Pool: "gpu", NodeClass: "rented", Datacenter: "eu-1"}
	for name, c := range map[string]struct {
		kind Kind
		work Waiting
		want bool
	}{
		"any GPU":                     {ofH100, waits("gpu"), true},
		"the vendor's":                {ofH100, waits("nvidia/gpu"), true},
		"another vendor's":            {ofH100, waits("amd/gpu"), false},
		"the group's":                 {ofH100, waits("nvidia/gpu/h100-0"), true},
		"another group's":             {ofH100, waits("nvidia/gpu/t4-0"), false},
		"no GPU":                      {ofH100, waits("usb"), false},
		"the class":                   {ofH100, waits("gpu", is("${device.attr.class}", "=", "h100")), true},
		"another class":               {ofH100, waits("gpu", is("${device.attr.class}", "=", "t4")), false},
		"not the class":               {ofH100, waits("gpu", is("${device.attr.class}", "!=", "h100")), false},
		"one of classes":              {ofH100, waits("gpu", is("${device.attr.class}", "set_contains_any", "t4, h100")), true},
		"one of other classes":        {ofH100, waits("gpu", is("${device.attr.class}", "set_contains_any", "t4,l4")), false},
		"by model":                    {ofH100, waits("gpu", is("${device.model}", "regexp", "^h100-")), true},
		"by another model":            {ofH100, waits("gpu", is("${device.model}", "regexp", "^t4-")), false},
		"what this package knows not": {ofH100, waits("gpu", is("${device.attr.memory}", ">", "10 GiB")), true},
		"of the pool":                 {group, with(func(w *Waiting) { w.Job.NodePool = new("gpu") }), true},
		"of all pools":                {group, with(func(w *Waiting) { w.Job.NodePool = new("all") }), true},
		"of another pool":             {group, with(func(w *Waiting) { w.Job.NodePool = new("default") }), false},
		"of another datacenter":       {group, with(func(w *Waiting) { w.Job.Datacenters = []string{"us-*", "eu-2"} }), false},
		"of the node class":           {group, with(func(w *Waiting) { w.Job.Constrain(is("${node.class}", "=", "rented")) }), true},
		"of another node class":       {group, with(func(w *Waiting) { w.Group.Constrain(is("${node.class}", "=", "own")) }), false},
		"its task of another":         {group, with(func(w *Waiting) { w.Group.Tasks[0].Constrain(is("${node.class}", "!=", "rented")) }), false},
		"on every node":               {ofH100, with(func(w *Waiting) { w.Job.Type = new("system") }), false},
		"refused by a node as it is":  {ofH100, with(func(w *Waiting) { w.Exhausted = 0 }), false},
		"refused before it changed":   {ofH100, with(func(w *Waiting) { w.Exhausted, w.Snapshot = 0, 15 }), true},
	} {
		if got := len(c.kind.Of([]Node{gpuNode("h100", 0), gpuNode("t4", 0)}, []Waiting{c.work}, nil, 0, time.Time{}).Waiting) == 1; got != c.want {
			t.Errorf("%s: counts %v, want %v", name, got, c.want)
		}
	}
	// Where there is no node yet, the request's own words decide.
	if got := ofH100.Of(nil, []Waiting{waits("nvidia/gpu"), waits("gpu", is("${device.attr.class}", "=", "t4"))}, nil, 0, time.Time{}); len(got.Waiting) != 1 {
		t.Errorf("without nodes %d wait, want 1", len(got.Waiting))
	}
}

// Work that several kinds of nodes could take is counted for the first that may grow.
func TestWorkGoesToEarlierClassesFirst(t *testing.T) {
	nodes := []Node{gpuNode("h100", 0), gpuNode("t4", 0), gpuNode("t4", 0)}
	only := waits("gpu", api.NewConstraint("${device.attr.class}", "=", "h100"))
	for _, c := range []struct {
		earlier []Earlier
		want    int
	}{
		{nil, 60},
		{[]Earlier{{"t4", 0}}, 30},
		{[]Earlier{{"t4", 3}}, 30},
		{[]Earlier{{"t4", 2}}, 60},
		{[]Earlier{{"t4", 2}, {"l4", 1}}, 30},
	} {
		if got := ofH100.Of(nodes, []Waiting{waits("gpu"), only}, c.earlier, 0, time.Time{}).Blocked(); got != c.want {
			t.Errorf("after %+v %d slices are blocked, want %d", c.earlier, got, c.want)
		}
	}
}

// Work is not left to an earlier class that its pool, datacenter or node class keeps it from:
// nobody would order a node for it.
func TestWorkIsNotLeftToAClassThatItCannotReach(t *testing.T) {
	rented := gpuNode("h100", 0)
	rented.Pool = "rented"
	elsewhere := func(change func(*Node)) []Node {
		n := gpuNode("l4", 0)
		n.Pool = "rented"
		change(&n)
		return []Node{rented, n}
	}
	for name, c := range map[string]struct {
		nodes []Node
		kind  Kind
		want  int
	}{
		"a node that it may use":         {elsewhere(func(*Node) {}), Kind{Class: "h100", Pool: "rented"}, 0},
		"another pool":                   {elsewhere(func(n *Node) { n.Pool = "l4" }), Kind{Class: "h100", Pool: "rented"}, 30},
		"another datacenter":             {elsewhere(func(n *Node) { n.Datacenter = "us-1" }), Kind{Class: "h100", Pool: "rented"}, 30},
		"another node class":             {elsewhere(func(n *Node) { n.NodeClass = "own" }), Kind{Class: "h100", Pool: "rented"}, 30},
		"no node yet, a pool of its own": {[]Node{rented}, Kind{Class: "h100", Pool: "rented"}, 30},
		"no node yet, a shared pool":     {[]Node{rented}, Kind{Class: "h100", Pool: "rented", NodeClass: "rented"}, 0},
	} {
		work := waits("gpu")
		work.Job.NodePool = new("rented")
		work.Job.Constrain(api.NewConstraint("${node.class}", "=", "rented"))
		if got := c.kind.Of(c.nodes, []Waiting{work}, []Earlier{{"l4", 4}}, 0, time.Time{}).Blocked(); got != c.want {
			t.Errorf("%s: %d slices are blocked, want %d", name, got, c.want)
		}
	}
}

// Requests of several sizes count as what they are: a group of 15 and of 5 slices has room on a
// GPU of 20.
func TestRequestsOfSeveralSizes(t *testing.T) {
	work := waits("gpu")
	five, cut := uint64(5), []*api.Constraint{api.NewConstraint("${device.attr.slices}", "=", "20")}
	*work.Group.Tasks[0].Resources.Devices[0].Count = 15
	work.Group.AddTask(api.NewTask("other", "docker").Require(&api.Resources{Devices: []*api.RequestedDevice{{Name: "gpu", Count: &five, Constraints: cut}}}))
	s := ofH100.Of([]Node{gpuNode("h100", 0)}, []Waiting{work}, nil, 0, time.Time{})
	if s.Blocked() != 3*20 {
		t.Errorf("%d slices are blocked, want 60", s.Blocked())
	}
	if n := pack.NeedFor(s.Standing, *s.Fresh, s.Waiting, nil); n.Waiting != 3 || n.Unfit != 0 {
		t.Errorf("%+v, want a node for each of the three", n)
	}
}

// A GPU's memory and other attributes are compared as Nomad does: work that no GPU of a class can
// take orders no node of it, and is not left to it.
func TestAttributesOfAClass(t *testing.T) {
	gib, twenty, bandwidth, mode := int64(24), int64(20), 0.3, "slices"
	with := func(class string) Node {
		n := gpuNode(class, 0)
		n.Attributes = []map[string]*api.Attribute{{"memory": {IntVal: &gib, Unit: "GiB"}, "slices": {IntVal: &twenty}, "bandwidth": {FloatVal: &bandwidth, Unit: "TB/s"}, "mode": {StringVal: &mode}}}
		return n
	}
	for _, c := range []struct {
		attribute, operator, value string
		want                       bool
	}{
		{"memory", ">=", "40 GiB", false},
		{"memory", ">=", "24 GiB", true},
		{"memory", ">", "24576 MiB", false},
		{"memory", "<", "40 GiB", true},
		{"slices", "=", "20", true},
		{"slices", "=", "10", false},
		{"slices", "!=", "20", false},
		{"unknown", ">=", "1", true},
		{"memory", ">=", "24", true}, // of another unit
		{"memory", "<=", "25.7 GB", false},
		{"bandwidth", ">", "0.5 TB/s", false},
		{"bandwidth", ">", "500 GB/s", true}, // units that are not known
		{"mode", "=", "whole", false},
		{"mode", "!=", "whole", true},
		{"mode", "=", "7", true},
		{"memory", ">=", "text", true},
		{"memory", "regexp", "x", true},
		{"memory", ">=", "${meta.least}", true},
	} {
		work := waits("gpu", api.NewConstraint("${device.attr."+c.attribute+"}", c.operator, c.value))
		own := len(Kind{Class: "l4"}.Of([]Node{with("l4")}, []Waiting{work}, nil, 0, time.Time{}).Waiting) == 1
		left := len(ofH100.Of([]Node{gpuNode("h100", 0), with("l4")}, []Waiting{work}, []Earlier{{"l4", 0}}, 0, time.Time{}).Waiting) == 0
		if own != c.want || left != c.want {
			t.Errorf("%+v: counts %v, is left to it %v", c, own, left)
		}
	}
}
