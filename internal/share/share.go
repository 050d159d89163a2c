// Package share decides how GPUs are offered and what a request for slices gets. It is pure: it
// maps a configuration and an inventory to offers, and device instance IDs to a grant, and reads
// nothing else.
package share

import (
	"fmt"
	"strconv"
	"strings"

	"aliquot.example/internal/gpu"
)

// Mode is the configured way to offer a GPU.
type Mode string

// The modes. Each vendor supports some of them: MIG is NVIDIA's, Partition AMD's and Intel's.
const (
	Shared    Mode = "shared"    // in N slices
	Whole     Mode = "whole"     // as a whole
	MIG       Mode = "mig"       // as its MIG devices
	Partition Mode = "partition" // as its partitions or virtual functions
	Off       Mode = "off"       // not at all
)

// DefaultSlices is the default number of slices of a shared GPU.
const DefaultSlices = 20

// Any is the selector that matches every GPU.
const Any = "*"

// Rule is one "gpu" block of a plugin's configuration.
type Rule struct {
	// Selector is a GPU's ID, PCI address, index, class or product name, or "*".
	Selector string
	Mode     Mode
	// Slices of a shared GPU, 1 to gpu.MaxSlices.
	Slices int
	// Weight replaces the hardware table's if it is above 0; see gpu.Hardware.Weight.
	Weight float64
	// Options has the keys of a single vendor, for example partition.
	Options map[string]string
}

// WeightSource is the source of an offer's weight.
type WeightSource string

// The sources of a weight, best first.
const (
	WeightConfigured WeightSource = "config"
	WeightTable      WeightSource = "table"
	WeightEstimate   WeightSource = "estimate" // see gpu.Estimate
	WeightUnknown    WeightSource = "unknown"
)

// Slicing is how a vendor can divide a GPU into slices.
type Slicing struct {
	// Sharing is empty if the GPU cannot be shared.
	Sharing     gpu.Sharing
	Enforcement gpu.Enforcement
	// Memory says how reliably a task is limited to its share of the memory.
	Memory gpu.Level
	// Max is the maximum number of slices of the GPU, 0 for gpu.MaxSlices.
	Max int
	// Why gives the reason of Max, or of an empty Sharing, as part of a sentence.
	Why string
	// Parts is the number of indivisible parts of which slices consist; all slices have the same
	// number. It is 0 if slices can have any size.
	Parts int
}

// unusedDivisor limits the unused part of a GPU: at most 1 in unusedDivisor parts may belong to no slice.
const unusedDivisor = 4

// fit returns the largest number of at most n slices that leaves no more than a quarter of
// the parts unused.
func (s Slicing) fit(n int) int {
	for n > 1 && s.Parts > 0 && s.Parts-s.Parts/n*n > s.Parts/unusedDivisor {
		n--
	}
	return n
}

// Found is one GPU, MIG device or partition that a vendor has found.
type Found struct {
	gpu.GPU
	// Split is set on a physical GPU that is divided into MIG devices or partitions, so that it
	// cannot be used itself. These are listed separately, with Parent set.
	Split bool
	// Fraction is the fraction of its parent's compute that a MIG device or partition has, above 0
	// and at most 1; 0 on a physical GPU.
	Fraction float64
	Slicing  Slicing
	// Aside says why the GPU is not offered unless a gpu block names it, else "".
	Aside string
	// Part says how the GPU is offered as a part of another, or as a whole in its partition mode.
	// The vendor sets it if Profile is set.
	Part Part
}

// Part says how the hardware confines a task to a MIG device or partition.
type Part struct {
	// Common is the memory that the part shares with others, 0 if it has its own memory. A compute
	// instance shares all memory of its MIG GPU instance. Nothing limits a task to its share, which
	// is the part's Memory.
	Common      gpu.MiB
	Sharing     gpu.Sharing
	Enforcement gpu.Enforcement
	// Infix comes between class and profile in the group's name, such as "mig-".
	Infix string
}

