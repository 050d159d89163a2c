package gpu

import (
	"fmt"
	"strconv"
	"strings"
)

// MaxSlices is the maximum number of slices of one GPU.
const MaxSlices = 100

// Slice is one of the equal parts of a shared GPU. A whole GPU, a MIG device and a partition are
// one slice of one.
type Slice struct {
	GPU   ID
	Index int // 0 <= Index < Of
	Of    int // 1 <= Of <= MaxSlices
}

const sliceMark = "::"

// String returns the Nomad device instance ID: "<gpu>::03of20", or the plain GPU ID for a slice of
// one.
func (s Slice) String() string {
	if s.Of == 1 {
		return string(s.GPU)
	}
	return fmt.Sprintf("%s%s%02dof%02d", s.GPU, sliceMark, s.Index, s.Of)
}

// ParseSlice is the inverse of String. It fails on an empty ID, an index outside its total, and a
// total outside 2..MaxSlices.
func ParseSlice(id string) (Slice, error) {
	cut := strings.LastIndex(id, sliceMark)
	if cut < 0 {
		if id == "" {
			return Slice{}, fmt.Errorf("device instance ID is empty")
		}
		return Slice{GPU: ID(id), Of: 1}, nil
	}
	bad := func(why string) (Slice, error) {
		return Slice{}, fmt.Errorf("device instance ID %q %s: want <gpu>%s<index>of<total>", id, why, sliceMark)
	}
	index, of, ok := strings.Cut(id[cut+len(sliceMark):], "of")
	if !ok {
		return bad(`has no "of"`)
	}
	i, errI := strconv.Atoi(index)
	n, errN := strconv.Atoi(of)
	switch {
	case cut == 0:
		return bad("names no GPU")
	case errI != nil || errN != nil:
		return bad("has an index or a total that is no number")
	case n < 2 || n > MaxSlices:
		return bad(fmt.Sprintf("has a total outside 2..%d", MaxSlices))
	case i < 0 || i >= n:
		return bad("has an index outside its total")
	}
	s := Slice{GPU: ID(id[:cut]), Index: i, Of: n}
	if s.String() != id {
		return bad("is not in canonical form")
	}
	return s, nil
}
