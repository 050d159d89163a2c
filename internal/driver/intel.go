package driver

import "aliquot.example/internal/gpu"

// intel's drivers are the kernel's own i915 and xe.
var intel = Maker{
	Vendor: gpu.Intel, PCI: 0x8086,
	Module: "xe", Files: []string{"xe"},
	Ours: []string{"aliquot-device-intel"},
	Require: func(Device) Requirement {
		return Requirement{Of: "an Intel GPU",
			Never: "its driver is part of the kernel, which this program does not change"}
	},
	Sets:     func(Facts, string, Flavour) []Set { return nil },
	Flavours: func(string, Flavour) []Flavour { return []Flavour{""} },
	Extra:    func(Facts, string, Set) []SetPackage { return nil },
	Other:    func(string, Flavour) bool { return false },
	ByHand:   func(Distribution, string) string { return "install another kernel" },
}
