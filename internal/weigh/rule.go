package weigh

import (
	"fmt"
	"slices"
	"strings"
)

// Rule sends matching requests to a part of a service's hardware, in proportion to its speed.
type Rule struct {
	Name       string // a DNS label of at most 20 characters
	PathPrefix string // "" matches every path
	Headers    []HeaderMatch
	// Hardware is eligible if it meets all of these conditions that are set.
	Classes   []string
	MinWeight float64 // of one instance, H100 SXM = 1
	MemoryGB  int     // smallest memory of one GPU
	Precision string  // fp16, bf16, fp8 or fp4
	// Strict keeps requests off other hardware, even without healthy eligible hardware.
	Strict bool
}

// Check returns an error if the rule is invalid.
func (r Rule) Check() error {
	switch {
	case !label.MatchString(r.Name) || len(r.Name) > 20 || strings.Contains(r.Name, "--"):
		return fmt.Errorf("rule name %.70q: want a DNS label of at most 20 characters with single dashes", r.Name)
	case r.PathPrefix == "" && len(r.Headers) == 0:
		return fmt.Errorf("rule %q matches nothing: want a path_prefix or a header", r.Name)
	case r.PathPrefix != "" && !strings.HasPrefix(r.PathPrefix, "/"):
		return fmt.Errorf("rule %q: path_prefix %q: want / at the start", r.Name, r.PathPrefix)
	}
	if err := r.checkHardware(); err != nil {
		return err
	}
	for _, h := range r.Headers {
		if err := validateHeader(h); err != nil {
			return fmt.Errorf("rule %q: %w", r.Name, err)
		}
	}
	return nil
}

// checkHardware returns an error if the rule's conditions for hardware are invalid.
func (r Rule) checkHardware() error {
	switch {
	case len(r.Classes) == 0 && r.MinWeight == 0 && r.MemoryGB == 0 && r.Precision == "":
		return fmt.Errorf("rule %q selects no hardware: want classes, min_weight, min_memory_gb or precision", r.Name)
	case r.Precision != "" && precisions[r.Precision] == nil:
		return fmt.Errorf("rule %q: precision %q: want fp16, bf16, fp8 or fp4", r.Name, r.Precision)
	case r.MinWeight != 0 && !positive(r.MinWeight) || r.MemoryGB < 0:
		return fmt.Errorf("rule %q: min_weight and min_memory_gb: want numbers above 0", r.Name)
	}
	return nil
}

// eligible reports whether a group's hardware meets the rule's conditions.
func (r Rule) eligible(g Group, w Weight) bool {
	h, ok := byClass(g.Class)
	return (len(r.Classes) == 0 || slices.Contains(r.Classes, g.Class)) &&
		w.Value >= r.MinWeight &&
		(r.MemoryGB == 0 || ok && h.MemoryGB >= r.MemoryGB) &&
		(r.Precision == "" || ok && computes(h.Architecture, r.Precision))
}

// AtLeast returns an anchored regular expression that matches every whole number from n to 10^9-1 in
// decimal, without sign or leading zeros. Consul and Envoy cannot compare numbers in headers.
func AtLeast(n int) (string, error) {
	if n < 1 || n > 999999999 {
		return "", fmt.Errorf("at_least = %d: want 1 to 999999999", n)
	}
	digits := fmt.Sprint(n)
	var alternatives []string
	// Same length: a common prefix, then one larger digit, then anything.
	for i := 0; i < len(digits); i++ {
		if digits[i] == '9' {
			continue
		}
		alternatives = append(alternatives, digits[:i]+span(digits[i]+1)+anyDigits(len(digits)-i-1))
	}
	alternatives = append(alternatives, digits)
	if len(digits) < 9 {
		alternatives = append(alternatives, fmt.Sprintf("[1-9][0-9]{%d,8}", len(digits)))
	}
	return "^(?:" + strings.Join(alternatives, "|") + ")$", nil
}

func span(from byte) string {
	if from == '9' {
		return "9"
	}
	return "[" + string(from) + "-9]"
}

func anyDigits(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("[0-9]{%d}", n)
}
