package inventory

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"aliquot.example/internal/driver"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
)

// holders lists the processes that have a GPU's device node open, each once.
func holders(root host.Root) []driver.Process {
	nodes := drm(root)
	var out []driver.Process
	for _, pid := range root.Numbered("/proc") {
		fds := root.Path("/proc", strconv.Itoa(pid), "fd")
		var found *driver.Process
		for _, fd := range root.Names("/proc", strconv.Itoa(pid), "fd") {
			target, err := os.Readlink(filepath.Join(fds, fd))
			if err != nil || !strings.HasPrefix(target, "/dev/") {
				continue
			}
			m, screen, ok := of(target, nodes)
			if !ok {
				continue
			}
			if found == nil {
				name := program(root, pid)
				found = &driver.Process{PID: pid, Name: name, Device: target, Vendor: m.Vendor,
					Ours: slices.Contains(m.Ours, name)}
			}
			found.Display = found.Display || screen && !found.Ours
		}
		if found != nil {
			out = append(out, *found)
		}
	}
	return out
}

// of returns the vendor of a device node, and whether the node is for a display.
func of(node string, drm map[string]gpu.Vendor) (m driver.Maker, screen, ok bool) {
	if v, is := drm[node]; is {
		m, ok = driver.MakerOf(v)
		return m, strings.HasPrefix(node, "/dev/dri/card"), ok
	}
	name := strings.TrimPrefix(node, "/dev/")
	has := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
	for _, m := range driver.Makers() {
		if slices.ContainsFunc(m.Nodes, has) {
			return m, slices.ContainsFunc(m.Screens, has), true
		}
	}
	return m, false, false
}

// drm are the nodes of /dev/dri of GPUs, by path.
func drm(root host.Root) map[string]gpu.Vendor {
	out := map[string]gpu.Vendor{}
	gpus, _ := devices(root)
	for _, d := range gpus {
		for _, name := range root.Names(host.PCIDevices, d.Address, "drm") {
			out["/dev/dri/"+name] = d.Vendor
		}
	}
	return out
}

// program returns the name of a process's program. The kernel truncates comm to 15 characters.
func program(root host.Root, pid int) string {
	if exe, err := os.Readlink(root.Path("/proc", strconv.Itoa(pid), "exe")); err == nil {
		return filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	}
	return root.TextOr("?", "/proc", strconv.Itoa(pid), "comm")
}
