package gpu

import (
	"fmt"
	"strconv"
	"strings"
)

// Grant is the result of one device request of a task: slices of one shared GPU, or one or more
// whole GPUs, MIG devices or partitions of one group.
//
// Reserve writes it into the task's environment, and the task driver reads it from there at every start,
// because Nomad keeps nothing else of Reserve's answer across restarts
// (docs/decisions/0002-reserve-returns-environment.md).
type Grant struct {
	Vendor Vendor
	Group  string // the Nomad device group, for example "h100-0"
	Class  string // see GPU.Class
	Model  string
	// GPUs lists the granted GPUs in the order in which the task sees them.
	GPUs []ID
	// PCI holds the PCI address of each of GPUs, in the same order.
	PCI []string
	// MIG holds, for MIG devices, GPU.MIG of each of GPUs in the same order.
	MIG []string
	// Slices is the number of granted slices, Total the number of slices of each GPU.
	Slices, Total int
	// Instances are the device instance IDs that Nomad reserved.
	Instances []string
	// Memory is the memory that the task may use on all of GPUs together.
	Memory MiB
	// Units is the number of SMs or CUs that the task may use on all of GPUs together.
	Units       int
	Sharing     Sharing
	Enforcement Enforcement
	// MemoryEnforcement says how reliably Memory is enforced.
	MemoryEnforcement Level
	Target            string // see GPU.Target
	Driver            string
	Runtime           string
	// Weight is the expected rate of this grant relative to a whole H100 SXM.
	Weight float64
	// Pipe is the MPS pipe directory on the host, "" without MPS.
	Pipe string
}

// The environment variables of a Grant. Users put them into service meta and templates, so the
// meaning of a name must never change.
const (
	EnvVendor            = "ALIQUOT_GPU_VENDOR"
	EnvGroup             = "ALIQUOT_GPU_GROUP"
	EnvClass             = "ALIQUOT_GPU_CLASS"
	EnvModel             = "ALIQUOT_GPU_MODEL"
	EnvGPUs              = "ALIQUOT_GPU_IDS"
	EnvPCI               = "ALIQUOT_GPU_PCI"
	EnvMIG               = "ALIQUOT_GPU_MIG"
	EnvSlices            = "ALIQUOT_SLICES"
	EnvTotal             = "ALIQUOT_SLICES_TOTAL"
	EnvInstances         = "ALIQUOT_DEVICE_IDS"
	EnvMemory            = "ALIQUOT_GPU_MEMORY_MIB"
	EnvProcessMemory     = "ALIQUOT_GPU_PROCESS_MEMORY_MIB"
	EnvUnits             = "ALIQUOT_GPU_UNITS"
	EnvSharing           = "ALIQUOT_GPU_SHARING"
	EnvEnforcement       = "ALIQUOT_GPU_ENFORCEMENT"
	EnvMemoryEnforcement = "ALIQUOT_GPU_MEMORY_ENFORCEMENT"
	EnvTarget            = "ALIQUOT_GPU_TARGET"
	EnvDriver            = "ALIQUOT_GPU_DRIVER"
	EnvRuntime           = "ALIQUOT_GPU_RUNTIME"
	EnvWeight            = "ALIQUOT_GPU_WEIGHT"
	EnvPipe              = "ALIQUOT_MPS_PIPE"
)

// grantMark is the prefix of one variable for each granted group. Nomad merges the environments of
// several device requests of one task, so only these variables show that there were several.
const grantMark = "ALIQUOT_GRANT_"

// Env returns the grant as environment variables; ParseGrant is its inverse.
func (g Grant) Env() map[string]string {
	ids := make([]string, len(g.GPUs))
	for i, id := range g.GPUs {
		ids[i] = string(id)
	}
	return map[string]string{
		EnvVendor:            string(g.Vendor),
		EnvGroup:             g.Group,
		EnvClass:             g.Class,
		EnvModel:             g.Model,
		EnvGPUs:              strings.Join(ids, ","),
		EnvPCI:               strings.Join(g.PCI, ","),
		EnvMIG:               strings.Join(g.MIG, ","),
		EnvSlices:            strconv.Itoa(g.Slices),
		EnvTotal:             strconv.Itoa(g.Total),
		EnvInstances:         strings.Join(g.Instances, ","),
		EnvMemory:            strconv.FormatUint(uint64(g.Memory), 10),
		EnvProcessMemory:     strconv.FormatUint(uint64(g.ProcessMemory()), 10),
		EnvUnits:             strconv.Itoa(g.Units),
		EnvSharing:           string(g.Sharing),
		EnvEnforcement:       string(g.Enforcement),
		EnvMemoryEnforcement: string(g.MemoryEnforcement),
		EnvTarget:            g.Target,
		EnvDriver:            g.Driver,
		EnvRuntime:           g.Runtime,
		EnvWeight:            FormatWeight(g.Weight),
		EnvPipe:              g.Pipe,
		grantMark + strings.ToUpper(strings.ReplaceAll(Slug(string(g.Vendor)+"-"+g.Group), "-", "_")): g.Group,
	}
}

