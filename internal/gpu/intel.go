package gpu

// Intel is the vendor "intel".
const Intel Vendor = "intel"

var intel = Maker{
	Vendor: Intel, Name: "Intel", Image: "xpu", Plugin: "aliquot-device-intel", Tool: "xpu-smi discovery, or /dev/dri",
	Brands: []string{"intel", "data center gpu"},
}
