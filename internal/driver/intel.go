package driver

import "aliquot.example/internal/gpu"

// intel's GPUs are driven by the kernel's own i915 and xe.
var intel = Maker{
	Vendor: gpu.Intel, PCI: 0x8086,
	Module: "xe", Files: []string{"xe"},
	Ours: []string{"aliquot-device-intel"},
	Require: func(Device) Requirement {
		return Requirement{Of: "an Intel GPU",
			Never: "the kernel's own module drives it, and this program changes no kernels"}
	},
	Sets:     func(Facts, string, Flavour) []Set { return nil },
	Flavours: func(string, Flavour) []Flavour { return []Flavour{""} },
	Extra:    func(Facts, string, Set) []Wish { return nil },
	Other:    func(string, Flavour) bool { return false },
	ByHand:   func(Distribution, string) string { return "install another kernel" },
}
