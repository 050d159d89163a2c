package rack

import "fmt"

// AMDModel describes how a kind of AMD GPU looks to the kernel driver.
//
// Figures of Instinct follow public captures of the KFD topology (MI210, MI300X and MI308X in
// ROCm's k8s-device-plugin) and ROCm's GPU specification table. Those of the Radeon follow the same
// table and the LACT project's dump.
type AMDModel struct {
	Name   string
	Device uint16
	// Target is KFD's gfx_target_version; Hex is the library's number for it.
	Target, Hex uint64
	// XCCs is the number of XCCs, each with UnitsPerXCC usable compute units.
	XCCs, UnitsPerXCC int
	// Engines is the number of shader arrays of one XCC. UnitsPerEngine is the number of compute
	// units that each would have if none were fused off.
	Engines, UnitsPerEngine int
	SIMDsPerUnit            int
	MemoryMiB               uint64
	// Modes are the compute partition modes.
	Modes []string
	// MemoryModes are the memory partition modes.
	MemoryModes []string
	// UniqueID reports whether the card has a unique ID.
	UniqueID bool
}

// The models of the AMD rack.
var (
	MI210 = AMDModel{
		Name: "AMD Instinct MI210", Device: 0x740f, Target: 90010, Hex: 0x90a, XCCs: 1, UnitsPerXCC: 104, Engines: 8,
		UnitsPerEngine: 14,
		SIMDsPerUnit:   4, MemoryMiB: 65520, UniqueID: true,
	}
	MI300X = AMDModel{
		Name: "AMD Instinct MI300X", Device: 0x74a1, Target: 90402, Hex: 0x942, XCCs: 8, UnitsPerXCC: 38, Engines: 4,
		UnitsPerEngine: 10,
		SIMDsPerUnit:   4, MemoryMiB: 196592, UniqueID: true, Modes: []string{"SPX", "DPX", "QPX", "CPX"},
		MemoryModes: []string{"NPS1", "NPS4"},
	}
	MI325X = AMDModel{
		Name: "AMD Instinct MI325X", Device: 0x74a5, Target: 90402, Hex: 0x942, XCCs: 8, UnitsPerXCC: 38, Engines: 4,
		UnitsPerEngine: 10,
		SIMDsPerUnit:   4, MemoryMiB: 262128, UniqueID: true, Modes: []string{"SPX", "DPX", "QPX", "CPX"},
		MemoryModes: []string{"NPS1", "NPS4"},
	}
	MI355X = AMDModel{
		Name: "AMD Instinct MI355X", Device: 0x75a3, Target: 90500, Hex: 0x950, XCCs: 8, UnitsPerXCC: 32, Engines: 4,
		UnitsPerEngine: 9,
		SIMDsPerUnit:   4, MemoryMiB: 294896, UniqueID: true, Modes: []string{"SPX", "DPX", "QPX", "CPX"},
		MemoryModes: []string{"NPS1", "NPS2"},
	}
	RX7900XTX = AMDModel{
		Name: "AMD Radeon RX 7900 XTX", Device: 0x744c, Target: 110000, Hex: 0x1100, XCCs: 1, UnitsPerXCC: 96,
		Engines: 12, UnitsPerEngine: 8,
		SIMDsPerUnit: 2, MemoryMiB: 24560,
	}
)

// parts returns the number of partitions in a compute mode.
func (m AMDModel) parts(mode string) (int, error) {
	n, ok := map[string]int{"": 1, "SPX": 1, "DPX": 2, "TPX": 3, "QPX": 4, "CPX": m.XCCs}[mode]
	if !ok || n < 1 || m.XCCs%n != 0 {
		return 0, fmt.Errorf("%s has no compute mode %q", m.Name, mode)
	}
	return n, nil
}

// AMDGPU is one card of the rack with its readings.
type AMDGPU struct {
	Model AMDModel
	PCI   string
	// Render is the minor number of the first partition's render node.
	Render   int
	UniqueID uint64
	NUMA     int
	// Switch names the PCIe switch above the card by one hexadecimal digit; "" for none.
	Switch string
	// XGMI holds the PCI addresses of the cards to which it has a link.
	XGMI []string
	// Compute and Memory are the partition modes as sysfs spells them, "" for a card without them.
	Compute, Memory string

	UsedMiB, Busy, BusyMemory, Power int
	Edge, Junction, MemoryTemp       int
	UE, CE                           int
	BadPages, BadPageLimit           int
	Partitions                       int // as the library counts them; maintained by the rack
	Sequence, Event                  int
	// Lost makes every call of the library fail; Absent removes the card from the bus.
	Lost, Absent bool
	// Sensors reports whether the kernel has hwmon, busy and error files, as real kernels do.
	// Without them only the library can read the values.
	Sensors bool
	// Processes are identified by host PID.
	Processes []AMDProcess
}

// AMDProcess is a process that has memory on one partition of a card.
type AMDProcess struct {
	PID, Partition int
	Bytes          uint64
	// Units is the number of compute units that its waves occupy.
	Units int
}

// NewAMDGPU returns an idle, healthy card in its default mode. n is the index of the card on the
// host, from which it derives the values that must differ between cards.
func NewAMDGPU(m AMDModel, n int) AMDGPU {
	g := AMDGPU{
		Model: m, PCI: fmt.Sprintf("0000:%02x:00.0", 0x05+0x20*n), Render: 128 + 8*n, NUMA: n % 2,
		Busy: 0, Power: 90 + n, Edge: 40, Junction: 45, MemoryTemp: 38, Sensors: true,
	}
	if m.UniqueID {
		g.UniqueID = 0x1a2b3c4d5e6f0000 + uint64(n) + 1
	}
	if len(m.Modes) > 0 {
		g.Compute, g.Memory = m.Modes[0], m.MemoryModes[0]
		g.BadPageLimit = 128
	}
	return g
}
