package weigh

import (
	"math"
	"strings"
)

// Efficiency returns how much of its data-sheet figures an architecture delivers
// when it serves language models, relative to Hopper; 0.6 for one that is not
// known or was not measured. The figures are the geometric means of the table's
// measured weights over the plain formula, see docs/hardware.md.
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

// Formula estimates a weight from a data sheet: the geometric mean of bandwidth
// and dense 16-bit TFLOPS relative to H100 SXM (3350 GB/s, 989 TFLOPS), times the
// architecture's efficiency. It returns 0 when a figure is missing. Without the
// efficiency no such formula orders real GPUs: it would put MI300X 1.45 x above
// H100 SXM, measured 0.9 to 1.0.
func Formula(s Spec) float64 {
	if !positive(s.Bandwidth) || !positive(s.TFLOPS) {
		return 0
	}
	return math.Sqrt(s.Bandwidth/3350*s.TFLOPS/989) * Efficiency(s.Architecture)
}

// precisions lists, for each numeric precision that a rule can ask for, the
// architectures whose matrix units compute in it.
var precisions = map[string][]string{
	"fp16": {"Volta", "Turing", "Ampere", "Ada", "Hopper", "Blackwell", "CDNA2", "CDNA3", "CDNA4", "RDNA3"},
	"bf16": {"Ampere", "Ada", "Hopper", "Blackwell", "CDNA2", "CDNA3", "CDNA4", "RDNA3"},
	"fp8":  {"Ada", "Hopper", "Blackwell", "CDNA3", "CDNA4"},
	"fp4":  {"Blackwell", "CDNA4"},
}

// computes says whether an architecture computes in a precision.
func computes(architecture, precision string) bool {
	for _, a := range precisions[precision] {
		if strings.EqualFold(a, architecture) {
			return true
		}
	}
	return false
}
