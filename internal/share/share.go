// Package share decides how GPUs are offered and what a request of slices is
// worth. It is pure: it maps a configuration and an inventory to offers, and
// device instance IDs to a grant, and reads nothing else.
package share

import (
	"fmt"
	"strconv"
	"strings"

	"aliquot.example/internal/gpu"
)

// Mode is how an operator wants a GPU to be offered.
type Mode string

// The modes. A vendor serves some of them: MIG is NVIDIA's, Partition AMD's and Intel's.
const (
	Shared    Mode = "shared"    // in N slices
	Whole     Mode = "whole"     // as one
	MIG       Mode = "mig"       // as the MIG devices that it is split into
	Partition Mode = "partition" // as the partitions or virtual functions that it is split into
	Off       Mode = "off"       // not at all
)

// DefaultSlices is the number of slices of a shared GPU where none is given.
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
	// Weight replaces the hardware table's when above 0; see gpu.Hardware.Weight.
	Weight float64
	// Options holds the keys that only one vendor knows, for example partition.
	Options map[string]string
}

// WeightSource is where an offer's weight comes from.
type WeightSource string

// The sources of a weight, best first.
const (
	WeightConfigured WeightSource = "config"
	WeightTable      WeightSource = "table"
	WeightEstimate   WeightSource = "estimate" // see gpu.Estimate
	WeightUnknown    WeightSource = "unknown"
)

// Slicing is how a vendor would cut a GPU into slices.
type Slicing struct {
	// Sharing is empty where the GPU cannot be shared.
	Sharing     gpu.Sharing
	Enforcement gpu.Enforcement
	// Memory is how far a task is held to its part of the memory.
	Memory gpu.Level
	// Max is the most slices that the GPU can serve, 0 for gpu.MaxSlices.
	Max int
	// Why gives the reason of Max, or of an empty Sharing, as part of a sentence.
	Why string
	// Parts is how many indivisible parts the slices are made of, all slices of equally
	// many; 0 where they can be of any size.
	Parts int
}

// most is how much of a GPU may belong to no slice, 1 part in so many.
const most = 4

// fit returns the largest number of at most n slices that leaves no more than a quarter of
// the parts unused.
func (s Slicing) fit(n int) int {
	for n > 1 && s.Parts > 0 && s.Parts-s.Parts/n*n > s.Parts/most {
		n--
	}
	return n
}

// Found is one GPU, MIG device or partition as its vendor found it.
type Found struct {
	gpu.GPU
	// Split is set on a physical GPU that is cut into MIG devices or partitions
	// (listed beside it with Parent set) and so cannot be used itself.
	Split bool
	// Fraction is the part of its parent's compute that a MIG device or partition
	// has, above 0 and at most 1; 0 on a physical GPU.
	Fraction float64
	Slicing  Slicing
	// Aside says why the GPU is not offered unless a gpu block names it, else "".
	Aside string
	// Part is how the GPU is offered as a part of another, or whole in its partition
	// mode; its vendor sets it wherever Profile is set.
	Part Part
}

// Part is how the hardware holds a task to a MIG device or partition.
type Part struct {
	// Common is the memory that the part has in common with others, 0 for one that has
	// its own: a compute instance's is all of its MIG GPU instance's. Nothing holds a
	// task to its share, which is the part's Memory.
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
	// Slices that the GPU is offered in; 1 unless it is shared.
	Slices            int
	Sharing           gpu.Sharing
	Enforcement       gpu.Enforcement
	MemoryEnforcement gpu.Level
	// Common is Part.Common.
	Common gpu.MiB
	// Weight of the whole offer relative to an H100 SXM, 0 when unknown.
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

// Percent is the part of a GPU that k of n slices are, in whole percent rounded
// down and at least 1, so that disjoint slices never sum to more than 100.
func Percent(k, n int) int { return max(1, 100*k/n) }

// MemoryOf is the part of total that k of n slices may use, rounded down.
func MemoryOf(total gpu.MiB, k, n int) gpu.MiB { return total * gpu.MiB(k) / gpu.MiB(n) }

// UnitsOf is the part of total SMs or CUs that k of n slices are, rounded down
// and at least 1 where there are any.
func UnitsOf(total, k, n int) int {
	if total == 0 {
		return 0
	}
	return max(1, total*k/n)
}

// specificity ranks how closely a selector names a GPU; 0 is no match.
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

// canonicalPCI writes a PCI address as the kernel does, "0000:53:00.0"; NVML and
// nvidia-smi give the domain eight digits and lspci may leave it out. Other text stays.
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

// SameSelector reports whether two selectors name the same GPUs, whatever there are:
// they are two spellings of one.
func SameSelector(a, b string) bool {
	a, b = strings.TrimSpace(a), strings.TrimSpace(b)
	return strings.EqualFold(a, b) || canonicalPCI(a) == canonicalPCI(b) || gpu.Slug(a) == gpu.Slug(b) &&
		gpu.Slug(a) != gpu.Slug("")
}

// Pick returns the rule that names g most closely: its ID before its PCI address,
// index, product name, class and "*". The second result is false when no rule
// matches. Among equals the first wins.
func Pick(rules []Rule, g gpu.GPU) (Rule, bool) {
	best, rank := Rule{}, 0
	for _, r := range rules {
		if n := specificity(r.Selector, g); n > rank {
			best, rank = r, n
		}
	}
	return best, rank > 0
}
