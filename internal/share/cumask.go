package share

import (
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"aliquot.example/internal/gpu"
)

// CUShape is the arrangement of the compute units (CUs) of one AMD GPU or partition. The kernel
// driver assigns bit i of a CU mask to XCC i mod XCCs, and within the XCC to one shader engine
// after the other (Linux kfd_mqd_manager.c). So a run of neighbouring bits is spread evenly over
// XCCs and shader engines.
type CUShape struct {
	// Units counts the CUs that the kernel driver reports for the node.
	Units int
	// XCCs counts the accelerator complexes of the node; 0 means 1.
	XCCs int
	// Paired is set if CUs 2k and 2k+1 form one work-group processor, which can only be masked as a
	// whole (RDNA: gfx10 and later).
	Paired bool
}

func (s CUShape) step() int {
	if s.Paired {
		return 2
	}
	return 1
}

// Steps returns the number of units that can be masked separately: CUs, or pairs of CUs.
func (s CUShape) Steps() int { return s.Units / s.step() }

// MaxSlices returns the largest number of slices into which the shape can be divided. The work of
// one queue runs on all XCCs, so each slice needs a CU (or pair) on every XCC. It returns 0 for a
// shape without CUs.
func (s CUShape) MaxSlices() int {
	return min(s.Units/s.step()/max(s.XCCs, 1), gpu.MaxSlices)
}

// PerSlice returns the number of CUs of one of n slices. All slices are equal, and the remainder of
// fewer than n CUs (or pairs) stays unused. It returns 0 if the shape cannot be divided into n
// slices.
func (s CUShape) PerSlice(n int) int {
	if n < 1 || n > s.MaxSlices() {
		return 0
	}
	return s.Units / s.step() / n * s.step()
}

// CURange is the range of CUs First..Last of a GPU, both included.
type CURange struct{ First, Last int }

// CUMask returns the CUs of a grant of slices of one GPU, as ascending ranges that do not touch.
// The result depends only on the slices: different slices never share a CU, and k slices have k
// times the CUs of one. All slices of a GPU together are the whole GPU and get no mask (nil).
//
// It fails on slices of several GPUs or totals, on a slice that is listed twice and on a total
// above MaxSlices.
func CUMask(shape CUShape, grant []gpu.Slice) ([]CURange, error) {
	if len(grant) == 0 {
		return nil, fmt.Errorf("a CU mask needs at least one slice")
	}
	first := grant[0]
	per := shape.PerSlice(first.Of)
	if per == 0 {
		return nil,
			fmt.Errorf("GPU %s has %d compute units on %d XCCs and cannot be divided into %d slices: use at most %d",
				first.GPU, shape.Units, max(shape.XCCs, 1), first.Of, shape.MaxSlices())
	}
	index := make([]int, len(grant))
	for i, s := range grant {
		if s.GPU != first.GPU || s.Of != first.Of {
			return nil, fmt.Errorf("slices %s and %s are not of one GPU: a CU mask covers one GPU", first, s)
		}
		index[i] = s.Index
	}
	slices.Sort(index)
	var out []CURange
	for i, slice := range index {
		if i > 0 && slice == index[i-1] {
			return nil, fmt.Errorf("slice %s is granted twice", gpu.Slice{GPU: first.GPU, Index: slice, Of: first.Of})
		}
		r := CURange{First: slice * per, Last: (slice+1)*per - 1}
		if n := len(out); n > 0 && out[n-1].Last+1 == r.First {
			out[n-1].Last = r.Last
		} else {
			out = append(out, r)
		}
	}
	if len(index) == first.Of {
		return nil, nil
	}
	return out, nil
}

// HSACUMask formats ranges as the value of HSA_CU_MASK for the GPU with the given ordinal after
// ROCR_VISIBLE_DEVICES: "0:0-14,30-44". Without ranges it returns "".
func HSACUMask(ordinal int, ranges []CURange) string {
	if len(ranges) == 0 {
		return ""
	}
	parts := make([]string, len(ranges))
	for i, r := range ranges {
		parts[i] = strconv.Itoa(r.First)
		if r.Last > r.First {
			parts[i] += "-" + strconv.Itoa(r.Last)
		}
	}
	return strconv.Itoa(ordinal) + ":" + strings.Join(parts, ",")
}

// ROCGlobalCUMask formats ranges as the value of ROC_GLOBAL_CU_MASK, a hexadecimal number whose bit
// i is CU i: "0x7fff". Without ranges it returns "".
func ROCGlobalCUMask(ranges []CURange) string {
	if len(ranges) == 0 {
		return ""
	}
	mask := new(big.Int)
	for _, r := range ranges {
		for cu := r.First; cu <= r.Last; cu++ {
			mask.SetBit(mask, cu, 1)
		}
	}
	return "0x" + mask.Text(16)
}
