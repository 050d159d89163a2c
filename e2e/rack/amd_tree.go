package rack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// files maps the paths in a directory to texts. A path that ends in "@" is a symbolic link.
type files map[string]string

func (f files) put(path, format string, args ...any) { f[path] = fmt.Sprintf(format, args...) + "\n" }

// propertyLines renders KFD's "name value" lines.
func propertyLines(pairs ...any) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		fmt.Fprintf(&b, "%v %v\n", pairs[i], pairs[i+1])
	}
	return b.String()
}

// kfdID returns the gpu_id of one partition of a card.
func kfdID(card, partition int) int { return 4000 + 100*card + partition }

// kfd returns /sys/class/kfd/kfd: two CPU nodes, then every partition of every card.
func kfd(gpus []AMDGPU) (files, error) {
	out := files{}
	out.put("topology/generation_id", "%d", 2)
	for cpu := range 2 {
		dir := fmt.Sprintf("topology/nodes/%d/", cpu)
		out.put(dir+"gpu_id", "0")
		out.put(dir+"name", "")
		out[dir+"properties"] = propertyLines("cpu_cores_count", 64, "simd_count", 0, "mem_banks_count", 1,
			"vendor_id", 0, "device_id", 0, "location_id", 0, "domain", 0, "drm_render_minor", 0)
		out[dir+"mem_banks/0/properties"] = propertyLines("heap_type", 0, "size_in_bytes", uint64(512)<<30, "flags", 0,
			"width", 64)
	}
	number := 2
	first := map[string]int{} // index of a card's first node, by PCI address
	for i, g := range gpus {
		parts, err := g.Model.parts(g.Compute)
		if err != nil {
			return nil, err
		}
		if g.Absent {
			continue
		}
		first[g.PCI] = number
		for p := range parts {
			if err := kfdNode(out, number, i, p, parts, g); err != nil {
				return nil, err
			}
			number++
		}
		for _, process := range g.Processes {
			dir := fmt.Sprintf("proc/%d/", process.PID)
			id := kfdID(i, process.Partition)
			out.put(dir+fmt.Sprintf("vram_%d", id), "%d", process.Bytes)
			out.put(dir+fmt.Sprintf("stats_%d/cu_occupancy", id), "%d", process.Units)
			out.put(dir+"pasid", "32770")
		}
	}
	for _, g := range gpus {
		for i, far := range g.XGMI {
			if from, to := first[g.PCI], first[far]; from > 0 && to > 0 {
				// Type 11 is HSA_IOLINK_TYPE_XGMI; link 0 leads to the CPU.
				out[fmt.Sprintf("topology/nodes/%d/io_links/%d/properties", from, i+1)] = propertyLines("type", 11,
					"version_major", 0, "node_from", from, "node_to", to, "weight", 15)
			}
		}
	}
	return out, nil
}

func kfdNode(out files, number, card, partition, parts int, g AMDGPU) error {
	m := g.Model
	var domain, bus, device, function uint
	if _, err := fmt.Sscanf(g.PCI, "%x:%x:%x.%x", &domain, &bus, &device, &function); err != nil {
		return fmt.Errorf("PCI address %q: %w", g.PCI, err)
	}
	xccs := m.XCCs / parts
	dir := fmt.Sprintf("topology/nodes/%d/", number)
	out.put(dir+"gpu_id", "%d", kfdID(card, partition))
	out.put(dir+"name", "ip discovery")
	out[dir+"properties"] = propertyLines(
		"cpu_cores_count", 0, "simd_count", xccs*m.UnitsPerXCC*m.SIMDsPerUnit, "mem_banks_count", 1,
		"max_waves_per_simd", 8, "lds_size_in_kb", 64, "wave_front_size", 64,
		"array_count", m.Engines*xccs, "simd_arrays_per_engine", 1, "cu_per_simd_array", m.UnitsPerEngine,
		"simd_per_cu", m.SIMDsPerUnit, "gfx_target_version", m.Target, "vendor_id", 4098, "device_id", m.Device,
		// Kernels 6.5 to 6.8 write the partition into the function's bits.
		"location_id", bus<<8|device<<3|function|uint(partition), "domain", domain,
		"drm_render_minor", g.Render+partition, "hive_id", 0, "local_mem_size", 0,
		"unique_id", g.UniqueID, "num_xcc", xccs,
	)
	out[dir+"mem_banks/0/properties"] = propertyLines("heap_type", 1, "size_in_bytes", m.MemoryMiB<<20/uint64(parts),
		"flags", 0, "width", 8192, "mem_clk_max", 1300)
	var used uint64
	for _, p := range g.Processes {
		if p.Partition == partition {
			used += p.Bytes
		}
	}
	out.put(dir+"mem_banks/0/used_memory", "%d", used)
	return nil
}

