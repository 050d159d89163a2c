package driver

import (
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// kernels are the prefixes of the names of packages that contain a kernel.
var kernels = []string{"linux-image-", "linux-generic", "linux-virtual", "linux-server", "proxmox-kernel", "pve-kernel",
	"linux-aws", "linux-azure", "linux-gcp", "linux-oracle", "linux-nvidia-"}

// CheckSimulation checks the output of apt-get -s. It refuses a new kernel, and changes or removals
// of packages that do not belong to the vendor's driver. It accepts new packages, on which the
// driver may depend.
func CheckSimulation(text string, v gpu.Vendor) *Refusal {
	m, ok := MakerOf(v)
	if !ok {
		return refuse("", "unknown vendor %q", v)
	}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		name := fields[1]
		upgrade := len(fields) > 2 && strings.HasPrefix(fields[2], "[")
		switch {
		case fields[0] == "Inst" && slices.ContainsFunc(kernels, func(k string) bool {
			return strings.HasPrefix(name, k)
		}):
			return refuse("install that kernel first, at a time of your choice",
				"the installation would install a new kernel (%s)", name)
		case fields[0] == "Inst" && upgrade && !m.Owns(name):
			return refuse("upgrade it first, at a time of your choice",
				"the installation would change package %s, which does not belong to the driver", name)
		case fields[0] == "Remv" && !m.Owns(name):
			return refuse("", "the installation would remove package %s, which does not belong to the driver", name)
		}
	}
	return nil
}

// Preferences returns lines for apt's preferences with which it installs all packages of the driver
// in the plan's version, including dependencies that the plan does not name.
func Preferences(p Plan) string {
	m, ok := MakerOf(p.Vendor)
	if !ok {
		return ""
	}
	var versions []string
	for _, pin := range p.Install {
		if m.carries(pin.Version, p.Version) && !slices.Contains(versions, pin.Version) {
			versions = append(versions, pin.Version)
		}
	}
	var text strings.Builder
	for _, version := range versions {
		// A priority above 1000 also permits downgrades.
		fmt.Fprintf(&text, "Package: %s*\nPin: version %s\nPin-Priority: 1001\n\n",
			strings.Join(m.Prefixes, "* "), version)
	}
	return text.String()
}
