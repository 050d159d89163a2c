package driver

import (
	"fmt"
	"strings"

	"aliquot.example/internal/gpu"
)

var nvidia = Maker{
	Vendor: gpu.NVIDIA, PCI: 0x10de,
	Switches: []uint16{0x1ac2, 0x1af1, 0x22a3},
	Module:   "nvidia", Files: []string{"nvidia-current", "nvidia"},
	About: "/proc/driver/nvidia/version", OpenWords: "Open Kernel Module",
	// The order of NVIDIA's own driver manager.
	Unload: []string{"nvidia_drm", "nvidia_modeset", "nvidia_uvm", "nvidia_peermem", "nvidia_fs", "nvidia_vgpu_vfio",
		"gdrdrv", "nvidia"},
	Library:  "libnvidia-ml.so.1",
	Tools:    []string{"nvidia-cuda-mps-control", "nvidia-cuda-mps-server"},
	ToolsIn:  "nvidia-cuda-mps on Debian, nvidia-compute-utils-<branch>-server on Ubuntu",
	Manager:  "nvidia-fabricmanager",
	Services: []string{"nvidia-persistenced", "nvidia-fabricmanager", "nvidia-dcgm", "dcgm-exporter"},
	Ours: []string{"aliquot-device-nvidia", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server", "nvidia-persistenced",
		"nv-fabricmanager", "nv-hostengine", "dcgm-exporter"},
	Nodes: []string{"nvidia"}, Screens: []string{"nvidia-modeset"},
	Foreign: map[string]string{
		"/usr/bin/nvidia-uninstall":       "NVIDIA's installer (a .run file)",
		"/run/nvidia/driver/usr/bin":      "a driver container",
		"/usr/local/nvidia/bin":           "the machine's image",
		"/home/kubernetes/bin/nvidia/bin": "the machine's image",
	},
	Prefixes: []string{"nvidia-", "libnvidia-", "libcuda1", "libcudadebugger1", "libnvcuvid1", "libnvoptix1",
		"cuda-drivers",
		"cuda-compat-", "firmware-nvidia-", "linux-modules-nvidia-", "linux-objects-nvidia-",
		"linux-signatures-nvidia-",
		"xserver-xorg-video-nvidia", "glx-alternative-nvidia", "nvlsm"},
	// The container toolkit and the compilers stay when the driver changes.
	Others: []string{"nvidia-container-", "libnvidia-container", "nvidia-docker", "nvidia-cuda-toolkit",
		"nvidia-cuda-dev", "nvidia-cudnn"},
	Require: requireNVIDIA, Sets: setsNVIDIA, Flavours: flavoursNVIDIA, Extra: extraNVIDIA,
	Other: otherNVIDIA, ByHand: dnfNVIDIA,
}

// openOnly is the first branch without closed kernel modules ("Proprietary Kernel Modules
// Removed", NVIDIA's driver installation guide 620).
const openOnly = 620

// models are the GPUs whose requirements differ from those of their generation, by device ID.
// Sources: the lists of supported devices in NVIDIA's README for 615 and in Debian's packages.
var models = map[uint16]Requirement{
	0x2330: {Min: "535", Of: "H100"},
	0x2335: {Min: "550", Of: "H200"},
	0x2342: {Min: "535", Modules: Open, Of: "GH200"},
	0x2348: {Min: "565", Modules: Open, Of: "GH200"},
	0x2901: {Min: "570.133.20", Modules: Open, Of: "B200"},
	0x2909: {Min: "570.133.20", Modules: Open, Of: "B200"},
	0x2e12: {Min: "580", Modules: Open, Of: "GB10"},
	0x3182: {Min: "580", Modules: Open, Of: "B300"},
	0x31c2: {Min: "580", Modules: Open, Of: "GB300"},
	0x31c3: {Min: "580", Modules: Open, Of: "GB300"},
}

// needsLSM are the GPUs whose NVLink switches need nvlsm in addition to fabric manager.
var needsLSM = map[uint16]bool{0x2901: true, 0x2909: true, 0x3182: true}

// requireNVIDIA returns requirements by device ID. The ranges of the generations are those of
// NVIDIA's README for 615.
func requireNVIDIA(d Device) Requirement {
	if r, ok := models[d.ID]; ok {
		return r
	}
	switch {
	case d.ID < 0x1340:
		return Requirement{Of: "Kepler or older", Never: "its last driver is of branch 470, which no longer gets fixes"}
	case d.ID <= 0x1df6:
		return Requirement{Of: "Maxwell, Pascal or Volta", Last: 580, Modules: Closed}
	case d.ID <= 0x28ff:
		return Requirement{Of: "Turing, Ampere, Ada or Hopper"}
	case d.ID <= 0x2fff:
		return Requirement{Of: "Blackwell", Min: "570", Modules: Open}
	}
	return Requirement{Of: "an unknown model", Never: "this program does not know which driver it needs"}
}