// pci returns /sys/bus/pci/devices/<address> of one card.
func pci(g AMDGPU) files {
	out := files{}
	out.put("vendor", "0x1002")
	out.put("device", "%#04x", g.Model.Device)
	out.put("class", "0x120000")
	out.put("numa_node", "%d", g.NUMA)
	out.put("drm/card"+strconv.Itoa(g.Render-127)+"/dev", "226:%d", g.Render-127)
	out.put("drm/renderD"+strconv.Itoa(g.Render)+"/dev", "226:%d", g.Render)
	out.put("mem_info_vram_total", "%d", g.Model.MemoryMiB<<20)
	out.put("mem_info_vram_used", "%d", uint64(g.UsedMiB)<<20)
	out.put("product_name", "")
	if g.UniqueID != 0 {
		out.put("unique_id", "%016x", g.UniqueID)
	}
	if g.Compute != "" {
		out.put("current_compute_partition", "%s", g.Compute)
		out.put("available_compute_partition", "%s", strings.Join(g.Model.Modes, ", "))
		out.put("current_memory_partition", "%s", g.Memory)
		out.put("available_memory_partition", "%s", strings.Join(g.Model.MemoryModes, ", "))
	}
	if g.Sensors {
		sensors(out, g)
	}
	return out
}

func sensors(out files, g AMDGPU) {
	out.put("gpu_busy_percent", "%d", g.Busy)
	out.put("mem_busy_percent", "%d", g.BusyMemory)
	out.put("hwmon/hwmon4/power1_average", "%d", g.Power*1000000)
	out.put("hwmon/hwmon4/temp1_input", "%d", g.Edge*1000)
	out.put("hwmon/hwmon4/temp2_input", "%d", g.Junction*1000)
	out.put("hwmon/hwmon4/temp3_input", "%d", g.MemoryTemp*1000)
	if g.Model.UniqueID {
		out["ras/umc_err_count"] = fmt.Sprintf("ue: %d\nce: %d\n", g.UE, g.CE)
		out["ras/gfx_err_count"] = "ue: 0\nce: 0\n"
		var pages strings.Builder
		for i := range g.BadPages {
			fmt.Fprintf(&pages, "0x%08x : 0x00001000 : R\n", i)
		}
		out["ras/gpu_vram_bad_pages"] = pages.String()
	}
}

// writeFresh writes the files into a new directory.
func (f files) writeFresh(dir string) error {
	for path, text := range f {
		if err := writeFile(filepath.Join(dir, path), text); err != nil {
			return err
		}
	}
	return os.MkdirAll(dir, 0o755)
}

// update makes dir hold exactly these files. It replaces each file atomically.
func (f files) update(dir string) error {
	if err := f.writeFresh(dir); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if _, ok := f[rel]; !ok {
			return os.Remove(path)
		}
		return nil
	})
}

// writeFile writes a file atomically, unless it already contains the text.
func writeFile(path, text string) error {
	if have, err := os.ReadFile(path); err == nil && string(have) == text {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// link makes path a symbolic link to target, atomically.
func link(path, target string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".new"
	_ = os.Remove(tmp)
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Device numbers of the rack's nodes: DRM's major, and for /dev/kfd, whose major the kernel
// chooses, an unused one. Because there is no driver, opening a node fails with "no such device" if
// the device cgroup allows it and with "operation not permitted" if it does not.
const (
	drmMajor = 226
	kfdMajor = 508
)

// GIDs of the groups that own the rack's device nodes, as in Ubuntu's /etc/group.
const (
	videoGID  = 44
	renderGID = 109
)

// deviceNode creates a character device, or an empty file if this process may not create devices.
func deviceNode(path string, major, minor uint32) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	err := unix.Mknod(path, unix.S_IFCHR|0o660, int(unix.Mkdev(major, minor)))
	if errors.Is(err, unix.EPERM) {
		err = os.WriteFile(path, nil, 0o660)
	}
	if err != nil {
		return fmt.Errorf("mknod %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return err
	}
	if err := os.Chown(path, 0, renderGID); err != nil && !errors.Is(err, os.ErrPermission) {
		return err
	}
	return nil
}
