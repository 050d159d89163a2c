package rack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// AMD is a rack of fake AMD GPUs: a root directory with the files of the kernel driver, and the
// readings of the fake libamd_smi.so. A test edits it while programs use it.
type AMD struct {
	// Root is the root directory. It may hold other files, such as NVIDIA's.
	Root string
	// Path is the file of the library's readings, for ALIQUOT_RACK_AMD.
	Path string

	mu   sync.Mutex
	gpus []AMDGPU
	// version counts the KFD trees written so far.
	version int
	// init is the library's answer to amdsmi_init; release is its version, if it differs from the
	// built one's.
	init    int
	release string
	loaded  bool
}

// NewAMD writes a rack into root and keeps the files that are there.
func NewAMD(root string, gpus ...AMDGPU) (*AMD, error) {
	a := &AMD{Root: root, Path: filepath.Join(root, "amd.rack"), gpus: slices.Clone(gpus), loaded: true}
	return a, a.write()
}

// AMDHost returns n cards of a model, each in the given compute and memory mode; "" means the
// model's first mode.
func AMDHost(model AMDModel, n int, compute, memory string) []AMDGPU {
	var gpus []AMDGPU
	for i := range n {
		g := NewAMDGPU(model, i)
		if compute != "" {
			g.Compute, g.Memory = compute, memory
		}
		gpus = append(gpus, g)
	}
	return gpus
}

// Edit changes the rack atomically.
func (a *AMD) Edit(change func(gpus []AMDGPU)) error {
	a.mu.Lock()
	change(a.gpus)
	a.mu.Unlock()
	return a.write()
}

// EditGPU changes one card atomically.
func (a *AMD) EditGPU(pci string, change func(*AMDGPU)) error {
	found := false
	err := a.Edit(func(gpus []AMDGPU) {
		for i := range gpus {
			if gpus[i].PCI == pci {
				found = true
				change(&gpus[i])
			}
		}
	})
	if !found {
		return fmt.Errorf("the rack has no card %s", pci)
	}
	return err
}

// GPUs returns the current state of the cards.
func (a *AMD) GPUs() []AMDGPU {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.gpus)
}

// Event raises an event of the library: 3 before a reset, 4 after it.
func (a *AMD) Event(pci string, kind int) error {
	return a.EditGPU(pci, func(g *AMDGPU) { g.Sequence, g.Event = g.Sequence+1, kind })
}

// SetLibrary sets the status that amdsmi_init returns and the release that the library reports; ""
// restores its own.
func (a *AMD) SetLibrary(init int, release string) error {
	a.mu.Lock()
	a.init, a.release = init, release
	a.mu.Unlock()
	return a.write()
}

// SetDriver loads or unloads the kernel driver.
func (a *AMD) SetDriver(loaded bool) error {
	a.mu.Lock()
	a.loaded = loaded
	a.mu.Unlock()
	return a.write()
}

