// Package amd reads the files of AMD's kernel driver: the compute topology (KFD), cards and
// partitions, and their render nodes.
package amd

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
)

// The compute driver's device node, its topology and its list of processes.
const (
	KFD       = "/dev/kfd"
	Topology  = "/sys/class/kfd/kfd/topology/nodes"
	Processes = "/sys/class/kfd/kfd/proc"
)

// vendorID is the PCI vendor ID in KFD's properties.
const vendorID = 0x1002

// Node is one GPU, or one partition of a card, in the topology.
type Node struct {
	// Number is the node's number, which orders the GPUs as ROCm does.
	Number int
	// Address is the PCI address of the card. On a partitioned card of an older
	// kernel its function is the partition's number and not of the PCI function.
	Address host.PCI
	// Partition is the number of the partition on its card, 0 on a whole card. It is valid only after
	// Cards.
	Partition int
	// Render is the minor of /dev/dri/renderD<minor>.
	Render int
	// Properties are all that the topology says about the node.
	Properties map[string]uint64
}

// Nodes reads the GPU nodes of the topology, each of which must have the properties in need. It
// leaves out nodes that cannot be read and returns an error for each.
func Nodes(root host.Root, need ...string) ([]Node, []error) {
	var found []Node
	var errs []error
	for _, number := range root.Numbered(Topology) {
		n, err := readNode(root, number, need)
		switch {
		case errors.Is(err, errNoGPU):
		case errors.Is(err, os.ErrPermission):
			errs = append(errs,
				fmt.Errorf("KFD node %d cannot be read (%w): give the plugin root's rights, "+
					"or its device cgroup access to the GPU", number, err))
		case err != nil:
			errs = append(errs, fmt.Errorf("KFD node %d: %w", number, err))
		default:
			found = append(found, n)
		}
	}
	return found, errs
}

// errNoGPU marks a node of CPUs or of another maker.
var errNoGPU = errors.New("not an AMD GPU")

func readNode(root host.Root, number int, need []string) (Node, error) {
	dir := Topology + "/" + strconv.Itoa(number)
	text, err := root.Text(dir, "properties")
	if err != nil {
		return Node{}, err
	}
	file := root.Path(dir, "properties")
	p := Properties(text)
	if err := has(p, "simd_count"); err != nil {
		return Node{}, fmt.Errorf("%s %w", file, err)
	}
	if p["simd_count"] == 0 {
		return Node{}, errNoGPU
	}
	if err := has(p, append(slices.Clone(need), "location_id", "drm_render_minor")...); err != nil {
		return Node{}, fmt.Errorf("%s %w", file, err)
	}
	if id, known := p["vendor_id"]; known && id != vendorID {
		return Node{}, errNoGPU
	}
	return NodeOf(number, p), nil
}

// NodeOf returns the node with these properties.
func NodeOf(number int, p map[string]uint64) Node {
	n := Node{Number: number, Render: int(min(p["drm_render_minor"], 1<<31-1)), Properties: p}
	n.Address, n.Partition = located(p["domain"], p["location_id"])
	return n
}

// located decodes KFD's location_id: bus, device and function in the low 16 bits,
// the partition in bits 28..31 on newer kernels (Linux kfd_topology.c).
func located(domain, location uint64) (address host.PCI, partition int) {
	return host.PCI{
		Domain:   int(domain & 0xffffffff),
		Bus:      int(location >> 8 & 0xff),
		Device:   int(location >> 3 & 0x1f),
		Function: int(location & 0x7),
	}, int(location >> 28 & 0xf)
}

// Cards groups nodes into physical GPUs, each with its nodes in the order of
// partitions. node gives the Node in a value of the caller's.
//
// A node is a separate card if a PCI device has exactly its address. These are single GPUs, and
// virtual functions, which are functions of one device. Other nodes are partitions: older kernels
// replace the PCI function in KFD's address by the partition's number, newer ones have a separate
// field for it.
func Cards[N any](root host.Root, nodes []N, node func(*N) *Node) map[host.PCI][]N {
	cards := map[host.PCI][]N{}
	for _, n := range nodes {
		address := node(&n).Address
		if address.Function != 0 && !root.Exists(host.PCIDevices, address.String(), "drm") {
			address = address.First()
		}
		cards[address] = append(cards[address], n)
	}
	for address, parts := range cards {
		of := make([]*Node, len(parts))
		slices.SortFunc(parts, func(a, b N) int { return byPartition(node(&a), node(&b)) })
		for i := range parts {
			of[i] = node(&parts[i])
		}
		number(address, of)
	}
	return cards
}

func byPartition(a, b *Node) int {
	return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Address.Function, b.Address.Function),
		cmp.Compare(a.Number, b.Number))
}

// number sets the partition number of each node of one card. A node that cannot be read does not
// shift the numbers of the others.
func number(address host.PCI, nodes []*Node) {
	apart := slices.ContainsFunc(nodes, func(n *Node) bool { return n.Partition > 0 })
	for i, n := range nodes {
		if !apart {
			n.Partition = n.Address.Function - address.Function
		}
		if i > 0 && n.Partition <= nodes[i-1].Partition {
			n.Partition = nodes[i-1].Partition + 1
		}
	}
}

// PartID returns the ID of a partition of a card. The partitions of a card share its PCI address
// and unique ID, so the ID contains the partition's number.
func PartID(card gpu.ID, partition int) gpu.ID {
	return gpu.ID(fmt.Sprintf("%s-p%d", card, partition))
}

// partOf reads the partition from an ID that PartID made.
func partOf(id gpu.ID) (int, bool) {
	_, p, ok := strings.Cut(string(id), "-p")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(p)
	return n, err == nil && n >= 0
}

// RenderMinor returns the minor number of the render node of a GPU, or of a partition of the card
// with a PCI address.
func RenderMinor(root host.Root, nodes []Node, id gpu.ID, pci string) (int, error) {
	pci = host.KernelPCI(pci)
	var parts []Node
	for address, of := range Cards(root, nodes, func(n *Node) *Node { return n }) {
		if address.String() == pci {
			parts = of
		}
	}
	parts = slices.DeleteFunc(parts, func(n Node) bool { return n.Render == 0 })
	partition, named := partOf(id)
	if i := slices.IndexFunc(parts, func(n Node) bool { return n.Partition == partition }); named && i >= 0 {
		return parts[i].Render, nil
	}
	switch {
	case named:
		return 0, fmt.Errorf("GPU %s: the host's compute topology has %d partitions of %s", id, len(parts), pci)
	case len(parts) == 1:
		return parts[0].Render, nil
	case len(parts) > 1:
		return 0, fmt.Errorf("GPU %s is now split into %d partitions: its task needs a new placement", id,
			len(parts))
	}
	minor, err := root.RenderMinor(pci)
	if err != nil {
		return 0, fmt.Errorf("GPU %s: %w", id, err)
	}
	return minor, nil
}

// Properties parses KFD's "name value" lines. It ignores lines whose value is not a whole number of
// 64 bits, because kernels add properties. Callers check for the properties that they need.
func Properties(text string) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, " ")
		if n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64); ok && err == nil {
			out[name] = n
		}
	}
	return out
}

// has fails with a list of the names that are missing.
func has(props map[string]uint64, names ...string) error {
	var missing []string
	for _, n := range names {
		if _, ok := props[n]; !ok {
			missing = append(missing, n)
		}
	}
	if missing != nil {
		return fmt.Errorf("has no %s; is the file truncated?", strings.Join(missing, ", "))
	}
	return nil
}
