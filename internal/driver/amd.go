package driver

import "aliquot.example/internal/gpu"

var amd = Maker{
	Vendor: gpu.AMD, PCI: 0x1002,
	Module: "amdgpu", Files: []string{"amdgpu"},
	// Unload and load of amdgpu can reboot the machine, so there is no reload.
	Ours:  []string{"aliquot-device-amd", "amd-smi"},
	Nodes: []string{"kfd"},
	Foreign: map[string]string{
		"/usr/bin/amdgpu-uninstall": "AMD's installer script (amdgpu-install)",
	},
	Longer:   true, // 1:6.14.14.30100100-2193512.24.04
	Prefixes: []string{"amdgpu-dkms", "amdgpu-core"},
	Require:  requireAMD, Sets: setsAMD, Flavours: func(string, Flavour) []Flavour { return []Flavour{""} },
	Extra: func(Facts, string, Set) []SetPackage { return nil },
	Other: func(string, Flavour) bool { return false },
	ByHand: func(d Distribution, _ string) string {
		return "add https://repo.radeon.com/amdgpu/<release>/el/" + d.Version +
			"/main/x86_64/, dnf install amdgpu-dkms, reboot"
	},
}

// requireAMD knows the accelerators by device ID. The versions are those of the module
// amdgpu that AMD's packages build: 6.12.12 came with ROCm 6.4, 6.14.14 with the driver
// 30.10 of ROCm 7.0, which is the first for MI350X and MI355X.
func requireAMD(d Device) Requirement {
	switch d.ID {
	case 0x75a0, 0x75a3, 0x75b0, 0x75b3:
		return Requirement{Of: "MI350X or MI355X", Min: "6.14.14"}
	}
	return Requirement{Of: "an AMD GPU"}
}

func setsAMD(Facts, string, Flavour) []Set {
	return []Set{{
		Source: "AMD's repository", Where: "https://repo.radeon.com/amdgpu/<release>/ubuntu", DKMS: true,
		Packages: []SetPackage{{Name: "amdgpu-dkms"}},
	}}
}
