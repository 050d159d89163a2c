package share

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// Note is a remark about a plan for the operator.
type Note struct {
	// GPU is the GPU that the note concerns, "" for the configuration as a whole.
	GPU  gpu.ID
	Text string
}

// Plan is what a host offers.
type Plan struct {
	// Offers are sorted by the index of the physical GPU.
	Offers []Offer
	// Notes explain where the offers differ from the rules.
	Notes []Note
}

// Offer returns the offer of a GPU, MIG device or partition.
func (p Plan) Offer(id gpu.ID) (Offer, bool) {
	for _, o := range p.Offers {
		if o.ID == id {
			return o, true
		}
	}
	return Offer{}, false
}

// NewPlan maps the found GPUs to offers. If a GPU cannot be offered according to its rule, NewPlan
// leaves it out or offers its partitions, and adds a note with the reason and what to do.
func NewPlan(found []Found, rules []Rule) Plan {
	p := planner{rules: rules, children: map[gpu.ID][]Found{}, groups: map[string]gpu.ID{},
		memory: map[string]gpu.MiB{}}
	sorted := slices.Clone(found)
	slices.SortStableFunc(sorted, func(a, b Found) int { return cmp.Compare(a.Index, b.Index) })
	known := map[gpu.ID]bool{}
	for _, f := range sorted {
		known[f.ID] = true
	}
	for _, f := range sorted {
		if f.Parent != "" && known[f.Parent] {
			p.children[f.Parent] = append(p.children[f.Parent], f)
		}
	}
	for _, f := range sorted {
		if f.Parent == "" || !known[f.Parent] {
			p.physical(f)
		}
	}
	p.unmatched(sorted)
	p.estimated()
	return p.plan
}

// estimated adds one note for each model whose weight is an estimate or unknown.
func (p *planner) estimated() {
	noted := map[string]bool{}
	for _, o := range p.plan.Offers {
		if noted[o.Model] || o.Source != WeightEstimate && o.Source != WeightUnknown {
			continue
		}
		noted[o.Model] = true
		text := fmt.Sprintf("%s (class %s) is not in the hardware table: its weight %.3g is an estimate", o.Model,
			o.Class, o.Weight)
		if o.Source == WeightUnknown {
			text = fmt.Sprintf("%s (class %s) is not in the hardware table, so its speed is not known: "+
				"its weight is left open", o.Model, o.Class)
		}
		p.plan.Notes = append(p.plan.Notes,
			Note{GPU: o.ID, Text: text + "; write weight into its gpu block where you know better"})
	}
}

type planner struct {
	rules    []Rule
	children map[gpu.ID][]Found
	// groups has the names of shared groups, each of one GPU.
	groups map[string]gpu.ID
	// memory is that of the first whole GPU of each class.
	memory map[string]gpu.MiB
	plan   Plan
}

func (p *planner) note(f Found, format string, args ...any) {
	name := fmt.Sprintf("GPU %d (%s, %s): ", f.Index, f.Class, f.ID)
	p.plan.Notes = append(p.plan.Notes, Note{GPU: f.ID, Text: name + fmt.Sprintf(format, args...)})
}

func (p *planner) physical(f Found) {
	rule, ok := Pick(p.rules, f.GPU)
	children := p.children[f.ID]
	switch {
	case !ok:
		p.note(f, `is not offered: no gpu block matches it; add gpu "*" {} or one for it`)
	case rule.Mode == Off:
		// The operator has configured this, so there is nothing to explain.
	case f.Aside != "" && rule.Selector == Any:
		p.note(f, "is not offered: %s; name it in a gpu block of its own to offer it", f.Aside)
	case len(children) > 0:
		p.split(f, children, rule)
	case f.Split:
		p.note(f, "is not offered: it is in partitioned mode and has no partitions; create them, or leave that mode")
	case f.Profile != "" && rule.Mode == Partition:
		p.partition(f, rule)
	case rule.Mode == Shared:
		p.shared(f, rule)
	case rule.Mode == Whole:
		p.whole(f, rule)
	default:
		p.note(f,
			"is not offered: gpu %q has mode %q and the GPU is not partitioned; partition it, "+
				"or choose shared or whole", rule.Selector, rule.Mode)
	}
}

// split offers the partitions of a GPU, each according to its own rule or else the GPU's rule.
func (p *planner) split(f Found, children []Found, parent Rule) {
	noted := false
	for _, c := range children {
		rule := parent
		if own, ok := Pick(p.rules, c.GPU); ok && specificity(own.Selector, c.GPU) > specificity(Any, c.GPU) {
			rule = own
		}
		switch {
		case rule.Mode == Off:
		case rule.Mode == Shared && c.Slicing.Sharing != "":
			p.shared(c, rule)
		default:
			if (rule.Mode == Shared || rule.Mode == Whole) && !noted {
				noted = true
				p.note(f, "is partitioned, so its partitions are offered, each to one task, though gpu %q has mode %q",
					rule.Selector, rule.Mode)
			}
			p.partition(c, rule)
		}
	}
}

