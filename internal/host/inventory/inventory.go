// Package inventory reads the facts for package driver: the GPUs of a host, their installed
// drivers, and the processes that use them. It changes nothing and requires no driver.
package inventory

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"aliquot.example/internal/driver"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
)

// Read reads the facts of the host with a root. With sources it also reads the versions that the
// host's package sources offer, which takes one or two seconds.
func Read(ctx context.Context, root host.Root, sources bool) (driver.Facts, error) {
	if !root.Exists("/proc") || !root.Exists("/sys") {
		return driver.Facts{}, fmt.Errorf("%s has no /proc and /sys: it is not the root of a host", root)
	}
	f := driver.Facts{
		Kernel: root.TextOr("", "/proc/sys/kernel/osrelease"), BootID: root.BootID(),
		Distribution: distribution(root), Container: container(root), SecureBoot: secureBoot(root),
	}
	f.GPUs, f.Switches = devices(root)
	f.Hypervisor = hypervisor(root, f.Kernel)
	f.Holders = holders(root)
	f.Unattended = unattended(root)
	f.Uses = uses(root)
	var err error
	if f.Arch, f.Packages, err = packages(ctx, root); err != nil {
		return f, err
	}
	f.Drivers = map[gpu.Vendor]driver.Installed{}
	for _, m := range driver.Makers() {
		if f.Of(m.Vendor) > 0 || root.Exists("/sys/module", m.Module) {
			f.Drivers[m.Vendor] = installed(ctx, root, m, f)
		}
	}
	if sources {
		f.Available, err = available(ctx, root, f)
	}
	return f, err
}

func distribution(root host.Root) driver.Distribution {
	text := root.TextOr(root.TextOr("", "/usr/lib/os-release"), "/etc/os-release")
	values := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key] = strings.Trim(value, `"'`)
		}
	}
	return driver.Distribution{ID: values["ID"], Version: values["VERSION_ID"], Like: values["ID_LIKE"]}
}

// container returns the evidence that the root is that of a container, "" for a host.
func container(root host.Root) string {
	for _, sign := range []string{"/.dockerenv", "/run/.containerenv", "/run/systemd/container"} {
		if root.Exists(sign) {
			return sign + " is there"
		}
	}
	return ""
}

func hypervisor(root host.Root, kernel string) string {
	if root.Exists("/etc/pve") || strings.Contains(kernel, "-pve") {
		return "Proxmox VE"
	}
	return ""
}

// secureBoot reads the firmware's variable: four bytes of attributes and one of value.
func secureBoot(root host.Root) bool {
	b, err := os.ReadFile(root.Path("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"))
	return err == nil && len(b) == 5 && b[4] == 1
}

// Classes of PCI devices that are GPUs: display controllers and processing accelerators;
// switches are bridges of another kind.
const (
	classVGA, class3D, classDisplay, classAccelerator = 0x0300, 0x0302, 0x0380, 0x1200
	classBridge                                       = 0x0680
)

// devices lists the GPUs and the switches between them.
func devices(root host.Root) (gpus, switches []driver.Device) {
	for _, address := range root.Names(host.PCIDevices) {
		hex := func(file string) uint64 {
			n, err := strconv.ParseUint(root.TextOr("", host.PCIDevices, address, file), 0, 32)
			if err != nil {
				return 0
			}
			return n
		}
		i := slices.IndexFunc(driver.Makers(), func(m driver.Maker) bool { return uint64(m.PCI) == hex("vendor") })
		if i < 0 {
			continue
		}
		m := driver.Makers()[i]
		d := driver.Device{Address: address, Vendor: m.Vendor, ID: uint16(hex("device")), Class: uint32(hex("class"))}
		switch d.Class >> 8 {
		case classVGA, class3D, classDisplay, classAccelerator:
			gpus = append(gpus, d)
		case classBridge:
			if slices.Contains(m.Switches, d.ID) {
				switches = append(switches, d)
			}
		}
	}
	return gpus, switches
}

// installed reads the state of a vendor's driver.
func installed(ctx context.Context, root host.Root, m driver.Maker, f driver.Facts) driver.Installed {
	var d driver.Installed
	if root.Exists("/sys/module", m.Module) {
		d.Loaded = root.TextOr(driver.InTree, "/sys/module", m.Module, "version")
	}
	if about := root.TextOr("", m.About); m.About != "" && d.Loaded != "" && about != "" {
		d.Modules = driver.Closed
		if strings.Contains(about, m.OpenWords) {
			d.Modules = driver.Open
		}
	}
	for _, file := range m.Files {
		// modinfo fails for a module that does not exist.
		if out, err := root.Output(ctx, "modinfo", "-k", f.Kernel, "-F", "version", file); err == nil &&
			strings.TrimSpace(out) != "" {
			d.OnDisk = strings.TrimSpace(out)
			break
		}
	}
	if m.Library != "" {
		for _, dir := range host.Libraries {
			if d.Library = host.LibraryVersion(root.Behind(filepath.Join(dir, m.Library))); d.Library != "" {
				break
			}
		}
	}
	d.Tools = !slices.ContainsFunc(m.Tools, func(name string) bool { return root.Program(name) == "" })
	d.Foreign = foreign(root, m, d, f)
	return d
}

// foreign returns what has installed a driver that does not come from packages, or "".
func foreign(root host.Root, m driver.Maker, d driver.Installed, f driver.Facts) string {
	for file, by := range m.Foreign {
		if root.Exists(file) {
			return by
		}
	}
	if d.Loaded != "" && d.Loaded != driver.InTree && len(f.DriverPackages(m.Vendor)) == 0 {
		return "something else: the module " + m.Module + " " + d.Loaded +
			" is loaded, but no package of it is installed"
	}
	return ""
}

// uses returns the reference counts of the modules that a reload unloads.
func uses(root host.Root) map[string]int {
	out := map[string]int{}
	for _, m := range driver.Makers() {
		for _, module := range m.Unload {
			if n, err := root.Number("/sys/module", module, "refcnt"); err == nil {
				out[module] = int(n)
			}
		}
	}
	return out
}

// unattended reports whether apt upgrades packages by itself.
func unattended(root host.Root) bool {
	for _, file := range root.Names("/etc/apt/apt.conf.d") {
		for line := range strings.Lines(root.TextOr("", "/etc/apt/apt.conf.d", file)) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "APT::Periodic::Unattended-Upgrade") && !strings.Contains(line, `"0"`) {
				return root.Program("unattended-upgrade") != ""
			}
		}
	}
	return false
}
