package intel

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
)

// Client is one process's use of one GPU, according to the kernel's counters for the files that the
// process has open.
type Client struct {
	PID int
	// PCI is the address of the GPU or virtual function.
	PCI string
	// Memory is resident on the GPU.
	Memory gpu.MiB
	// Busy is the compute and render time since the files were opened. For xe it is in cycles of
	// the GPU, which Clock counts. For i915 it is in nanoseconds, and Clock is 0.
	Busy, Clock uint64
}

// Clients lists the processes that have one of Intel's GPUs open.
func Clients(root host.Root) []Client {
	var out []Client
	for _, pid := range root.Numbered("/proc") {
		of := map[string]*Client{}
		counted := map[string]bool{} // duplicated descriptors are one client for the kernel
		for _, fd := range root.Names("/proc", strconv.Itoa(pid), "fd") {
			dir := root.Process(pid)
			to, err := os.Readlink(filepath.Join(dir, "fd", fd))
			if err != nil || !strings.HasPrefix(to, "/dev/dri/") {
				continue
			}
			c, id, ok := parseFDInfo(root.TextOr("", "/proc", strconv.Itoa(pid), "fdinfo", fd))
			if key := c.PCI + " " + id; !ok || counted[key] {
				continue
			} else {
				counted[key] = true
			}
			sum := of[c.PCI]
			if sum == nil {
				sum = &Client{PID: pid, PCI: c.PCI}
				of[c.PCI] = sum
			}
			sum.Memory += c.Memory
			sum.Busy += c.Busy
			sum.Clock = max(sum.Clock, c.Clock)
		}
		for _, c := range of {
			out = append(out, *c)
		}
	}
	return out
}

// parseFDInfo parses the kernel's information about one open file (Linux drm-usage-stats.rst). ok
// is false for a file of another driver.
func parseFDInfo(text string) (c Client, id string, ok bool) {
	var bytes uint64
	for line := range strings.Lines(text) {
		key, value, found := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if !found || len(fields) == 0 {
			continue
		}
		switch key {
		case "drm-driver":
			ok = fields[0] == "xe" || fields[0] == "i915"
		case "drm-pdev":
			c.PCI = fields[0]
		case "drm-client-id":
			id = fields[0]
		case "drm-resident-vram0", "drm-resident-vram1", "drm-resident-local0", "drm-resident-local1":
			bytes += amount(fields)
		case "drm-cycles-ccs", "drm-cycles-rcs", "drm-engine-compute", "drm-engine-render":
			c.Busy += amount(fields)
		case "drm-total-cycles-ccs", "drm-total-cycles-rcs":
			c.Clock = max(c.Clock, amount(fields))
		}
	}
	c.Memory = gpu.MiBOf(bytes)
	return c, id, ok && c.PCI != ""
}

// amount parses a number with a unit of the kernel. Memory is in bytes.
func amount(fields []string) uint64 {
	n, err := strconv.ParseUint(fields[0], 10, 64)
	if err != nil || len(fields) < 2 {
		return n
	}
	shift := map[string]uint{"KiB": 10, "MiB": 20, "GiB": 30}[fields[1]]
	if n > 1<<63>>shift {
		return 0
	}
	return n << shift
}
