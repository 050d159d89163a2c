package gpu

import "strings"

// Estimate returns a weight (see Hardware.Weight) for a GPU that is not in the table: the number of
// its SMs or CUs times the weight of one of them in the table's classes with the same compile
// target. For a virtual GPU it is the card's weight times the share of the card's memory. If the
// number of units is unknown, the memory determines the weight, which is 0 if that is unknown, too.
// Expect an error of up to 2 x for relatives of the table's classes, and a guess for architectures
// that the table does not have.
func Estimate(g GPU) float64 {
	if virtual(g.Model) {
		name := g.Model
		if cut := strings.LastIndexByte(name, '-'); cut > 0 {
			name = strings.TrimRight(name[:cut], "-0123456789")
			if h, ok := lookup(g.Vendor, g.PCIDevice, g.Model[:cut]); ok {
				return h.Weight * min(1, float64(g.Memory)/float64(GiB(h.MemoryGB)))
			}
		}
		if h, ok := lookup(g.Vendor, g.PCIDevice, name); ok {
			return h.Weight * min(1, float64(g.Memory)/float64(GiB(h.MemoryGB)))
		}
	}
	if g.Units > 0 {
		return float64(g.Units) * perUnit(g.Target)
	}
	return float64(g.Memory) / 1024 * perGiB
}

// GiB is n GiB of memory.
func GiB(n int) MiB { return MiB(n) * 1024 }

// perGiB is the weight per GiB of the table's weakest classes that serve language models of usual sizes
// (T4 0.004, L4 0.0035, L40S 0.0044). Little else is known of a GPU without a count of units.
const perGiB = 0.004

// perUnit returns the weight of one SM or CU of a compile target: the weight of the class in the
// comment, divided by its units. The longest known prefix of the target applies.
func perUnit(target string) float64 {
	best, value := -1, 0.001
	for _, t := range []struct {
		target string
		value  float64
	}{
		{"7.0", 0.0025},    // v100, 80
		{"7.5", 0.0015},    // t4, 40
		{"8.0", 0.0049},    // a100-40gb, 108
		{"8.6", 0.0024},    // a10 0.0026 (72), rtx-3090 0.0021 (82)
		{"8.9", 0.0015},    // l40s, 142; rtx-4090 0.0016 (128)
		{"9.", 0.0076},     // h100, 132
		{"10.", 0.0225},    // b200, 148
		{"12.0", 0.0024},   // rtx-5090, 170
		{"gfx90a", 0.0023}, // mi210, 104
		{"gfx942", 0.0029}, // mi300x, 304
		{"gfx950", 0.0113}, // mi355x, 256
		{"gfx11", 0.00125}, // rx-7900-xtx, 96
		{"gfx12", 0.00125}, // as gfx11: not measured
	} {
		if strings.HasPrefix(target, t.target) && len(t.target) > best {
			best, value = len(t.target), t.value
		}
	}
	return value
}
