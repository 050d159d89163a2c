package rack

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Libcuda is the file name of the CUDA driver library. The root holds a stand-in for it, whose
// content is the rack file. Package cuda reads it.
const Libcuda = "libcuda.so.1"

// CapMinors returns the minor numbers of the device nodes that give access to a MIG device: those
// of its GPU instance and its compute instance, as the driver lists them in
// /proc/driver/nvidia-caps/mig-minors.
func CapMinors(gpuMinor, gi, ci int) (gpuInstance, computeInstance int) {
	const first, perGPU, perInstance = 3, 135, 9
	gpuInstance = first + gpuMinor*perGPU + gi*perInstance
	return gpuInstance, gpuInstance + 1 + ci
}

// Root creates in dir the files of a machine with the rack's GPUs: device nodes, /proc/driver, PCI
// devices in sysfs and the driver's libraries (lib is Tools.Lib). The nodes are character devices
// that discard everything (1:3, like /dev/null). Creating them needs root.
func Root(dir string, r *Rack, lib string) error {
	f, err := r.File()
	if err != nil {
		return err
	}
	t := &tree{dir: dir}
	for _, node := range []string{"nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"} {
		t.node("dev/"+node, 0o666)
	}
	t.file("proc/driver/nvidia/version", fmt.Sprintf(
		"NVRM version: NVIDIA UNIX x86_64 Kernel Module  %s\nGCC version:  gcc version 12.2.0\n",
		f.Driver.Get("version")))
	t.make("dev/shm", func(path string) error {
		_ = os.Remove(path)
		return os.Symlink("/dev/shm", path)
	})
	t.file("sys/module/nvidia/version", f.Driver.Get("version")+"\n")
	t.file("proc/driver/nvidia/params",
		"ModifyDeviceFiles: 1\nDeviceFileUID: 0\nDeviceFileGID: 0\nDeviceFileMode: 438\n")
	for _, g := range f.GPUs {
		t.gpu(f, g)
	}
	t.migMinors(f)
	t.libraries(f, lib)
	return t.err
}

// tree creates files until one fails.
type tree struct {
	dir string
	err error
}

func (t *tree) make(path string, do func(path string) error) {
	if t.err != nil {
		return
	}
	path = filepath.Join(t.dir, path)
	if t.err = os.MkdirAll(filepath.Dir(path), 0o755); t.err == nil {
		t.err = do(path)
	}
}

func (t *tree) file(path, text string) {
	t.make(path, func(path string) error { return os.WriteFile(path, []byte(text), 0o644) })
}

func (t *tree) node(path string, mode os.FileMode) {
	t.make(path, func(path string) error {
		_ = os.Remove(path)
		const null = 1<<8 | 3
		if err := syscall.Mknod(path, syscall.S_IFCHR|uint32(mode), null); err != nil {
			return fmt.Errorf("mknod %s: %w (device nodes need root)", path, err)
		}
		return os.Chmod(path, mode)
	})
}

func (t *tree) gpu(f *File, g GPU) {
	minor, pci := g.Int("minor"), g.PCI()
	t.node(fmt.Sprintf("dev/nvidia%d", minor), 0o666)
	t.file("proc/driver/nvidia/gpus/"+pci+"/information", fmt.Sprintf(
		"Model: \t\t %s\nIRQ:   \t\t 90\nGPU UUID: \t %s\nVideo BIOS: \t %s\nBus Type: \t PCIe\nDMA Size: "+
			"\t 47 bits\nDMA Mask: \t 0x7fffffffffff\n"+
			"Bus Location: \t %s\nDevice Minor: \t %d\nGPU Firmware: \t %s\nGPU Excluded:\t No\n",
		g.Get("name"), g.UUID(), g.Get("vbios"), pci, minor, f.Driver.Get("version")))
	t.pciDevice(pci, g.Get("pcie_switch"))
	sys := "sys/bus/pci/devices/" + pci + "/"
	device := g.Int("pci_device")
	t.file(sys+"vendor", fmt.Sprintf("0x%04x\n", device&0xffff))
	t.file(sys+"device", fmt.Sprintf("0x%04x\n", device>>16))
	t.file(sys+"class", "0x030200\n")
	t.file(sys+"numa_node", strconv.Itoa(g.Int("numa"))+"\n")
	t.file(sys+"local_cpulist", g.Get("cpus")+"\n")
	if g.Get("mig_mode") == "" {
		return
	}
	caps := fmt.Sprintf("proc/driver/nvidia/capabilities/gpu%d/mig/", minor)
	for _, m := range g.MIG {
		gi, ci := m.Int("gi"), m.Int("ci")
		giCap, ciCap := CapMinors(minor, gi, ci)
		t.capability(fmt.Sprintf("%sgi%d/access", caps, gi), giCap)
		t.capability(fmt.Sprintf("%sgi%d/ci%d/access", caps, gi, ci), ciCap)
	}
}

