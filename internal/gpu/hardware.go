package gpu

import (
	"regexp"
	"slices"
	"strings"
)

// Hardware is one row of the hardware table: a class of GPU, and how fast it serves compared with a
// whole H100 SXM.
type Hardware struct {
	Class  string
	Vendor Vendor
	// Names are lower-case substrings of the vendor's product name, the most specific first. They apply
	// if no PCI ID matches.
	Names []string
	// PCI lists the device IDs that only this class has.
	PCI []uint16
	// Architecture is the vendor's name of the generation.
	Architecture string
	MemoryGB     int
	// Bandwidth is the memory bandwidth in GB/s; TFLOPS is the dense rate in FP16 or BF16.
	Bandwidth, TFLOPS float64
	// Weight is the serving rate relative to H100 SXM = 1; see docs/hardware.md.
	Weight float64
}

// Table returns the curated hardware, by vendor and generation.
//
// Memory, bandwidth and TFLOPS: stas00/ml-engineering compute/accelerator
// (2026-08-22), ROCm's gpu-arch-specs and vendor data sheets. Weights: the geometric
// mean of the MLPerf Inference v4.1 and v5.1 llama2-70b rates per accelerator and of
// a rate of a model that fits one GPU (MLPerf llama3.1-8b, Argonne
// LLM-Inference-Bench), relative to H100 SXM. Weights of classes without measurements are
// estimates. docs/hardware.md has the basis of every row; `make bench-weights` compares
// the table with measurements. A measured rate of a service replaces these weights.
func Table() []Hardware {
	return []Hardware{
		{"gb300", NVIDIA, []string{"gb300"}, []uint16{0x31c2, 0x31c3}, "Blackwell", 288, 8000, 2500, 3.50},
		{"b300", NVIDIA, []string{"b300"}, []uint16{0x3182}, "Blackwell", 288, 8000, 2250, 3.40},
		{"gb200", NVIDIA, []string{"gb200"}, []uint16{0x2941}, "Blackwell", 186, 8000, 2500, 3.37},
		{"b200", NVIDIA, []string{"b200"}, []uint16{0x2901}, "Blackwell", 180, 8000, 2250, 3.33},
		{"gh200", NVIDIA, []string{"gh200"}, []uint16{0x2342, 0x2348}, "Hopper", 96, 4000, 989, 1.18},
		{"h200-nvl", NVIDIA, []string{"h200 nvl"}, []uint16{0x233b}, "Hopper", 141, 4800, 836, 1.05},
		{"h200", NVIDIA, []string{"h200"}, []uint16{0x2335}, "Hopper", 141, 4800, 989, 1.32},
		{"h100-nvl", NVIDIA, []string{"h100 nvl"}, nil, "Hopper", 94, 3900, 835, 0.85},
		{"h100-pcie", NVIDIA, []string{"h100 pcie"}, []uint16{0x2331}, "Hopper", 80, 2039, 756, 0.51},
		{"h100", NVIDIA, []string{"h100"}, []uint16{0x2330}, "Hopper", 80, 3350, 989, 1.00},
		{"h20", NVIDIA, []string{"h20"}, []uint16{0x2329}, "Hopper", 96, 4000, 148, 0.42},
		{"rtx-pro-6000", NVIDIA, []string{"rtx pro 6000"}, []uint16{0x2bb1, 0x2bb5}, "Blackwell", 96, 1597, 500, 0.92},
		{"a100-80gb", NVIDIA, []string{"a100-sxm4-80gb", "a100 80gb", "a100-80"}, []uint16{0x20b2, 0x20b5},
			"Ampere", 80, 2039, 312, 0.60},
		{"a100-64gb", NVIDIA, []string{"a100-sxm-64gb"}, []uint16{0x20b3}, "Ampere", 64, 1640, 355, 0.58},
		{"a100-40gb", NVIDIA, []string{"a100"}, []uint16{0x20b0, 0x20b1, 0x20f1}, "Ampere", 40, 1555, 312, 0.53},
		{"rtx-5090", NVIDIA, []string{"rtx 5090"}, []uint16{0x2b85}, "Blackwell", 32, 1792, 209.5, 0.40},
		{"rtx-5080", NVIDIA, []string{"rtx 5080"}, []uint16{0x2c02}, "Blackwell", 16, 960, 112.5, 0.21},
		{"rtx-5070-ti", NVIDIA, []string{"rtx 5070 ti"}, []uint16{0x2c05}, "Blackwell", 16, 896, 87.9, 0.18},
		{"rtx-5070", NVIDIA, []string{"rtx 5070"}, []uint16{0x2f04}, "Blackwell", 12, 672, 61.7, 0.13},
		{"rtx-5060-ti", NVIDIA, []string{"rtx 5060 ti"}, []uint16{0x2d04}, "Blackwell", 8, 448, 47.4, 0.095},
		{"rtx-4090", NVIDIA, []string{"rtx 4090"}, []uint16{0x2684}, "Ada", 24, 1008, 165.2, 0.20},
		{"rtx-4080-super", NVIDIA, []string{"rtx 4080 super"}, []uint16{0x2702, 0x2703}, "Ada", 16, 736, 104.5, 0.135},
		{"rtx-4080", NVIDIA, []string{"rtx 4080"}, []uint16{0x2704}, "Ada", 16, 717, 97.5, 0.13},
		{"rtx-4070-ti-super", NVIDIA, []string{"rtx 4070 ti super"}, []uint16{0x2689, 0x2705}, "Ada", 16, 672,
			88.2, 0.12},
		{"rtx-4070-ti", NVIDIA, []string{"rtx 4070 ti"}, []uint16{0x2782}, "Ada", 12, 504, 80.2, 0.10},
		{"rtx-4070-super", NVIDIA, []string{"rtx 4070 super"}, []uint16{0x2783}, "Ada", 12, 504, 71, 0.093},
		{"rtx-4070", NVIDIA, []string{"rtx 4070"}, []uint16{0x2709, 0x2786}, "Ada", 12, 504, 58.3, 0.084},
		{"rtx-4060-ti", NVIDIA, []string{"rtx 4060 ti"}, []uint16{0x2788, 0x2803, 0x2805}, "Ada", 8, 288, 44.1, 0.055},
		{"rtx-4060", NVIDIA, []string{"rtx 4060"}, []uint16{0x2808, 0x2882}, "Ada", 8, 272, 30.2, 0.044},
		{"rtx-6000-ada", NVIDIA, []string{"rtx 6000 ada"}, []uint16{0x26b1}, "Ada", 48, 960, 364, 0.22},
		{"l40s", NVIDIA, []string{"l40s"}, []uint16{0x26b9}, "Ada", 48, 864, 362, 0.21},
		{"l40", NVIDIA, []string{"l40"}, []uint16{0x26b5}, "Ada", 48, 864, 181, 0.15},
		{"rtx-a6000", NVIDIA, []string{"rtx a6000"}, []uint16{0x2230}, "Ampere", 48, 768, 154.8, 0.24},
		{"a40", NVIDIA, []string{"a40"}, []uint16{0x2235}, "Ampere", 48, 696, 149.7, 0.22},
		{"a30", NVIDIA, []string{"a30"}, []uint16{0x20b7}, "Ampere", 24, 933, 165, 0.30},
		{"rtx-3090", NVIDIA, []string{"rtx 3090"}, []uint16{0x2204}, "Ampere", 24, 936, 71, 0.17},
		{"v100", NVIDIA, []string{"v100"}, []uint16{0x1db1, 0x1db4, 0x1db5, 0x1db6}, "Volta", 16, 900, 125, 0.20},
		{"a10g", NVIDIA, []string{"a10g"}, []uint16{0x2237}, "Ampere", 24, 600, 70, 0.15},
		{"a10", NVIDIA, []string{"a10"}, []uint16{0x2236}, "Ampere", 24, 600, 125, 0.19},
		{"l4", NVIDIA, []string{"l4"}, []uint16{0x27b8}, "Ada", 24, 300, 121, 0.085},
		{"t4", NVIDIA, []string{"t4"}, []uint16{0x1eb8}, "Turing", 16, 320, 65, 0.06},
		{"mi355x", AMD, []string{"mi355x"}, []uint16{0x75a3}, "CDNA4", 288, 8000, 2500, 2.90},
		{"mi350x", AMD, []string{"mi350x"}, []uint16{0x75a0}, "CDNA4", 288, 8000, 2300, 2.70},
		{"mi325x", AMD, []string{"mi325x"}, []uint16{0x74a5, 0x74b9}, "CDNA3", 256, 6000, 1307, 1.08},
		{"mi300x", AMD, []string{"mi300x"}, []uint16{0x74a1, 0x74b5}, "CDNA3", 192, 5325, 1307, 0.87},
		{"mi300a", AMD, []string{"mi300a"}, []uint16{0x74a0}, "CDNA3", 128, 5300, 981, 0.75},
		{"mi308x", AMD, []string{"mi308x"}, []uint16{0x74a2}, "CDNA3", 192, 5300, 232, 0.37},
		{"mi250x", AMD, []string{"mi250x"}, []uint16{0x7408, 0x740c}, "CDNA2", 128, 3277, 383, 0.49},
		{"mi210", AMD, []string{"mi210"}, []uint16{0x740f}, "CDNA2", 64, 1638, 181, 0.24},
		{"rx-7900-xtx", AMD, []string{"7900 xtx"}, nil, "RDNA3", 24, 960, 122.8, 0.12},
		{"w7900", AMD, []string{"w7900"}, []uint16{0x7448}, "RDNA3", 48, 864, 122.6, 0.11},
	}
}

