package rack

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Intel is a rack of fake Intel GPUs: a root directory with the files of the kernel drivers xe and
// i915 (Linux sysfs-driver-intel-xe-sriov, drm-usage-stats.rst). There is no library to fake.
type Intel struct {
	Root string

	mu   sync.Mutex
	gpus []IntelGPU
}

// IntelGPU is one card.
type IntelGPU struct {
	PCI    string
	Device uint16
	// Driver is "xe", or "i915" as Intel ships it for data centers.
	Driver string
	// Render is the minor number of the card's render node. The nodes of its functions follow.
	Render int
	// Tiles is the number of tiles, which share the memory evenly.
	Tiles     int
	MemoryMiB uint64
	NUMA      int
	// Functions is the number of enabled virtual functions; QuotaMiB is the memory of each.
	Functions int
	QuotaMiB  uint64
	// ForMachines is how many of these, the last ones, are bound to vfio-pci.
	ForMachines int
	// Absent removes the card from the bus. Lost leaves it there, but reads return all ones.
	Absent, Lost bool
	// Survival is the firmware's survivability mode.
	Survival bool
	// Energy is the card's consumption so far in microjoules; Temperature is in degrees Celsius.
	Energy, Temperature int
	Processes           []IntelProcess
}

// IntelProcess is a process that has a GPU, or one of its functions (counted from 1), open.
type IntelProcess struct {
	PID, Function int
	ResidentKiB   uint64
	// Busy and Clock are cycles with xe. With i915, Busy is nanoseconds and Clock is unused.
	Busy, Clock uint64
}

