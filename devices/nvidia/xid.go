package nvidia

import "fmt"

// class says what an XID means for a shared GPU.
type class int

const (
	// fatal: the GPU, or the MIG instance that the event names, must be recovered.
	fatal class = iota
	// application: the fault of one program, with no effect after the program's end.
	application
	// informational: nobody has to act, or other readings show the state better.
	informational
)

// policy classifies XIDs. Unknown XIDs are fatal: a GPU that is withdrawn without need costs placements
// for some time, but a broken GPU that is offered costs every task on it.
type policy struct {
	table map[uint64]xid
}

type xid struct {
	class   class
	meaning string
}

// newPolicy returns the built-in table with the operator's changes.
func newPolicy(ignored, severe []uint64) policy {
	p := policy{table: map[uint64]xid{}}
	for n, x := range xidTable {
		p.table[n] = x
	}
	for _, n := range ignored {
		p.table[n] = xid{informational, p.meaning(n)}
	}
	for _, n := range severe {
		p.table[n] = xid{fatal, p.meaning(n)}
	}
	return p
}

func (p policy) class(n uint64) class { return p.table[n].class }

func (p policy) meaning(n uint64) string {
	if x, ok := p.table[n]; ok && x.meaning != "" {
		return x.meaning
	}
	return "an error that is not in this release's table"
}

// text names an XID for a health description.
func (p policy) text(n uint64) string { return fmt.Sprintf("XID %d (%s)", n, p.meaning(n)) }

