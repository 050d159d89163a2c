package gpu

// Maker describes one vendor of GPUs. Each vendor has a file with its value, so that no other code
// compares vendors. The task driver and the device plugins have further values for their own
// purposes.
type Maker struct {
	Vendor Vendor
	// Name is the maker's own spelling, for messages.
	Name string
	// Image is the key of the images block for its GPUs.
	Image string
	// Plugin is the name of its device plugin.
	Plugin string
	// Tool is a command or a file that shows the GPUs if the kernel driver works.
	Tool string
	// Capability is a second name of the attribute "target" for GPUs of this maker,
	// "" for none.
	Capability string
	// Brands are words, in lower case, that ClassOf removes from a product name.
	Brands []string
}

// Makers returns the supported vendors, in the order for messages.
func Makers() []Maker { return []Maker{nvidia, amd, intel} }

// MakerOf returns the Maker of a vendor. The second result is false for an unsupported vendor.
func MakerOf(v Vendor) (Maker, bool) {
	for _, m := range Makers() {
		if m.Vendor == v {
			return m, true
		}
	}
	return Maker{}, false
}