// Offer is one GPU, MIG device or partition as Nomad may place tasks on it.
type Offer struct {
	gpu.GPU
	// Group is the Nomad device group.
	Group string
	// Slices is the number of slices of the GPU; 1 unless it is shared.
	Slices            int
	Sharing           gpu.Sharing
	Enforcement       gpu.Enforcement
	MemoryEnforcement gpu.Level
	// Common is Part.Common.
	Common gpu.MiB
	// Weight is that of the whole offer relative to an H100 SXM, 0 if unknown.
	Weight float64
	// Source says where Weight comes from.
	Source WeightSource
	// Clamp says why there are fewer slices than configured, else "".
	Clamp string
}

// Instances returns the device instance IDs of the offer in order.
func (o Offer) Instances() []string {
	ids := make([]string, o.Slices)
	for i := range ids {
		ids[i] = gpu.Slice{GPU: o.ID, Index: i, Of: o.Slices}.String()
	}
	return ids
}

// Percent returns the percentage of a GPU that k of n slices are. It is rounded down, so that
// disjoint slices never add up to more than 100, and is at least 1.
func Percent(k, n int) int { return max(1, 100*k/n) }

// MemoryOf returns the part of total that k of n slices may use, rounded down.
func MemoryOf(total gpu.MiB, k, n int) gpu.MiB { return total * gpu.MiB(k) / gpu.MiB(n) }

// UnitsOf returns the number of SMs or CUs, out of total, of k of n slices. It is rounded down, and
// at least 1 if total is not 0.
func UnitsOf(total, k, n int) int {
	if total == 0 {
		return 0
	}
	return max(1, total*k/n)
}

// specificity returns how specifically a selector selects a GPU; 0 if it does not.
func specificity(selector string, g gpu.GPU) int {
	s := strings.TrimSpace(selector)
	switch {
	case strings.EqualFold(s, string(g.ID)):
		return 6
	case g.PCI != "" && canonicalPCI(s) == canonicalPCI(g.PCI):
		return 5
	case s == strconv.Itoa(g.Index) && g.Parent == "":
		return 4
	case g.Model != "" && gpu.Slug(s) == gpu.Slug(g.Model):
		return 3
	case strings.EqualFold(s, g.Class):
		return 2
	case s == Any:
		return 1
	}
	return 0
}

// canonicalPCI returns a PCI address in the kernel's form, "0000:53:00.0". NVML and nvidia-smi
// write the domain with eight digits, and lspci may omit it. Other text stays unchanged.
func canonicalPCI(s string) string {
	var domain, bus, device, function uint
	low := strings.ToLower(s)
	if strings.Count(low, ":") == 1 {
		low = "0:" + low
	}
	if n, err := fmt.Sscanf(low+"\n", "%x:%x:%x.%x\n", &domain, &bus, &device, &function); n != 4 || err != nil {
		return s
	}
	return fmt.Sprintf("%04x:%02x:%02x.%x", domain, bus, device, function)
}

// SameSelector reports whether two selectors are different spellings of the same one.
func SameSelector(a, b string) bool {
	a, b = strings.TrimSpace(a), strings.TrimSpace(b)
	return strings.EqualFold(a, b) || canonicalPCI(a) == canonicalPCI(b) || gpu.Slug(a) == gpu.Slug(b) &&
		gpu.Slug(a) != gpu.Slug("")
}

// Pick returns the rule that selects g most specifically: by ID before PCI address, index, product
// name, class and "*". Among equally specific rules the first wins. The second result is false if
// no rule matches.
func Pick(rules []Rule, g gpu.GPU) (Rule, bool) {
	best, rank := Rule{}, 0
	for _, r := range rules {
		if n := specificity(r.Selector, g); n > rank {
			best, rank = r, n
		}
	}
	return best, rank > 0
}
