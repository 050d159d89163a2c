package gpu

// AMD is the vendor "amd".
const AMD Vendor = "amd"

var amd = Maker{
	Vendor: AMD, Name: "AMD", Image: "rocm", Plugin: "aliquot-device-amd", Tool: "amd-smi list, or /dev/kfd",
	Brands: []string{"amd", "instinct", "radeon"},
}