// Rated returns the row of a class. If the table has only variants of it, such as a100-80gb of
// a100, Rated returns the first of these. The second result is false if there is neither.
func Rated(class string) (Hardware, bool) {
	table := Table()
	i := slices.IndexFunc(table, func(h Hardware) bool { return h.Class == class })
	if i < 0 {
		i = slices.IndexFunc(table, func(h Hardware) bool { return strings.HasPrefix(h.Class, class+"-") })
	}
	if i < 0 {
		return Hardware{}, false
	}
	return table[i], true
}

// Lookup returns the table's row for a GPU, by PCI device ID or, if that is unknown, by product
// name. The second result is false for a GPU that is not in the table. GPUs of laptops and virtual
// GPUs are not, although they have the name of a card.
func Lookup(vendor Vendor, pciDevice uint16, model string) (Hardware, bool) {
	if virtual(model) {
		return Hardware{}, false
	}
	return lookup(vendor, pciDevice, model)
}

func lookup(vendor Vendor, pciDevice uint16, model string) (Hardware, bool) {
	table := Table()
	for _, h := range table {
		for _, id := range h.PCI {
			if h.Vendor == vendor && id == pciDevice {
				return h, true
			}
		}
	}
	words := " " + strings.NewReplacer("-", " ", "_", " ").Replace(strings.ToLower(model)) + " "
	for _, h := range table {
		for _, name := range h.Names {
			_, rest, found := strings.Cut(words, " "+strings.ReplaceAll(name, "-", " ")+" ")
			if h.Vendor == vendor && found && !lesser(rest) {
				return h, true
			}
		}
	}
	return Hardware{}, false
}