// pciDevice creates the folder of a PCI device in the kernel's device tree, below a PCIe switch if
// it has one, and the link to it in /sys/bus.
func (t *tree) pciDevice(pci, pcieSwitch string) {
	t.make("sys/bus/pci/devices/"+pci, func(path string) error {
		return pciFolder(t.dir, path, pci, pcieSwitch)
	})
}

func pciFolder(root, link, pci, pcieSwitch string) error {
	place := "devices/pci0000:00/0000:00:01.0/"
	if pcieSwitch != "" && pcieSwitch != "N/A" {
		// Root port, then the upstream and downstream ports of the switch.
		place = fmt.Sprintf("devices/pci0000:00/0000:00:02.0/0000:%[1]s:00.0/0000:%[1]s:01.0/", "f"+pcieSwitch)
	}
	if err := os.MkdirAll(filepath.Join(root, "sys", place, pci), 0o755); err != nil {
		return err
	}
	if target, err := os.Readlink(link); err == nil && target == "../../../"+place+pci {
		return nil
	}
	_ = os.Remove(link)
	return os.Symlink("../../../"+place+pci, link)
}

func (t *tree) capability(path string, minor int) {
	t.file(path, fmt.Sprintf("DeviceFileMinor: %d\nDeviceFileMode: 292\nDeviceFileModify: 1\n", minor))
	t.node(fmt.Sprintf("dev/nvidia-caps/nvidia-cap%d", minor), 0o444)
}

// migMinors lists every possible instance, as the driver does.
func (t *tree) migMinors(f *File) {
	var b strings.Builder
	b.WriteString("config 1\nmonitor 2\n")
	for _, g := range f.GPUs {
		for gi := range 15 {
			for ci := range 8 {
				giCap, ciCap := CapMinors(g.Int("minor"), gi, ci)
				if ci == 0 {
					fmt.Fprintf(&b, "gpu%d/gi%d/access %d\n", g.Int("minor"), gi, giCap)
				}
				fmt.Fprintf(&b, "gpu%d/gi%d/ci%d/access %d\n", g.Int("minor"), gi, ci, ciCap)
			}
		}
	}
	t.file("proc/driver/nvidia-caps/mig-minors", b.String())
	t.capability("proc/driver/nvidia/capabilities/mig/config", 1)
	t.capability("proc/driver/nvidia/capabilities/mig/monitor", 2)
}

func (t *tree) libraries(f *File, lib string) {
	const dir = "usr/lib/x86_64-linux-gnu/"
	text, err := os.ReadFile(filepath.Join(lib, soname))
	if err != nil && t.err == nil {
		t.err = err
	}
	version := f.Driver.Get("version")
	t.file(dir+"libnvidia-ml.so."+version, string(text))
	t.file(dir+"libcuda.so."+version, "# The rack, in place of the CUDA driver library.\n"+f.String())
	for _, name := range []string{soname, Libcuda} {
		t.make(dir+name, func(path string) error {
			_ = os.Remove(path)
			return os.Symlink(strings.TrimSuffix(name, "1")+version, path)
		})
	}
}
