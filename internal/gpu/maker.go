package gpu

// Maker is what the programs must know of one maker of GPUs: a value in a file of
// its own for each, so that no other code compares vendors. What only the task
// driver or a device plugin knows stands in a value there.
type Maker struct {
	Vendor Vendor
	// Name is the maker's own spelling, for messages.
	Name string
	// Image is the key of the images block for its GPUs.
	Image string
	// Plugin is the name of its device plugin.
	Plugin string
	// Tool names a command, or a place to look at, that shows the GPUs where the
	// kernel driver works.
	Tool string
	// Capability is a second name of the attribute "target" for GPUs of this maker,
	// "" for none.
	Capability string
	// Brands are left out of a product name to make a class of it; lower case.
	Brands []string
}

// Makers returns the makers that the suite serves, in the order in which messages
// name them.
func Makers() []Maker { return []Maker{nvidia, amd, intel} }

// MakerOf returns the maker of a vendor. The second result is false for a vendor
// that the suite does not serve.
func MakerOf(v Vendor) (Maker, bool) {
	for _, m := range Makers() {
		if m.Vendor == v {
			return m, true
		}
	}
	return Maker{}, false
}