// lesser reports whether the words that follow a card's name make it another card.
func lesser(rest string) bool {
	for i, word := range strings.Fields(rest) {
		switch word {
		case "laptop", "mobile", "max", "embedded":
			return true
		case "ti", "super", "d":
			if i == 0 {
				return true
			}
		}
	}
	return false
}

// virtualName matches NVIDIA's names of virtual GPUs: "GRID A100-10C", "H100-1-10C".
var virtualName = regexp.MustCompile(`(?i)\bgrid\b|[a-z0-9]-[0-9]+(-[0-9]+)?[abcq]$`)

func virtual(model string) bool { return virtualName.MatchString(strings.TrimSpace(model)) }

// ClassOf returns the hardware class of a GPU: from the table if it has the GPU, otherwise the
// product name as a DNS label of at most 32 characters, as Consul requires for a subset.
func ClassOf(vendor Vendor, pciDevice uint16, model string) string {
	if h, ok := Lookup(vendor, pciDevice, model); ok {
		return h.Class
	}
	name := strings.ToLower(model)
	for _, m := range Makers() {
		for _, brand := range m.Brands {
			name = strings.ReplaceAll(name, brand, "")
		}
	}
	class := Slug(name)
	if len(class) > maxClass {
		class = class[:maxClass]
		if cut := strings.LastIndexByte(class, '-'); cut > 0 {
			class = class[:cut]
		}
	}
	// A suffix such as -s4 would be mistaken for slices.
	return slicesEnd.ReplaceAllString(class, "$1")
}

const maxClass = 32

var slicesEnd = regexp.MustCompile(`-(s[0-9]+(of[0-9]+)?)$`)