// flavoursNVIDIA prefers the installed kind, so that an upgrade changes only the version.
func flavoursNVIDIA(version string, installed Flavour) []Flavour {
	switch {
	case Branch(version) >= openOnly:
		return []Flavour{Open}
	case installed == Closed:
		return []Flavour{Closed, Open}
	}
	return []Flavour{Open, Closed}
}

const nvidiasRepository = "https://developer.download.nvidia.com/compute/cuda/repos (package cuda-keyring)"

func setsNVIDIA(f Facts, version string, modules Flavour) []Set {
	dkms := "nvidia-kernel-dkms"
	if modules == Open {
		dkms = "nvidia-kernel-open-dkms"
	}
	theirs := Set{Source: "NVIDIA's repository", Where: nvidiasRepository, DKMS: true, Packages: []SetPackage{
		{Name: fmt.Sprintf("nvidia-driver-pinning-%d", Branch(version)), Any: true, Optional: true},
		{Name: "nvidia-driver-cuda"}, {Name: dkms},
	}}
	switch {
	case f.Distribution.ID == "debian":
		kernel := "nvidia-kernel-dkms"
		if modules == Open {
			kernel = "nvidia-open-kernel-dkms" // Debian's own name for it
		}
		own := Set{Source: "Debian",
			Where: "contrib, non-free and non-free-firmware of Debian and its security archive", DKMS: true,
			Packages: []SetPackage{
				{Name: kernel}, {Name: "nvidia-smi"}, {Name: "nvidia-cuda-mps"}, {Name: "libcuda1"},
				{Name: "libnvidia-ml1"},
				{Name: "nvidia-persistenced", Any: true, Optional: true},
			}}
		return preferInstalled(f, theirs, own, "nvidia-driver-cuda")
	case f.Distribution.ID == "ubuntu":
		return append(setsUbuntu(f, version, modules), theirs)
	}
	return []Set{theirs}
}

// preferInstalled puts the vendor's packages first if the host already has the package mark, which
// only the vendor provides.
func preferInstalled(f Facts, theirs, own Set, mark string) []Set {
	if f.installed(mark) {
		return []Set{theirs, own}
	}
	return []Set{own, theirs}
}

// setsUbuntu returns the sets of Ubuntu's server branches: first modules that are signed for the running
// kernel, then modules that are compiled on the host.
func setsUbuntu(f Facts, version string, modules Flavour) []Set {
	branch := fmt.Sprintf("%d-server", Branch(version))
	suffix := ""
	if modules == Open {
		suffix = "-open"
	}
	user := []SetPackage{{Name: "nvidia-utils-" + branch}, {Name: "nvidia-compute-utils-" + branch},
		{Name: "libnvidia-compute-" + branch},
		{Name: "nvidia-kernel-common-" + branch}}
	const where = "restricted of Ubuntu, its updates and security archives"
	return []Set{
		// Its version is that of the kernel, not of the driver.
		{Source: "Ubuntu, modules signed by Ubuntu", Where: where,
			Packages: append([]SetPackage{
				{Name: "linux-modules-nvidia-" + branch + suffix + "-" + f.Kernel, Any: true},
			}, user...)},
		{Source: "Ubuntu, modules compiled here", Where: where, DKMS: true,
			Packages: append([]SetPackage{{Name: "nvidia-dkms-" + branch + suffix}}, user...)},
	}
}

// extraNVIDIA returns the fabric manager with exactly the driver's version. GPUs behind NVSwitches
// do not start without it.
func extraNVIDIA(f Facts, version string, s Set) []SetPackage {
	lsm := false
	for _, d := range f.GPUs {
		lsm = lsm || needsLSM[d.ID]
	}
	if len(f.Switches) == 0 && !lsm {
		return nil
	}
	name := fmt.Sprintf("nvidia-fabricmanager-%d", Branch(version))
	if Branch(version) >= 590 && s.Where == nvidiasRepository {
		name = "nvidia-fabricmanager" // from 590 on, names in this repository have no number
	}
	out := []SetPackage{{Name: name}}
	if lsm {
		out = append(out, SetPackage{Name: "nvlsm", Any: true})
	}
	return out
}

// otherNVIDIA recognises packages of modules by their names.
func otherNVIDIA(name string, want Flavour) bool {
	open := strings.Contains(name, "-open")
	modules := strings.HasSuffix(name, "kernel-dkms") || strings.HasSuffix(name, "kernel-open-dkms") ||
		strings.HasPrefix(name, "nvidia-dkms-") || strings.HasPrefix(name, "linux-modules-nvidia-")
	return modules && (want == Open && !open || want == Closed && open)
}

// dnfNVIDIA returns the commands of NVIDIA's driver installation guide 620 for RHEL and its derivatives.
func dnfNVIDIA(d Distribution, version string) string {
	stream, lock := "open-dkms", "*nvidia*"
	if n := Branch(version); n > 0 {
		stream, lock = fmt.Sprintf("%d-open", n), fmt.Sprintf("*nvidia*%d*", n)
	}
	if Branch(d.Version) >= 10 {
		return "dnf versionlock '" + lock + "', dnf install nvidia-open"
	}
	return "dnf module enable nvidia-driver:" + stream + ", dnf install nvidia-open"
}