// NewIntel writes a rack into root and keeps the files that are there.
func NewIntel(root string, gpus ...IntelGPU) (*Intel, error) {
	r := &Intel{Root: root, gpus: slices.Clone(gpus)}
	if err := writeFile(filepath.Join(root, "proc/sys/kernel/osrelease"), "6.19.2-generic\n"); err != nil {
		return nil, err
	}
	for _, g := range gpus {
		if err := r.write(g); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Edit changes one card.
func (r *Intel) Edit(pci string, change func(*IntelGPU)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.gpus {
		if r.gpus[i].PCI == pci {
			change(&r.gpus[i])
			return r.write(r.gpus[i])
		}
	}
	return fmt.Errorf("the rack has no card %s", pci)
}

// FunctionPCI returns the PCI address of virtual function n, counted from 1.
func (g IntelGPU) FunctionPCI(n int) string {
	return g.PCI[:strings.LastIndex(g.PCI, ".")+1] + fmt.Sprint(n)
}

func (r *Intel) devices(pci string) string { return filepath.Join(r.Root, "sys/bus/pci/devices", pci) }

func (r *Intel) write(g IntelGPU) error {
	if g.Absent {
		for n := range g.Functions + 1 {
			if err := os.RemoveAll(r.devices(g.FunctionPCI(n))); err != nil {
				return err
			}
		}
		return nil
	}
	card := g.common(g.Render)
	card["config"] = "\x86\x80\x0b\xe2"
	if g.Lost {
		card["config"] = "\xff\xff\xff\xff"
	}
	if g.Survival {
		card.put("survivability_mode", "Boot")
	}
	card.put("sriov_totalvfs", "7")
	card.put("sriov_numvfs", "%d", g.Functions)
	card.put("hwmon/hwmon3/energy1_input", "%d", g.Energy)
	card.put("hwmon/hwmon3/temp2_input", "%d", g.Temperature*1000)
	card.put("hwmon/hwmon3/temp2_label", "pkg")
	g.memory(card, g.MemoryMiB)
	if err := r.device(g.PCI, card, g.Driver, g.Render); err != nil {
		return err
	}
	if !g.Survival {
		_ = os.Remove(filepath.Join(r.devices(g.PCI), "survivability_mode"))
	}
	for n := 1; n <= g.Functions; n++ {
		if err := r.function(g, n); err != nil {
			return err
		}
	}
	return r.processes(g)
}

// function writes a virtual function: its PCI device, and what the card's files say about it.
func (r *Intel) function(g IntelGPU, n int) error {
	pci := g.FunctionPCI(n)
	driver := g.Driver
	render := g.Render + n
	if n > g.Functions-g.ForMachines {
		driver, render = "vfio-pci", -1
	}
	f := g.common(render)
	if err := r.device(pci, f, driver, render); err != nil {
		return err
	}
	if err := link(filepath.Join(r.devices(pci), "physfn"), "../"+g.PCI); err != nil {
		return err
	}
	if err := link(filepath.Join(r.devices(g.PCI), fmt.Sprintf("virtfn%d", n-1)), "../"+pci); err != nil {
		return err
	}
	quota := filepath.Join(r.devices(g.PCI), fmt.Sprintf("sriov_admin/vf%d/profile/vram_quota", n))
	return writeFile(quota, fmt.Sprintf("%d\n", g.QuotaMiB<<20))
}

// common returns the files that cards and functions have in common.
func (g IntelGPU) common(render int) files {
	out := files{}
	out.put("vendor", "0x8086")
	out.put("device", "%#04x", g.Device)
	out.put("class", "0x038000")
	out.put("numa_node", "%d", g.NUMA)
	if render >= 0 {
		out.put(fmt.Sprintf("drm/card%d/dev", render-127), "226:%d", render-127)
		out.put(fmt.Sprintf("drm/renderD%d/dev", render), "226:%d", render)
	}
	return out
}

// memory adds what each driver reports about memory.
func (g IntelGPU) memory(out files, mib uint64) {
	for tile := range max(1, g.Tiles) {
		if g.Driver == "xe" {
			out.put(fmt.Sprintf("tile%d/physical_vram_size_bytes", tile), "%d", mib<<20/uint64(max(1, g.Tiles)))
		} else {
			out.put(fmt.Sprintf("drm/card%d/gt/gt%d/id", g.Render-127, tile), "%d", tile)
		}
	}
	if g.Driver == "i915" {
		out.put(fmt.Sprintf("drm/card%d/lmem_total_bytes", g.Render-127), "%d", mib<<20)
	}
}

// device writes a PCI device with its driver and render node.
func (r *Intel) device(pci string, f files, driver string, render int) error {
	if err := f.writeFresh(r.devices(pci)); err != nil {
		return err
	}
	if err := link(filepath.Join(r.devices(pci), "driver"), "../../drivers/"+driver); err != nil {
		return err
	}
	if render < 0 {
		return nil
	}
	node := fmt.Sprintf("renderD%d", render)
	if err := link(filepath.Join(r.Root, "dev/dri/by-path", "pci-"+pci+"-render"), "../"+node); err != nil {
		return err
	}
	return deviceNode(filepath.Join(r.Root, "dev/dri", node), drmMajor, uint32(render))
}

// processes writes the kernel's files about open file descriptors.
func (r *Intel) processes(g IntelGPU) error {
	for i, p := range g.Processes {
		pci, render := g.PCI, g.Render+p.Function
		if p.Function > 0 {
			pci = g.FunctionPCI(p.Function)
		}
		dir := filepath.Join(r.Root, "proc", fmt.Sprint(p.PID))
		fd := fmt.Sprint(5 + i)
		if err := link(filepath.Join(dir, "fd", fd), fmt.Sprintf("/dev/dri/renderD%d", render)); err != nil {
			return err
		}
		text := fmt.Sprintf("pos:\t0\nflags:\t02100002\ndrm-driver:\t%s\ndrm-client-id:\t%d\ndrm-pdev:\t%s\n",
			g.Driver, i+1, pci)
		if g.Driver == "xe" {
			text += fmt.Sprintf("drm-total-vram0:\t%d KiB\ndrm-resident-vram0:\t%d "+
				"KiB\ndrm-cycles-ccs:\t%d\ndrm-total-cycles-ccs:\t%d\n", p.ResidentKiB, p.ResidentKiB, p.Busy, p.Clock)
		} else {
			text += fmt.Sprintf("drm-resident-local0:\t%d KiB\ndrm-engine-compute:\t%d ns\n", p.ResidentKiB, p.Busy)
		}
		if err := writeFile(filepath.Join(dir, "fdinfo", fd), text); err != nil {
			return err
		}
	}
	return nil
}