func (a *AMD) write() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.loaded {
		for _, path := range []string{"sys/class/kfd/kfd", "sys/module/amdgpu", "dev/kfd", "amd.rack"} {
			if err := os.RemoveAll(filepath.Join(a.Root, path)); err != nil {
				return err
			}
		}
		for _, g := range a.gpus {
			if err := os.RemoveAll(filepath.Join(a.Root, "sys/bus/pci/devices", g.PCI)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := a.writeSystem(); err != nil {
		return err
	}
	for _, g := range a.gpus {
		if err := a.writeCard(g); err != nil {
			return err
		}
	}
	// Write readings before the topology, so that a program that sees new nodes finds that the
	// library counts them too.
	if err := writeFile(a.Path, a.readings()); err != nil {
		return err
	}
	return a.writeKFD()
}

func (a *AMD) writeSystem() error {
	group := filepath.Join(a.Root, "etc/group")
	have, _ := os.ReadFile(group)
	if !strings.Contains(string(have), "\nrender:") {
		text := string(have)
		if text == "" {
			text = "root:x:0:\n"
		}
		if err := writeFile(group, text+fmt.Sprintf("video:x:%d:\nrender:x:%d:\n", videoGID, renderGID)); err != nil {
			return err
		}
	}
	system := files{
		"sys/module/amdgpu/version":                       "6.10.5\n",
		"sys/module/amdgpu/parameters/bad_page_threshold": "-1\n",
		"proc/sys/kernel/osrelease":                       "6.8.0-48-generic\n",
		"opt/rocm/.info/version":                          "6.3.1-48\n",
	}
	for path, text := range system {
		if err := writeFile(filepath.Join(a.Root, path), text); err != nil {
			return err
		}
	}
	return deviceNode(filepath.Join(a.Root, "dev/kfd"), kfdMajor, 0)
}

func (a *AMD) writeCard(g AMDGPU) error {
	dir := filepath.Join(a.Root, "sys/bus/pci/devices", g.PCI)
	if g.Absent {
		return os.RemoveAll(dir)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := pciFolder(a.Root, dir, g.PCI, g.Switch); err != nil {
		return err
	}
	at, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	if err := pci(g).update(at); err != nil {
		return err
	}
	parts, err := g.Model.parts(g.Compute)
	if err != nil {
		return err
	}
	for p := range parts {
		minor := g.Render + p
		if err := deviceNode(filepath.Join(a.Root, "dev/dri", fmt.Sprintf("renderD%d", minor)), drmMajor,
			uint32(minor)); err != nil {
			return err
		}
	}
	return nil
}

// writeKFD writes a new tree beside the old one and switches /sys/class/kfd/kfd, which is a link as
// on a real host, so that no reader sees a partial tree.
func (a *AMD) writeKFD() error {
	tree, err := kfd(a.gpus)
	if err != nil {
		return err
	}
	base := filepath.Join(a.Root, "sys/devices/virtual/kfd")
	a.version++
	dir := fmt.Sprintf("kfd.%d", a.version)
	if err := tree.writeFresh(filepath.Join(base, dir)); err != nil {
		return err
	}
	if err := link(filepath.Join(a.Root, "sys/class/kfd/kfd"), "../../devices/virtual/kfd/"+dir); err != nil {
		return err
	}
	// Nobody reads the tree before the last one any more.
	return os.RemoveAll(filepath.Join(base, fmt.Sprintf("kfd.%d", a.version-2)))
}

// readings returns the text of the fake library's file.
func (a *AMD) readings() string {
	var b strings.Builder
	fmt.Fprintf(&b, "init = %d\n", a.init)
	if a.release != "" {
		fmt.Fprintf(&b, "release = %s\n", a.release)
	}
	for _, g := range a.gpus {
		parts, err := g.Model.parts(g.Compute)
		if err != nil || g.Absent {
			continue
		}
		fmt.Fprintf(&b, "[%s]\nname = %s\ndevice_id = %d\nunits = %d\ntarget = %d\nmemory_mib = %d\nused_mib = %d\n",
			g.PCI, g.Model.Name, g.Model.Device, g.Model.XCCs*g.Model.UnitsPerXCC/parts, g.Model.Hex,
			g.Model.MemoryMiB, g.UsedMiB)
		fmt.Fprintf(&b, "busy = %d\nbusy_memory = %d\npower = %d\nedge = %d\njunction = %d\nmemory_temperature = %d\n",
			g.Busy, g.BusyMemory, g.Power, g.Edge, g.Junction, g.MemoryTemp)
		fmt.Fprintf(&b,
			"ue = %d\nce = %d\nbad_pages = %d\nbad_page_limit = %d\npartitions = %d\nevent = %d %d\nlost = %d\n",
			g.UE, g.CE, g.BadPages, g.BadPageLimit, parts, g.Sequence, g.Event, map[bool]int{true: 1}[g.Lost])
	}
	return b.String()
}

// Follow plays the kernel until ctx ends: a mode written to a card's current_compute_partition
// repartitions the card. It reverts a mode that the card does not have, as the kernel rejects it.
func (a *AMD) Follow(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.follow()
		}
	}
}

func (a *AMD) follow() {
	changed := false
	a.mu.Lock()
	for i, g := range a.gpus {
		text, err := os.ReadFile(filepath.Join(a.Root, "sys/bus/pci/devices", g.PCI, "current_compute_partition"))
		mode := strings.ToUpper(strings.TrimSpace(string(text)))
		if err != nil || mode == "" || mode == g.Compute {
			continue
		}
		changed = true
		if slices.Contains(g.Model.Modes, mode) && len(g.Processes) == 0 {
			a.gpus[i].Compute = mode
		}
	}
	loaded := a.loaded
	a.mu.Unlock()
	if changed && loaded {
		_ = a.write()
	}
}
