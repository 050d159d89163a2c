package amd

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
	kernel "aliquot.example/internal/host/amd"
)

// card is one physical GPU: one PCI function, with one KFD node, or with one for each of its
// partitions.
type card struct {
	// ID is the PCI address.
	ID gpu.ID
	// Order is the card's number among the host's cards, first by KFD node.
	Order int
	PCI   pciAddress
	// Nodes in the order of partitions; at least one.
	Nodes []node
	// Compute and Memory are the partition modes ("cpx", "nps4"), "" if the card has none.
	Compute, Memory string
	// Available lists the compute modes that can be set.
	Available []string
	NUMANode  int
	// Links are the sorted PCI addresses of the cards at the far ends of xGMI links.
	Links []string
}

// id returns the ID of one of the card's nodes, which is the card itself or a partition.
func (c card) id(n node) gpu.ID {
	if !c.partitioned() {
		return c.ID
	}
	return kernel.PartID(c.ID, n.Partition)
}

// partitioned reports whether the card's nodes are partitions, even if only one of them could be
// read.
func (c card) partitioned() bool {
	return len(c.Nodes) > 1 || c.Compute != "" && c.Compute != "spx"
}

// parts returns the number of the card's partitions, including those that could not be read.
func (c card) parts() int {
	return max(len(c.Nodes), c.Nodes[len(c.Nodes)-1].Partition+1,
		map[string]int{"dpx": 2, "tpx": 3, "qpx": 4}[c.Compute])
}

// profile returns the card's partition mode, such as "cpx/nps4", or "" if it has none.
func (c card) profile() string {
	switch {
	case c.Compute == "":
		return ""
	case c.Memory == "":
		return c.Compute
	default:
		return c.Compute + "/" + c.Memory
	}
}

// cards groups the nodes of a topology into physical GPUs.
func (m machine) cards(nodes []node) []card {
	byCard := kernel.Cards(m.Root, nodes, func(n *node) *kernel.Node { return &n.Node })
	out := make([]card, 0, len(byCard))
	for address, nodes := range byCard {
		out = append(out, m.card(address, nodes))
	}
	slices.SortFunc(out, func(a, b card) int { return cmp.Compare(a.Nodes[0].Number, b.Nodes[0].Number) })
	for i := range out {
		out[i].Order = i
		out[i].Links = m.links(out, i)
	}
	return out
}

func (m machine) card(address pciAddress, nodes []node) card {
	dir := pciDir + "/" + address.String()
	c := card{
		ID: gpu.ID(address.String()), PCI: address, Nodes: nodes,
		Compute:   strings.Join(modes(m.TextOr("", dir, "current_compute_partition")), ""),
		Memory:    strings.Join(modes(m.TextOr("", dir, "current_memory_partition")), ""),
		Available: modes(m.TextOr("", dir, "available_compute_partition")),
		NUMANode:  -1,
	}
	if numa, err := m.Number(dir, "numa_node"); err == nil {
		c.NUMANode = int(numa)
	}
	if c.Compute == "" && c.partitioned() {
		// A captured tree without PCI devices still shows the number of partitions.
		c.Compute = map[int]string{2: "dpx", 3: "tpx", 4: "qpx"}[len(nodes)]
		if c.Compute == "" || nodes[0].Shape.XCCs == 1 {
			c.Compute = "cpx"
		}
	}
	// A node's memory banks are its own. If they are missing, divide the card's memory evenly.
	total, err := m.Number(dir, "mem_info_vram_total")
	for i := range c.Nodes {
		if c.Nodes[i].Memory == 0 && err == nil && total > 0 {
			c.Nodes[i].Memory = uint64(total) / uint64(c.parts())
		}
	}
	return c
}

// driver returns the version of the amdgpu kernel driver: the package's if it was installed
// separately (DKMS), else the kernel's.
func (m machine) driver() string {
	if v := m.TextOr("", "sys/module/amdgpu/version"); v != "" {
		return v
	}
	return m.TextOr("", "proc/sys/kernel/osrelease")
}

// rocm returns the version of the host's ROCm installation, "" without one.
func (m machine) rocm() string {
	version, _, _ := strings.Cut(m.TextOr("", "opt/rocm/.info/version"), "-")
	return version
}

// names has the names of GPUs by PCI device ID, for hosts where neither the library nor the kernel's
// files have one (AMD's chip IDs in ROCm's mi_gpu_spec.yaml and pci.ids, 2026-08).
var names = map[uint16]string{
	0x7408: "AMD Instinct MI250X",
	0x740c: "AMD Instinct MI250X",
	0x740f: "AMD Instinct MI210",
	0x74a0: "AMD Instinct MI300A",
	0x74a1: "AMD Instinct MI300X",
	0x74b5: "AMD Instinct MI300X",
	0x74a2: "AMD Instinct MI308X",
	0x74a5: "AMD Instinct MI325X",
	0x74b9: "AMD Instinct MI325X",
	0x75a0: "AMD Instinct MI350X",
	0x75a3: "AMD Instinct MI355X",
	0x75b3: "AMD Instinct MI355X",
	0x7448: "AMD Radeon PRO W7900",
}

// modelOf returns the name of a card without the library.
func (m machine) modelOf(c card) string {
	n := c.Nodes[0]
	if name := m.TextOr("", pciDir, c.PCI.String(), "product_name"); name != "" {
		return name
	}
	if name := names[n.PCIDevice]; name != "" {
		return name
	}
	if n.PCIDevice == 0x744c {
		// Three boards have this device ID. They differ in their compute units.
		return cmp.Or(map[int]string{96: "AMD Radeon RX 7900 XTX", 84: "AMD Radeon RX 7900 XT"}[n.Shape.Units],
			"AMD Radeon RX 7900 GRE")
	}
	return fmt.Sprintf("AMD %s %#04x", cmp.Or(n.Target, "GPU"), n.PCIDevice)
}
