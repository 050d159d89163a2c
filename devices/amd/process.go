package amd

import (
	"strconv"
	"strings"

	"aliquot.example/internal/gpu"
)

// process is one process on one node, according to KFD's files for each process.
type process struct {
	PID int
	// Memory that the process holds on the node.
	Memory gpu.MiB
	bytes  uint64
	// Units that its waves occupy now.
	Units int
}

// idle reports whether a process has only opened the driver. KFD lists such a process on every GPU.
func (p process) idle() bool { return p.bytes == 0 && p.Units == 0 }

// processes lists the processes of every node by the node's gpu_id, including idle ones.
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

// users lists the processes that have memory or waves on one of a card's nodes.
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