// xidTable follows the immediate action of NVIDIA's XID catalog (docs.nvidia.com,
// "XID Errors", catalog of 2025-10): RESTART_APP is the application's, IGNORE is
// informational, and RESET_GPU, RESTART_BM, RESTART_VM and every workflow are
// fatal. Decided otherwise:
//
//   - 48 (double-bit ECC error): the catalog lets its companions 63, 64, 94 or 95
//     decide. Alone, it requires a reset, and its companions may follow later. It is
//     fatal, because a GPU whose driver then recommends nothing returns by itself.
//   - 63 (row remap or page retirement recorded): informational. The GPU's state shows
//     a pending reset, also after a restart of the plugin.
//   - 94 (contained memory error): the application's. The driver has ended the
//     programs that touched the page and retired the page; other programs continue.
//     The GPU's state shows a pending remap.
//   - 109 (context switch timeout): fatal, as the catalog says. NVIDIA's Kubernetes
//     plugin ignores it, because a hung program often causes it and that plugin
//     never returns a GPU to service. On a shared GPU, a context that cannot be
//     switched away stops every slice, and this plugin returns the GPU to service
//     when it has proven healthy.
//   - 43, 44, 45: the application's or a consequence of it, as in that plugin.
//   - 154 (recovery action changed): informational; the action itself is read.
//   - 74 and 144 to 150 (NVLink): fatal until proven otherwise; a job over several
//     GPUs would fail on them.
var xidTable = map[uint64]xid{
	8: {application, "GPU stopped processing"}, 11: {application, "corrupted push buffer"},
	13: {application, "graphics engine exception"},
	25: {application, "illegal push buffer"}, 31: {application, "GPU memory page fault"},
	32: {application, "corrupted push buffer"},
	37: {informational, "driver firmware error"}, 38: {informational, "driver firmware error"},
	39: {application, "copy engine exception"}, 40: {application, "copy engine exception"},
	41: {application, "copy engine exception"},
	43: {application, "GPU stopped processing for a program"}, 44: {application, "fault during a context switch"},
	45: {application, "preemptive clean-up after an error"},
	46: {fatal, "GPU stopped processing"}, 48: {fatal, "double-bit ECC error"},
	54: {fatal, "auxiliary power is not connected"},
	60: {application, "video processor exception"}, 62: {fatal, "internal micro-controller halt"},
	63: {informational, "row remap or page retirement recorded"}, 64: {fatal, "row remap or page retirement failed"},
	66: {informational, "illegal access by the driver"}, 67: {informational, "illegal access by the driver"},
	68: {application, "video decoder exception"}, 69: {application, "graphics engine class error"},
	70: {application, "copy engine error"}, 71: {application, "copy engine error"},
	72: {application, "copy engine error"},
	74: {fatal, "NVLink error"}, 75: {application, "copy engine error"}, 76: {application, "copy engine error"},
	77: {application, "copy engine error"},
	78: {fatal, "vGPU start error"}, 79: {fatal, "GPU has fallen off the bus"},
	80: {application, "corrupted data sent to the GPU"},
	82: {application, "JPEG engine error"}, 83: {application, "video decoder error"},
	84: {application, "video decoder error"},
	85: {application, "copy engine error"}, 86: {application, "optical flow engine error"},
	88: {application, "video decoder error"}, 89: {application, "video decoder error"},
	92: {informational, "high rate of single-bit ECC errors"}, 93: {informational, "InfoROM wear limit"},
	94: {application, "contained memory error"}, 95: {fatal, "uncontained memory error"},
	96: {application, "video decoder error"}, 97: {application, "video decoder error"},
	98: {application, "video decoder error"},
	99: {application, "JPEG engine error"}, 100: {application, "JPEG engine error"},
	101: {application, "JPEG engine error"}, 102: {application, "JPEG engine error"},
	103: {application, "JPEG engine error"}, 104: {application, "JPEG engine error"},
	105: {application, "JPEG engine error"},
	106: {informational, "test message"}, 107: {informational, "test message"},
	109: {fatal, "context switch timeout"}, 110: {fatal, "security fault"},
	119: {fatal, "GSP does not answer"}, 120: {fatal, "GSP error"}, 121: {informational, "chip-to-chip link error"},
	126: {application, "copy engine error"}, 127: {application, "copy engine error"},
	128: {application, "copy engine error"},
	129: {application, "copy engine error"}, 130: {application, "copy engine error"},
	131: {application, "copy engine error"},
	132: {application, "copy engine error"}, 133: {application, "copy engine error"},
	134: {application, "copy engine error"}, 135: {application, "copy engine error"},
	136: {fatal, "link training failed"}, 137: {informational, "NVLink access without privilege"},
	139: {application, "optical flow engine error"},
	140: {fatal, "unrecovered ECC error"}, 141: {informational, "CUDA fast path error"},
	142: {application, "video encoder error"},
	143: {fatal, "GPU initialisation error"}, 144: {fatal, "NVLink error"}, 145: {fatal, "NVLink error"},
	146: {fatal, "NVLink error"},
	147: {fatal, "NVLink error"}, 148: {fatal, "NVLink error"}, 149: {fatal, "NVLink error"},
	150: {fatal, "NVLink error"},
	151: {fatal, "key rotation error"}, 152: {informational, "DLA memory error"}, 153: {informational, "DLA timeout"},
	154: {informational, "recovery action changed"}, 155: {fatal, "NVLink software error"},
	156: {fatal, "resource retired"},
	157: {informational, "resource retirement failed"}, 158: {fatal, "fatal GPU timeout"},
	159: {fatal, "chip interface error"},
	160: {informational, "channel retired"}, 161: {informational, "channel retirement failed"},
	162: {informational, "power smoothing engaged"}, 163: {informational, "power smoothing disengaged"},
	164: {informational, "power smoothing lifetime low"}, 165: {informational, "power smoothing lifetime over"},
	166: {fatal, "NVLink encryption error"}, 167: {fatal, "fatal PCIe timeout"},
	168: {fatal, "less GPU memory than expected"},
	169: {fatal, "internal micro-controller halt"}, 170: {fatal, "NVLink error in confidential mode"},
	171: {informational, "details of a DRAM error"}, 172: {informational, "details of an SRAM error"},
}