// ParseGrant parses a grant from a task's device environment. The second result is false if there
// is none. It fails if the environment contains more than one grant, or a value that Env did not
// write.
func ParseGrant(env map[string]string) (Grant, bool, error) {
	var groups []string
	for k, v := range env {
		if strings.HasPrefix(k, grantMark) {
			groups = append(groups, v)
		}
	}
	if len(groups) == 0 {
		return Grant{}, false, nil
	}
	if len(groups) > 1 {
		return Grant{}, false,
			fmt.Errorf("the task has %d GPU grants (%s): a task can use one device block; "+
				"request all slices or GPUs in one block, with count",
				len(groups), strings.Join(groups, ", "))
	}
	r := reader{env: env}
	g := Grant{
		Vendor:            Vendor(env[EnvVendor]),
		Group:             env[EnvGroup],
		Class:             env[EnvClass],
		Model:             env[EnvModel],
		PCI:               split(env[EnvPCI]),
		MIG:               split(env[EnvMIG]),
		Slices:            r.int(EnvSlices),
		Total:             r.int(EnvTotal),
		Instances:         split(env[EnvInstances]),
		Memory:            MiB(r.int(EnvMemory)),
		Units:             r.int(EnvUnits),
		Sharing:           Sharing(env[EnvSharing]),
		Enforcement:       Enforcement(env[EnvEnforcement]),
		MemoryEnforcement: Level(env[EnvMemoryEnforcement]),
		Target:            env[EnvTarget],
		Driver:            env[EnvDriver],
		Runtime:           env[EnvRuntime],
		Weight:            r.weight(EnvWeight),
		Pipe:              env[EnvPipe],
	}
	for _, id := range split(env[EnvGPUs]) {
		g.GPUs = append(g.GPUs, ID(id))
	}
	switch {
	case r.err != nil:
		return Grant{}, false, r.err
	case len(g.GPUs) == 0 || g.Slices < 1 || g.Total < 1:
		return Grant{}, false,
			fmt.Errorf("the GPU grant of group %q is incomplete: %s=%q %s=%q %s=%q; "+
				"is the device plugin of the same release as the driver?",
				g.Group, EnvGPUs, env[EnvGPUs], EnvSlices, env[EnvSlices], EnvTotal, env[EnvTotal])
	}
	return g, true, nil
}

// ProcessMemory returns how much of Memory one process can use. With CUDA, a process can use only
// one MIG device (NVIDIA's MIG guide, "CUDA visibility"), and the devices of a group are equal.
func (g Grant) ProcessMemory() MiB {
	if n := len(g.GPUs); g.Sharing == SharingMIG && n > 1 {
		return g.Memory / MiB(n)
	}
	return g.Memory
}

// Fraction returns the granted fraction of each GPU, 0 to 1.
func (g Grant) Fraction() float64 { return float64(g.Slices) / float64(g.Total) }

// FormatWeight formats a weight for a task's environment. An unknown weight is "", because service
// meta copies the value, and 0 would be a statement.
func FormatWeight(w float64) string {
	if w < 0.00005 {
		return ""
	}
	return strconv.FormatFloat(w, 'f', 4, 64)
}

type reader struct {
	env map[string]string
	err error
}

func (r *reader) int(key string) int {
	n, err := strconv.Atoi(r.env[key])
	if (err != nil || n < 0) && r.err == nil {
		r.err = fmt.Errorf("device environment has %s=%q: want a whole number", key, r.env[key])
	}
	return n
}

// weight returns a weight, 0 if it is unknown.
func (r *reader) weight(key string) float64 {
	if r.env[key] == "" {
		return 0
	}
	f, err := strconv.ParseFloat(r.env[key], 64)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("device environment has %s=%q: want a number", key, r.env[key])
	}
	return f
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