func (p *planner) shared(f Found, rule Rule) {
	s := f.Slicing
	if s.Sharing == "" {
		p.note(f, "is not offered: gpu %q has mode %q, but %s; choose mode whole for it", rule.Selector,
			rule.Mode, s.Why)
		return
	}
	offer := newOffer(f, rule)
	offer.Group = fmt.Sprintf("%s-%d", f.Class, f.Index)
	offer.Slices, offer.Sharing, offer.Enforcement, offer.MemoryEnforcement = rule.Slices, s.Sharing,
		s.Enforcement, s.Memory
	if s.Max > 0 && offer.Slices > s.Max {
		offer.Slices = s.Max
		offer.Clamp = fmt.Sprintf("%d slices instead of %d: %s", s.Max, rule.Slices, s.Why)
		p.note(f, "is offered in %s", offer.Clamp)
	}
	if n := s.fit(offer.Slices); n < offer.Slices {
		offer.Clamp = fmt.Sprintf("%d slices instead of %d: of its %d equal parts %d would belong to no slice", n,
			rule.Slices, s.Parts, s.Parts%offer.Slices)
		offer.Slices = n
		p.note(f, "is offered in %s", offer.Clamp)
	}
	if other, taken := p.groups[offer.Group]; taken {
		p.note(f, "is not offered: its group %s is already GPU %s; two GPUs report one index", offer.Group, other)
		return
	}
	p.groups[offer.Group] = f.ID
	p.plan.Offers = append(p.plan.Offers, offer)
}

func (p *planner) whole(f Found, rule Rule) {
	offer := newOffer(f, rule)
	offer.Group = f.Class
	// A group's memory is its smallest. A job that needs the larger memory of two products would
	// never find it in a common group.
	first, known := p.memory[f.Class]
	switch {
	case !known:
		p.memory[f.Class] = f.Memory
	case differ(first, f.Memory):
		offer.Group = fmt.Sprintf("%s-%dg", f.Class, (f.Memory+512)/1024)
	}
	p.plan.Offers = append(p.plan.Offers, offer)
}

// differ reports whether two sizes of memory belong to different products: ECC and a driver's
// reserve change the size by less than a twentieth.
func differ(a, b gpu.MiB) bool { return max(a, b)-min(a, b) > max(a, b)/20 }

func (p *planner) partition(f Found, rule Rule) {
	if f.Part.Sharing == "" {
		p.note(f, "is not offered: its plugin does not say how a partition is held")
		return
	}
	offer := newOffer(f, rule)
	offer.Group = f.Class + "-" + f.Part.Infix + profileName(f.Profile)
	offer.Sharing, offer.Enforcement, offer.Common = f.Part.Sharing, f.Part.Enforcement, f.Part.Common
	if offer.Common > 0 {
		offer.MemoryEnforcement = gpu.LevelNone
		p.note(f,
			"shares %s of memory with other compute instances of its GPU instance: "+
				"its share is %s and nothing holds tasks to it", offer.Common, offer.Memory)
	}
	p.plan.Offers = append(p.plan.Offers, offer)
}

// unmatched adds notes for rules that match no GPU of the host, which are usually mistakes.
func (p *planner) unmatched(found []Found) {
	if len(found) == 0 {
		return
	}
	for _, r := range p.rules {
		if !slices.ContainsFunc(found, func(f Found) bool { return specificity(r.Selector, f.GPU) > 0 }) {
			var names []string
			for _, f := range found {
				if f.Parent == "" {
					names = append(names, fmt.Sprintf("%d=%s", f.Index, f.Class))
				}
			}
			p.plan.Notes = append(p.plan.Notes,
				Note{Text: fmt.Sprintf("gpu %q matches no GPU of this host (found %s)", r.Selector,
					strings.Join(names, ", "))})
		}
	}
}

// newOffer returns the offer of a whole GPU: nothing limits its task, which gets all of the memory.
func newOffer(f Found, rule Rule) Offer {
	weight, source := weightOf(f, rule)
	return Offer{
		GPU: f.GPU, Slices: 1, Weight: weight, Source: source,
		Sharing: gpu.SharingNone, Enforcement: gpu.EnforceWhole, MemoryEnforcement: gpu.LevelHard,
	}
}

func weightOf(f Found, rule Rule) (float64, WeightSource) {
	if rule.Weight > 0 {
		return rule.Weight * fractionOf(f), WeightConfigured
	}
	if h, ok := gpu.Lookup(f.Vendor, f.PCIDevice, f.Model); ok {
		return h.Weight * fractionOf(f), WeightTable
	}
	// A partition has its own units and memory.
	if w := gpu.Estimate(f.GPU); w > 0 {
		return w, WeightEstimate
	}
	return 0, WeightUnknown
}

// fractionOf returns the fraction of its physical GPU's compute that a partition has.
func fractionOf(f Found) float64 {
	if f.Fraction > 0 {
		return f.Fraction
	}
	return 1
}

// profileName removes all characters that are not valid in names of Nomad's groups; a-z, 0-9, '.'
// and '-' stay.
func profileName(profile string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '-'
	}, strings.ToLower(profile))
}
