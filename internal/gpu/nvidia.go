package gpu

// NVIDIA is the vendor "nvidia".
const NVIDIA Vendor = "nvidia"

var nvidia = Maker{
	Vendor: NVIDIA, Name: "NVIDIA", Image: "cuda", Plugin: "aliquot-device-nvidia", Tool: "nvidia-smi",
	Capability: "compute_capability", Brands: []string{"nvidia", "tesla", "geforce"},
}
