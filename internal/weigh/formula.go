package weigh

import (
	"math"
	"strings"
)

// Efficiency returns the ratio of real to data-sheet speed of an architecture for language models,
// relative to Hopper. It returns 0.6 for an architecture that is unknown or was not measured. The
// figures are the geometric means of the table's measured weights over the plain formula; see
// docs/hardware.md.
func Efficiency(architecture string) float64 {
	switch strings.ToLower(architecture) {
	case "blackwell":
		return 1.55
	case "hopper":
		return 1.0
	case "ampere":
		return 1.35
	case "ada":
		return 0.7
	case "cdna4":
		return 1.2
	case "cdna3":
		return 0.65
	case "cdna2":
		return 0.8
	default:
		return 0.6
	}
}

// Formula estimates a weight from a data sheet: the geometric mean of bandwidth and dense 16-bit
// TFLOPS relative to H100 SXM (3350 GB/s, 989 TFLOPS), times the architecture's efficiency. It
// returns 0 if a figure is missing. Without the efficiency, the order of real GPUs would be wrong:
// MI300X would be 1.45 times as fast as H100 SXM, while measurements give 0.9 to 1.0.
func Formula(s Spec) float64 {
	if !positive(s.Bandwidth) || !positive(s.TFLOPS) {
		return 0
	}
	return math.Sqrt(s.Bandwidth/3350*s.TFLOPS/989) * Efficiency(s.Architecture)
}

// precisions lists for each numeric precision of a rule the architectures whose matrix units support
// it.
var precisions = map[string][]string{
	"fp16": {"Volta", "Turing", "Ampere", "Ada", "Hopper", "Blackwell", "CDNA2", "CDNA3", "CDNA4", "RDNA3"},
	"bf16": {"Ampere", "Ada", "Hopper", "Blackwell", "CDNA2", "CDNA3", "CDNA4", "RDNA3"},
	"fp8":  {"Ada", "Hopper", "Blackwell", "CDNA3", "CDNA4"},
	"fp4":  {"Blackwell", "CDNA4"},
}

// computes reports whether an architecture supports a precision.
func computes(architecture, precision string) bool {
	for _, a := range precisions[precision] {
		if strings.EqualFold(a, architecture) {
			return true
		}
	}
	return false
}
