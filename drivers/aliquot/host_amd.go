package aliquot

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot/internal/gpu"
)

// amdNodes returns /dev/kfd and the render node of each granted GPU or
// partition, and of no other.
func (h host) amdNodes(g gpu.Grant) ([]*drivers.DeviceConfig, error) {
	paths := []string{"/dev/kfd"}
	topology := h.kfdNodes()
	for i, id := range g.GPUs {
		if i >= len(g.PCI) || g.PCI[i] == "" {
			return nil, fmt.Errorf("the grant names no PCI address for GPU %s: is the device plugin of the same release as the driver?", id)
		}
		minor, err := h.renderMinor(topology, id, kernelPCI(g.PCI[i]))
		if err != nil {
			return nil, err
		}
		paths = append(paths, fmt.Sprintf("/dev/dri/renderD%d", minor))
	}
	nodes, err := h.nodes(paths)
	if err != nil {
		return nil, fmt.Errorf("%w: is the amdgpu driver loaded?", err)
	}
	return nodes, nil
}

// kfdNode is what the kernel's compute topology says of one GPU or partition.
type kfdNode struct {
	number, partition, function int
	slot                        string // PCI address without the function
	minor                       int    // of the render node
}

// kfdNodes reads the compute topology; nodes that are CPUs or cannot be read are
// left out.
func (h host) kfdNodes() []kfdNode {
	files, _ := filepath.Glob(h.path("/sys/class/kfd/kfd/topology/nodes/*/properties"))
	var out []kfdNode
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		number, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		p := properties(string(content))
		if p["simd_count"] == 0 || p["drm_render_minor"] <= 0 {
			continue
		}
		// Bus, device and function stand in the low 16 bits of location_id, the
		// partition in bits 28 to 31 on newer kernels (Linux kfd_topology.c).
		loc := p["location_id"]
		out = append(out, kfdNode{
			number: number, partition: loc >> 28 & 0xf, function: loc & 7,
			slot:  fmt.Sprintf("%04x:%02x:%02x", p["domain"], loc>>8&0xff, loc>>3&0x1f),
			minor: p["drm_render_minor"],
		})
	}
	slices.SortFunc(out, func(a, b kfdNode) int {
		return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.function, b.function), cmp.Compare(a.number, b.number))
	})
	return out
}

// properties reads lines of "name number"; others are left out.
func properties(content string) map[string]int {
	out := map[string]int{}
	for line := range strings.Lines(content) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		if n, err := strconv.Atoi(f[1]); err == nil {
			out[f[0]] = n
		}
	}
	return out
}

// renderMinor finds the render node of a GPU or of one partition of a card, whose
// ID ends in the partition's number and whose PCI address is the card's.
func (h host) renderMinor(topology []kfdNode, id gpu.ID, pci string) (int, error) {
	var parts []kfdNode
	for _, n := range topology {
		own := fmt.Sprintf("%s.%x", n.slot, n.function)
		// Older kernels write the partition over the function, so a node belongs to
		// the card's first function unless a PCI device has its very address.
		if own != pci && !h.exists("/sys/bus/pci/devices", own, "drm") {
			own = n.slot + ".0"
		}
		if own == pci {
			parts = append(parts, n)
		}
	}
	number(parts, pci)
	partition, named := partitionOf(id)
	if i := slices.IndexFunc(parts, func(n kfdNode) bool { return n.partition == partition }); named && i >= 0 {
		return parts[i].minor, nil
	}
	switch {
	case named:
		return 0, fmt.Errorf("GPU %s: the host's compute topology has %d partitions of %s", id, len(parts), pci)
	case len(parts) == 1:
		return parts[0].minor, nil
	case len(parts) > 1:
		return 0, fmt.Errorf("GPU %s is split into %d partitions by now: its task needs a new placement", id, len(parts))
	}
	found, _ := filepath.Glob(h.path("/sys/bus/pci/devices", pci, "drm/renderD*"))
	if len(found) != 1 {
		return 0, fmt.Errorf("GPU %s: %s has no render node for %s", id, h.path("/sys"), pci)
	}
	return strconv.Atoi(strings.TrimPrefix(filepath.Base(found[0]), "renderD"))
}

// number gives the nodes of one card the partition's number where an older kernel
// wrote it over the PCI function, so that a node that cannot be read moves no other.
func number(parts []kfdNode, pci string) {
	if slices.ContainsFunc(parts, func(n kfdNode) bool { return n.partition > 0 }) {
		return
	}
	first, _ := strconv.ParseInt(pci[len(pci)-1:], 16, 0)
	for i := range parts {
		parts[i].partition = parts[i].function - int(first)
	}
}

// partitionOf reads the partition from an ID such as "0000:c1:00.0-p3".
func partitionOf(id gpu.ID) (int, bool) {
	_, p, ok := strings.Cut(string(id), "-p")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(p)
	return n, err == nil && n >= 0
}
