package amd

import (
	"strconv"
	"strings"

	"aliquot.example/internal/gpu"
)

// process is one process that uses the compute driver, as KFD's per-process files
// show it on one node.
type process struct {
	PID int
	// Memory that the process holds on the node.
	Memory gpu.MiB
	bytes  uint64
	// Units that its waves occupy now.
	Units int
}

// idle reports whether a process merely opened the driver: KFD lists it on every GPU.
func (p process) idle() bool { return p.bytes == 0 && p.Units == 0 }

// processes lists the processes of every node by its gpu_id, those without
// memory or waves on it included.
func (m machine) processes() map[uint64][]process {
	out := map[uint64][]process{}
	for _, pid := range m.Numbered(kfdProcs) {
		dir := kfdProcs + "/" + strconv.Itoa(pid)
		for _, name := range m.Names(dir) {
			text, isMemory := strings.CutPrefix(name, "vram_")
			id, err := strconv.ParseUint(text, 10, 64)
			if !isMemory || err != nil {
				continue
			}
			p := process{PID: pid}
			if n, err := m.Number(dir, name); err == nil && n > 0 {
				p.bytes, p.Memory = uint64(n), gpu.MiBOf(uint64(n))
			}
			if n, err := m.Number(dir, "stats_"+text, "cu_occupancy"); err == nil && n > 0 {
				p.Units = int(n)
			}
			out[id] = append(out[id], p)
		}
	}
	return out
}

// users lists the processes that hold something on one of a card's nodes.
func (m machine) users(c card) []int {
	all := m.processes()
	seen := map[int]bool{}
	var out []int
	for _, n := range c.Nodes {
		for _, p := range all[n.GPUID] {
			if !p.idle() && !seen[p.PID] {
				seen[p.PID] = true
				out = append(out, p.PID)
			}
		}
	}
	return out
}
