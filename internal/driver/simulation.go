package driver

import (
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// kernels are the beginnings of the names of packages that bring a kernel.
var kernels = []string{"linux-image-", "linux-generic", "linux-virtual", "linux-server", "proxmox-kernel", "pve-kernel",
	"linux-aws", "linux-azure", "linux-gcp", "linux-oracle", "linux-nvidia-"}

// CheckSimulation reads what apt-get -s says that it would do. It refuses a new kernel,
// and whatever changes or removes packages that are not of the vendor's driver. New
// packages, on which the driver depends, may come.
func CheckSimulation(text string, v gpu.Vendor) *Refusal {
	m, ok := MakerOf(v)
	if !ok {
		return refuse("", "there is no driver of %q", v)
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
			return refuse("bring the node to that kernel first, at a time of your choice",
				"the installation would bring a new kernel (%s)", name)
		case fields[0] == "Inst" && upgrade && !m.Owns(name):
			return refuse("upgrade it first, at a time of your choice",
				"the installation would change package %s, which is not of the driver", name)
		case fields[0] == "Remv" && !m.Owns(name):
			return refuse("", "the installation would remove package %s, which is not of the driver", name)
		}
	}
	return nil
}

// Preferences are lines for apt's preferences by which it takes all packages of the
// driver in the plan's version, also those that are not named and come along.
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
		// Above 1000 a version also counts that is older than the installed one.
		fmt.Fprintf(&text, "Package: %s*\nPin: version %s\nPin-Priority: 1001\n\n",
			strings.Join(m.Prefixes, "* "), version)
	}
	return text.String()
}
