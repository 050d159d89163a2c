package variant

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"aliquot.example/internal/gpu"
)

// Kind says how an attribute is compared.
type Kind int

// The kinds of attributes.
const (
	Text    Kind = iota // equality, regexp and sets; no order
	Number              // a plain number
	Memory              // an amount of memory; the other side needs a unit
	Version             // dotted numbers, "9.0" < "12.4" < "550.54.15"
)

func (k Kind) String() string {
	return [...]string{"text", "a number", "an amount of memory", "a version"}[k]
}

// Value is one attribute of a grant.
type Value struct {
	Kind   Kind
	Text   string
	Number float64 // bytes for Memory
}

func (v Value) String() string { return v.Text }

func text(s string) Value { return Value{Kind: Text, Text: s} }

func number(f float64) Value {
	return Value{Kind: Number, Number: f, Text: strconv.FormatFloat(f, 'f', -1, 64)}
}

func memory(m gpu.MiB) Value {
	return Value{Kind: Memory, Number: float64(m.Bytes()), Text: m.String()}
}

// versionOrText returns s as a version if it is one, else as text. An AMD target such as "gfx942"
// has no order.
func versionOrText(s string) Value {
	if _, err := parseVersion(s); err != nil {
		return text(s)
	}
	return Value{Kind: Version, Text: s}
}

// attributeKinds has every attribute that a constraint may use. A target is a version for NVIDIA
// and text for AMD, which is known only at run time.
var attributeKinds = map[string]Kind{
	"vendor": Text, "group": Text, "class": Text, "model": Text,
	"sharing": Text, "enforcement": Text, "enforcement_level": Text, "memory_enforcement": Text,
	"target": Version, "compute_capability": Version, "driver_version": Version, "runtime_version": Version,
	"memory": Memory, "memory_per_gpu": Memory,
	"gpus": Number, "slices": Number, "slices_total": Number, "units": Number, "weight": Number,
}

// Attributes returns the attributes of a grant for constraints, nil without a grant. They describe
// the granted part: memory is what one process may use, not the memory of the GPU. Unknown
// attributes are absent.
func Attributes(g *gpu.Grant) map[string]Value {
	if g == nil {
		return nil
	}
	out := map[string]Value{
		"gpus":         number(float64(len(g.GPUs))),
		"slices":       number(float64(g.Slices)),
		"slices_total": number(float64(g.Total)),
		"units":        number(float64(g.Units)),
		"weight":       number(g.Weight),
		"memory":       memory(g.ProcessMemory()),
	}
	for name, s := range map[string]string{
		"vendor": string(g.Vendor), "group": g.Group, "class": g.Class, "model": g.Model,
		"sharing": string(g.Sharing), "enforcement": string(g.Enforcement),
		"enforcement_level": string(g.Enforcement.Level()), "memory_enforcement": string(g.MemoryEnforcement),
	} {
		if s != "" {
			out[name] = text(s)
		}
	}
	if n := len(g.GPUs); n > 0 {
		out["memory_per_gpu"] = memory(g.Memory / gpu.MiB(n))
	}
	for name, s := range map[string]string{"target": g.Target, "driver_version": g.Driver,
		"runtime_version": g.Runtime} {
		if s != "" {
			out[name] = versionOrText(s)
		}
	}
	if m, ok := gpu.MakerOf(g.Vendor); ok && m.Capability != "" && g.Target != "" {
		out[m.Capability] = versionOrText(g.Target)
	}
	return out
}

// units are the units of memory in Nomad's constraints, in bytes, the longest names first.
var units = []struct {
	name  string
	bytes float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"PiB", 1 << 50}, {"EiB", 1 << 60},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"PB", 1e15}, {"EB", 1e18},
}

// parseMemory reads an amount such as "40 GiB" into bytes.
func parseMemory(s string) (float64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		f, err := parseNumber(strings.TrimSpace(digits))
		if err != nil {
			return 0, fmt.Errorf("%q is not an amount of memory: write for example \"40 GiB\"", s)
		}
		return f * u.bytes, nil
	}
	return 0, fmt.Errorf("%q has no unit: write for example \"40 GiB\" (KiB, MiB, GiB, TiB, KB, MB, GB, TB)", s)
}

// parseNumber parses a finite decimal number. It accepts neither infinities nor hexadecimal
// numbers.
func parseNumber(s string) (float64, error) {
	if strings.Trim(s, "+-.0123456789eE") != "" || s == "" {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	return f, nil
}

// maxParts limits the parts of a version, so that a hostile value costs nothing.
const maxParts = 16

// parseVersion parses dotted numbers with an optional leading "v" and an optional pre-release after
// "-", which sorts before the release.
func parseVersion(s string) (version, error) {
	bad := fmt.Errorf("%q is not a version: write dotted numbers such as \"9.0\" or \"550.54.15\"", s)
	core, pre, hasPre := strings.Cut(strings.TrimPrefix(s, "v"), "-")
	if hasPre && pre == "" {
		return version{}, bad
	}
	fields := strings.Split(core, ".")
	if len(fields) > maxParts {
		return version{}, bad
	}
	v := version{pre: pre}
	for _, f := range fields {
		n, err := strconv.ParseUint(f, 10, 32)
		if err != nil {
			return version{}, bad
		}
		v.parts = append(v.parts, n)
	}
	return v, nil
}

type version struct {
	parts []uint64
	pre   string
}

func (v version) at(i int) uint64 {
	if i < len(v.parts) {
		return v.parts[i]
	}
	return 0
}

// compare orders versions. Missing parts count as zero, so "9" equals "9.0".
func (v version) compare(o version) int {
	for i := range max(len(v.parts), len(o.parts)) {
		if c := cmp.Compare(v.at(i), o.at(i)); c != 0 {
			return c
		}
	}
	switch {
	case v.pre == o.pre:
		return 0
	case v.pre == "":
		return 1
	case o.pre == "":
		return -1
	default:
		return cmp.Compare(v.pre, o.pre)
	}
}
